//! Frames as RFC 6455 forbids them, and as it allows them though no client of ours sends them so.

use std::time::Duration;

use foghorn::protocol::{MAX_CLIENT_MESSAGE, MAX_INPUT};
use tokio::time::timeout;

use crate::bed::Bed;
use crate::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, Got, MASK, PING, PONG, TEXT, Wire, frame, head, input, masked, text,
};

/// What is wrong is refused when it comes, and not when its sender has long been silent.
const PROMPT: Duration = Duration::from_secs(20);

/// What a connection is told and closed with where a frame is wrong, a message is too long, a text is not UTF-8.
const WRONG: (&str, u16) = ("bad_frame", 1002);
const TOO_LONG: (&str, u16) = ("too_large", 1009);
const NOT_TEXT: (&str, u16) = ("not_utf8", 1007);

/// The hub ends this connection, and says why.
async fn ends(wire: &mut Wire, (error, close): (&str, u16), what: &str) {
    let code = timeout(PROMPT, wire.rest()).await.unwrap_or_else(|_| panic!("{what}: not refused"));
    assert_eq!((wire.error.as_deref(), code), (Some(error), Some(close)), "{what}");
}

/// A viewer who may type, as others type too: each takes the seat.
const DRIVE: &str = r#""role":"take","writer":"000000000000000000000000000000"#;

fn drive(number: u8) -> String {
    format!("{DRIVE}{number:02x}\"")
}

#[tokio::test]
async fn a_frame_that_is_forbidden_ends_its_connection_alone() {
    let bed = Bed::start().await;
    let hi = text(r#"{"type":"x"}"#);
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut case = |what: &str, bytes: Vec<u8>| cases.push((what.to_owned(), bytes));
    case("not masked", [&[FIN | TEXT, 12][..], br#"{"type":"x"}"#].concat());
    case("an empty frame that is not masked", vec![FIN | PING, 0]);
    for bit in [0x40, 0x20, 0x10, 0x70] {
        case("a reserved bit", frame(FIN | bit | TEXT, br#"{"type":"x"}"#));
        case("a reserved bit of a ping", frame(FIN | bit | PING, b""));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        case("a reserved opcode", frame(FIN | opcode, b"x"));
    }
    for opcode in [CLOSE, PING, PONG] {
        case("a control frame in parts", frame(opcode, b"x"));
        case("a long control frame", frame(FIN | opcode, &[b'x'; 126]));
        case("a very long control frame", head(FIN | opcode, 1 << 40));
    }
    case("a continuation of nothing", frame(FIN | CONTINUATION, b"x"));
    case("a first part that is a continuation", frame(CONTINUATION, b"x"));
    for opcode in [TEXT, BINARY] {
        case("a message within a message", [frame(TEXT, b"{"), frame(FIN | opcode, b"}")].concat());
        case("a message in parts within a message", [frame(BINARY, b"{"), frame(opcode, b"}")].concat());
    }
    case("a continuation behind a whole message", [hi, frame(FIN | CONTINUATION, b"x")].concat());
    for (what, bytes) in cases {
        let mut wire = bed.viewer("").await;
        wire.send(&bytes).await;
        ends(&mut wire, WRONG, &what).await;
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_before_it_is_there() {
    let bed = Bed::start().await;
    let before = bed.memory();
    let max = MAX_CLIENT_MESSAGE as u64;
    for len in [max + 1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
        for opcode in [TEXT, BINARY] {
            let mut wire = bed.viewer("").await;
            wire.send(&head(FIN | opcode, len)).await;
            ends(&mut wire, TOO_LONG, &format!("{len} bytes")).await;
        }
    }
    // In parts: each is short, and there is no end to them.
    for opcode in [TEXT, BINARY] {
        let mut wire = bed.viewer("").await;
        wire.send(&frame(opcode, &[b'x'; 1000])).await;
        let part = frame(CONTINUATION, &[b'x'; 1000]);
        let whole = part.repeat(MAX_CLIENT_MESSAGE / 1000 + 1);
        wire.send(&whole).await;
        ends(&mut wire, TOO_LONG, "parts without end").await;
    }
    // Before the hello as well.
    let mut wire = bed.wire().await;
    wire.send(&head(FIN | TEXT, 1 << 40)).await;
    ends(&mut wire, TOO_LONG, "a long hello").await;
    assert!(bed.memory() < before + (16 << 20), "what is too long takes no memory");
    bed.finish().await;
}

#[tokio::test]
async fn the_longest_message_is_taken() {
    let bed = Bed::start().await;
    let mut wire = bed.viewer("").await;
    // Unknown to this version, so it is passed over.
    let longest = |len: usize| format!(r#"{{"type":"later","x":"{}"}}"#, "x".repeat(len - 23));
    for len in [125, 126, 127, 65535, 65536, MAX_CLIENT_MESSAGE] {
        let message = longest(len);
        assert_eq!(message.len(), len);
        wire.send(&text(&message)).await;
        wire.send(&frame(FIN | PING, &len.to_be_bytes())).await;
        wire.pong(&len.to_be_bytes()).await;
    }
    // The same in parts of one byte, with nothing in many of them.
    let mut parts = frame(TEXT, b"");
    longest(2000).bytes().for_each(|byte| {
        parts.extend(frame(CONTINUATION, &[byte]));
        parts.extend(frame(CONTINUATION, b""));
    });
    parts.extend(frame(FIN | CONTINUATION, b""));
    parts.extend(frame(FIN | PING, b"parts"));
    wire.send(&parts).await;
    wire.pong(b"parts").await;
    // Input of the greatest length that a client may send at once, as lines that a terminal takes.
    let line = "y".repeat(1000) + "\n";
    let typed = line.repeat(MAX_INPUT / line.len());
    let mut driver = bed.viewer(&drive(1)).await;
    driver.send(&input(0, &typed)).await;
    while driver.hears("input_ack").await["offset"] != typed.len() {}
    bed.finish().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_ends_its_connection() {
    let bed = Bed::start().await;
    let wrong: &[&[u8]] = &[
        b"{\"type\":\"\xff\"}",
        b"{\"type\":\"\xc3\"}",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
    ];
    for bytes in wrong {
        let mut wire = bed.viewer("").await;
        wire.send(&frame(FIN | TEXT, bytes)).await;
        ends(&mut wire, NOT_TEXT, &format!("{bytes:x?}")).await;
        // In parts, cut where the letter is not whole.
        let mut wire = bed.viewer("").await;
        let (first, last) = bytes.split_at(bytes.len() - 1);
        wire.send(&[frame(TEXT, first), frame(FIN | CONTINUATION, last)].concat()).await;
        ends(&mut wire, NOT_TEXT, &format!("{bytes:x?} in parts")).await;
        let mut wire = bed.wire().await;
        wire.send(&frame(FIN | TEXT, bytes)).await;
        ends(&mut wire, NOT_TEXT, &format!("{bytes:x?} for a hello")).await;
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_close_is_the_end_of_what_is_heard() {
    let bed = Bed::start().await;
    let payloads: &[&[u8]] = &[
        b"",
        b"\x03\xe8",
        b"\x03\xe8bye",
        b"\x0f\xa0",
        // Not allowed on the wire: 1 byte; 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535; a reason that is no text.
        b"\x03",
        b"\x00\x00",
        b"\x03\xe7",
        b"\x03\xec",
        b"\x03\xed",
        b"\x03\xee",
        b"\x03\xf7",
        b"\x0b\xb7",
        b"\x13\x88",
        b"\xff\xff",
        b"\x03\xe8\xff\xfe",
    ];
    for payload in payloads {
        for hello in [true, false] {
            let mut wire = if hello { bed.viewer("").await } else { bed.wire().await };
            let what = format!("{payload:x?}, hello: {hello}");
            // What stands behind the close is not looked at: neither answered nor an error.
            let behind = [frame(FIN | CLOSE, payload), frame(FIN | PING, b"late"), vec![0xff; 64]].concat();
            wire.send(&behind).await;
            let code = wire.rest().await;
            let same = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
            let answers = [Some(1000), Some(1002), Some(1005), Some(1007), same];
            assert!(answers.contains(&code), "{what}: closed with {code:?}");
        }
    }
    bed.finish().await;
}

#[tokio::test]
async fn frames_in_any_pieces_are_the_same_conversation() {
    let bed = Bed::start().await;
    let hello = |number| format!("{{\"type\":\"hello\",{},\"later\":\"\u{fc}\u{1f4ef}\"}}", drive(number));
    let conversation = |number| {
        let typed = format!("line {number}\n");
        let (first, last) = typed.split_at(3);
        [
            frame(FIN | PONG, b"nobody asked"),
            frame(FIN | PING, b""),
            text(&hello(number)),
            frame(FIN | PING, &[7; 125]),
            input(0, first),
            text(r#"{"type":"later"}"#),
            input(first.len() as u64, last),
            frame(FIN | PING, b"done"),
        ]
        .concat()
    };
    // All at once, and one byte at a time.
    let mut wire = bed.wire().await;
    wire.send(&conversation(1)).await;
    wire.pong(b"").await;
    wire.pong(&[7; 125]).await;
    wire.pong(b"done").await;
    wire.shows("got line 1.").await;
    let mut wire = bed.wire().await;
    for byte in conversation(2) {
        wire.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    wire.pong(b"").await;
    wire.pong(&[7; 125]).await;
    wire.pong(b"done").await;
    wire.shows("got line 2.").await;
    // In parts that cut letters and headers, with pings between them.
    let mut wire = bed.wire().await;
    let hello = hello(3);
    let cut = hello.find('\u{fc}').expect("a letter") + 1;
    let (first, last) = hello.as_bytes().split_at(cut);
    let parts =
        [frame(TEXT, first), frame(FIN | PING, b"mid"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, last)];
    wire.send(&parts.concat()).await;
    wire.pong(b"mid").await;
    wire.hears("welcome").await;
    let typed = [&0u64.to_be_bytes()[..], b"line 3\n"].concat();
    wire.send(&frame(BINARY, &typed[..3])).await;
    wire.send(&frame(FIN | PING, b"between")).await;
    wire.pong(b"between").await;
    wire.send(&frame(CONTINUATION, &typed[3..10])).await;
    wire.send(&frame(FIN | PONG, b"")).await;
    wire.send(&frame(FIN | CONTINUATION, &typed[10..])).await;
    wire.shows("got line 3.").await;
    bed.finish().await;
}

#[tokio::test]
async fn any_mask_is_taken_off_and_lengths_in_long_forms_do_no_harm() {
    let bed = Bed::start().await;
    let mut wire = bed.viewer("").await;
    for mask in [[0; 4], [0xff; 4], [1, 0, 0, 0x80]] {
        let mut ping = vec![FIN | PING, 0x80 | 5];
        ping.extend_from_slice(&mask);
        ping.extend(b"hello".iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        wire.send(&ping).await;
        wire.pong(b"hello").await;
    }
    // A length that would fit a shorter form: refused, or read as what it says, and never as something else.
    let message = br#"{"type":"later"}"#;
    for form in [126, 127] {
        let mut wire = bed.viewer("").await;
        let mut long = vec![FIN | TEXT, 0x80 | form];
        let len = (message.len() as u64).to_be_bytes();
        long.extend_from_slice(if form == 126 { &len[6..] } else { &len });
        long.extend_from_slice(&MASK);
        long.extend(masked(message));
        long.extend(frame(FIN | PING, b"understood"));
        wire.send(&long).await;
        loop {
            match wire.next().await {
                Got::Pong(pong) => break assert_eq!(pong, b"understood"),
                Got::Close(code) => break assert_eq!(code, WRONG.1),
                Got::End => break,
                _ => {}
            }
        }
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_flood_of_pings_takes_no_memory_and_holds_up_nobody() {
    let bed = Bed::start().await;
    let mut wire = bed.viewer("").await;
    // Who reads gets answers in order; a hub may answer the newest alone (RFC 6455, section 5.5.3).
    let pings: Vec<u8> = (0u32..5000).flat_map(|number| frame(FIN | PING, &number.to_be_bytes())).collect();
    wire.send(&pings).await;
    let mut last = None;
    while last != Some(4999) {
        if let Got::Pong(pong) = wire.next().await {
            let number = u32::from_be_bytes(pong.try_into().expect("what was sent"));
            assert!(last.is_none_or(|last| last < number), "pongs come in order");
            last = Some(number);
        }
    }
    // Who does not read is answered as far as its own buffers go.
    let before = bed.memory();
    let mut flood = bed.viewer("").await;
    let pings = frame(FIN | PING, &[1; 125]).repeat(1000);
    for _ in 0..120 {
        if !flood.offer(&pings, Duration::from_millis(500)).await {
            break;
        }
    }
    assert!(bed.memory() < before + (16 << 20), "{} KiB more", (bed.memory() - before) >> 10);
    drop(flood);
    bed.finish().await;
}

#[tokio::test]
async fn a_flood_of_what_is_answered_with_words_takes_no_memory_either() {
    let bed = Bed::start().await;
    let before = bed.memory();
    // A watcher may not type, and there is no such signal: it is told so each time.
    for told in [frame(FIN | BINARY, b""), frame(FIN | TEXT, br#"{"type":"signal","signal":77}"#)] {
        let mut flood = bed.viewer("").await;
        let many = told.repeat((1 << 20) / told.len());
        for _ in 0..20 {
            if !flood.offer(&many, Duration::from_millis(500)).await {
                break;
            }
        }
        // Nor is anything done meanwhile for one who does not read.
        let since = bed.cpu();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let spent = bed.cpu() - since;
        assert!(spent < Duration::from_millis(1000), "{spent:?} within 2 s");
    }
    assert!(bed.memory() < before + (24 << 20), "{} KiB more", (bed.memory() - before) >> 10);
    bed.finish().await;
}

#[tokio::test]
async fn what_ends_within_a_frame_is_an_end() {
    let bed = Bed::start().await;
    for bytes in [&[FIN | TEXT][..], &[FIN | TEXT, 0x80 | 126, 1], &head(FIN | BINARY, 1000), &frame(TEXT, b"{")] {
        let mut wire = bed.viewer("").await;
        wire.send(bytes).await;
        wire.hang_up().await;
        wire.rest().await;
    }
    // And before the hello.
    let mut wire = bed.wire().await;
    wire.send(&[FIN | TEXT, 0xff]).await;
    wire.hang_up().await;
    wire.rest().await;
    bed.finish().await;
}
