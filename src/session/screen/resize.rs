//! What another size does to the cells: the main screen's lines flow anew, the alternate one is cut or filled up.

use super::cell::{Cell, Pen};
use super::grid::{Grid, Row, TAB};

impl Grid {
    /// Gives it another size, both at least 1. With `flow`, lines are broken anew, except the one that the cursor is
    /// in: its program draws that one again. The scroll region becomes the whole screen.
    pub(super) fn resize(&mut self, cols: usize, height: usize, flow: bool) {
        let before = self.y;
        self.x = self.x.min(cols - 1);
        if flow && cols != self.cols {
            self.flow(cols);
        }
        self.rows.iter_mut().for_each(|row| row.resize(cols));
        self.fit(cols, height);
        let moved = self.y as isize - before as isize;
        self.saved.x = self.saved.x.min(cols - 1);
        self.saved.y = self.saved.y.saturating_add_signed(moved).min(height - 1);
        (self.top, self.bottom) = (0, height - 1);
        self.resize_tabs(cols);
        self.cols = cols;
    }

    /// Takes rows away below the cursor, then above it; adds them below.
    fn fit(&mut self, cols: usize, height: usize) {
        let excess = self.rows.len().saturating_sub(height);
        let below = excess.min(self.rows.len() - 1 - self.y);
        self.rows.truncate(self.rows.len() - below);
        self.rows.drain(..excess - below);
        self.y -= excess - below;
        self.rows.resize_with(height, || Row::blank(cols, Pen::default()));
    }

    /// Stops go on to the right from the last one, as on a fresh screen.
    fn resize_tabs(&mut self, cols: usize) {
        let last = self.tabs.iter().rposition(|&stop| stop).unwrap_or(0);
        let old = self.tabs.len();
        self.tabs.resize(cols, false);
        if cols > old {
            (last..cols).step_by(TAB).for_each(|x| self.tabs[x] = true);
        }
    }

    /// Breaks the lines anew at `cols`; the number of rows changes with it.
    fn flow(&mut self, cols: usize) {
        let mut rows = Vec::with_capacity(self.rows.len());
        let mut y = self.y;
        let mut old = std::mem::take(&mut self.rows).into_iter().enumerate().peekable();
        while let Some((start, first)) = old.next() {
            let mut line = vec![first];
            while let Some((_, row)) = old.next_if(|(_, row)| row.wrapped) {
                line.push(row);
            }
            if (start..start + line.len()).contains(&self.y) {
                y = rows.len() + self.y - start;
                rows.append(&mut line);
            } else {
                break_line(line, cols, &mut rows);
            }
        }
        (self.rows, self.y) = (rows, y);
    }
}

/// Appends the rows of one line, each of `cols` cells.
fn break_line(line: Vec<Row>, cols: usize, rows: &mut Vec<Row>) {
    let wrapped = line[0].wrapped;
    let mut cells: Vec<Cell> = Vec::new();
    for (at, row) in line.iter().enumerate() {
        let Some(next) = line.get(at + 1) else {
            cells.extend(&row.cells()[..row.text_len()]);
            break;
        };
        // A cell is left free at the end where a wide character did not fit.
        let last = row.cells().len() - 1;
        let spare = row.cells()[last].is_empty() && !row.cells()[last].is_tail() && next.cells()[0].width == 2;
        cells.extend(&row.cells()[..row.cells().len() - usize::from(spare)]);
    }
    let start = rows.len();
    let mut rest = &cells[..];
    loop {
        let mut cut = rest.len().min(cols);
        if cut > 1 && rest[cut - 1].width == 2 {
            cut -= 1;
        }
        let mut row = Row::of(rest[..cut].to_vec(), wrapped || rows.len() > start);
        row.resize(cols);
        rows.push(row);
        rest = &rest[cut..];
        if rest.first().is_some_and(Cell::is_tail) {
            rest = &rest[1..];
        }
        if rest.is_empty() {
            break;
        }
    }
    rows[start].wrapped = wrapped;
}
