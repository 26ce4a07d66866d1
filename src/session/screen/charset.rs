//! The character sets that a program can choose, and what `SI`, `SO` and their kin make of them.

/// A set of characters for the codes below 0x7f.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Charset {
    #[default]
    Ascii,
    /// DEC special graphics: lines and corners for lower case.
    Lines,
    /// ASCII with a pound sign.
    British,
}

impl Charset {
    /// The set that a designation's final byte names; `None` for one that is not known.
    pub(super) fn named(name: u8) -> Option<Self> {
        Some(match name {
            b'0' => Self::Lines,
            b'A' => Self::British,
            // The national sets are read as ASCII.
            b'B' | b'4' | b'C' | b'5' | b'R' | b'Q' | b'K' | b'Y' | b'E' | b'6' | b'Z' | b'H' | b'7' | b'=' => {
                Self::Ascii
            }
            _ => return None,
        })
    }

    /// The final byte of its designation.
    pub(super) fn name(self) -> u8 {
        match self {
            Self::Ascii => b'B',
            Self::Lines => b'0',
            Self::British => b'A',
        }
    }

    /// What `c` stands for.
    pub(super) fn map(self, c: char) -> char {
        const LINES: [char; 31] = [
            '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼', '⎽', '├',
            '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
        ];
        match (self, c) {
            (Self::Lines, '`'..='~') => LINES[c as usize - '`' as usize],
            (Self::British, '#') => '£',
            _ => c,
        }
    }
}

/// The four sets G0 to G3, and the one in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charsets {
    pub(super) sets: [Charset; 4],
    /// Which of them was chosen last.
    pub(super) level: usize,
    /// The one in use: that of the level, or what a restored cursor brought.
    pub(super) current: Charset,
}

impl Charsets {
    pub(super) fn shift(&mut self, level: usize) {
        self.level = level;
        self.current = self.sets[level];
    }

    pub(super) fn designate(&mut self, level: usize, set: Charset) {
        self.sets[level] = set;
        if self.level == level {
            self.current = set;
        }
    }
}
