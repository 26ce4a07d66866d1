//! The screen as the bytes that draw it.
//!
//! A snapshot starts with what undoes the modes of a terminal that is in use, rather than with a full reset: that one
//! would take the person's scrollback, and with it what stood there before Foghorn. It clears the visible rows only.

use super::cell::{Cell, Clusters, Color, Pen};
use super::charset::{Charset, Charsets};
use super::grid::{Grid, Row, Saved, TAB};
use super::links::Links;
use super::term::Term;
use crate::record::MAX_PAYLOAD;

/// Undoes what may be on: ends an unfinished sequence, leaves the alternate screen, and switches every mode off that
/// a snapshot could switch on. Synchronized output, which would freeze the picture until its end, is off from here on.
const UNDO: &str = "\x18\x1b[?1049l\x1b[!p\x1b[m\x1b]8;;\x1b\\\x1b[r\
    \x1b[?1;5;6;9;45;1000;1002;1003;1004;1005;1006;1015;1016;2004;2026l\x1b[4l\x1b[20l\x1b[?7;25h\x1b>\
    \x1b[0 q\x1b[>4m\x1b[<99u\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[H\x1b[2J\x1b7";

/// The bytes written so far, and the pen that the terminal has after them.
struct Painter<'a> {
    out: Vec<u8>,
    pen: Pen,
    /// Column and row of a cell that is written even if it is empty.
    waits: Option<(usize, usize)>,
    detail: Detail,
    clusters: &'a Clusters,
    links: &'a Links,
}

/// The longest snapshot in bytes, without what is unfinished: with that it fits into a record.
const MAX_SNAPSHOT: usize = MAX_PAYLOAD - (128 << 10);

/// How much of the cells is told, where all of it would be longer than [`MAX_SNAPSHOT`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    NoLinks,
    /// Characters without marks and attributes.
    Text,
}

/// What draws `term` on a terminal of its size, in at most [`MAX_SNAPSHOT`] bytes.
pub(super) fn snapshot(term: &Term) -> Vec<u8> {
    let fits = |out: &Vec<u8>| out.len() <= MAX_SNAPSHOT;
    let details = [Detail::All, Detail::NoLinks];
    let whole = details.into_iter().map(|detail| draw(term, detail)).find(fits);
    whole.unwrap_or_else(|| draw(term, Detail::Text))
}

/// What draws `term`; unfinished where it is longer than [`MAX_SNAPSHOT`].
fn draw(term: &Term, detail: Detail) -> Vec<u8> {
    let (clusters, links) = (&term.clusters, &term.links);
    let mut painter = Painter { out: UNDO.into(), pen: Pen::default(), waits: None, detail, clusters, links };
    if !term.title.is_empty() {
        painter.put(&format!("\x1b]2;{}\x1b\\", term.title));
    }
    painter.tabs(&term.main.tabs);
    painter.screen(&term.main, term.alt.is_none());
    term.keyboards[0].restore(&mut painter.out);
    if let Some(alt) = &term.alt {
        painter.region(&term.main);
        painter.save(&term.main.saved, "\x1b[?1049h");
        painter.set_pen(Pen::default());
        painter.put("\x1b[r\x1b[H\x1b[2J\x1b7");
        let fresh = |tabs: &[bool]| tabs.iter().enumerate().all(|(x, stop)| *stop == (x % TAB == 0));
        if !fresh(&alt.tabs) || !fresh(&term.main.tabs) {
            painter.tabs(&alt.tabs);
        }
        painter.screen(alt, true);
        term.keyboards[1].restore(&mut painter.out);
    }
    painter.charsets(term);
    term.modes.restore(&mut painter.out);
    painter.region(term.grid());
    painter.cursor(term);
    painter.out
}

/// Whether it is a cell that was erased with some ground, or looks like one.
fn is_erased(cell: &Cell) -> bool {
    let pen = cell.pen;
    let line = if pen.underline == 0 { Color::Default } else { pen.line };
    cell.is_empty() && Pen { line, ..pen } == pen.erased()
}

/// The cell as it is drawn: an erased one has its ground alone.
fn drawn(cell: &Cell) -> Cell {
    let mut cell = *cell;
    if is_erased(&cell) {
        cell.pen = cell.pen.erased();
    }
    cell
}

/// Whether nothing of a row is drawn, alone.
fn is_blank(row: &Row) -> bool {
    row.is_blank() || row.cells().iter().all(|cell| is_erased(cell) && cell.pen.bg == Color::Default)
}

/// Whether the cursor waits to go on to the next row behind a character that the set in use would change.
fn waits_behind_mapped(term: &Term) -> bool {
    let grid = term.grid();
    let text = term.clusters.text(&grid.rows[grid.y].cells()[grid.cols - 1]);
    let is_mapped = |c| term.charsets.current.map(c) != c;
    grid.x == grid.cols && term.joinable == 0 && text.chars().next().is_some_and(is_mapped)
}

/// The character sets as a snapshot can tell them: one in use that is not its level's comes only from a cursor that is
/// saved still, and moves the cursor.
fn told(term: &Term) -> Charsets {
    let mut charsets = term.charsets;
    let grid = term.grid();
    if grid.saved.charset != charsets.current || waits_behind_mapped(term) {
        charsets.sets[charsets.level] = charsets.current;
    }
    charsets
}

impl Painter<'_> {
    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn go(&mut self, x: usize, y: usize) {
        self.put(&format!("\x1b[{};{}H", y + 1, x + 1));
    }

    fn set_pen(&mut self, pen: Pen) {
        let pen = match self.detail {
            Detail::All => pen,
            Detail::NoLinks => Pen { link: 0, ..pen },
            Detail::Text => Pen::default(),
        };
        if pen.link != self.pen.link {
            self.links.restore(pen.link, &mut self.out);
        }
        if (Pen { link: 0, ..pen }) != (Pen { link: 0, ..self.pen }) {
            pen.sgr(&mut self.out);
        }
        self.pen = pen;
    }

    fn tabs(&mut self, tabs: &[bool]) {
        self.put("\x1b[3g");
        for x in (0..tabs.len()).filter(|&x| tabs[x]) {
            self.put(&format!("\x1b[{}G\x1bH", x + 1));
        }
    }

    /// The cells and the saved cursor of a screen that is blank. Where the cursor of the one that is `shown` waits in
    /// an erased last cell, that becomes a space: only text can bring it there.
    fn screen(&mut self, grid: &Grid, shown: bool) {
        self.waits = (shown && grid.x == grid.cols).then_some((grid.cols - 1, grid.y));
        let mut stray = Vec::new();
        for y in 0..grid.height() {
            if self.out.len() > MAX_SNAPSHOT {
                return;
            }
            self.row(grid, y, &mut stray);
        }
        for (x, y, pen) in stray {
            self.go(x, y);
            self.set_pen(pen);
            self.put("\x1b[X");
        }
        self.save(&grid.saved, "\x1b7");
    }

    /// One row. Rows that a line goes on into are reached by writing over the edge, so that the terminal knows of it;
    /// empty cells that are written for this go to `stray`, to be emptied again.
    fn row(&mut self, grid: &Grid, y: usize, stray: &mut Vec<(usize, usize, Pen)>) {
        let row = &grid.rows[y];
        let from_above = row.wrapped && y > 0;
        let goes_on = grid.rows.get(y + 1).is_some_and(|next| next.wrapped);
        let waits = self.waits.filter(|&(_, line)| line == y).map(|(x, _)| x);
        if is_blank(row) && !from_above && !goes_on && waits.is_none() {
            return;
        }
        let mut at = Some(0);
        if !from_above {
            self.go(0, y);
        }
        let mut x = 0;
        while x < grid.cols {
            let cell = drawn(&row.cells()[x]);
            let edge = (x == 0 && from_above) || (x + 1 == grid.cols && goes_on);
            if is_erased(&cell) && !edge && waits != Some(x) {
                let end = if goes_on || waits.is_some() { grid.cols - 1 } else { grid.cols };
                let n = row.cells()[x..end].iter().take_while(|next| drawn(next) == cell).count().max(1);
                if cell.pen != Pen::default() {
                    self.column(&mut at, x);
                    self.set_pen(cell.pen);
                    self.put(&format!("\x1b[{n}X"));
                }
                x += n;
                continue;
            }
            if is_erased(&cell) && waits != Some(x) {
                stray.push((x, y, cell.pen));
            }
            if cell.width == 0 {
                // A mark that stands alone: after text, it would join that.
                if x == 0 && from_above {
                    self.put(" ");
                }
                at = None;
            }
            self.column(&mut at, x);
            self.cell(&cell);
            at = (cell.width > 0).then_some(x + usize::from(cell.width));
            x += usize::from(cell.width.max(1));
        }
    }

    /// Goes to column `x` of the row where the cursor is known not to stand there.
    fn column(&mut self, at: &mut Option<usize>, x: usize) {
        if *at != Some(x) {
            self.put(&format!("\x1b[{}G", x + 1));
            *at = Some(x);
        }
    }

    fn cell(&mut self, cell: &Cell) {
        self.set_pen(cell.pen);
        if cell.is_empty() {
            self.out.push(b' ');
        } else {
            let start = self.out.len();
            self.clusters.push_text(cell, &mut self.out);
            if self.detail == Detail::Text {
                let base = self.out[start + 1..].iter().position(|byte| byte & 0xc0 != 0x80);
                self.out.truncate(base.map_or(self.out.len(), |len| start + 1 + len));
            }
        }
    }

    /// Saves a cursor with `how`, which is `ESC 7` or does it in passing.
    fn save(&mut self, saved: &Saved, how: &str) {
        self.go(saved.x, saved.y);
        self.set_pen(saved.pen);
        if saved.charset != Charset::Ascii {
            self.designate(0, saved.charset);
        }
        self.put(how);
        if saved.charset != Charset::Ascii {
            self.designate(0, Charset::Ascii);
        }
    }

    fn designate(&mut self, level: usize, set: Charset) {
        self.out.extend_from_slice(&[b'\x1b', b"()*+"[level], set.name()]);
    }

    /// The sets, and the one in use where a restored cursor brought another than the level's.
    fn charsets(&mut self, term: &Term) {
        let charsets = told(term);
        for (level, set) in charsets.sets.into_iter().enumerate() {
            if set != Charset::Ascii {
                self.designate(level, set);
            }
        }
        self.level(charsets.level);
        if charsets.current != charsets.sets[charsets.level] {
            self.put("\x1b8");
            self.pen = term.grid().saved.pen;
        }
    }

    fn level(&mut self, level: usize) {
        self.put(["", "\x0e", "\x1bn", "\x1bo"][level]);
    }

    fn region(&mut self, grid: &Grid) {
        if (grid.top, grid.bottom) != (0, grid.height() - 1) {
            self.put(&format!("\x1b[{};{}r", grid.top + 1, grid.bottom + 1));
        }
    }

    /// The cursor, the pen, and the modes that would have disturbed the drawing. The character before the cursor is
    /// written once more where what follows depends on it: a mark joins it, or the next one goes to the next row.
    fn cursor(&mut self, term: &Term) {
        let grid = term.grid();
        let mut y = grid.y;
        if term.modes.origin {
            self.put("\x1b[?6h");
            y = y.saturating_sub(grid.top);
        }
        let cells = grid.rows[grid.y].cells();
        let before = (0..grid.x.min(grid.cols)).rev().find(|&x| !cells[x].is_tail());
        let ends_there = |x: &usize| x + usize::from(cells[*x].width.max(1)) == grid.x;
        let again = before.filter(ends_there).filter(|&x| {
            grid.x == grid.cols || (term.joinable > 0 && term.joinable == cells[x].width && !cells[x].is_empty())
        });
        let Some(x) = again else {
            self.set_pen(term.pen);
            self.go(grid.x.min(grid.cols - 1), y);
            return self.insert(term);
        };
        self.go(x, y);
        if term.modes.insert {
            self.put(&format!("\x1b[{}P", cells[x].width));
        }
        self.insert(term);
        if waits_behind_mapped(term) {
            self.put("\x0f\x1b(B");
            self.cell(&drawn(&cells[x]));
            let charsets = told(term);
            self.designate(0, charsets.sets[0]);
            self.level(charsets.level);
        } else {
            self.cell(&drawn(&cells[x]));
        }
        if term.joinable == 0 || self.pen != term.pen {
            // Also ends what a mark would join.
            self.links.restore(term.pen.link, &mut self.out);
            term.pen.sgr(&mut self.out);
        }
    }

    fn insert(&mut self, term: &Term) {
        if term.modes.insert {
            self.put("\x1b[4h");
        }
    }
}
