//! The driver's screen in a window of another size: for a watcher whose terminal is not as large as the session's.
//!
//! Owns a model of the session's screen and what the window shows of it. Nothing that the session's command wrote
//! reaches the watcher's terminal but characters: all controls are made here, and they are few.
//!
//! Invariant: after the bytes of [`View::render`] the window shows the part of the screen that starts at
//! [`View::offset`], and it was scrolled no further than it takes to see the cursor.

use crate::record::Size;
use crate::session::screen::{Cell, Pen, Screen, flag};

/// A window on a session's screen.
#[derive(Debug)]
pub struct View {
    screen: Screen,
    window: Size,
    /// Column and row of the screen that stand at the window's top left.
    offset: (usize, usize),
    /// The bytes that drew each row of the window; empty where nothing is known of it.
    drawn: Vec<Vec<u8>>,
    /// Where the window's cursor was left, `None` for hidden.
    cursor: Option<(usize, usize)>,
}

impl View {
    /// A window on a screen on which nothing was written yet. Both sizes are [clamped](Size::clamped).
    #[must_use]
    pub fn new(session: Size, window: Size) -> Self {
        let window = window.clamped();
        Self { screen: Screen::new(session), window, offset: (0, 0), drawn: Vec::new(), cursor: None }
    }

    /// Starts anew from a snapshot and the size it was taken at.
    pub fn snapshot(&mut self, snapshot: &[u8], size: Size) {
        self.screen = Screen::restore(size, snapshot);
    }

    /// Takes what the command wrote next.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.screen.feed(bytes);
    }

    /// The session's terminal has another size.
    pub fn resize_session(&mut self, size: Size) {
        self.screen.resize(size);
    }

    /// The watcher's terminal has another size. The next [`render`](Self::render) draws all of it.
    pub fn resize_window(&mut self, size: Size) {
        self.window = size.clamped();
        self.drawn.clear();
    }

    /// Column and row of the screen that stand at the window's top left, as of the last [`render`](Self::render).
    #[must_use]
    pub fn offset(&self) -> (usize, usize) {
        self.offset
    }

    /// What the watcher's terminal is given before the first [`render`](Self::render): its own screen is put aside.
    #[must_use]
    pub fn enter(&mut self) -> Vec<u8> {
        self.drawn.clear();
        b"\x1b[?1049h\x1b[?25l".to_vec()
    }

    /// What the watcher's terminal is given after the last [`render`](Self::render): its own screen is back.
    #[must_use]
    pub fn leave(&self) -> Vec<u8> {
        b"\x1b[m\x1b[?1049l\x1b[?25h".to_vec()
    }

    /// What brings the watcher's terminal up to date; empty where it is.
    #[must_use]
    pub fn render(&mut self) -> Vec<u8> {
        self.scroll();
        let mut out = Vec::new();
        let height = usize::from(self.window.rows);
        if self.drawn.len() != height {
            out.extend_from_slice(b"\x1b[?25l\x1b[m\x1b[2J");
            self.drawn = vec![Vec::new(); height];
            self.cursor = None;
        }
        for y in 0..height {
            let line = self.line(self.offset.1 + y);
            if line == self.drawn[y] {
                continue;
            }
            if self.cursor.take().is_some() {
                out.extend_from_slice(b"\x1b[?25l");
            }
            out.extend_from_slice(format!("\x1b[{};1H", y + 1).as_bytes());
            out.extend_from_slice(&line);
            self.drawn[y] = line;
        }
        self.place_cursor(&mut out);
        out
    }

    /// Moves the window over the screen as little as it takes to see the cursor. A hidden one is not followed: a
    /// program that draws moves it all over the screen.
    fn scroll(&mut self) {
        let follow = |offset: usize, window: u16, screen: u16, cursor: Option<usize>| {
            let (window, screen) = (usize::from(window), usize::from(screen));
            let offset = cursor.map_or(offset, |at| offset.min(at).max((at + 1).saturating_sub(window)));
            offset.min(screen.saturating_sub(window))
        };
        let cursor = self.screen.cursor();
        let (size, (x, y)) = (self.screen.size(), self.offset);
        // Lines are read from their start: sideways the window goes back as soon as the cursor can be seen from there.
        let x = if cursor.is_some_and(|(at, _)| at < usize::from(self.window.cols)) { 0 } else { x };
        self.offset.0 = follow(x, self.window.cols, size.cols, cursor.map(|(x, _)| x));
        self.offset.1 = follow(y, self.window.rows, size.rows, cursor.map(|(_, y)| y));
    }

    /// What draws row `y` of the screen from the window's left edge on, whatever stood there.
    fn line(&self, y: usize) -> Vec<u8> {
        let cells = if y < usize::from(self.screen.size().rows) { self.screen.row(y) } else { &[] };
        let cells = cells.get(self.offset.0..).unwrap_or_default();
        let shown = &cells[..cells.len().min(usize::from(self.window.cols))];
        let ends = shown.iter().rposition(|cell| !self.is_blank(cell)).map_or(0, |last| last + 1);
        let mut out = b"\x1b[m".to_vec();
        let mut pen = Pen::default();
        for x in 0..ends {
            let wanted = self.pen(&shown[x]);
            let starts = x == 0 || shown[x - 1].width != 2;
            if shown[x].is_tail() && !starts {
                continue;
            }
            if wanted != pen {
                wanted.sgr(&mut out);
                pen = wanted;
            }
            self.cell(&shown[x], x + usize::from(shown[x].width) > shown.len(), &mut out);
            if shown[x].width == 2 || shown[x].is_cluster() {
                // Terminals do not agree how wide these are: what follows goes to its own column.
                out.extend_from_slice(format!("\x1b[{}G", x + 1 + usize::from(shown[x].width)).as_bytes());
            }
        }
        if ends < usize::from(self.window.cols) {
            out.extend_from_slice(b"\x1b[m\x1b[K");
        }
        out
    }

    /// Appends a cell's text, or a space where the edge cuts it or there is none.
    fn cell(&self, cell: &Cell, is_cut: bool, out: &mut Vec<u8>) {
        if is_cut || cell.is_empty() || cell.width == 0 {
            out.push(b' ');
        } else {
            self.screen.push_text(cell, out);
        }
    }

    /// The pen that shows a cell. Links are left out: they are the command's bytes.
    fn pen(&self, cell: &Cell) -> Pen {
        let reversed = if self.screen.is_reversed() { flag::INVERSE } else { 0 };
        Pen { link: 0, flags: cell.pen.flags ^ reversed, ..cell.pen }
    }

    fn is_blank(&self, cell: &Cell) -> bool {
        cell.is_empty() && !cell.is_tail() && self.pen(cell) == Pen::default()
    }

    fn place_cursor(&mut self, out: &mut Vec<u8>) {
        let inside = |(x, y): (usize, usize)| {
            let place = (x.checked_sub(self.offset.0)?, y.checked_sub(self.offset.1)?);
            (place.0 < usize::from(self.window.cols) && place.1 < usize::from(self.window.rows)).then_some(place)
        };
        let cursor = self.screen.cursor().and_then(inside);
        if cursor == self.cursor {
            return;
        }
        match cursor {
            Some((x, y)) => out.extend_from_slice(format!("\x1b[{};{}H\x1b[?25h", y + 1, x + 1).as_bytes()),
            None => out.extend_from_slice(b"\x1b[?25l"),
        }
        self.cursor = cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(cols: u16, rows: u16) -> Size {
        Size { cols, rows }
    }

    #[test]
    fn the_window_follows_the_cursor() {
        let mut view = View::new(size(20, 10), size(5, 3));
        let mut terminal = Screen::new(size(5, 3));
        terminal.feed(&view.enter());
        view.feed(b"0123456789\r\n\r\nabc\r\ndefghijkl");
        terminal.feed(&view.render());
        assert_eq!(view.offset(), (5, 1));
        assert_eq!(terminal.lines(), ["", "", "ijkl"]);
        assert_eq!(terminal.cursor(), Some((4, 2)));
        view.feed(b"\x1b[H");
        terminal.feed(&view.render());
        assert_eq!(terminal.lines(), ["01234", "", "abc"]);
        view.feed(b"\x1b[?25l\x1b[10;20Hx");
        terminal.feed(&view.render());
        assert_eq!((view.offset(), terminal.cursor()), ((0, 0), None));
    }

    #[test]
    fn wide_characters_are_cut_to_spaces() {
        let mut view = View::new(size(10, 1), size(5, 1));
        let mut terminal = Screen::new(size(5, 1));
        view.feed("界世漢字\x1b[H".as_bytes());
        terminal.feed(&view.render());
        assert_eq!(terminal.lines(), ["界世"]);
        view.feed(b"\x1b[6G");
        terminal.feed(&view.render());
        assert_eq!(view.offset(), (1, 0));
        assert_eq!(terminal.lines(), [" 世漢"]);
    }

    #[test]
    fn only_what_changed_is_drawn() {
        let mut view = View::new(size(10, 3), size(10, 2));
        view.feed(b"one\r\ntwo");
        assert!(!view.render().is_empty());
        assert!(view.render().is_empty());
        view.feed(b"!");
        let drawn = view.render();
        assert!(!drawn.windows(3).any(|part| part == b"one"), "{:?}", String::from_utf8_lossy(&drawn));
        view.resize_window(size(6, 4));
        assert!(view.render().windows(3).any(|part| part == b"one"));
    }

    #[test]
    fn controls_of_the_command_stay_behind() {
        let mut view = View::new(size(10, 3), size(8, 2));
        view.feed(
            b"\x1b]2;title\x07\x1b[?1000h\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\\x1b[?2004h\x1bP+q\x1b\\\x1b[5t\x07",
        );
        let drawn = String::from_utf8(view.render()).expect("text");
        for part in ["title", "1000", "http", "2004", "+q", "5t", "\x07", "\x1b]"] {
            assert!(!drawn.contains(part), "{part:?} in {drawn:?}");
        }
        assert!(drawn.contains("link"));
    }
}
