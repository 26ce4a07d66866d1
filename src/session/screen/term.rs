//! The terminal: what its controls do to the two screens, the pen and the modes.
//!
//! Where terminals differ it does as the web page's does (xterm.js with its Unicode 11 widths), except where the
//! document on the screen says otherwise.

use super::cell::{Cell, Clusters, Pen};
use super::charset::{Charset, Charsets};
use super::grid::{Grid, Row, Saved};
use super::links::Links;
use super::modes::{Keyboard, Modes, WRAP_BACK};
use super::width::width;
use crate::record::MAX_COLS;

/// The longest title, in bytes.
const MAX_TITLE: usize = 4 << 10;

/// The most often that `CSI b` repeats a character: a row of the largest terminal.
const MAX_REPEAT: usize = MAX_COLS as usize;

/// All that the text made, without what is unfinished in it.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) main: Grid,
    /// The alternate screen while it is shown.
    pub(super) alt: Option<Grid>,
    pub(super) pen: Pen,
    pub(super) charsets: Charsets,
    pub(super) modes: Modes,
    /// Keyboard flags of the main and of the alternate screen.
    pub(super) keyboards: [Keyboard; 2],
    /// Columns of the character before the cursor, where nothing came after it: what a mark joins and `CSI b` repeats.
    pub(super) joinable: u8,
    pub(super) clusters: Clusters,
    pub(super) links: Links,
    pub(super) title: String,
}

impl Term {
    pub(super) fn new(cols: usize, rows: usize) -> Self {
        Self {
            main: Grid::new(cols, rows, Pen::default()),
            alt: None,
            pen: Pen::default(),
            charsets: Charsets::default(),
            modes: Modes::default(),
            keyboards: Default::default(),
            joinable: 0,
            clusters: Clusters::default(),
            links: Links::default(),
            title: String::new(),
        }
    }

    /// The screen that is shown.
    pub(super) fn grid(&self) -> &Grid {
        self.alt.as_ref().unwrap_or(&self.main)
    }

    pub(super) fn grid_mut(&mut self) -> &mut Grid {
        self.alt.as_mut().unwrap_or(&mut self.main)
    }

    pub(super) fn keyboard(&mut self) -> &mut Keyboard {
        &mut self.keyboards[usize::from(self.alt.is_some())]
    }

    /// Draws one character at the cursor.
    pub(super) fn print(&mut self, c: char) {
        let c = self.charsets.current.map(c);
        let columns = width(c);
        if columns == 0 {
            return self.print_mark(c);
        }
        self.joinable = columns;
        self.put(Cell::of(c, columns, self.pen));
    }

    /// A character without a column joins the one before it, or stands alone where there is none.
    fn print_mark(&mut self, mark: char) {
        let joinable = self.joinable;
        let pen = self.pen;
        let grid = self.alt.as_mut().unwrap_or(&mut self.main);
        let x = grid.x;
        if joinable > 0 && x > 0 {
            let cells = grid.rows[grid.y].cells_mut();
            let at = x - 1 - usize::from(cells[x - 1].width == 0 && x > 1);
            self.clusters.join(&mut cells[at], mark);
            if self.clusters.is_due() {
                self.sweep();
            }
        } else if x < grid.cols {
            self.put(Cell::of(mark, 0, pen));
        }
    }

    /// Puts a cell at the cursor and moves it on, over to the next row where that is due.
    fn put(&mut self, cell: Cell) {
        let Modes { wrap, insert, .. } = self.modes;
        let pen = self.pen;
        let grid = self.alt.as_mut().unwrap_or(&mut self.main);
        let (cols, columns) = (grid.cols, usize::from(cell.width));
        if columns > cols {
            self.joinable = 0;
            return;
        }
        if grid.x + columns > cols {
            if !wrap {
                grid.x = cols - 1;
                if columns == 2 {
                    self.joinable = 0;
                    return;
                }
            } else {
                wrap_row(grid, pen);
            }
        }
        let x = grid.x;
        let row = &mut grid.rows[grid.y];
        split_left(row, x, pen);
        if insert {
            row.insert(x, columns, pen);
        }
        let cells = row.cells_mut();
        cells[x] = cell;
        if columns == 2 {
            cells[x + 1] = Cell::tail(pen);
        }
        grid.x += columns.max(1);
        if let Some(next) = cells.get_mut(grid.x).filter(|next| next.is_tail()) {
            *next = Cell::empty(pen);
        }
    }

    /// Draws again and again what stands before the cursor.
    pub(super) fn repeat(&mut self, n: usize) {
        let columns = usize::from(self.joinable);
        let grid = self.grid();
        let Some(cell) = grid.x.checked_sub(columns).and_then(|x| grid.rows[grid.y].cells().get(x)) else { return };
        if columns == 0 {
            return;
        }
        let text = self.clusters.text(cell);
        for _ in 0..n.min(MAX_REPEAT) {
            text.chars().for_each(|c| self.print(c));
        }
    }

    /// Goes to the next row, scrolling where it stands at the region's end.
    pub(super) fn line_feed(&mut self) {
        let (pen, newline) = (self.pen.erased(), self.modes.newline);
        let grid = self.grid_mut();
        if newline {
            grid.x = 0;
        }
        if grid.down(pen) {
            grid.row().wrapped = false;
        }
        grid.x = grid.x.min(grid.cols - 1);
    }

    pub(super) fn backspace(&mut self) {
        let back = self.modes.is_on(WRAP_BACK);
        let grid = self.grid_mut();
        if !back {
            grid.x = grid.x.min(grid.cols - 1).saturating_sub(1);
            return;
        }
        if grid.x > 0 {
            grid.x -= 1;
        } else if grid.y > grid.top && grid.y <= grid.bottom && grid.row().wrapped {
            grid.row().wrapped = false;
            grid.y -= 1;
            grid.x = grid.cols - 1;
            let x = grid.x;
            let last = grid.row().cells()[x];
            // Left free where a wide character did not fit.
            if last.is_empty() && !last.is_tail() {
                grid.x = grid.x.saturating_sub(1);
            }
        }
        grid.x = grid.x.min(grid.cols - 1);
    }

    /// `CSI H`, in the coordinates that the program uses, from 0.
    pub(super) fn cursor_to(&mut self, x: usize, y: usize) {
        let origin = self.modes.origin;
        let grid = self.grid_mut();
        grid.cursor_to(x);
        let (top, bottom) = if origin { (grid.top, grid.bottom) } else { (0, grid.height() - 1) };
        grid.y = y.saturating_add(top).min(bottom);
    }

    /// `CSI e`: down without regard to the scroll region, except where the program counts from its first row.
    pub(super) fn row_down(&mut self, n: usize) {
        let origin = self.modes.origin;
        let grid = self.grid_mut();
        grid.x = grid.x.min(grid.cols - 1);
        let stop = if origin { grid.bottom } else { grid.height() - 1 };
        grid.y = grid.y.saturating_add(n).min(stop);
    }

    /// `CSI r`; both rows from 1, the last one included.
    pub(super) fn set_region(&mut self, top: usize, bottom: usize) {
        let grid = self.grid_mut();
        let bottom = if bottom == 0 { grid.height() } else { bottom.min(grid.height()) };
        if bottom > top {
            (grid.top, grid.bottom) = (top - 1, bottom - 1);
            self.cursor_to(0, 0);
        }
    }

    pub(super) fn save_cursor(&mut self) {
        let (pen, charset) = (self.pen, self.charsets.current);
        let grid = self.grid_mut();
        grid.saved = Saved { x: grid.x.min(grid.cols - 1), y: grid.y, pen, charset };
    }

    pub(super) fn restore_cursor(&mut self) {
        let origin = self.modes.origin;
        let grid = self.grid_mut();
        let saved = grid.saved;
        (grid.x, grid.y) = (saved.x, saved.y);
        if origin {
            grid.y = grid.y.clamp(grid.top, grid.bottom);
        }
        (self.pen, self.charsets.current) = (saved.pen, saved.charset);
    }

    /// Shows the alternate screen, blank, or the main one as it was left. The cursor stays where it is.
    pub(super) fn show_alternate(&mut self, on: bool) {
        match (on, self.alt.take()) {
            (true, None) => {
                let mut alt = Grid::new(self.main.cols, self.main.height(), self.pen.erased());
                (alt.x, alt.y) = (self.main.x, self.main.y);
                self.alt = Some(alt);
            }
            (true, shown) => self.alt = shown,
            (false, Some(alt)) => {
                (self.main.x, self.main.y) = (alt.x, alt.y);
                self.keyboards[1] = Keyboard::default();
            }
            (false, None) => {}
        }
    }

    /// `CSI ! p`.
    pub(super) fn soft_reset(&mut self) {
        self.modes.soften();
        self.pen = Pen::default();
        self.charsets = Charsets::default();
        let grid = self.grid_mut();
        (grid.top, grid.bottom) = (0, grid.height() - 1);
        grid.saved = Saved::default();
    }

    /// `ESC c`.
    pub(super) fn reset(&mut self) {
        let title = std::mem::take(&mut self.title);
        *self = Self { title, ..Self::new(self.main.cols, self.main.height()) };
    }

    /// `ESC # 8`.
    pub(super) fn align(&mut self) {
        let cell = Cell::of('E', 1, self.pen);
        self.grid_mut().rows.iter_mut().for_each(|row| row.fill(cell));
        self.cursor_to(0, 0);
    }

    pub(super) fn designate(&mut self, level: usize, name: u8) {
        if let Some(set) = Charset::named(name) {
            self.charsets.designate(level, set);
        }
    }

    pub(super) fn set_title(&mut self, title: &str) {
        let mut end = title.len().min(MAX_TITLE);
        while !title.is_char_boundary(end) {
            end -= 1;
        }
        self.title = title[..end].to_owned();
    }

    /// `OSC 8`: text from here on leads to `uri`, or to nowhere.
    pub(super) fn set_link(&mut self, parameters: &str, uri: &str) {
        self.pen.link = 0;
        if uri.is_empty() {
            return;
        }
        if self.links.is_due() {
            self.sweep();
        }
        self.pen.link = self.links.number(parameters, uri);
    }

    /// Forgets the clusters and links that no cell has any more.
    fn sweep(&mut self) {
        let mut cells: Vec<&mut Cell> = Vec::new();
        let mut pens: Vec<&mut Pen> = vec![&mut self.pen];
        for grid in [Some(&mut self.main), self.alt.as_mut()].into_iter().flatten() {
            pens.push(&mut grid.saved.pen);
            cells.extend(grid.rows.iter_mut().flat_map(|row: &mut Row| row.cells_mut().iter_mut()));
        }
        self.clusters.sweep(cells.iter_mut().map(|cell| &mut **cell));
        self.links.sweep(cells.into_iter().map(|cell| &mut cell.pen).chain(pens));
    }
}

/// A character of two columns whose right half is at `x` is about to lose it.
fn split_left(row: &mut Row, x: usize, pen: Pen) {
    if let Some(left) = x.checked_sub(1).filter(|&left| row.cells().get(left).is_some_and(|cell| cell.width == 2)) {
        row.cells_mut()[left] = Cell::empty(pen);
    }
}

/// The text goes on in the next row; what it leaves of this one is emptied.
fn wrap_row(grid: &mut Grid, pen: Pen) {
    let (x, y) = (grid.x, grid.y);
    split_left(grid.row(), x, pen);
    grid.rows[y].cells_mut()[x.min(grid.cols)..].fill(Cell::empty(pen));
    grid.down(pen.erased());
    grid.row().wrapped = true;
    grid.x = 0;
}
