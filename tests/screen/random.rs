//! Text and controls at random, from all that the model knows.

/// A generator that gives the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % end as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// `len` parts of a stream for a terminal of this size.
    pub fn stream(&mut self, len: usize, cols: usize, rows: usize) -> Vec<Vec<u8>> {
        // What cannot be told apart from an allowed difference is not made together in one stream.
        let styles = self.below(2) == 0;
        let origin = self.below(3) == 0;
        let narrow = self.below(2) == 0;
        (0..len).map(|_| self.part(cols, rows, styles, origin, narrow).into_bytes()).collect()
    }

    fn part(&mut self, cols: usize, rows: usize, styles: bool, origin: bool, narrow: bool) -> String {
        let (row, column) = (self.below(rows + 2), self.below(cols + 3));
        match self.below(28) {
            0..=4 => "the quick brown fox jumps over the lazy dog "[..self.below(44)].to_owned(),
            5 => "x".repeat(self.below(cols * 2)),
            6 | 7 if narrow => "narrow".to_owned(),
            6 => self.pick(&["界世", "漢字かな交じり文", "😀👍", "ｆｕｌｌ", "한국어"]).to_owned(),
            7 => self
                .pick(&[
                    "\x18e\u{301}",
                    "\x18a\u{308}\u{304}",
                    "\r\u{301}",
                    "\x18👩\u{200d}👧",
                    "\x18❤\u{fe0f}",
                    "\x18क\u{94d}ष\u{93f}",
                ])
                .to_owned(),
            8 => self.pick(&["\r\n", "\n", "\r", "\t", "\x08", "\x0b", "\x07", "\x08\x08"]).to_owned(),
            9 | 10 => format!("\x1b[{row};{column}H"),
            11 => format!(
                "\x1b[{}{}",
                self.below(6),
                self.pick(&["A", "B", "C", "D", "E", "F", "G", "d", "I", "Z", "`", "a", "e"])
            ),
            12 => self.pick(&["\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J", "\r\x1b[1J", "\x1b[2J", "\x1b[3J"]).to_owned(),
            13 | 14 => format!(
                "\x1b[{}{}",
                self.below(8),
                self.pick(&["@", "P", "X", "L", "M", "S", "T", "b", " @", " A", "'}", "'~"])
            ),
            15..=17 => self.colors(styles),
            18 => {
                let top = if origin { 1 } else { self.below(rows) };
                format!("\x1b[{};{}r", top, self.below(rows + 3))
            }
            19 => self.pick(&["\x1bD", "\x1bE", "\x1bM", "\x1bH", "\x1b[g", "\x1b[3g", "\u{84}", "\u{85}"]).to_owned(),
            20 if !styles => {
                self.pick(&["\x1b7", "\x1b8", "\x1b[s", "\x1b[u", "\x1b[?1048h", "\x1b[?1048l"]).to_owned()
            }
            21 if !styles => {
                self.pick(&["\x1b[?1049h\x1b7", "\x1b[?1049l", "\x1b[?47h\x1b7", "\x1b[?1047l"]).to_owned()
            }
            22 => self
                .pick(&["\x1b(0", "\x1b(B", "\x1b)0", "\x0e", "\x0f", "\x1b*0", "\x1bn", "\x1bo", "\x1b(A", "lqqk"])
                .to_owned(),
            23 if origin => self.pick(&["\x1b[?6h", "\x1b[?6l"]).to_owned(),
            23 if styles => self.pick(&["\x1b[!p", "\x1b[20l\x1b[?25h\x1bc"]).to_owned(),
            23 => self.pick(&["\x1b[!p", "\x1b[20l\x1b[?25h\x1bc", "\x1b#8"]).to_owned(),
            24 if narrow => self.pick(&["\x1b[?7l", "\x1b[?7h"]).to_owned(),
            24 => self.pick(&["\x1b[4h", "\x1b[4l", "\x1b[20h", "\x1b[20l", "\x1b[?45h", "\x1b[?45l"]).to_owned(),
            25 => {
                let mode = self.pick(&[
                    "1", "9", "25", "66", "1000", "1002", "1003", "1004", "1005", "1006", "1015", "1016", "2004",
                    "2026",
                ]);
                format!("\x1b[?{mode}{}", self.pick(&["h", "l"]))
            }
            26 => self
                .pick(&[
                    "\x1b]2;a title\x07",
                    "\x1b]0;一\x1b\\",
                    "\x1b[3 q",
                    "\x1b[0 q",
                    "\x1b=",
                    "\x1b>",
                    "\x1bPq#0\x1b\\",
                    "\x1b_G\x1b\\",
                    "\x1b[>1u",
                    "\x1b[>4;2m",
                ])
                .to_owned(),
            _ => self
                .pick(&[
                    "\x1b[5",
                    "\x1b",
                    "\x1b]8;;http://x/\x1b\\link\x1b]8;;\x07",
                    "\x1b[38;5",
                    "\x1b]2;half",
                    "\x18",
                    "\u{9b}2C",
                ])
                .to_owned(),
        }
    }

    fn colors(&mut self, styles: bool) -> String {
        let n = self.below(256);
        match self.below(if styles { 12 } else { 8 }) {
            0 => "\x1b[m".to_owned(),
            1 => format!("\x1b[{}m", 30 + self.below(8)),
            2 => format!("\x1b[{}m", 40 + self.below(8)),
            3 => format!("\x1b[{};{}m", 90 + self.below(8), 100 + self.below(8)),
            4 => format!("\x1b[38;5;{n}m"),
            5 => format!("\x1b[48;2;{n};{};7m", 255 - n),
            6 => format!(
                "\x1b[{}m",
                self.pick(&["1", "2", "3", "5", "7", "8", "9", "53", "22", "27", "29", "55", "39", "49"])
            ),
            7 => format!("\x1b[38:2::{n}:0:9m"),
            8 => format!("\x1b[4:{}m", self.below(6)),
            9 => format!("\x1b[58:5:{n}m\x1b[4m"),
            10 => "\x1b[21m".to_owned(),
            _ => format!("\x1b[{}m", self.pick(&["4", "24", "59"])),
        }
    }
}
