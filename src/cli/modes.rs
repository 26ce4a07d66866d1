//! Which modes a shown program has set, so that they can be taken back when it is left.

use std::collections::BTreeSet;

/// Private modes that a terminal starts with.
const ON: [u16; 2] = [7, 25];

/// Private modes that mean the alternate screen.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// Private modes that are followed: cursor keys, reverse, origin, wrap, cursor, reverse wrap, keypad, mouse, focus,
/// paste, synchronized output, colour scheme reports.
const FOLLOWED: [u16; 22] =
    [1, 5, 6, 7, 9, 25, 45, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1034, 2004, 2026, 2031, 2048];

/// What differs from a terminal as people have it.
#[derive(Debug, Default)]
pub struct Modes {
    changed: BTreeSet<u16>,
    alternate: Option<u16>,
    insert: bool,
    /// Enter sends a line feed too.
    line_feed: bool,
    keypad: bool,
    region: bool,
    cursor: bool,
    style: bool,
    charset: bool,
    colours: bool,
    keys: bool,
    /// How often the keyboard's coding was set aside for another one.
    pushed: u16,
}

impl Modes {
    /// Whether a full-screen program has the terminal.
    #[must_use]
    pub fn is_alternate(&self) -> bool {
        self.alternate.is_some()
    }

    /// Takes note of a control sequence: its private mark (0 for none), parameters, intermediate (0 for none), final.
    pub(super) fn csi(&mut self, mark: u8, params: &[u16], intermediate: u8, last: u8) {
        let first = params.first().copied().unwrap_or(0);
        match (mark, intermediate, last) {
            (b'?', 0, b'h' | b'l') => params.iter().for_each(|mode| self.private(*mode, last == b'h')),
            (0, 0, b'h' | b'l') => params.iter().for_each(|mode| self.ansi(*mode, last == b'h')),
            (0, 0, b'm') => self.style = !(params.is_empty() || params.iter().all(|param| *param == 0)),
            (0, 0, b'r') => self.region = !params.is_empty(),
            (0, b' ', b'q') => self.cursor = first > 0,
            (b'>' | b'<', 0, b'u') => self.pushed = codings(self.pushed, mark == b'>', first),
            (b'>', 0, b'm') => self.keys = params.get(1).is_some_and(|value| *value > 0),
            (0, b'!', b'p') => self.soft_reset(),
            _ => {}
        }
    }

    /// Takes note of an escape sequence: its intermediate (0 for none) and its final byte.
    pub(super) fn escape(&mut self, intermediate: u8, last: u8) {
        match (intermediate, last) {
            (0, b'=' | b'>') => self.keypad = last == b'=',
            (0, b'c') => *self = Self::default(),
            (b'(' | b')', _) => self.charset |= last != b'B',
            _ => {}
        }
    }

    /// Takes note of a colour that was set.
    pub(super) fn colour(&mut self) {
        self.colours = true;
    }

    fn ansi(&mut self, mode: u16, on: bool) {
        match mode {
            4 => self.insert = on,
            20 => self.line_feed = on,
            _ => {}
        }
    }

    fn private(&mut self, mode: u16, on: bool) {
        if ALTERNATE.contains(&mode) {
            self.alternate = on.then_some(mode);
        } else if FOLLOWED.contains(&mode) {
            if on == ON.contains(&mode) {
                self.changed.remove(&mode);
            } else {
                self.changed.insert(mode);
            }
        }
    }

    fn soft_reset(&mut self) {
        for mode in [1, 6, 7, 25, 66] {
            self.changed.remove(&mode);
        }
        (self.insert, self.keypad, self.region, self.style, self.charset) = (false, false, false, false, false);
    }

    /// What takes all of it back; empty where nothing differs. Nothing differs afterwards.
    pub fn take_back(&mut self) -> Vec<u8> {
        let was = std::mem::take(self);
        let mut out = String::new();
        for mode in &was.changed {
            out.push_str(&format!("\x1b[?{mode}{}", if ON.contains(mode) { 'h' } else { 'l' }));
        }
        let parts = [
            (was.region, "\x1b7\x1b[r\x1b8"),
            (was.insert, "\x1b[4l"),
            (was.line_feed, "\x1b[20l"),
            (was.keypad, "\x1b>"),
            (was.keys, "\x1b[>4m"),
            (was.cursor, "\x1b[0 q"),
            (was.charset, "\x1b(B\x1b)0\x0f"),
            (was.colours, "\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\"),
            (was.style, "\x1b[0m"),
        ];
        parts.iter().filter(|(changed, _)| *changed).for_each(|(_, text)| out.push_str(text));
        if was.pushed > 0 {
            out.push_str(&format!("\x1b[<{}u", was.pushed));
        }
        if let Some(mode) = was.alternate {
            out.push_str(&format!("\x1b[?{mode}l\x1b[0m"));
        }
        out.into_bytes()
    }
}

/// How many codings of the keyboard are set aside after one more, or after so many were taken back.
fn codings(pushed: u16, push: bool, count: u16) -> u16 {
    if push { pushed.saturating_add(1) } else { pushed.saturating_sub(count.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::super::filter::{Filter, Policy};

    fn taken_back(bytes: &[u8]) -> String {
        let mut filter = Filter::new(Policy::All);
        filter.observe(bytes);
        String::from_utf8(filter.modes().take_back()).expect("text")
    }

    #[test]
    fn a_program_that_cleans_up_leaves_nothing() {
        assert_eq!(taken_back(b"\x1b[?1049h\x1b[?25l\x1b[1;5r\x1b[31mx\x1b[m\x1b[r\x1b[?25h\x1b[?1049l"), "");
        assert_eq!(taken_back(b"plain\r\n"), "");
    }

    #[test]
    fn what_is_left_is_taken_back() {
        let left = b"\x1b[?1049h\x1b[?1000;1006h\x1b[?25l\x1b[?2004h\x1b=\x1b[7m";
        assert_eq!(taken_back(left), "\x1b[?25h\x1b[?1000l\x1b[?1006l\x1b[?2004l\x1b>\x1b[0m\x1b[?1049l\x1b[0m");
    }

    #[test]
    fn insert_and_line_feed_are_taken_back() {
        assert_eq!(taken_back(b"\x1b[20;4h"), "\x1b[4l\x1b[20l");
        assert_eq!(taken_back(b"\x1b[20h\x1b[4h\x1b[4;20l"), "");
    }

    #[test]
    fn a_reset_by_the_program_counts() {
        assert_eq!(taken_back(b"\x1b[?2004h\x1b[?1049h\x1bc"), "");
    }
}
