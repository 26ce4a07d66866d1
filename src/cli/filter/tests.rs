//! Payloads, and that neither a split nor a policy changes what becomes of them.

use super::*;
use proptest::prelude::*;

fn through(policy: Policy, bytes: &[u8]) -> Vec<u8> {
    let (mut filter, mut out) = (Filter::new(policy), Vec::new());
    filter.feed(bytes, &mut out);
    out
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn all() -> impl Iterator<Item = &'static [u8]> {
    DROPPED.into_iter().chain(KEPT).chain(CHANGED.map(|(bytes, _)| bytes))
}

#[test]
fn a_string_that_nothing_ends_takes_its_line_of_a_text_and_no_more() {
    for begin in ["\x1b]0;", "\x1bP", "\x1b_G", "\x1bX", "\x1bk", "\u{9d}", "\u{90}", "\u{9f}"] {
        let input = format!("a{begin}title\nsecond\n");
        assert_eq!(text(&through(Policy::Text, input.as_bytes())), "a\\nsecond\\n", "{begin:?}");
    }
}

/// Must not reach the terminal of one who watches.
const DROPPED: [&[u8]; 60] = [
    b"\x1b]52;c;aGk=\x07",
    b"\x1b]52;c;?\x1b\\",
    b"\x1b]0;title\x07",
    b"\x1b]2;t\xc2\x9c",
    b"\x1b[c",
    b"\x1b[>c",
    b"\x1b[=0c",
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?996n",
    b"\x1b[>q",
    b"\x1b[>0q",
    b"\x1b[?2026$p",
    b"\x1b[?u",
    b"\x1b[>1u",
    b"\x1b[21t",
    b"\x1b[22;0t",
    b"\x1b[x",
    b"\x1b[5i",
    b"\x1bZ",
    b"\x05",
    b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b]10;?\x07",
    b"\x1b]4;1;?\x1b\\",
    b"\x1b_Ga=q;x\x1b\\",
    b"\x1bktitle\x1b\\",
    b"\xc2\x9b6n",
    b"\xc2\x9d52;c;?\x07",
    b"\xc2\x9d0;title\xc2\x9c",
    b"\xc2\x90$qm\xc2\x9c",
    b"\xc2\x9a",
    b"\xc2\x9fGa=q;x\xc2\x9c",
    // Leaves UTF-8, or has the terminal send controls of eight bits.
    b"\x1b%@",
    b"\x1b%G",
    b"\x1b%/I",
    b"\x1b F",
    b"\x1b G",
    b"\x1b[62;0\"p",
    // Locks the keyboard, shows what is typed twice, or speaks as a VT52.
    b"\x1b[2h",
    b"\x1b[2l",
    b"\x1b[4;2h",
    b"\x1b[12l",
    b"\x1b[h",
    b"\x1b`",
    b"\x1b[?2l",
    b"\x1b[?25;2l",
    // Reports.
    b"\x1b[?2048h",
    b"\x1b[?9001h",
    b"\x1b[#R",
    b"\x1b[#S",
    b"\x1b[#|",
    b"\x1b[\"v",
    b"\x1b[+p",
    b"\x1b[>100 q",
    b"\x1b[1;1'|",
    b"\x1b[1;2;1;1;1;1*y",
    // Numbers that do not fit.
    b"\x1b]42949672959;c;?\x07",
    b"\x1b]4;1;red\x18",
];

/// Must reach it as it is.
const KEPT: [&[u8]; 20] = [
    b"plain\r\n\ttext\x08\x07",
    "Grüße, 木, \u{1f600}, e\u{301}".as_bytes(),
    b"\x1b[1;31mred\x1b[m",
    b"\x1b[38:2::1:2:3mrgb\x1b[0m",
    b"\x1b[?1049h\x1b[2J\x1b[H\x1b[?1049l",
    b"\x1b[?25l\x1b[?2004h",
    b"\x1b[3 q",
    b"\x1b[1;20r",
    b"\x1b7\x1b8\x1bM\x1b=\x1b>\x1bc",
    b"\x1b(0lqqk\x1b(B\x0e\x0f",
    b"\x1b#8\x1b[4h\x1b[20;4l",
    b"\x1b]8;;http://example.com/a?b\x1b\\link\x1b]8;;\x1b\\",
    b"\x1b]8;;http://example.com\x07x\x1b]8;;\x07",
    b"\x1b]133;A\x07$ ",
    b"\x1b]4;1;rgb:ff/00/00\x07",
    b"\x1b]104\x07",
    b"\x1bPq#0;2;0;0;0~~\x1b\\",
    b"\xc2\xa0\xc2\xbf\xc3\x9b",
    b"\xe2\x9c\x93 done \xe2\x80\x9b",
    "\u{202e}txt\u{202c}\u{feff}\u{fffd}".as_bytes(),
];

/// Reaches it otherwise than it was written.
const CHANGED: [(&[u8], &str); 22] = [
    // Half characters, and bytes that are no character: a terminal that reads bytes sees a control in some.
    (b"\xff\xfe\xa9 not UTF-8", "\u{fffd}\u{fffd}\u{fffd} not UTF-8"),
    (b"\xe2\x9b6n", "\u{fffd}6n"),
    (b"\xf0\x9f\x9b6n", "\u{fffd}6n"),
    (b"\xf0\x9f\x9b\x1b[m", "\u{fffd}\x1b[m"),
    (b"\xe2\x9b\xe2\x9b\x93", "\u{fffd}\u{26d3}"),
    (b"\xc3\x9b\xc3", "\u{db}"),
    (b"\xc0\x9b6n", "\u{fffd}\u{fffd}6n"),
    (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
    (b"\xf4\x90\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    // A byte alone is no control, and hides nothing that follows.
    (b"A\x90B\nsecond", "A\u{fffd}B\nsecond"),
    (b"\x9b6n", "\u{fffd}6n"),
    (b"\x9d52;c;?\x07", "\u{fffd}52;c;?\x07"),
    (b"\x85\x98\x9e\x9f\x9c", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
    // In a control string neither.
    (b"\x1b]8;;http://x\x9c\x9b6n\x07", "\x1b]8;;http://x\u{fffd}\u{fffd}6n\x07"),
    (b"\x1bPq~\x9c\x9b6n\x1b\\", "\x1bPq~\u{fffd}\u{fffd}6n\x1b\\"),
    (b"\x1b]133;A\xe2\x9b\x07", "\x1b]133;A\u{fffd}\x07"),
    (b"\x1bPq~\x05\n~\x7f\x1b\\", "\x1bPq~~\x1b\\"),
    // One that is broken off is ended, and so is one that ends with a C1 control.
    (b"\x1b]8;;http://x\xc2\x9b6nend", "\x1b]8;;http://x\x1b\\end"),
    (b"\x1b]8;;http://x\xc2\x9b1mend", "\x1b]8;;http://x\x1b\\\u{9b}1mend"),
    (b"\x1b]8;;http://x\x18end", "\x1b]8;;http://x\x1b\\end"),
    (b"\x1b]4;1;red\xc2\x9c;2;?\x07", "\x1b]4;1;red\x1b\\;2;?\x07"),
    (b"\x1b]0;ti\x1b[31mred", "\x1b[31mred"),
];

#[test]
fn what_asks_is_dropped() {
    for bytes in DROPPED {
        let framed = [b"a", bytes, b"b"].concat();
        assert_eq!(text(&through(Policy::Shown, &framed)), "ab", "{}", text(bytes));
    }
}

#[test]
fn what_shows_passes_unchanged() {
    for bytes in KEPT {
        assert_eq!(text(&through(Policy::Shown, bytes)), text(bytes));
    }
}

#[test]
fn what_is_no_character_is_replaced() {
    for (bytes, shown) in CHANGED {
        assert_eq!(text(&through(Policy::Shown, bytes)), text(shown.as_bytes()), "{}", text(bytes));
    }
}

#[test]
fn whoever_types_gets_everything() {
    for bytes in all() {
        assert_eq!(text(&through(Policy::All, bytes)), text(bytes));
    }
}

#[test]
fn a_log_may_be_coloured_and_no_more() {
    assert_eq!(text(&through(Policy::Colours, b"\x1b[31mred\x1b[0m\tx")), r"\x1b[31mred\x1b[0m\tx");
    for bytes in [&b"\x1b[2J"[..], b"\x1b]8;;http://x\x07", b"\r", b"\x08", b"\x1bc", b"\x1b[?25l", b"\x1bPq~\x1b\\"] {
        assert_eq!(text(&through(Policy::Colours, bytes)), "", "{}", text(bytes));
    }
}

#[test]
fn an_endless_string_costs_no_memory() {
    let mut filter = Filter::new(Policy::Shown);
    let mut out = Vec::new();
    filter.feed(b"\x1b]4;", &mut out);
    for _ in 0..10_000 {
        filter.feed(b"0123456789", &mut out);
    }
    filter.feed(b"\x07\x1b[", &mut out);
    for _ in 0..10_000 {
        filter.feed(b"0123456789", &mut out);
    }
    filter.feed(b"mend", &mut out);
    assert_eq!(text(&out), "end");
    assert!(filter.held.capacity() <= 4 * LONGEST);
}

#[test]
fn a_character_that_never_ends_costs_no_memory() {
    let (mut filter, mut out) = (Filter::new(Policy::Shown), Vec::new());
    for _ in 0..10_000 {
        filter.feed(b"\xf0", &mut out);
        assert!(filter.partial.len() <= 3 && !filter.is_ground());
    }
    assert_eq!(String::from_utf8_lossy(&out), "\u{fffd}".repeat(9_999));
}

/// Bytes of which many begin, continue and end sequences.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"\x1b[]P?;>$%\\\x07\x18\x05cnhq68210".to_vec()),
        proptest::sample::select(b"\x1b\x9b\x9c\x9d\xc2\xe2\xf0\x9f\x90".to_vec()),
    ];
    proptest::collection::vec(part, 0..60)
}

proptest! {
    #[test]
    fn a_split_changes_nothing(
        parts in proptest::collection::vec(0..DROPPED.len() + KEPT.len() + CHANGED.len(), 1..6),
        cuts in proptest::collection::vec(1usize..7, 1..60),
    ) {
        let all: Vec<u8> = parts.iter().flat_map(|part| all().nth(*part).expect("in range")).copied().collect();
        for policy in [Policy::All, Policy::Shown, Policy::Colours, Policy::Text] {
            let (mut filter, mut out, mut rest) = (Filter::new(policy), Vec::new(), &all[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                filter.feed(piece, &mut out);
                rest = after;
            }
            prop_assert_eq!(text(&out), text(&through(policy, &all)));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(through(Policy::All, &bytes), bytes);
    }

    #[test]
    fn only_characters_pass_and_never_a_query(bytes in noise()) {
        for policy in [Policy::Shown, Policy::Colours, Policy::Text] {
            let passed = through(policy, &bytes);
            let passed = String::from_utf8(passed).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(!passed.contains([ENQ, '\u{9a}']), "{:?}", passed);
            prop_assert!(policy == Policy::Shown || !passed.contains('\u{9b}'), "{:?}", passed);
            // It passes again as it is: nothing comes together in it that was not there.
            prop_assert_eq!(text(&through(policy, passed.as_bytes())), text(passed.as_bytes()));
        }
    }
}
