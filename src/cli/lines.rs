//! Lines out of bytes that come in pieces: for `logs`, which can filter and count them.

use std::collections::VecDeque;

use regex::bytes::Regex;

/// A line that is longer is cut there, in bytes.
const LONGEST: usize = 1 << 20;

/// Takes lines out of a stream's bytes.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Gives each whole line of the stream so far to `each`, with its end.
    pub fn push(&mut self, mut data: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let (line, after) = data.split_at(end + 1);
            if self.rest.is_empty() {
                each(line);
            } else {
                self.rest.extend_from_slice(line);
                each(&std::mem::take(&mut self.rest));
            }
            data = after;
        }
        self.rest.extend_from_slice(data);
        if self.rest.len() > LONGEST {
            self.end(each);
        }
    }

    /// Gives what is left without an end.
    pub fn end(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            each(&std::mem::take(&mut self.rest));
        }
    }
}

/// Which lines are wanted: those that match, and of those before `now` only the last ones.
#[derive(Debug)]
pub struct Wanted {
    grep: Option<Regex>,
    last: Option<(usize, VecDeque<Vec<u8>>)>,
}

impl Wanted {
    /// Lines that match, and only so many of the past.
    #[must_use]
    pub fn new(grep: Option<Regex>, last: Option<usize>) -> Self {
        Self { grep, last: last.map(|last| (last, VecDeque::new())) }
    }

    /// Whether every line is wanted, so that nobody has to look for them.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.grep.is_none() && self.last.is_none()
    }

    /// Appends what is to be shown of a line to `out`; `key` is what matches, `shown` what is seen.
    pub fn line(&mut self, key: &[u8], shown: &[u8], out: &mut Vec<u8>) {
        if self.grep.as_ref().is_some_and(|grep| !grep.is_match(key.trim_ascii_end())) {
            return;
        }
        match &mut self.last {
            Some((most, lines)) => {
                lines.push_back(shown.to_vec());
                if lines.len() > *most {
                    lines.pop_front();
                }
            }
            None => out.extend_from_slice(shown),
        }
    }

    /// The past is over: its last lines are shown, and every line from now on.
    pub fn now(&mut self, out: &mut Vec<u8>) {
        if let Some((_, lines)) = self.last.take() {
            lines.iter().for_each(|line| out.extend_from_slice(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in ["a", "b\nc\n", "", "\nd"] {
            lines.push(piece.as_bytes(), |line| seen.push(String::from_utf8_lossy(line).into_owned()));
        }
        lines.end(|line| seen.push(String::from_utf8_lossy(line).into_owned()));
        assert_eq!(seen, ["ab\n", "c\n", "\n", "d"]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (mut lines, mut seen) = (Lines::default(), 0);
        for _ in 0..3 * LONGEST / 1000 {
            lines.push(&[b'x'; 1000], |line| seen += line.len());
        }
        assert!(seen >= 2 * LONGEST);
        assert!(lines.rest.len() <= LONGEST);
    }

    #[test]
    fn only_the_last_of_the_past_and_all_that_follows() {
        let mut wanted = Wanted::new(Regex::new("[0-9]").ok(), Some(2));
        let mut out = Vec::new();
        ["1\n", "x\n", "2\n", "3\n"].iter().for_each(|line| wanted.line(line.as_bytes(), line.as_bytes(), &mut out));
        assert!(out.is_empty());
        wanted.now(&mut out);
        wanted.line(b"4\n", b"4\n", &mut out);
        wanted.line(b"y\n", b"y\n", &mut out);
        assert_eq!(out, b"2\n3\n4\n");
    }
}
