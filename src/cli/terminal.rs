//! The caller's terminal: its size, and its raw mode, which always ends.
//!
//! Invariant: whatever ends the process by its own hand, a panic too, the terminal is left as it was found.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::record::Size;

/// How the terminal was found, while it is raw.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether stdin is a terminal.
#[must_use]
pub fn is_stdin() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Whether stdout is a terminal.
#[must_use]
pub fn is_stdout() -> bool {
    isatty(rustix::stdio::stdout())
}

/// Whether stderr is a terminal.
#[must_use]
pub fn is_stderr() -> bool {
    isatty(rustix::stdio::stderr())
}

/// The window's size, as the first of the three that is a terminal says.
#[must_use]
pub fn window() -> Option<Size> {
    let outputs = [rustix::stdio::stdout(), rustix::stdio::stdin(), rustix::stdio::stderr()];
    let window = outputs.into_iter().find_map(|output| tcgetwinsize(output).ok())?;
    Some(Size { cols: window.ws_col, rows: window.ws_row }.clamped())
}

/// The terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes stdin's terminal raw.
    ///
    /// # Errors
    /// Where stdin is no terminal.
    pub fn enter() -> io::Result<Self> {
        let found = tcgetattr(rustix::stdio::stdin())?;
        make_raw(&found)?;
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(Self(()))
    }

    /// Makes it raw again after the shell had it in between.
    pub fn again(&self) {
        if let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // A terminal that is gone needs no mode.
            let _ = make_raw(found);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn make_raw(found: &Termios) -> io::Result<()> {
    let mut raw = found.clone();
    raw.make_raw();
    Ok(tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?)
}

/// Leaves the terminal as it was found. Can be called at any time, as often as wanted.
pub fn restore() {
    if let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &found);
    }
}

/// Makes a panic restore the terminal before it is told.
pub fn restore_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        told(panic);
    }));
}
