//! What a kubelet sends of a log with times, as lines.
//!
//! Each line starts with its time. A runtime cuts a line after every 16 KiB, and where an output ends without a newline;
//! kubelets join the parts, and those before 1.23.14 leave the time of each in front of it. Such a time is taken out here:
//! what follows a part of 16 KiB continues its line, what follows a shorter one is a line of its own. A line without a time
//! is the kubelet's own word.

use crate::logs::split::MAX_LINE;
use crate::session::now;

/// After so many bytes of a line its next part may have a time.
const PART: usize = 16 << 10;

/// The longest time, and the space behind it, in bytes.
const STAMP: usize = 40;

/// Bytes of a time before the dot of its fraction.
const FRACTION: usize = "2026-11-22T10:00:00".len();

/// By how much a node's clock may be ahead, in nanoseconds.
const CLOCKS: u64 = 60_000_000_000;

/// A line as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The container's, or a piece of one that is too long.
    Line {
        /// When it was written, in nanoseconds.
        time: u64,
        /// What it says, without its end.
        bytes: Vec<u8>,
        /// Whether the line goes on in the next piece.
        cut: bool,
    },
    /// The kubelet's: why there is no more.
    Kubelet(String),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Stamped {
    /// What was not looked at yet.
    raw: Vec<u8>,
    line: Vec<u8>,
    time: Option<u64>,
    /// Whether the time at the line's start was looked for.
    begun: bool,
    /// Whether a time may be here in the middle of a line.
    at_part: bool,
    /// Whether a piece of this line was given.
    continues: bool,
}

impl Stamped {
    /// Takes bytes, and appends the lines that are whole now.
    pub fn feed(&mut self, data: &[u8], out: &mut Vec<Said>) {
        self.raw.extend_from_slice(data);
        let raw = std::mem::take(&mut self.raw);
        let mut rest = &raw[..];
        while let Some(after) = self.step(rest, out) {
            rest = after;
        }
        self.raw = rest.to_vec();
    }

    /// One step; none where more bytes are needed for the next.
    fn step<'a>(&mut self, rest: &'a [u8], out: &mut Vec<Said>) -> Option<&'a [u8]> {
        let first = *rest.first()?;
        // Only what goes on is cut: the end of a line of just this length may be the next byte.
        if self.line.len() >= MAX_LINE && first != b'\n' {
            self.give(true, out);
        }
        if !self.begun || (self.at_part && first != b'\n') {
            return self.stamp(rest);
        }
        let room = PART - self.line.len() % PART;
        let found = rest.iter().take(room + 1).position(|byte| *byte == b'\n');
        let taken = found.unwrap_or(rest.len().min(room));
        let (part, after) = rest.split_at(taken);
        self.line.extend_from_slice(part);
        if found.is_some() {
            self.end(out);
            return Some(&after[1..]);
        }
        self.at_part = taken == room;
        Some(after)
    }

    /// Takes the time that may be here.
    fn stamp<'a>(&mut self, rest: &'a [u8]) -> Option<&'a [u8]> {
        let end = rest.iter().take(STAMP).position(|byte| matches!(byte, b' ' | b'\n'));
        if end.is_none() && rest.len() < STAMP {
            return None;
        }
        let time = end.filter(|end| rest[*end] == b' ').and_then(|end| Some((time(&rest[..end])?, &rest[end + 1..])));
        // One in the middle of a line is not from before it.
        let time = time.filter(|(time, _)| self.time.is_none_or(|start| *time >= start));
        let at_start = !std::mem::replace(&mut self.begun, true);
        self.at_part = false;
        match time {
            Some((time, after)) => {
                if at_start {
                    self.time = Some(time);
                }
                Some(after)
            }
            None => Some(rest),
        }
    }

    fn end(&mut self, out: &mut Vec<Said>) {
        if !(self.continues && self.line.is_empty()) {
            self.give(false, out);
        }
        *self = Self::default();
    }

    fn give(&mut self, cut: bool, out: &mut Vec<Said>) {
        let mut bytes = std::mem::take(&mut self.line);
        self.continues = cut;
        let Some(mut time) = self.time else {
            out.push(Said::Kubelet(String::from_utf8_lossy(&bytes).trim().to_owned()));
            return;
        };
        // Where the part starts that is looked through.
        let mut part = 0;
        while let Some((at, end, next)) = inner_stamp(&bytes, part, time) {
            let is_full = at - part == PART;
            part = if is_full {
                bytes.drain(at..end);
                at
            } else {
                let rest = bytes.split_off(end);
                bytes.truncate(at);
                out.push(Said::Line { time, bytes: std::mem::replace(&mut bytes, rest), cut: false });
                (time, self.time) = (next, Some(next));
                0
            };
        }
        out.push(Said::Line { time, bytes, cut });
    }

    /// The log is at its end: gives the last line, although it has none.
    pub fn let_go(&mut self, out: &mut Vec<Said>) {
        let raw = std::mem::take(&mut self.raw);
        let after = if self.begun && !self.at_part { &raw[..] } else { self.stamped_end(&raw) };
        self.line.extend_from_slice(after);
        if !self.line.is_empty() {
            self.give(false, out);
        }
        *self = Self::default();
    }

    fn stamped_end<'a>(&mut self, raw: &'a [u8]) -> &'a [u8] {
        let end = raw.iter().position(|byte| *byte == b' ').unwrap_or(raw.len());
        match time(&raw[..end]) {
            Some(time) => {
                self.time.get_or_insert(time);
                raw.get(end + 1..).unwrap_or_default()
            }
            None => raw,
        }
    }
}

/// Finds the first time that a kubelet left behind the start of a part: where it and the space behind it stand, and which.
///
/// Such a time has nine digits behind its second, which hardly any program writes, and lies between that of its line and
/// now: a program's own is older than its line, or yet to come.
fn inner_stamp(line: &[u8], part: usize, start: u64) -> Option<(usize, usize, u64)> {
    let dots = line.iter().enumerate().skip(part + FRACTION + 1).filter(|(_, byte)| **byte == b'.');
    dots.filter_map(|(dot, _)| {
        let at = dot - FRACTION;
        let rest = &line[at..line.len().min(at + STAMP)];
        let zone = FRACTION + 10;
        let len = if rest.get(zone)? == &b'Z' { zone + 1 } else { zone + 6 };
        let digits = rest.get(FRACTION + 1..zone)?.iter().all(u8::is_ascii_digit);
        let time = (digits && rest.get(len) == Some(&b' ')).then(|| time(&rest[..len]))??;
        let is_past = time <= now().unsigned_abs().saturating_mul(1000).saturating_add(CLOCKS);
        (time >= start && is_past).then_some((at, at + len + 1, time))
    })
    .next()
}

/// An RFC 3339 time, in nanoseconds.
pub(super) fn time(text: &[u8]) -> Option<u64> {
    if text.len() < 20 || text.get(10) != Some(&b'T') || !text[0].is_ascii_digit() {
        return None;
    }
    let time: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: &str = "2026-11-22T10:00:00.123456789Z";
    const NANOS: u64 = 1_795_341_600_123_456_789;

    fn said(text: &str, pieces: usize) -> Vec<Said> {
        let (mut stamped, mut out) = (Stamped::default(), Vec::new());
        text.as_bytes().chunks(pieces).for_each(|piece| stamped.feed(piece, &mut out));
        stamped.let_go(&mut out);
        out
    }

    fn line(text: &str) -> Said {
        Said::Line { time: NANOS, bytes: text.into(), cut: false }
    }

    #[test]
    fn lines_have_times_and_what_has_none_is_the_kubelets() {
        let text = format!("{TIME} one\n{TIME} \n{TIME} 2026-11-22T11:00:00Z x\nunable to retrieve\n{TIME} no end");
        for pieces in [1, 7, 1000] {
            let expected = [
                line("one"),
                line(""),
                line("2026-11-22T11:00:00Z x"),
                Said::Kubelet("unable to retrieve".into()),
                line("no end"),
            ];
            assert_eq!(said(&text, pieces), expected);
        }
        assert_eq!(time(b"2026-11-22T11:00:00.123456789+01:00"), Some(NANOS));
    }

    #[test]
    fn parts_of_a_line_are_joined_and_a_longer_one_is_cut() {
        let (part, later) = ("x".repeat(PART), "2026-11-22T10:00:00.2Z");
        for text in [format!("{TIME} {part}{later} {part}{later} end\n"), format!("{TIME} {part}{part}end\n")] {
            for pieces in [1000, PART, 100_000] {
                assert_eq!(said(&text, pieces), [line(&format!("{part}{part}end"))]);
            }
        }
        // A time that was there before is the line's own.
        let own = format!("{TIME} {part}2026-11-22T09:00:00Z end\n");
        assert_eq!(said(&own, 999), [line(&own[TIME.len() + 1..own.len() - 1])]);
        let long =
            format!("{TIME} {part}{later} {part}{later} {part}{later} {part}{later} rest\n{TIME} {}\n", part.repeat(4));
        for pieces in [10, 1000, 1_000_000] {
            let cut = Said::Line { time: NANOS, bytes: part.repeat(4).into(), cut: true };
            assert_eq!(said(&long, pieces), [cut, line("rest"), line(&part.repeat(4))]);
        }
    }

    #[test]
    fn a_part_that_ended_without_a_newline_is_a_line_of_its_own() {
        let at = |text: &str| time(text.as_bytes()).expect("a time");
        let later = "2026-11-22T10:00:01.000000005Z";
        let (part, next) =
            ("x".repeat(PART), |text: &str| Said::Line { time: at(later), bytes: text.into(), cut: false });
        for pieces in [1, 7, 100_000] {
            let text = format!("{TIME} half{later} err 1\n{TIME} out{later} {part}{later} end\n{TIME} out{later} err");
            let expected =
                [line("half"), next("err 1"), line("out"), next(&format!("{part}end")), line("out"), next("err")];
            assert_eq!(said(&text, pieces), expected, "{pieces}");
        }
        // A program's own times: from before its line, from after now, and of another form.
        for own in ["2026-11-22T10:00:00.123456788Z", "2222-11-22T10:00:00.123456788Z", "2026-11-22T10:00:01.5Z"] {
            let text = format!("ts={own} level=info");
            assert_eq!(said(&format!("{TIME} {text}\n"), 9), [line(&text)]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_how_they_are_cut_does_not_matter(
            lines in proptest::collection::vec("[a-z2:T -]{0,60}", 0..9), pieces in 1usize..50
        ) {
            let text: String = lines.iter().map(|line| format!("{TIME} {line}\n")).collect();
            let expected: Vec<Said> = lines.iter().map(|text| line(text)).collect();
            prop_assert_eq!(said(&text, pieces), expected);
            let _ = said(&lines.join("\n"), pieces);
        }
    }
}
