//! The terminal model of a session: reads what the session's command wrote, and can say at any time what draws the
//! same screen on another terminal.
//!
//! Owns nothing but the state of one terminal; it knows no session, no clock and no I/O. Memory is bounded by the
//! size, whatever is fed.
//!
//! Invariant: a terminal of the same size that is given [`Screen::snapshot`], and after it whatever is fed here, shows
//! what one shows that was given everything from the start; `docs/screen.md` lists the exceptions.

mod cell;
mod charset;
mod grid;
mod links;
mod modes;
mod parser;
mod perform;
mod resize;
mod snapshot;
mod term;
#[cfg(test)]
mod tests;
mod utf8;
mod width;

pub(crate) use cell::{Cell, Pen, flag};

use bytes::Bytes;

use crate::record::Size;
use parser::Parser;
use term::Term;
use utf8::Utf8;

/// No character, wherever it stands.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A terminal's screens, cursor and modes.
#[derive(Debug)]
pub struct Screen {
    utf8: Utf8,
    parser: Parser,
    term: Term,
}

impl Screen {
    /// A terminal on which nothing was written yet. The size is [clamped](Size::clamped).
    #[must_use]
    pub fn new(size: Size) -> Self {
        let size = size.clamped();
        let term = Term::new(usize::from(size.cols), usize::from(size.rows));
        Self { utf8: Utf8::default(), parser: Parser::new(), term }
    }

    /// The terminal that [`snapshot`](Self::snapshot) was called on, given the size it had.
    #[must_use]
    pub fn restore(size: Size, snapshot: &[u8]) -> Self {
        let mut screen = Self::new(size);
        screen.feed(snapshot);
        screen
    }

    /// Takes what the command wrote next. It may be cut anywhere, within a character or a control sequence too.
    /// Bytes that are not UTF-8 read as U+FFFD.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { utf8, parser, term } = self;
        utf8.decode(bytes, |text| {
            for c in text.chars() {
                if c == BYTE_ORDER_MARK {
                    continue;
                }
                if parser.is_at_rest() && (' '..'\x7f').contains(&c) {
                    term.print(c);
                } else if let Some(event) = parser.advance(c) {
                    term.perform(event);
                }
            }
        });
    }

    /// Changes the size, which is [clamped](Size::clamped). Lines of the main screen are broken anew.
    pub fn resize(&mut self, size: Size) {
        let size = size.clamped();
        if size == self.size() {
            return;
        }
        let (cols, rows) = (usize::from(size.cols), usize::from(size.rows));
        self.term.main.resize(cols, rows, true);
        if let Some(alt) = &mut self.term.alt {
            alt.resize(cols, rows, false);
        }
        self.term.joinable = 0;
    }

    /// The size in force.
    #[must_use]
    pub fn size(&self) -> Size {
        let grid = self.term.grid();
        Size { cols: grid.cols as u16, rows: grid.height() as u16 }
    }

    /// What draws this screen on a terminal of the same size, fresh or in use, and leaves it in the state in which
    /// what is fed next belongs. A terminal in use keeps its scrollback; what its visible rows show goes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let mut out = snapshot::snapshot(&self.term);
        self.parser.pending(&mut out);
        self.utf8.pending(&mut out);
        out.into()
    }

    /// The text of the visible rows, without the blanks at their ends.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = |cell: &Cell| {
            if cell.is_empty() && !cell.is_tail() { " ".to_owned() } else { self.term.clusters.text(cell) }
        };
        let line = |y| self.row(y).iter().map(text).collect::<String>().trim_end().to_owned();
        (0..self.term.grid().height()).map(line).collect()
    }

    /// The cells of one visible row, as many as there are columns.
    ///
    /// # Panics
    /// Where `row` is not below the number of rows.
    pub(crate) fn row(&self, row: usize) -> &[Cell] {
        self.term.grid().rows[row].cells()
    }

    /// Appends what stands in a cell: nothing, or a character with its marks.
    pub(crate) fn push_text(&self, cell: &Cell, out: &mut Vec<u8>) {
        self.term.clusters.push_text(cell, out);
    }

    /// Column and row of the cursor, from 0, or `None` where it is hidden.
    pub(crate) fn cursor(&self) -> Option<(usize, usize)> {
        (!self.term.modes.hidden).then(|| self.cursor_place())
    }

    /// Column and row where the cursor is, shown or not.
    pub(crate) fn cursor_place(&self) -> (usize, usize) {
        let grid = self.term.grid();
        (grid.x.min(grid.cols - 1), grid.y)
    }

    /// Whether the whole screen is shown with text and ground exchanged.
    pub(crate) fn is_reversed(&self) -> bool {
        self.term.modes.is_on(modes::REVERSE)
    }
}
