//! How a container's log continues what came over its streams, and where streams continue the log.
//!
//! A container's log has the same bytes as its output, from the container's start, except that a last line without its
//! end may not be there yet, and that what was rotated away is gone. So a place in the output is a place in the log, and
//! what surrounds that place is compared to find out when it is not.
//!
//! A runtime may leave out of the log the CR that a terminal puts before each LF, as containerd does. So logs and streams
//! are compared, and their bytes counted, without CR.

use std::borrow::Cow;

use crate::source::Printed;

/// Bytes of the output that a runtime may not have written to the log yet: a line without its end, up to where it is cut,
/// and what is in its pipes.
const UNWRITTEN: u64 = 128 << 10;

/// How many bytes have to be the same for a place to be known by them.
pub(super) const SURE: usize = 32;

/// What is known of the output so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// How long it is.
    pub(super) head: u64,
    /// Length of its start in which nobody has counted the CR.
    uncounted: u64,
    /// The count of CR behind that.
    returns: u64,
    /// What a log that was rotated does not start with.
    first: Vec<u8>,
    /// What the place is found by.
    tail: Vec<u8>,
    /// How much of that came since this hub, or one before it, has taken over, where that is among it: there may be more
    /// in the log right before.
    anew: Option<usize>,
}

/// What a log has behind what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// All of it, from this index in the log.
    From(usize),
    /// What it has, from this index on; some before that is, or may be, gone.
    Lost(usize),
}

impl Known {
    /// The same, of an output that is known by its length alone.
    pub(super) fn at(head: u64) -> Self {
        Self { head, uncounted: head, ..Self::default() }
    }

    /// Notes what the output was.
    pub(super) fn learn(&mut self, printed: Printed) {
        self.uncounted = self.head.saturating_sub(printed.last.len() as u64);
        self.returns = returns(&printed.last) as u64;
        (self.first, self.tail, self.anew) = (printed.first, printed.last, printed.anew);
    }

    /// Notes that what follows is not all that follows.
    pub(super) fn lose(&mut self) {
        self.tail.clear();
        self.anew = None;
    }

    /// Notes that before what follows there may be more that is not known.
    pub(super) fn renumber(&mut self) {
        self.anew = Some(0);
    }

    /// Notes what follows.
    pub(super) fn append(&mut self, data: &[u8]) {
        if self.head < Printed::FIRST as u64 && self.first.len() as u64 == self.head && self.anew.is_none() {
            self.first.extend(&data[..data.len().min(Printed::FIRST - self.first.len())]);
        }
        self.head += data.len() as u64;
        self.returns += returns(data) as u64;
        self.tail.extend(&data[data.len().saturating_sub(Printed::LAST)..]);
        self.tail.drain(..self.tail.len().saturating_sub(Printed::LAST));
        self.anew = self.anew.map(|anew| anew + data.len()).filter(|anew| *anew < self.tail.len());
    }

    /// Whether the log starts where the output did: then it was not rotated.
    fn starts(&self, log: &[u8]) -> bool {
        let common = self.first.len().min(log.len());
        !self.first.is_empty() && log[..common] == self.first[..common]
    }

    /// Returns where the log goes on behind what is known.
    pub(super) fn rest(&self, log: &[u8]) -> Rest {
        let after = self.tail.iter().rev().take_while(|byte| **byte == b'\r').count();
        match self.without_returns(log).rest_of(&without_returns(log)) {
            Rest::From(at) => Rest::From(place_behind(log, at, after)),
            Rest::Lost(at) => Rest::Lost(place_behind(log, at, after)),
        }
    }

    /// Returns the same without CR. How many of them its uncounted start has is taken from the log.
    fn without_returns(&self, log: &[u8]) -> Self {
        let uncounted = usize::try_from(self.uncounted).map_or(log, |len| &log[..len.min(log.len())]);
        let first = without_returns(&self.first).into_owned();
        let tail = without_returns(&self.tail).into_owned();
        let anew = self.anew.map(|anew| anew - returns(&self.tail[self.tail.len().saturating_sub(anew)..]));
        let head = self.head.saturating_sub(self.returns + returns(uncounted) as u64);
        Self { head, uncounted: 0, returns: 0, first, tail, anew }
    }

    /// Returns where a log without CR goes on behind what is known without them.
    fn rest_of(&self, log: &[u8]) -> Rest {
        let at = usize::try_from(self.head).ok().filter(|at| *at <= log.len());
        if let Some(at) = at.filter(|at| self.is_place(&log[..*at])) {
            return Rest::From(at);
        }
        if at.is_none() && self.starts(log) && self.head - log.len() as u64 <= UNWRITTEN {
            return Rest::From(log.len());
        }
        match (self.find(log), at) {
            (Some(place), _) => place,
            // What came on two streams at once is in the log in another order.
            (None, Some(at)) if self.starts(log) => Rest::From(at),
            (None, _) => Rest::Lost(0),
        }
    }

    /// Whether what is known ends where this part of the log does, as far as that can be told.
    fn is_place(&self, before: &[u8]) -> bool {
        match self.tail.is_empty() {
            true => before.is_empty() || self.first.is_empty() || self.starts(before),
            false => before.ends_with(&self.tail),
        }
    }

    /// The place in a log by what is before it.
    fn find(&self, log: &[u8]) -> Option<Rest> {
        match self.anew {
            // It can be nowhere before the place where that began.
            Some(anew @ 1..) => {
                // Where all that is known is there just once, nothing lies in between.
                if self.tail.len() >= SURE
                    && let Some(place @ Rest::From(_)) = behind(log, &self.tail)
                {
                    return Some(place);
                }
                let began = usize::try_from(self.head).map_or(0, |head| head - anew.min(head));
                let began = if self.starts(log) { began.min(log.len()) } else { 0 };
                let found = find(&log[began..], &self.tail[self.tail.len() - anew..])?;
                Some(match found {
                    Rest::From(at) => Rest::From(began + at),
                    Rest::Lost(at) => Rest::Lost(began + at),
                })
            }
            _ => find(log, &self.tail),
        }
    }

    /// By how much the whole log of a container that has ended is longer than the output with `more`, without CR: then
    /// some are missing in between; or, below zero, came twice. Not known of a log that was rotated.
    pub(super) fn differs(&self, log: &[u8], more: &[u8]) -> Option<i64> {
        let (known, log) = (self.without_returns(log), without_returns(log));
        let whole = !known.first.is_empty() && !log.is_empty() && known.starts(&log);
        let by = log.len() as i64 - (known.head as i64 + without_returns(more).len() as i64);
        (whole && by != 0).then_some(by)
    }
}

fn returns(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\r').count()
}

/// Returns the bytes as they are compared.
pub(super) fn without_returns(bytes: &[u8]) -> Cow<'_, [u8]> {
    match returns(bytes) {
        0 => bytes.into(),
        _ => bytes.iter().copied().filter(|byte| *byte != b'\r').collect::<Vec<u8>>().into(),
    }
}

/// Returns the index behind so many bytes that are no CR, and behind up to `after` CR that follow them.
fn place_behind(bytes: &[u8], count: usize, after: usize) -> usize {
    let at = match count {
        0 => 0,
        _ => bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != b'\r')
            .nth(count - 1)
            .map_or(bytes.len(), |(at, _)| at + 1),
    };
    at + bytes[at..].iter().take(after).take_while(|byte| **byte == b'\r').count()
}

/// Cuts a log to so many bytes that are no CR, with those CR behind them that `live`, which goes on there, does not have.
pub(super) fn cut(log: &mut Vec<u8>, count: usize, live: &[u8]) {
    let leading = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte == b'\r').count();
    let at = place_behind(log, count, 0);
    log.truncate(at + leading(&log[at..]).saturating_sub(leading(live)));
}

/// Returns a log as a terminal has it: with a CR before each LF.
pub(super) fn of_terminal(log: Vec<u8>) -> Vec<u8> {
    let mut lines = Vec::with_capacity(log.len() + log.len() / 32);
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) if !line.ends_with(b"\r") => lines.extend_from_slice(&[line, b"\r\n"].concat()),
            _ => lines.extend_from_slice(line),
        }
    }
    lines
}

/// The place in a log by what comes before it.
fn find(log: &[u8], before: &[u8]) -> Option<Rest> {
    let lines = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (lines, open) = before.split_at(lines);
    let found = behind(log, before).or_else(|| start_in(log, before)).or_else(|| behind(log, lines));
    Some(match found.or_else(|| start_in(log, lines))? {
        Rest::From(at) if log[at..].starts_with(open) && !log[..at].ends_with(before) => Rest::From(at + open.len()),
        found => found,
    })
}

/// The place behind the last occurrence of `part`, where it has some bytes to be known by. Where there are others before
/// it, what is known may end at any of them.
fn behind(log: &[u8], part: &[u8]) -> Option<Rest> {
    if part.is_empty() || part.len() > log.len() {
        return None;
    }
    let is_there = |window: &[u8]| window == part;
    let at = log.windows(part.len()).rposition(is_there)?;
    let again = log[..at + part.len() - 1].windows(part.len()).any(is_there);
    Some(if again { Rest::Lost(at + part.len()) } else { Rest::From(at + part.len()) })
}

/// The place behind what the log, whose start was rotated away, has of the end of `part`.
fn start_in(log: &[u8], part: &[u8]) -> Option<Rest> {
    let start = &log[..log.len().min(part.len())];
    Some(overlap(part, start)).filter(|same| *same >= SURE.min(part.len()).max(1)).map(Rest::From)
}

/// How many bytes at the end of `before` are the start of `after`: the most that fit.
pub(super) fn overlap(before: &[u8], after: &[u8]) -> usize {
    let before = &before[before.len().saturating_sub(after.len())..];
    matches(before, after).last().map_or(0, |(_, len)| len)
}

/// Where `part` starts in `text`, if it is there just once and long enough to be known by.
pub(super) fn only_start_of(part: &[u8], text: &[u8]) -> Option<usize> {
    if part.len() < SURE {
        return None;
    }
    let mut ends = matches(text, part).filter(|(_, len)| *len == part.len());
    let (end, _) = ends.next()?;
    ends.next().is_none().then_some(end - part.len())
}

/// Behind each byte of `text`, where that is, and how many bytes before it are the start of `part`: the most that fit.
fn matches(text: &[u8], part: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let (borders, mut len) = (borders(part), 0);
    text.iter().enumerate().map(move |(at, byte)| {
        while len > 0 && (len == part.len() || part[len] != *byte) {
            len = borders[len - 1];
        }
        len += usize::from(part.get(len) == Some(byte));
        (at + 1, len)
    })
}

/// The automaton of Knuth, Morris and Pratt: for each start of `text`, the longest other start that it ends with.
fn borders(text: &[u8]) -> Vec<usize> {
    let mut borders = vec![0; text.len()];
    let mut len = 0;
    for at in 1..text.len() {
        while len > 0 && text[at] != text[len] {
            len = borders[len - 1];
        }
        len += usize::from(text[at] == text[len]);
        borders[at] = len;
    }
    borders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(output: &[u8]) -> Known {
        let mut known = Known::default();
        output.chunks(7).for_each(|data| known.append(data));
        known
    }

    #[test]
    fn a_log_is_gone_on_with_at_the_same_place() {
        assert_eq!(known(b"").rest(b"one\ntwo\n"), Rest::From(0));
        assert_eq!(known(b"one\n").rest(b"one\ntwo\n"), Rest::From(4));
        assert_eq!(known(b"one\nt").rest(b"one\ntwo\n"), Rest::From(5));
        assert_eq!(known(b"one\n$ ").rest(b"one\n"), Rest::From(4), "the last line has no end yet");
        assert_eq!(Known::at(4).rest(b"one\ntwo\n"), Rest::From(4));
        assert_eq!(known(b"two\none\n").rest(b"two\none\ntwo\none\n"), Rest::From(8), "not the last of them");
    }

    #[test]
    fn a_rotated_log_is_known_by_what_is_in_it() {
        let mut output: Vec<u8> = (0..500).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        let more = b"line 500\nline 501\n";
        let rotated = [&output[3000..], more].concat();
        let Rest::From(at) = known(&output).rest(&rotated) else { panic!("lost") };
        assert_eq!(&rotated[at..], more);
        output.extend(b"line 5");
        let Rest::From(at) = known(&output).rest(&rotated) else { panic!("lost") };
        assert_eq!(&rotated[at..], &more[6..]);
        assert_eq!(known(&output).rest(b"line 700\nline 701\n"), Rest::Lost(0));
    }

    #[test]
    fn what_an_earlier_hub_noted_is_known_too() {
        let output: Vec<u8> = (0..500).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        let noted = |first: &[u8], last: &[u8]| {
            let mut known = Known::at(output.len() as u64);
            known.learn(Printed { first: first.to_vec(), last: last.to_vec(), anew: None });
            known
        };
        let (first, last) = (&output[..Printed::FIRST], &output[output.len() - Printed::LAST..]);
        let longer = [&output[..], b"more\n"].concat();
        let rotated = &longer[3000..];
        let grown = [rotated, &output, &output].concat();
        for known in [noted(first, last), noted(b"", last)] {
            assert_eq!(known.rest(&longer), Rest::From(output.len()));
            assert_eq!(known.rest(rotated), Rest::From(output.len() - 3000));
            assert_eq!(known.rest(b"other\n"), Rest::Lost(0));
        }
        assert_eq!(noted(first, b"").rest(&longer), Rest::From(output.len()));
        assert_eq!(noted(first, b"").rest(&grown), Rest::Lost(0), "rotated");
        assert_eq!(noted(b"", b"").rest(rotated), Rest::Lost(0), "shorter than what is known");
        assert_eq!(noted(first, b"e\no\n").rest(&longer), Rest::From(output.len()), "two streams in another order");
    }

    #[test]
    fn what_may_have_more_before_it_is_known_by_itself() {
        let mut known = known(b"one\ntwo\n");
        known.renumber();
        assert_eq!(known.rest(b"one\ntwo\n"), Rest::From(8));
        assert_eq!(known.rest(b"one\ntwo\n$ more\n"), Rest::From(8), "nothing has come since");
        known.append(b"two\n");
        assert_eq!(known.rest(b"one\ntwo\n$ two\nmore\n"), Rest::From(14));
        assert_eq!(known.rest(b"one\ntwo\ntwo\nmore\n"), Rest::From(12), "there was no more");
        assert_eq!(known.rest(b"one\ntwo\n"), Rest::From(8), "it has no end yet");
        assert_eq!(known.differs(b"one\ntwo\n$ two\n", b""), Some(2));
        let mut noted = Known::at(12);
        noted.learn(Printed { first: b"one\ntwo\n".to_vec(), last: b"one\ntwo\ntwo\n".to_vec(), anew: Some(4) });
        assert_eq!(noted.rest(b"one\ntwo\n$ two\nmore\n"), Rest::From(14));
        assert_eq!(noted.rest(b"two\nmore\n"), Rest::From(4), "rotated");
        // A few bytes are there several times; with what was before them, once.
        let lines: Vec<u8> = (0..500).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        let mut known = Known::at(100_000);
        known.learn(Printed { first: b"other".to_vec(), last: lines.clone(), anew: None });
        known.renumber();
        known.append(b"ok\n");
        let log = [&lines[..], b"ok\nmore\nok\nlast\n"].concat();
        assert_eq!(known.rest(&log), Rest::From(lines.len() + 3));
    }

    #[test]
    fn a_log_without_cr_is_gone_on_with_at_the_same_place() {
        let output = b"$ echo a\r\na\r\n$ exit 1\r\nexit\r\n";
        let log = of_terminal(b"$ echo a\na\n$ exit 1\nexit\n".to_vec());
        assert_eq!(log, output);
        for end in 0..output.len() {
            assert_eq!(known(&output[..end]).rest(&log), Rest::From(end));
        }
        assert_eq!(known(output).differs(&log, b""), None);
        // Without a terminal, or where lines were printed with LF alone, or with CR CR LF.
        for output in ["one\r\ntwo\r\n", "one\ntwo\n", "one\r\r\ntwo\r\r\n"] {
            assert_eq!(known(output.as_bytes()).rest(b"one\ntwo\nmore\n"), Rest::From(8), "{output:?}");
            assert_eq!(known(output.as_bytes()).rest(b"one\r\ntwo\r\nmore\r\n"), Rest::From(10), "{output:?}");
        }
        assert_eq!(known(b"10%\r").rest(b"10%\r20%\r"), Rest::From(4), "a CR that came does not come again");
    }

    #[test]
    fn what_an_earlier_hub_noted_of_a_terminal_is_known_too() {
        let output = b"tick\r\n".repeat(10_000);
        let last = output[output.len() - Printed::LAST..].to_vec();
        let mut known = Known::at(output.len() as u64);
        known.learn(Printed { first: output[..Printed::FIRST].to_vec(), last, anew: None });
        let log = of_terminal(b"tick\n".repeat(12_000));
        assert_eq!(known.rest(&log), Rest::From(output.len()));
        known.append(b"tick\n\r\n");
        assert_eq!(known.differs(&log, b""), Some(1999 * 5 - 1));
        // Some lines came without CR: the place is found by what is around it.
        let output = b"a\nb\nc\r\nlast\r\n";
        let mut known = Known::at(output.len() as u64);
        known.learn(Printed { first: Vec::new(), last: output[6..].to_vec(), anew: None });
        assert_eq!(known.rest(b"a\r\nb\r\nc\r\nlast\r\nmore\r\n"), Rest::From(15));
    }

    #[test]
    fn a_log_is_cut_where_streams_go_on() {
        for (log, count, live, rest) in [
            ("one\r\ntwo\r\n", 3, "\r\ntwo\r\n", "one"),
            ("one\r\ntwo\r\n", 3, "\ntwo\r\n", "one\r"),
            ("one\r\ntwo\r\n", 4, "two\n", "one\r\n"),
            ("one\r\n", 4, "", "one\r\n"),
            ("\r\n", 0, "\r\n", ""),
        ] {
            let mut log = log.as_bytes().to_vec();
            cut(&mut log, count, live.as_bytes());
            assert_eq!(log, rest.as_bytes(), "{live:?}");
        }
    }

    #[test]
    fn a_place_that_could_be_several_is_not_taken_for_one() {
        let ticks = b"tick\n".repeat(100_000);
        assert_eq!(known(&ticks).rest(&ticks), Rest::From(ticks.len()));
        assert_eq!(known(&ticks).rest(&ticks[..100_000]), Rest::Lost(100_000));
    }

    #[test]
    fn a_gap_is_no_place() {
        let mut known = known(&b"line\n".repeat(20));
        known.lose();
        known.append(b"behind it\n");
        assert_eq!(known.rest(b"behind it\nmore\n"), Rest::From(10));
    }

    #[test]
    fn bytes_that_came_twice_or_are_missing_are_counted() {
        let long = |rest: &str| format!("{}{rest}", "-".repeat(Printed::FIRST)).into_bytes();
        assert_eq!(known(&long("b\nb\n")).differs(&long("b\n"), b""), Some(-2));
        assert_eq!(known(&long("c\n")).differs(&long("b\nc\n"), b""), Some(2));
        assert_eq!(known(&long("")).differs(&long("b\n"), b"b\n"), None);
        assert_eq!(known(&long("b\n")).differs(b"x\n", b""), None, "rotated");
    }

    #[test]
    fn the_most_of_the_stream_that_fits_is_in_the_log() {
        assert_eq!(overlap(b"one\ntwo\n", b""), 0);
        assert_eq!(overlap(b"one\ntwo\n", b"two\nthree\n"), 4);
        assert_eq!(overlap(b"one\ntwo\n", b"two\n"), 4);
        assert_eq!(overlap(b"one\ntwo\n", b"$ "), 0);
        assert_eq!(overlap(b"aab", b"aabaab"), 3);
        assert_eq!(overlap(b"xaabaa", b"aabaab"), 5);
    }

    #[test]
    fn a_stream_that_is_behind_the_log_is_found_where_it_can_be_nowhere_else() {
        let lines = |range: std::ops::Range<u32>| range.map(|line| format!("line {line}\n")).collect::<String>();
        let (log, live) = (lines(0..50), lines(20..30));
        assert_eq!(only_start_of(live.as_bytes(), log.as_bytes()), Some(lines(0..20).len()));
        let twice = log.clone() + &log;
        assert_eq!(only_start_of(live.as_bytes(), twice.as_bytes()), None);
        assert_eq!(only_start_of(b"ok\n", b"ok\nA\nB\n"), None, "too short to be known by");
        assert_eq!(only_start_of(live.as_bytes(), b"line 1\n"), None, "the log is behind");
    }
}
