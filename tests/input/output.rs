//! Output as no program should write it: no text, no lines, sequences without an end, and very much of it. It comes out
//! byte for byte wherever it is asked for, and the hub's memory is bounded by its ring and a few pieces, whatever comes.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use foghorn::protocol::{HubMessage, Mode};
use foghorn::record::Payload;
use serde_json::{Value, json};

use crate::bed::memory;
use crate::support::answer::Answer;
use crate::support::server::{Came, Hello, Server};

/// Not UTF-8 in several ways, and no line's end in it.
const PATTERN: &[u8] = b"\xff\xfe\xc3(\xed\xa0\x80\xf8\x88\x80abc\xe2\x82";

/// What a hub may take more than before for one session of any length, in bytes: its ring (1 MiB), and for each who
/// reads what has left it some pieces of 256 KiB, unpacked from chunks that compress as well as these do.
const BOUND: u64 = 24 << 20;

/// A command that prints [`PATTERN`] over and over, so many bytes.
fn printing(len: usize) -> String {
    let octal: String = PATTERN.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("yes \"$(printf '{octal}')\" | tr -d '\\n' | head -c {len}")
}

/// Where bytes that stand at `offset` are not the pattern.
fn difference(bytes: &[u8], offset: usize) -> Option<usize> {
    let expected = PATTERN.iter().cycle().skip(offset % PATTERN.len());
    bytes.iter().zip(expected).position(|(byte, expected)| byte != expected)
}

fn client(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    command.args(args).env("FOGHORN_URL", server.url()).env("FOGHORN_TOKEN", server.token());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads all that a client writes, in pieces, and checks it on the way: how much it was.
fn check(mut child: Child) -> usize {
    let mut stdout = child.stdout.take().expect("an output");
    let (mut len, mut piece) = (0, vec![0; 256 << 10]);
    loop {
        let read = stdout.read(&mut piece).expect("reads");
        if read == 0 {
            break;
        }
        assert_eq!(difference(&piece[..read], len), None, "behind {len}");
        len += read;
    }
    let mut said = String::new();
    child.stderr.take().expect("an output").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("ends").code(), Some(0), "{said}");
    len
}

#[tokio::test]
async fn a_hundred_megabytes_without_a_line_come_out_as_they_went_in() {
    const LEN: usize = 100 << 20;
    let server = Server::start("").await;
    let before = memory(&server);
    let script = printing(LEN);
    let run = client(&server, &["run", "-T", "-a", "a", "--", "sh", "-c", &script]).spawn().expect("starts");
    assert_eq!(tokio::task::spawn_blocking(|| check(run)).await.expect("a client"), LEN);
    let (_, list) = server.ask("GET", "/v1/sessions", None).await;
    let id = list["sessions"][0]["id"].as_str().expect("an id").to_owned();
    server.ended(&id).await;
    // And once more, from the journal.
    let again = client(&server, &["logs", "-s", &id]).spawn().expect("starts");
    assert_eq!(tokio::task::spawn_blocking(|| check(again)).await.expect("a client"), LEN);
    let grown = memory(&server) - before;
    println!("100 MiB through a pipe, recorded and read back: {} KiB more", grown >> 10);
    assert!(grown < BOUND, "{} KiB more", grown >> 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_output_has_all_its_bytes() {
    const LEN: usize = 4 << 20;
    let mut server = Server::start("").await;
    let before = memory(&server);
    let id = server.run_detached(&format!("{}; {} >&2", printing(LEN), printing(1000))).await;
    server.ended(&id).await;
    let (path, all) = (format!("/v1/sessions/{id}/output"), LEN + 1000);
    let raw = server.output(&id, true).await;
    assert_eq!(raw.len(), all);
    let lines =
        tokio::task::block_in_place(|| Answer::get(&server, &path, &[("accept", "application/x-ndjson")]).text());
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let events = tokio::task::block_in_place(|| Answer::get(&server, &path, &[("accept", "text/event-stream")]).text());
    let datas = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let told: Vec<Value> = datas.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    assert!(told == objects, "events are the same objects");
    let (mut out, mut err, mut end) = (Vec::new(), Vec::new(), 0);
    for object in objects.iter().filter(|object| object["type"] == "output") {
        let data = BASE64_STANDARD.decode(object["data"].as_str().expect("text")).expect("base64");
        assert_eq!(object["offset"], end);
        end += data.len();
        if object["stream"] == "stderr" { err.extend(data) } else { out.extend(data) }
    }
    assert_eq!((out.len(), err.len()), (LEN, 1000));
    assert_eq!((difference(&out, 0), difference(&err, 0)), (None, None));
    // A recording is text: what is none is replaced, and nothing else is lost.
    let cast =
        tokio::task::block_in_place(|| Answer::get(&server, &format!("/v1/sessions/{id}/recording.cast"), &[]).text());
    let mut events = cast.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    assert_eq!(events.next().expect("a header")["version"], 2);
    let shown: String = events.map(|event| event[2].as_str().expect("text").to_owned()).collect();
    assert!(shown == String::from_utf8_lossy(&raw), "the recording shows what the output is as text");
    assert!(memory(&server) < before + BOUND, "{} KiB more", (memory(&server) - before) >> 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_is_logged_in_pieces() {
    const LEN: usize = 2 << 20;
    let mut server = Server::start("").await;
    let before = memory(&server);
    let id = server.run_detached(&printing(LEN)).await;
    server.ended(&id).await;
    let log = Answer::get(&server, "/v1/apps/test/logs?tail=100000", &[("accept", "application/x-ndjson")]);
    let log = tokio::task::block_in_place(|| log.text());
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let pieces: Vec<String> = lines
        .filter(|line| line["stream"] == "stdout")
        .map(|line| line["message"].as_str().expect("text").to_owned())
        .collect();
    assert!(pieces.len() >= LEN / (64 << 10), "{} pieces", pieces.len());
    let (last, cut) = pieces.split_last().expect("pieces");
    assert!(cut.iter().all(|piece| piece.ends_with('…')) && !last.ends_with('…'));
    // Letters that a cut goes through are replaced on both sides; all others are there, in their order.
    let whole: String = pieces.iter().map(|piece| piece.trim_end_matches('…')).collect();
    let letters = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
    let all: Vec<u8> = PATTERN.iter().copied().cycle().take(LEN).collect();
    assert!(letters(&whole) == letters(&String::from_utf8_lossy(&all)), "no letter is lost");
    assert!(memory(&server) < before + BOUND, "{} KiB more", (memory(&server) - before) >> 10);
}

/// Starts of sequences that go on for ever.
const OPEN: [(&str, &str); 6] = [
    ("title", "\x1b]2;"),
    ("link", "\x1b]8;;"),
    ("DCS", "\x1bP1$q"),
    ("APC", "\x1b_"),
    ("PM", "\x1b^"),
    ("CSI", "\x1b["),
];

#[tokio::test]
async fn a_sequence_that_never_ends_takes_no_memory_and_ends_when_it_does() {
    const LEN: usize = 3 << 20;
    let mut server = Server::start("").await;
    let before = memory(&server);
    let mut script = String::from("stty raw -echo; ");
    for (name, start) in OPEN {
        let octal: String = start.bytes().map(|byte| format!("\\{byte:03o}")).collect();
        let digit = if name == "CSI" { "1" } else { "x" };
        script += &format!("printf '{octal}'; head -c {LEN} /dev/zero | tr '\\0' {digit}; ");
        script += &format!("printf 'm\\033\\\\\\030\\033[2J\\033[Hbehind {name}'; read -r go; ");
    }
    let session = server.run(&["sh", "-c", &script], json!({"tty": true, "stdin": true, "keep": true})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut witness = server.attach(&id, Hello::watch()).await;
    let mut driver = server.attach(&id, Hello::drive(1)).await;
    for (typed, (name, start)) in (0..).zip(OPEN) {
        // Who follows each byte has them all, and who looks only sees what is behind.
        let (end, letter) = (format!("behind {name}"), if name == "CSI" { b'1' } else { b'x' });
        while !witness.output.ends_with(end.as_bytes()) {
            assert!(!matches!(witness.come().await, Came::Closed(_) | Came::Lost), "{name}");
        }
        let seen = std::mem::take(&mut witness.output);
        let at = seen.iter().position(|byte| *byte == letter).expect("the sequence");
        assert!(seen[..at].ends_with(start.as_bytes()), "{name}");
        assert!(seen[at..].iter().take_while(|byte| **byte == letter).count() == LEN, "{name}");
        let screen = snapshot(&server, &id).await;
        let shown = String::from_utf8_lossy(&screen).into_owned();
        assert!(shown.contains(&end) && screen.len() < 10_000, "{name}: {} bytes", screen.len());
        driver.type_at(typed, "\n").await;
    }
    server.ended(&id).await;
    let grown = memory(&server) - before;
    println!("sequences of {} MiB without an end: {} KiB more", LEN >> 20, grown >> 10);
    assert!(grown < BOUND, "{} KiB more", grown >> 10);
}

/// What a terminal that comes now is given: a snapshot that is up to date.
async fn snapshot(server: &Server, id: &str) -> Bytes {
    loop {
        let mut viewer = server.attach(id, Hello { mode: Mode::Screen, ..Hello::default() }).await;
        let welcome = viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
        let HubMessage::Welcome { head, .. } = welcome else { panic!("a welcome") };
        loop {
            let Came::Records(records) = viewer.come().await else { continue };
            let Some(Payload::Snapshot(_, screen)) = records.first().map(|record| record.payload.clone()) else {
                panic!("a screen starts with a snapshot: {records:?}")
            };
            // The model follows the output, and may be a little behind it.
            if records[0].offset >= head {
                return screen;
            }
            break;
        }
    }
}
