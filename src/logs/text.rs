//! Bytes of a line as text.

/// The text of a line that no terminal wrote. What is not UTF-8 is replaced, a carriage return at the end is taken off,
/// and so are NULs at the start: what a writer leaves behind that goes on at its old place in a file that was emptied.
#[must_use]
pub fn plain(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let start = line.iter().position(|byte| *byte != 0).unwrap_or(line.len());
    String::from_utf8_lossy(&line[start..]).into_owned()
}

/// The text of a line that a terminal was given. Colours (SGR) stay; other escape sequences and control characters go,
/// and of what was written over after a carriage return only the last version stays.
#[must_use]
pub fn terminal(line: &[u8]) -> String {
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    let start = line[..end].iter().rposition(|byte| *byte == b'\r').map_or(0, |last| last + 1);
    let mut kept = Vec::with_capacity(end - start);
    let mut rest = &line[start..end];
    while let Some((byte, after)) = rest.split_first() {
        if *byte == 0x1b {
            let (sequence, after) = rest.split_at(escape_len(rest));
            if is_colour(sequence) {
                kept.extend_from_slice(sequence);
            }
            rest = after;
            continue;
        }
        if *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f) {
            kept.push(*byte);
        }
        rest = after;
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// `ESC [`, digits and separators, `m`.
fn is_colour(sequence: &[u8]) -> bool {
    let inner = sequence.strip_prefix(b"\x1b[").and_then(|rest| rest.strip_suffix(b"m"));
    inner.is_some_and(|inner| inner.iter().all(|byte| matches!(byte, b'0'..=b';')))
}

/// The length of the escape sequence that `bytes` start with, as ECMA-48 has it; one that is not whole ends with them.
fn escape_len(bytes: &[u8]) -> usize {
    let within = |from: usize, part: fn(&u8) -> bool| {
        let rest = bytes.get(from..).unwrap_or_default();
        (from + rest.iter().take_while(|byte| part(byte)).count() + 1).min(bytes.len())
    };
    match bytes.get(1) {
        Some(b'[') => within(2, |byte| matches!(byte, 0x20..=0x3f)),
        Some(b']' | b'P' | b'X' | b'^' | b'_') => string_len(bytes),
        Some(_) => within(1, |byte| matches!(byte, 0x20..=0x2f)),
        None => 1,
    }
}

/// The length of a string sequence: to BEL, or to `ESC \`.
fn string_len(bytes: &[u8]) -> usize {
    let end = bytes.iter().enumerate().skip(2).find_map(|(at, byte)| match byte {
        0x07 => Some(at + 1),
        0x1b => Some(at + 1 + usize::from(bytes.get(at + 1) == Some(&b'\\'))),
        _ => None,
    });
    end.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_what_a_terminal_was_given_text_and_colours_stay() {
        for (line, text) in [
            ("plain\r", "plain"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[?2004h$ ls\x1b[K", "$ ls"),
            ("\x1b]0;title\x07prompt", "prompt"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b(Bx\x1b=y", "xy"),
            ("10%\r50%\r100%\r", "100%"),
            ("a\tb\x07c\x08", "a\tbc"),
            ("cut\x1b[3", "cut"),
            ("é\x1b[>4;2mü", "éü"),
        ] {
            assert_eq!(terminal(line.as_bytes()), text, "{line:?}");
        }
    }

    #[test]
    fn a_plain_line_keeps_all_but_its_end() {
        assert_eq!(plain(b"a\x1b[Kb\r"), "a\x1b[Kb");
        assert_eq!(plain(b"\0\0\0line \xff"), "line \u{fffd}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'[')], 0..50)) {
            let text = terminal(&line);
            prop_assert!(!text.contains(['\r', '\n', '\x07']) || line.contains(&b'\n'));
        }
    }
}
