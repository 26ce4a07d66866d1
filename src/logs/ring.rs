//! The newest lines of a log, in memory, bounded. Each follower has a cursor; nobody waits for the slowest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::line::Line;

/// See the module's documentation.
#[derive(Debug)]
pub struct Ring {
    lines: VecDeque<Arc<Line>>,
    first: u64,
    bytes: usize,
    limit: usize,
}

impl Ring {
    /// An empty ring of at most `limit` bytes; the newest line always stays.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { lines: VecDeque::new(), first: 0, bytes: 0, limit }
    }

    /// Appends a line, and lets the oldest go.
    pub fn push(&mut self, line: Arc<Line>) {
        self.bytes += line.weight();
        self.lines.push_back(line);
        while self.bytes > self.limit && self.lines.len() > 1 {
            if let Some(oldest) = self.lines.pop_front() {
                self.bytes -= oldest.weight();
                self.first += 1;
            }
        }
    }

    /// The cursor of a follower that has all.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// The cursor that is about to be lost, where the ring is nearly full: in its middle.
    #[must_use]
    pub fn middle(&self) -> Option<u64> {
        (self.bytes > self.limit / 4 * 3).then(|| self.first + self.lines.len() as u64 / 2)
    }

    /// Whether all from the cursor on is still here.
    #[must_use]
    pub fn reaches(&self, cursor: u64) -> bool {
        cursor >= self.first
    }

    /// Appends at most `max` lines from the cursor on to `out`, and moves the cursor. How many lines have left the ring
    /// before they were read.
    pub fn read(&self, cursor: &mut u64, max: usize, out: &mut Vec<Arc<Line>>) -> u64 {
        let lost = self.first.saturating_sub(*cursor);
        *cursor += lost;
        let from = (*cursor - self.first) as usize;
        let before = out.len();
        out.extend(self.lines.iter().skip(from).take(max).cloned());
        *cursor += (out.len() - before) as u64;
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::line::{Entry, Stream};
    use crate::logs::position::Move;

    #[test]
    fn who_falls_behind_learns_how_many_lines_went() {
        let mut ring = Ring::new(3000);
        let mut cursor = ring.end();
        let mut out = Vec::new();
        for number in 0..100 {
            let message = number.to_string();
            let entry = Entry {
                time: 0,
                process: "web".into(),
                container: None,
                stream: Stream::Stdout,
                private: None,
                message,
                moved: Move::None,
            };
            ring.push(Arc::new(Line::new("blog".into(), entry, String::new())));
        }
        let lost = ring.read(&mut cursor, 3, &mut out);
        assert_eq!((out[0].message.as_str(), out.len(), cursor), (lost.to_string().as_str(), 3, lost + 3));
        assert!(lost > 80, "{lost}");
        assert_eq!(ring.read(&mut cursor, 100, &mut out), 0);
        assert_eq!((out.last().map(|line| line.message.as_str()), cursor), (Some("99"), ring.end()));
        assert_eq!(out.len() as u64, 100 - lost);
    }
}
