//! A buffer of cells with its cursor: what the controls do to text that stands on the screen.
//!
//! Invariants: every row has `cols` cells; a cell of width 2 is followed by its tail, and a tail follows one.

use super::cell::{Cell, Pen};
use super::charset::Charset;

/// One line of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    cells: Vec<Cell>,
    /// The pen that the whole row was erased with, where that is the last thing that happened to it. Programs clear
    /// what is clear already, again and again; this makes it cheap.
    erased: Option<Pen>,
    /// Whether the text came here from the end of the row above.
    pub(crate) wrapped: bool,
}

impl Row {
    pub(super) fn blank(cols: usize, pen: Pen) -> Self {
        Self { cells: vec![Cell::empty(pen); cols], erased: Some(pen), wrapped: false }
    }

    pub(super) fn of(cells: Vec<Cell>, wrapped: bool) -> Self {
        Self { cells, erased: None, wrapped }
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(super) fn cells_mut(&mut self) -> &mut [Cell] {
        self.erased = None;
        &mut self.cells
    }

    pub(super) fn fill(&mut self, cell: Cell) {
        self.wrapped = false;
        if self.erased == Some(cell.pen) && cell.is_empty() {
            return;
        }
        self.cells.fill(cell);
        self.erased = cell.is_empty().then_some(cell.pen);
    }

    /// Whether nothing was ever written to it, or all of it was erased with the default ground.
    pub(super) fn is_blank(&self) -> bool {
        self.erased == Some(Pen::default()) || self.cells.iter().all(|cell| *cell == Cell::empty(Pen::default()))
    }

    /// Cells up to the last one that is not empty.
    pub(super) fn text_len(&self) -> usize {
        let last = self.cells.iter().rposition(|cell| !cell.is_empty());
        last.map_or(0, |at| at + usize::from(self.cells[at].width.max(1)))
    }

    fn clear_if(&mut self, at: usize, half: impl Fn(&Cell) -> bool, pen: Pen) {
        if self.cells.get(at).is_some_and(half) {
            self.cells[at] = Cell::empty(pen);
        }
    }

    /// Empties `from..to`, and the other half of a character that the range cuts.
    pub(super) fn erase(&mut self, from: usize, to: usize, pen: Pen) {
        let to = to.min(self.cells.len());
        if from >= to || self.erased == Some(pen) {
            return;
        }
        self.erased = None;
        self.clear_if(from.wrapping_sub(1), |cell| cell.width == 2, pen);
        self.clear_if(to, Cell::is_tail, pen);
        self.cells[from..to].fill(Cell::empty(pen));
    }

    /// Moves the cells from `at` on to the right by `n`; what leaves the row is lost.
    pub(super) fn insert(&mut self, at: usize, n: usize, pen: Pen) {
        let n = n.min(self.cells.len() - at);
        if n == 0 || self.erased == Some(pen) {
            return;
        }
        self.erased = None;
        self.clear_if(at.wrapping_sub(1), |cell| cell.width == 2, pen);
        self.cells[at..].rotate_right(n);
        self.cells[at..at + n].fill(Cell::empty(pen));
        self.clear_if(at + n, Cell::is_tail, pen);
        self.clear_if(self.cells.len() - 1, |cell| cell.width == 2, pen);
    }

    /// Takes `n` cells out at `at`, and fills up on the right.
    pub(super) fn delete(&mut self, at: usize, n: usize, pen: Pen) {
        let n = n.min(self.cells.len() - at);
        if n == 0 || self.erased == Some(pen) {
            return;
        }
        self.erased = None;
        self.cells[at..].rotate_left(n);
        let fill = self.cells.len() - n;
        self.cells[fill..].fill(Cell::empty(pen));
        self.clear_if(at.wrapping_sub(1), |cell| cell.width == 2, pen);
        self.clear_if(at, Cell::is_tail, pen);
    }

    /// Cuts it, or fills it up, to `cols` cells.
    pub(super) fn resize(&mut self, cols: usize) {
        self.erased = self.erased.filter(|&pen| pen == Pen::default());
        self.cells.resize(cols, Cell::empty(Pen::default()));
        let last = self.cells[cols - 1].pen;
        self.clear_if(cols - 1, |cell| cell.width == 2, last);
    }
}

/// What `ESC 7` keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) pen: Pen,
    pub(super) charset: Charset,
}

/// One of the two screens.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) rows: Vec<Row>,
    pub(super) cols: usize,
    /// The cursor's column; `cols` where the next character goes to the next row.
    pub(super) x: usize,
    pub(super) y: usize,
    /// First row of the scroll region.
    pub(super) top: usize,
    /// Last row of the scroll region.
    pub(super) bottom: usize,
    pub(super) saved: Saved,
    /// Columns at which a tab stops.
    pub(super) tabs: Vec<bool>,
}

/// Columns between two tab stops of a fresh screen.
pub(super) const TAB: usize = 8;

impl Grid {
    pub(super) fn new(cols: usize, rows: usize, pen: Pen) -> Self {
        let mut grid = Self {
            rows: vec![Row::blank(cols, pen); rows],
            cols,
            x: 0,
            y: 0,
            top: 0,
            bottom: rows - 1,
            saved: Saved::default(),
            tabs: Vec::new(),
        };
        grid.tabs = (0..cols).map(|x| x % TAB == 0).collect();
        grid
    }

    pub(super) fn height(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn row(&mut self) -> &mut Row {
        &mut self.rows[self.y]
    }

    pub(super) fn in_region(&self) -> bool {
        (self.top..=self.bottom).contains(&self.y)
    }

    /// Moves the rows `from..=to` up by `n`; blank ones come in below.
    pub(super) fn scroll_up(&mut self, from: usize, to: usize, n: usize, pen: Pen) {
        let rows = &mut self.rows[from..=to];
        let n = n.min(rows.len());
        rows.rotate_left(n);
        let fill = rows.len() - n;
        rows[fill..].iter_mut().for_each(|row| row.fill(Cell::empty(pen)));
    }

    /// Moves the rows `from..=to` down by `n`; blank ones come in above.
    pub(super) fn scroll_down(&mut self, from: usize, to: usize, n: usize, pen: Pen) {
        let rows = &mut self.rows[from..=to];
        let n = n.min(rows.len());
        rows.rotate_right(n);
        rows[..n].iter_mut().for_each(|row| row.fill(Cell::empty(pen)));
    }

    /// The cursor goes one row down, and the region scrolls where it stood at its end. Whether the row is the same.
    pub(super) fn down(&mut self, pen: Pen) -> bool {
        if self.y == self.bottom {
            self.scroll_up(self.top, self.bottom, 1, pen);
        } else if self.y + 1 < self.height() {
            self.y += 1;
            return true;
        }
        false
    }

    /// `ESC D`, a line feed without its effect on the column.
    pub(super) fn index(&mut self, pen: Pen) {
        self.x = self.x.min(self.cols - 1);
        self.down(pen);
    }

    /// `ESC M`.
    pub(super) fn reverse_index(&mut self, pen: Pen) {
        self.x = self.x.min(self.cols - 1);
        if self.y == self.top {
            self.scroll_down(self.top, self.bottom, 1, pen);
        } else {
            self.y = self.y.saturating_sub(1);
        }
    }

    /// The cursor goes `n` rows up, and no further than the region where it stands in or below it.
    pub(super) fn cursor_up(&mut self, n: usize) {
        self.x = self.x.min(self.cols - 1);
        let stop = if self.y >= self.top { self.top } else { 0 };
        self.y = self.y.saturating_sub(n).max(stop);
    }

    /// The cursor goes `n` rows down, and no further than the region where it stands in or above it.
    pub(super) fn cursor_down(&mut self, n: usize) {
        self.x = self.x.min(self.cols - 1);
        let stop = if self.y <= self.bottom { self.bottom } else { self.height() - 1 };
        self.y = self.y.saturating_add(n).min(stop);
    }

    /// The cursor goes to `column`, or to the last one.
    pub(super) fn cursor_to(&mut self, column: usize) {
        self.x = column.min(self.cols - 1);
    }

    /// The cursor goes to the `n`th tab stop to its right.
    pub(super) fn tab(&mut self, n: usize) {
        if self.x >= self.cols {
            return;
        }
        self.x = (self.x + 1..self.cols).filter(|&x| self.tabs[x]).nth(n - 1).unwrap_or(self.cols - 1);
    }

    /// The cursor goes to the `n`th tab stop to its left.
    pub(super) fn back_tab(&mut self, n: usize) {
        if self.x < self.cols {
            self.x = (0..self.x).rev().filter(|&x| self.tabs[x]).nth(n - 1).unwrap_or(0);
        }
    }

    /// Sets or clears the tab stop at the cursor.
    pub(super) fn set_tab(&mut self, stop: bool) {
        if let Some(tab) = self.tabs.get_mut(self.x) {
            *tab = stop;
        }
    }

    /// `CSI J`: 0 from the cursor on, 1 up to it, 2 all.
    pub(super) fn erase_screen(&mut self, part: u32, pen: Pen) {
        let blank = |rows: &mut [Row]| rows.iter_mut().for_each(|row| row.fill(Cell::empty(pen)));
        let y = self.y;
        match part {
            0 => {
                self.erase_line(0, pen);
                blank(&mut self.rows[y + 1..]);
            }
            1 => {
                self.erase_line(1, pen);
                self.rows[y].wrapped = false;
                if self.x + 1 >= self.cols && y + 1 < self.height() {
                    self.rows[y + 1].wrapped = false;
                }
                blank(&mut self.rows[..y]);
            }
            2 => blank(&mut self.rows),
            _ => {}
        }
    }

    /// `CSI K`: 0 from the cursor on, 1 up to it, 2 all.
    pub(super) fn erase_line(&mut self, part: u32, pen: Pen) {
        let (x, cols) = (self.x, self.cols);
        let row = self.row();
        match part {
            0 => {
                row.erase(x, cols, pen);
                row.wrapped &= x != 0;
            }
            1 => row.erase(0, x + 1, pen),
            2 => row.fill(Cell::empty(pen)),
            _ => {}
        }
    }
}
