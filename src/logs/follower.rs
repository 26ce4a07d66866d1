//! One follower's way: the history from where it wants it, then the ring, without a seam.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use tokio::sync::watch;

use super::cursors::Cursor;
use super::files::notice;
use super::history::{Merge, Past};
use super::line::{Entry, Line};
use super::position::{Move, Positions};
use super::{Guest, Log, LogsError, REACH, absent, backfill};
use crate::session::lock;
use crate::store::Micros;

/// Lines that one read of the ring, or of the history, takes.
const LINES: usize = 256;

/// How often a follower goes back to the sources because the ring moved on while it read the history.
const ROUNDS: usize = 8;

/// Which lines a follower wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this process, or of all whose name is this and a dot and more.
    pub process: Option<String>,
    /// Not of these processes.
    pub without: Vec<String>,
    /// Only of containers with this name.
    pub container: Option<String>,
    /// Only with a match of this.
    pub grep: Option<Regex>,
    /// Of what was shown in terminals, and of what sessions were started with, only what these people's were.
    pub terminals: Terminals,
}

/// Whose sessions, and so whose terminals, somebody may look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Terminals {
    /// Everybody's.
    #[default]
    All,
    /// This person's.
    Of(String),
    /// None.
    Nobodys,
}

impl Filter {
    /// Whether lines of a process can be wanted.
    #[must_use]
    pub fn wants_process(&self, process: &str) -> bool {
        let fits = |wanted: &String| {
            process.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        };
        self.process.as_ref().is_none_or(fits) && !self.without.iter().any(|without| without == process)
    }

    /// Whether lines of this container can be wanted, or of what is none.
    #[must_use]
    pub fn wants_container(&self, container: Option<&str>) -> bool {
        self.container.as_deref().is_none_or(|wanted| Some(wanted) == container)
    }

    /// Returns whether this line is wanted. What may not be seen of it matches nothing.
    #[must_use]
    pub fn wants(&self, line: &Entry) -> bool {
        let message = match &line.private {
            Some(private) if !self.shows(Some(&private.owner)) => private.others.as_ref(),
            _ => Some(&line.message),
        };
        message.is_some_and(|message| self.fits(&line.process, line.container.as_deref(), message))
    }

    /// A line as it may be seen; none where nothing of it may.
    fn seen(&self, line: Arc<Line>) -> Option<Arc<Line>> {
        if self.shows(line.owner.as_deref()) { Some(line) } else { line.others.clone() }
    }

    /// Whether this is what has to be known of a source that is wanted, or of all.
    fn is_told(&self, line: &Entry) -> bool {
        let of_all = &*line.process == "log" && line.container.is_none();
        let of_wanted = || self.wants_process(&line.process) && self.wants_container(line.container.as_deref());
        line.moved == Move::None && (of_all || of_wanted())
    }

    /// Returns whether what is somebody's may be seen; what is nobody's, may.
    #[must_use]
    pub fn shows(&self, owner: Option<&str>) -> bool {
        match &self.terminals {
            Terminals::All => true,
            Terminals::Of(own) => owner.is_none_or(|owner| owner == own && !own.is_empty()),
            Terminals::Nobodys => owner.is_none(),
        }
    }

    fn fits(&self, process: &str, container: Option<&str>, message: &str) -> bool {
        self.wants_process(process)
            && self.wants_container(container)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(message))
    }
}

/// From where on a follower wants the log.
#[derive(Clone, Debug)]
pub enum Start {
    /// From now on.
    Now,
    /// The last lines, at most so many, and only those since a time.
    Last {
        /// How many; none: all.
        tail: Option<usize>,
        /// Since when.
        since: Option<Micros>,
    },
    /// From where a token says.
    Resume(Positions),
}

/// What a follower asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// From where on.
    pub start: Start,
    /// Which lines.
    pub filter: Filter,
    /// Whether it stays when it has what there is.
    pub follow: bool,
}

/// See the module's documentation.
pub struct Follower {
    log: Arc<Log>,
    _guest: Guest,
    filter: Filter,
    follow: bool,
    /// What was before it joined, and where the sources stand in that.
    past: Option<(Merge, Positions)>,
    /// How often it may go back to the sources.
    rounds: usize,
    cursor: u64,
    place: Arc<Cursor>,
    head: watch::Receiver<u64>,
    /// Resumes behind the last line that it was given.
    resume: String,
}

impl Follower {
    pub(super) async fn join(log: Arc<Log>, guest: Guest, ask: Ask) -> Result<Self, LogsError> {
        if !matches!(ask.start, Start::Now) {
            log.look_now().await;
        }
        if let Start::Resume(positions) = &ask.start {
            let offsets: BTreeMap<_, _> = positions.sessions.iter().map(|(number, at)| (*number, at.high())).collect();
            // What an agent cannot give any more is not waited for longer; it is told as a gap.
            let _ = tokio::time::timeout(REACH, log.reached(&offsets)).await;
        }
        let head = log.head.subscribe();
        let join = log.join();
        let (mut past, positions) = backfill::start(&log, &join, &ask).await?;
        past.extend(log.shortage().map(Past::notice));
        past.extend(absent::told(&log, &join, &ask).await?);
        let resume = positions.token(&log.app);
        let past = Some((Merge::new(past), positions));
        let (follow, cursor) = (ask.follow, join.cursor);
        let place = log.cursors.join(if follow { cursor } else { u64::MAX });
        Ok(Self { _guest: guest, filter: ask.filter, follow, past, rounds: ROUNDS, cursor, place, head, resume, log })
    }

    /// What was shown in these terminals may be seen from now on, and in no others.
    pub fn set_terminals(&mut self, terminals: Terminals) {
        self.filter.terminals = terminals;
    }

    /// Appends what comes next to `out`, and waits where there is nothing; `false` at the end. Safe to
    /// cancel: what was found is in `out`.
    pub async fn next(&mut self, out: &mut Vec<Arc<Line>>) -> bool {
        while self.past.is_some() {
            self.read_past(out).await;
            if !out.is_empty() {
                return true;
            }
        }
        while self.follow {
            self.head.borrow_and_update();
            if self.read_ring(out) {
                if !out.is_empty() {
                    return true;
                }
                tokio::task::yield_now().await;
            } else if self.head.changed().await.is_err() {
                return false;
            }
        }
        false
    }

    async fn read_past(&mut self, out: &mut Vec<Arc<Line>>) {
        for _ in 0..LINES {
            let Some((merge, positions)) = &mut self.past else { return };
            let Some(entry) = merge.next().await else {
                self.end_past().await;
                return;
            };
            positions.apply(entry.moved);
            if self.filter.wants(&entry) || self.filter.is_told(&entry) {
                self.resume = positions.token(&self.log.app);
                let line = Arc::new(Line::new(self.log.app.clone(), entry, self.resume.clone()));
                out.extend(self.filter.seen(line));
            }
        }
    }

    /// The history is read. Where that took so long that the ring has moved on, there is more of it.
    async fn end_past(&mut self) {
        let Some((_, positions)) = &self.past else { return };
        if !self.follow || self.rounds == 0 || lock(&self.log.state).ring.reaches(self.cursor) {
            self.past = None;
            return;
        }
        let start = Start::Resume(positions.clone());
        let ask = Ask { start, filter: self.filter.clone(), follow: self.follow };
        let join = self.log.join();
        // Without the store there is no history; what the ring has lost is then told as lost.
        self.past = match backfill::start(&self.log, &join, &ask).await {
            Ok((past, positions)) => {
                self.cursor = join.cursor;
                Some((Merge::new(past), positions))
            }
            Err(error) => {
                tracing::warn!(%error, app = self.log.app(), "cannot read the history of a log");
                None
            }
        };
        self.rounds -= 1;
    }

    /// Reads what is new, and leaves out what is not wanted. Whether there was anything.
    fn read_ring(&mut self, out: &mut Vec<Arc<Line>>) -> bool {
        let mut lines = Vec::new();
        let lost = lock(&self.log.state).ring.read(&mut self.cursor, LINES, &mut lines);
        self.place.read(self.cursor, lines.len() < LINES);
        if lost > 0 {
            let message = format!("{lost} lines were left out: this reader was slower than the log");
            let entry = notice("log".into(), message);
            // Its token is that of the line before: who resumes there gets what was left out.
            out.push(Arc::new(Line::new(self.log.app.clone(), entry, self.resume.clone())));
        }
        if let Some(last) = lines.last() {
            self.resume.clone_from(&last.resume);
        }
        let any = !lines.is_empty();
        let seen = lines.into_iter().filter_map(|line| self.filter.seen(line));
        out.extend(seen.filter(|line| self.filter.fits(&line.process, line.container.as_deref(), &line.message)));
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_meant_by_its_name_or_its_type() {
        let wants = |wanted: &str, process| {
            Filter { process: Some(wanted.into()), ..Filter::default() }.fits(process, None, "x")
        };
        assert!(wants("web", "web.1") && wants("web", "web") && wants("web", "web.x7k2p/proxy"));
        assert!(!wants("web", "webhook") && !wants("run.4", "run.48"));
        let without = Filter { without: vec!["run.4".into()], ..Filter::default() };
        assert!(!without.fits("run.4", None, "x") && without.fits("run.48", None, "x"));
        assert!(wants("run.48", "run.48") && wants("web.x7k2p", "web.x7k2p/proxy"));
        let grep = Filter { grep: Regex::new("^a+$").ok(), ..Filter::default() };
        assert!(grep.fits("web", None, "aaa") && !grep.fits("web", None, "ab"));
        let container = Filter { container: Some("proxy".into()), ..Filter::default() };
        assert!(container.fits("web.1", Some("proxy"), "x"));
        assert!(!container.fits("web.1", Some("web"), "x") && !container.fits("web", None, "x"));
    }
}
