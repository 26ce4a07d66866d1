//! How a container's log continues what came over its streams, and where streams continue the log.
//!
//! A container's log has the same bytes as its output, from the container's start, except that a last line without its
//! end may not be there yet, and that what was rotated away is gone. So a place in the output is a place in the log, and
//! what surrounds that place is compared to find out when it is not.

/// The bytes at the end of the output that are kept to find the place by.
const TAIL: usize = 4 << 10;

/// The bytes at the start of the output that are kept to know a log that was rotated by.
const FIRST: usize = 64;

/// How many bytes have to be the same for a place to be known by them.
const SURE: usize = 32;

/// What is known of the output so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// How long it is.
    pub(super) head: u64,
    first: Vec<u8>,
    tail: Vec<u8>,
}

/// What a log has behind what is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// All of it, from this index in the log.
    From(usize),
    /// Some in between is gone; what the log still has starts at its start.
    Lost,
}

impl Known {
    /// The same, of an output that is known by its length alone.
    pub(super) fn at(head: u64) -> Self {
        Self { head, ..Self::default() }
    }

    /// Notes what follows.
    pub(super) fn append(&mut self, data: &[u8]) {
        if self.head < FIRST as u64 && self.first.len() as u64 == self.head {
            self.first.extend(&data[..data.len().min(FIRST - self.first.len())]);
        }
        self.head += data.len() as u64;
        self.tail.extend(&data[data.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    /// Whether the log starts where the output did, as far as that is known.
    fn starts(&self, log: &[u8]) -> bool {
        let common = self.first.len().min(log.len());
        log[..common] == self.first[..common]
    }

    /// What the log has behind what is known.
    pub(super) fn rest(&self, log: &[u8]) -> Rest {
        let at = usize::try_from(self.head).ok().filter(|at| *at <= log.len());
        if let Some(at) = at.filter(|at| log[..*at].ends_with(&self.tail)) {
            return Rest::From(at);
        }
        if at.is_none() && self.starts(log) {
            // The end of the last line is not in it yet.
            return Rest::From(log.len());
        }
        let lines = self.tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (lines, open) = self.tail.split_at(lines);
        let found = behind(log, &self.tail).or_else(|| start_in(log, &self.tail)).or_else(|| behind(log, lines));
        match found.or_else(|| start_in(log, lines)) {
            Some(at) if log[at..].starts_with(open) && !log[..at].ends_with(&self.tail) => Rest::From(at + open.len()),
            Some(at) => Rest::From(at),
            None => Rest::Lost,
        }
    }

    /// By how much the whole log of a container that has ended is longer than the output with so many bytes `more`: then
    /// some are missing in between; or, below zero, came twice. Not known of a log that was rotated.
    pub(super) fn differs(&self, log: &[u8], more: u64) -> Option<i64> {
        let whole = !self.first.is_empty() && !log.is_empty() && self.starts(log);
        let by = log.len() as i64 - (self.head + more) as i64;
        (whole && by != 0).then_some(by)
    }
}

/// The place behind the last occurrence of `part`, where it has some bytes to be known by.
fn behind(log: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() || part.len() > log.len() {
        return None;
    }
    let at = log.windows(part.len()).rposition(|window| window == part)?;
    Some(at + part.len())
}

/// The place behind what the log, whose start was rotated away, has of the end of `part`.
fn start_in(log: &[u8], part: &[u8]) -> Option<usize> {
    let start = &log[..log.len().min(part.len())];
    Some(overlap(part, start)).filter(|same| *same >= SURE.min(part.len()).max(1))
}

/// How many bytes at the start of `live`, which was opened before `log` was read to its end, are in the log already: the
/// most that fit.
pub(super) fn overlap(log: &[u8], live: &[u8]) -> usize {
    let log = &log[log.len().saturating_sub(live.len())..];
    // The automaton of Knuth, Morris and Pratt: the longest start of `live` that what was read ends with.
    let mut borders = vec![0; live.len()];
    let mut len = 0;
    for at in 1..live.len() {
        while len > 0 && live[at] != live[len] {
            len = borders[len - 1];
        }
        len += usize::from(live[at] == live[len]);
        borders[at] = len;
    }
    let mut len = 0;
    for byte in log {
        while len > 0 && (len == live.len() || live[len] != *byte) {
            len = borders[len - 1];
        }
        len += usize::from(live.get(len) == Some(byte));
    }
    len
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
        assert_eq!(known(&output).rest(b"line 700\nline 701\n"), Rest::Lost);
    }

    #[test]
    fn bytes_that_came_twice_or_are_missing_are_counted() {
        let long = |rest: &str| format!("{}{rest}", "-".repeat(FIRST)).into_bytes();
        assert_eq!(known(&long("b\nb\n")).differs(&long("b\n"), 0), Some(-2));
        assert_eq!(known(&long("c\n")).differs(&long("b\nc\n"), 0), Some(2));
        assert_eq!(known(&long("")).differs(&long("b\n"), 2), None);
        assert_eq!(known(&long("b\n")).differs(b"x\n", 0), None, "rotated");
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
}
