//! What a person is told on stderr while something starts.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::terminal;
use crate::visible;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// `Running bash on ⬢ blog...`: a spinner on a terminal, and one plain line in the end.
pub struct Starting {
    text: String,
    bar: Option<ProgressBar>,
}

impl Starting {
    /// Says what starts.
    #[must_use]
    pub fn new(text: String) -> Self {
        let text = visible::line(&text).into_owned();
        let bar = terminal::is_stderr().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg} {spinner}") {
                bar.set_style(style);
            }
            bar.set_message(text.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { text, bar }
    }

    /// It is there.
    pub fn done(mut self, what: &str) {
        self.clear();
        say(&format!("{} {what}", self.text));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Writes one line on stderr, where anybody reads that, with what others chose in it made visible.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", visible::line(line));
}

/// Says something of Foghorn's own on stderr.
pub fn note(text: &str) {
    say(&format!("foghorn: {text}"));
}
