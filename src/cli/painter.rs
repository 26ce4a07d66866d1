//! What a person sees of a session: its bytes as they are where the window fits, and a part of its screen where not.

use super::filter::{Filter, Policy};
use super::view::View;
use crate::record::Size;

/// Starts a terminal afresh without touching what has scrolled out of it.
const CLEAR: &[u8] = b"\x1b[!p\x1b[?7h\x1b[r\x1b[m\x1b(B\x0f\x1b[H\x1b[2J";

/// Draws a session.
pub struct Painter {
    filter: Filter,
    window: Size,
    session: Option<Size>,
    view: Option<View>,
    driving: bool,
    /// What is shown to the driver was drawn for a terminal of another size.
    misfit: bool,
}

/// Whether the screen has to be drawn anew, from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Need {
    /// All is well.
    Nothing,
    /// A snapshot.
    Redraw,
}

impl Painter {
    /// For a window of this size.
    #[must_use]
    pub fn new(window: Size, driving: bool) -> Self {
        let filter = Filter::new(if driving { Policy::All } else { Policy::Shown });
        Self { filter, window, session: None, view: None, driving, misfit: false }
    }

    /// The window's size.
    #[must_use]
    pub fn window(&self) -> Size {
        self.window
    }

    /// Whether the program, or a view of it, has the whole screen: there is no line to write a message on.
    #[must_use]
    pub fn is_full(&mut self) -> bool {
        self.view.is_some() || self.filter.modes().is_alternate()
    }

    /// Whether a message could be written here without breaking a sequence.
    #[must_use]
    pub fn is_ground(&self) -> bool {
        self.view.is_some() || self.filter.is_ground()
    }

    /// An open sequence was broken off.
    pub fn interrupt(&mut self) {
        self.filter.interrupt();
    }

    /// This viewer types, or does no longer.
    pub fn drive(&mut self, driving: bool) -> Need {
        let loses = std::mem::replace(&mut self.driving, driving) && !driving;
        self.filter.set_policy(if driving { Policy::All } else { Policy::Shown });
        // A view is left once the terminal has the new driver's size.
        self.misfit |= self.view.is_some();
        let other = self.session.is_some_and(|session| session != self.window);
        if loses && other { Need::Redraw } else { Need::Nothing }
    }

    /// A screen as it stands.
    pub fn snapshot(&mut self, size: Size, screen: &[u8]) -> Vec<u8> {
        self.session = Some(size);
        let mut out = self.leave();
        self.misfit = size != self.window;
        if self.driving || size == self.window {
            out.extend_from_slice(CLEAR);
            self.filter.interrupt();
            self.filter.feed(screen, &mut out);
            return out;
        }
        let mut view = View::new(size, self.window);
        view.snapshot(screen, size);
        out.extend_from_slice(&view.enter());
        out.extend_from_slice(&view.render());
        self.view = Some(view);
        out
    }

    /// What the command wrote next.
    pub fn output(&mut self, bytes: &[u8]) -> Vec<u8> {
        if let Some(view) = &mut self.view {
            view.feed(bytes);
            return view.render();
        }
        let mut out = Vec::with_capacity(bytes.len());
        self.filter.feed(bytes, &mut out);
        out
    }

    /// The session's terminal has this size, as its welcome says.
    pub fn set_session_size(&mut self, size: Option<Size>) {
        self.session = self.session.or(size);
    }

    /// The session's terminal has this size from here on.
    pub fn session_size(&mut self, size: Size) -> (Vec<u8>, Need) {
        self.session = Some(size);
        if self.driving {
            let redraw = size == self.window && std::mem::take(&mut self.misfit);
            return (Vec::new(), if redraw { Need::Redraw } else { Need::Nothing });
        }
        match &mut self.view {
            Some(view) if size != self.window => {
                view.resize_session(size);
                (view.render(), Need::Nothing)
            }
            None if size == self.window => (Vec::new(), Need::Nothing),
            _ => (Vec::new(), Need::Redraw),
        }
    }

    /// The window has this size.
    pub fn window_size(&mut self, size: Size) -> (Vec<u8>, Need) {
        self.window = size;
        if self.driving {
            return (Vec::new(), Need::Nothing);
        }
        match &mut self.view {
            Some(view) if self.session != Some(size) => {
                view.resize_window(size);
                (view.render(), Need::Nothing)
            }
            None if self.session.is_none_or(|session| session == size) => (Vec::new(), Need::Nothing),
            _ => (Vec::new(), Need::Redraw),
        }
    }

    /// Leaves the terminal as people have it.
    pub fn leave(&mut self) -> Vec<u8> {
        let mut out = self.view.take().map(|view| view.leave()).unwrap_or_default();
        out.extend_from_slice(&self.filter.modes().take_back());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { cols: 40, rows: 10 };
    const LARGE: Size = Size { cols: 80, rows: 24 };

    #[test]
    fn a_driver_gets_the_bytes_as_they_are() {
        let mut painter = Painter::new(LARGE, true);
        assert_eq!(painter.output(b"\x1b]0;title\x07\x1b[6n"), b"\x1b]0;title\x07\x1b[6n");
        assert_eq!(painter.session_size(LARGE), (Vec::new(), Need::Nothing));
    }

    #[test]
    fn a_driver_is_drawn_anew_once_the_terminal_has_its_size() {
        let mut painter = Painter::new(LARGE, true);
        let _ = painter.snapshot(SMALL, b"$ ");
        assert_eq!(painter.session_size(LARGE), (Vec::new(), Need::Redraw));
        let _ = painter.snapshot(LARGE, b"$ ");
        assert_eq!(painter.session_size(LARGE), (Vec::new(), Need::Nothing));
        assert_eq!(painter.window_size(SMALL), (Vec::new(), Need::Nothing));
        assert_eq!(painter.session_size(SMALL), (Vec::new(), Need::Nothing), "the program draws that itself");
    }

    #[test]
    fn who_is_taken_over_from_by_a_window_of_another_size_gets_a_view() {
        let mut painter = Painter::new(LARGE, true);
        assert_eq!(painter.session_size(SMALL), (Vec::new(), Need::Nothing));
        assert_eq!(painter.drive(false), Need::Redraw);
        let _ = painter.snapshot(SMALL, b"x");
        assert!(painter.is_full());
        assert_eq!(painter.drive(true), Need::Nothing);
        assert_eq!(painter.session_size(LARGE), (Vec::new(), Need::Redraw));
    }

    #[test]
    fn a_watcher_whose_window_fits_gets_bytes_without_queries() {
        let mut painter = Painter::new(LARGE, false);
        let _ = painter.snapshot(LARGE, b"x");
        assert_eq!(painter.output(b"a\x1b[6nb"), b"ab");
        assert_eq!(painter.session_size(SMALL), (Vec::new(), Need::Redraw));
    }

    #[test]
    fn a_watcher_whose_window_is_smaller_gets_a_view() {
        let mut painter = Painter::new(SMALL, false);
        let _ = painter.snapshot(LARGE, b"x");
        assert!(painter.is_full());
        assert_eq!(painter.window_size(LARGE).1, Need::Redraw);
        let _ = painter.snapshot(LARGE, b"x");
        assert!(!painter.is_full());
    }
}
