//! What stands in one cell of the screen: text, its width, and the pen it was drawn with.

use std::collections::HashMap;
use std::sync::Arc;

/// A colour of a cell's text, ground or underline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Color {
    /// What the terminal has when nothing is said.
    #[default]
    Default,
    /// One of the sixteen named colours, which bold text may brighten.
    Named(u8),
    /// An entry of the palette of 256.
    Indexed(u8),
    /// Red, green, blue.
    Rgb(u8, u8, u8),
}

/// Attributes that are on or off.
pub(crate) mod flag {
    pub(crate) const BOLD: u16 = 1;
    pub(crate) const DIM: u16 = 1 << 1;
    pub(crate) const ITALIC: u16 = 1 << 2;
    pub(crate) const BLINK: u16 = 1 << 3;
    pub(crate) const INVERSE: u16 = 1 << 4;
    pub(crate) const INVISIBLE: u16 = 1 << 5;
    pub(crate) const STRUCK: u16 = 1 << 6;
    pub(crate) const OVERLINE: u16 = 1 << 7;

    /// Each flag with the parameter of `CSI m` that sets it.
    pub(crate) const SGR: [(u16, u8); 8] =
        [(BOLD, 1), (DIM, 2), (ITALIC, 3), (BLINK, 5), (INVERSE, 7), (INVISIBLE, 8), (STRUCK, 9), (OVERLINE, 53)];
}

/// How text is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pen {
    pub(crate) fg: Color,
    pub(crate) bg: Color,
    /// Colour of the underline; the default is the text's.
    pub(crate) line: Color,
    /// Set of [`flag`]s.
    pub(crate) flags: u16,
    /// 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed.
    pub(crate) underline: u8,
    /// Index of the hyperlink, 0 for none.
    pub(crate) link: u16,
}

impl Pen {
    /// The pen of erased cells: the ground alone stays.
    pub(crate) fn erased(&self) -> Self {
        Self { bg: self.bg, ..Self::default() }
    }

    /// Appends the `CSI m` that makes this the pen, whatever it was before. Says nothing of the link.
    pub(crate) fn sgr(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\x1b[0");
        for (flag, parameter) in flag::SGR {
            if self.flags & flag != 0 {
                out.extend_from_slice(format!(";{parameter}").as_bytes());
            }
        }
        match self.underline {
            0 => {}
            1 => out.extend_from_slice(b";4"),
            style => out.extend_from_slice(format!(";4:{style}").as_bytes()),
        }
        sgr_color(self.fg, 30, out);
        sgr_color(self.bg, 40, out);
        match self.line {
            Color::Default => {}
            Color::Named(n) | Color::Indexed(n) => out.extend_from_slice(format!(";58:5:{n}").as_bytes()),
            Color::Rgb(r, g, b) => out.extend_from_slice(format!(";58:2::{r}:{g}:{b}").as_bytes()),
        }
        out.push(b'm');
    }
}

/// Appends a colour's parameters; `base` is 30 for text and 40 for the ground.
fn sgr_color(color: Color, base: u8, out: &mut Vec<u8>) {
    let text = match color {
        Color::Default => return,
        Color::Named(n @ 0..8) => format!(";{}", base + n),
        Color::Named(n) => format!(";{}", base + 60 + (n & 7)),
        Color::Indexed(n) => format!(";{};5;{n}", base + 8),
        // With semicolons: every terminal that knows the colours at all reads this form.
        Color::Rgb(r, g, b) => format!(";{};2;{r};{g};{b}", base + 8),
    };
    out.extend_from_slice(text.as_bytes());
}

/// One cell. A character of two columns stands in its left cell, and the right one is empty with width 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    /// 0 for nothing, a code point, or above those the number of a cluster.
    text: u32,
    /// Columns, 0 to 2.
    pub(crate) width: u8,
    pub(crate) pen: Pen,
}

/// Numbers of clusters start here in a cell's text.
const CLUSTER: u32 = 1 << 31;

impl Cell {
    /// A cell in which nothing was written.
    pub(crate) fn empty(pen: Pen) -> Self {
        Self { text: 0, width: 1, pen }
    }

    /// The right half of a character of two columns.
    pub(crate) fn tail(pen: Pen) -> Self {
        Self { text: 0, width: 0, pen }
    }

    pub(crate) fn of(c: char, width: u8, pen: Pen) -> Self {
        Self { text: u32::from(c), width, pen }
    }

    /// Whether nothing stands in it: never written, erased, or the right half of a character.
    pub(crate) fn is_empty(&self) -> bool {
        self.text == 0
    }

    pub(crate) fn is_tail(&self) -> bool {
        self.text == 0 && self.width == 0
    }

    /// Whether it has more than one code point.
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster().is_some()
    }

    fn cluster(&self) -> Option<u32> {
        (self.text & CLUSTER != 0).then_some(self.text & !CLUSTER)
    }
}

/// The longest text of one cell in bytes: marks beyond it are dropped.
const MAX_CLUSTER: usize = 64;

/// Texts that cells name by number: clusters of more than one code point.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// Numbers that were in use after the last sweep.
    live: usize,
}

impl Clusters {
    /// Appends what stands in `cell`; nothing for an empty one.
    pub(crate) fn push_text(&self, cell: &Cell, out: &mut Vec<u8>) {
        match cell.cluster() {
            Some(number) => {
                if let Some(text) = self.texts.get(number as usize) {
                    out.extend_from_slice(text.as_bytes());
                }
            }
            None if cell.text == 0 => {}
            None => {
                let c = char::from_u32(cell.text).unwrap_or(' ');
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }

    /// What stands in `cell`.
    pub(crate) fn text(&self, cell: &Cell) -> String {
        let mut out = Vec::new();
        self.push_text(cell, &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Puts `mark` behind what stands in `cell`, where anything does.
    pub(crate) fn join(&mut self, cell: &mut Cell, mark: char) {
        let mut text = self.text(cell);
        if text.is_empty() || text.len() + mark.len_utf8() > MAX_CLUSTER {
            return;
        }
        text.push(mark);
        cell.text = CLUSTER | self.number(text);
    }

    fn number(&mut self, text: String) -> u32 {
        if let Some(&number) = self.numbers.get(text.as_str()) {
            return number;
        }
        let number = self.texts.len() as u32;
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    /// Whether so many numbers were given out since the last sweep that the next one is due.
    pub(crate) fn is_due(&self) -> bool {
        self.texts.len() > 1024 + 2 * self.live
    }

    /// Forgets every text that none of `cells` has, and gives the others new numbers.
    pub(crate) fn sweep<'a>(&mut self, cells: impl Iterator<Item = &'a mut Cell>) {
        let old = std::mem::take(self);
        for cell in cells {
            if let Some(text) = cell.cluster().and_then(|number| old.texts.get(number as usize)) {
                cell.text = CLUSTER | self.number(text.to_string());
            }
        }
        self.live = self.texts.len();
    }
}
