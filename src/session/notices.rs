//! What the people at a session should know and its command does not say. Notices are not in the sequence.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Session;

/// The code of what is said of a start that goes on.
pub const STARTING: &str = "starting";

/// The code of what a source says for itself.
const SOURCE: &str = "source";

/// A sentence for the people at a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A stable code: `idle`, `renamed`, `source`, `starting`.
    pub code: &'static str,
    /// The sentence.
    pub text: String,
}

impl Notice {
    /// The idle limit is near.
    fn idle(name: &str, left: Duration) -> Self {
        // Nobody has to know by how much it is less than a second.
        let left = humantime::format_duration(Duration::from_secs(left.as_secs_f64().round().max(1.0) as u64));
        let text = format!("{name} is idle and ends in {left}; press a key to go on");
        Self { code: "idle", text }
    }

    /// How far the start has come.
    #[must_use]
    pub fn starting(text: String) -> Self {
        Self { code: STARTING, text }
    }

    /// What the source cannot do, or cannot know.
    pub(super) fn source(text: String) -> Self {
        Self { code: SOURCE, text }
    }

    /// The session's short name is another one now.
    #[must_use]
    pub fn renamed(before: &str, now: &str) -> Self {
        let text =
            format!("{before} is {now} now: an older copy of the database was put in place, and its name was taken");
        Self { code: "renamed", text }
    }
}

/// The newest notice, for as long as it holds.
#[derive(Debug)]
pub struct Notices(watch::Sender<Option<Arc<Notice>>>);

impl Default for Notices {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Notices {
    /// Follows the newest notice, which holds for who joins now too; none where nothing is to be told.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Notice>>> {
        self.0.subscribe()
    }

    /// Tells everyone.
    pub fn say(&self, notice: Notice) {
        self.0.send_replace(Some(Arc::new(notice)));
    }

    /// Takes back what was said under this code.
    pub(super) fn take_back(&self, code: &str) {
        self.0.send_if_modified(|notice| {
            let said = notice.as_ref().is_some_and(|notice| notice.code == code);
            if said {
                *notice = None;
            }
            said
        });
    }
}

impl Session {
    /// The idle limit ends the command after so long, or, none, is not near any more.
    pub(super) fn note_idle(&self, left: Option<Duration>) {
        match left {
            Some(left) => self.notices.say(Notice::idle(&self.row.name, left)),
            None => self.notices.take_back("idle"),
        }
    }
}
