use proptest::prelude::*;

use super::*;

const SIZE: Size = Size { cols: 10, rows: 4 };

fn fed(text: &str) -> Screen {
    let mut screen = Screen::new(SIZE);
    screen.feed(text.as_bytes());
    screen
}

#[test]
fn a_snapshot_keeps_the_scrollback_and_freezes_nothing() {
    let snapshot = fed("text\x1b[?2026h").snapshot();
    let has = |part: &str| snapshot.windows(part.len()).any(|bytes| bytes == part.as_bytes());
    assert!(!has("\x1bc") && !has("\x1b[3J") && !has("2026h"));
    assert!(has(";2026l"));
}

#[test]
fn what_is_no_text_shows_as_one_replacement_a_piece() {
    let mut screen = Screen::new(SIZE);
    screen.feed(b"a\xff\xe2\x82b\xf0\x9f");
    assert_eq!(screen.lines()[0], "a\u{fffd}\u{fffd}b");
    screen.feed(b"c\xc3");
    assert_eq!(screen.lines()[0], "a\u{fffd}\u{fffd}b\u{fffd}c");
    screen.feed(b"\xa9");
    assert_eq!(screen.lines()[0], "a\u{fffd}\u{fffd}b\u{fffd}c\u{e9}");
}

#[test]
fn what_other_terminals_know_is_kept() {
    let screen = fed("\x1b[>1u\x1b[>4;2m\x1b[?5h\x1b[?12l\x1b[?1007h\x1b[?1049h\x1b[=5u\x1b[>3u");
    let snapshot = String::from_utf8(screen.snapshot().to_vec()).expect("text");
    for part in ["\x1b[>1u\x1b", "\x1b[>4;2m", "\x1b[?5h", "\x1b[?12l", "\x1b[?1007h", "\x1b[=5;1u\x1b[>3u"] {
        assert!(snapshot.contains(part), "{part:?} in {snapshot:?}");
    }
    let mut screen = Screen::restore(SIZE, snapshot.as_bytes());
    screen.feed(b"\x1b[<u\x1b[?1049l");
    let snapshot = String::from_utf8(screen.snapshot().to_vec()).expect("text");
    assert!(snapshot.contains("\x1b[>1u") && !snapshot.contains("\x1b[=5;1u"), "{snapshot:?}");
}

/// Bytes that the state takes, as far as they can grow with what is fed.
fn weight(screen: &Screen) -> usize {
    screen.snapshot().len()
}

#[test]
fn what_never_ends_takes_no_memory() {
    let piece = "x".repeat(1 << 16);
    for start in ["", "\x1b]2;", "\x1b]8;;", "\x1bP", "\x1bP1$q", "\x1b_", "\x1b^", "\x1bX", "\x1b["] {
        let mut screen = fed(start);
        (0..32).for_each(|_| screen.feed(piece.as_bytes()));
        assert!(weight(&screen) < 2000 + (1 << 16), "{start:?}: {}", weight(&screen));
    }
    for (start, piece) in
        [("\x1b[", "1;:2"), ("\x1b[", "    "), ("\x1b", "####"), ("\x1bP", "1;2;"), ("\x1b[?", "0000")]
    {
        let mut screen = fed(start);
        (0..1 << 18).for_each(|_| screen.feed(piece.as_bytes()));
        assert!(weight(&screen) < 8000, "{start:?}: {}", weight(&screen));
        assert_eq!(Screen::restore(SIZE, &screen.snapshot()).snapshot(), screen.snapshot());
    }
}

#[test]
fn a_string_too_long_has_no_effect_and_ends() {
    let mut screen = fed("\x1b]2;kept\x07");
    screen.feed(b"\x1b]2;");
    screen.feed(&vec![b'x'; 1 << 17]);
    let mut other = Screen::restore(SIZE, &screen.snapshot());
    for screen in [&mut screen, &mut other] {
        screen.feed(b"more\x07shown");
        assert_eq!(screen.lines()[0], "shown");
        assert_eq!(screen.term.title, "kept");
    }
}

#[test]
fn clusters_and_links_that_are_gone_are_forgotten() {
    let mut screen = Screen::new(SIZE);
    for n in 0..20_000u32 {
        let mark = char::from_u32(0x300 + n % 0x70).unwrap_or(' ');
        let base = char::from_u32(0x4e00 + n / 0x70).unwrap_or(' ');
        screen.feed(format!("\x1b]8;;http://x/{n}\x07{base}{mark}{mark}\x1b]8;;\x07").as_bytes());
    }
    let debug = format!("{:?}", screen.term.clusters).len() + format!("{:?}", screen.term.links).len();
    assert!(debug < 400_000, "{debug}");
    let snapshot = String::from_utf8(screen.snapshot().to_vec()).expect("text");
    assert!(snapshot.contains("http://x/19999"), "the newest link has its place");
}

#[test]
fn the_largest_screen_fits_into_a_record() {
    let size = Size { cols: crate::record::MAX_COLS, rows: crate::record::MAX_ROWS };
    let mut screen = Screen::new(size);
    let uri = "x".repeat(200);
    let mut fill = |pieces: &dyn Fn(u32) -> String| {
        screen.feed(b"\x1b[H");
        (0..200_000).for_each(|n| screen.feed(pieces(n).as_bytes()));
        let snapshot = screen.snapshot();
        assert!(snapshot.len() < crate::record::MAX_PAYLOAD - 4, "{}", snapshot.len());
        Screen::restore(size, &snapshot).lines()[0].chars().take(3).collect::<String>()
    };
    assert_eq!(fill(&|n| format!("\x1b]8;;{}{uri}\x07x", n % 2)), "xxx");
    assert_eq!(fill(&|n| format!("\x1b[1;3;4;9;38;2;{n};2;3;48;2;3;{n};200my\u{301}\u{302}")), "yyy");
}

#[test]
fn long_repetitions_end() {
    let mut screen = fed("x\x1b[2147483647b\x1b[2147483647S\x1b[2147483647L\x1b[2147483647@\x1b[2147483647I");
    screen.feed(b"\x1b[2147483647;2147483647H\x1b[2147483647P\x1b[2147483647X\x1b[99999999999999999999C");
    assert_eq!(screen.cursor(), Some((9, 3)));
}

/// Pieces of streams: text, bytes that are none, and controls whole and cut.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let control = ("[ -/<-?]{0,2}", "[0-9;:]{0,8}", "[@-~]")
        .prop_map(|(prefix, params, last)| format!("\x1b[{prefix}{params}{last}"));
    let mode = (prop::sample::select(vec![1, 3, 5, 6, 7, 25, 45, 47, 1006, 1047, 1048, 1049, 2004]), "[hl]")
        .prop_map(|(mode, last)| format!("\x1b[?{mode}{last}"));
    prop_oneof![
        "[a-z ]{0,30}".prop_map(String::into_bytes),
        "[界世e\u{301}\u{308}\u{200d}👩\u{fe0f}\u{feff}]{0,6}".prop_map(String::into_bytes),
        control.prop_map(String::into_bytes),
        mode.prop_map(String::into_bytes),
        "\x1b[ -~]{1,3}".prop_map(String::into_bytes),
        "(\r|\n|\t|\x08|\x0e|\x0f|\x18|\u{84}|\u{9b}|\u{9d}|\u{90}|\x1b\\]8;;u\x07)".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..12),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat())
}

fn size() -> impl Strategy<Value = Size> {
    (1u16..30, 1u16..12).prop_map(|(cols, rows)| Size { cols, rows })
}

/// Rows are as long as the screen is wide, and no half of a character stands alone.
fn check(screen: &Screen) {
    for grid in [Some(&screen.term.main), screen.term.alt.as_ref()].into_iter().flatten() {
        assert!(
            grid.x <= grid.cols && grid.y < grid.height() && grid.top <= grid.bottom && grid.bottom < grid.height()
        );
        assert!(grid.saved.x < grid.cols && grid.saved.y < grid.height() && grid.tabs.len() == grid.cols);
        for row in &grid.rows {
            assert_eq!(row.cells().len(), grid.cols);
            for (x, cell) in row.cells().iter().enumerate() {
                assert_eq!(cell.width == 2, row.cells().get(x + 1).is_some_and(Cell::is_tail), "at {x} of {row:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_stream_may_be_cut_anywhere(size in size(), stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let mut whole = Screen::new(size);
        whole.feed(&stream);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Screen::new(size);
        let mut from = 0;
        for to in cuts.into_iter().chain([stream.len()]) {
            pieces.feed(&stream[from..to]);
            from = to;
        }
        prop_assert_eq!(pieces.snapshot(), whole.snapshot());
    }

    #[test]
    fn what_is_restored_has_the_same_snapshot(size in size(), stream in stream(), other in size(), more in stream()) {
        let mut screen = Screen::new(size);
        screen.feed(&stream);
        check(&screen);
        let snapshot = screen.snapshot();
        prop_assert_eq!(Screen::restore(size, &snapshot).snapshot(), snapshot);
        screen.resize(other);
        check(&screen);
        screen.feed(&more);
        check(&screen);
        let snapshot = screen.snapshot();
        let restored = Screen::restore(other, &snapshot);
        check(&restored);
        prop_assert_eq!(restored.snapshot(), snapshot);
    }

    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..2000), sizes in prop::collection::vec(size(), 1..5)) {
        let mut screen = Screen::new(sizes[0]);
        for (part, size) in bytes.chunks(400).zip(sizes.iter().cycle()) {
            screen.feed(part);
            screen.resize(*size);
            check(&screen);
            let _ = screen.snapshot();
        }
    }
}
