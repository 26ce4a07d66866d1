//! One answer that follows a log, as far as it was read: how it came to its end, and whose log it may be.

use std::time::Duration;

use tokio::time::Instant;

use super::request::Failure;
use super::seen::Seen;
use super::stamped::{Said, Stamped};
use crate::logs::position::ContainerAt;

/// How long an answer may take to begin, at least: one that is given up too soon on a busy machine never comes.
const OPENING: Duration = Duration::from_secs(5);

/// How long an answer may say nothing after its container has ended.
const LEAVING: Duration = Duration::from_secs(6);

/// How an answer that follows came to its end.
pub(super) enum End {
    /// The container has ended, or is about to be read otherwise.
    Over,
    /// Without a reason.
    Clean,
    /// It was a later run's.
    Replaced,
    /// Nothing came for long.
    Silent,
    /// It broke off.
    Broken(Failure),
}

/// One answer that follows, as far as it was read.
pub(super) struct Reading {
    pub(super) stamped: Stamped,
    pub(super) seen: Seen,
    pub(super) said: Vec<Said>,
    /// How long it may say nothing new.
    pub(super) until: Instant,
    /// Whether anything came.
    pub(super) began: bool,
    /// Whether the container has ended.
    pub(super) leaving: bool,
    /// Whether it has not shown yet whose it is.
    pub(super) doubtful: bool,
    /// Whether it came to a clean end.
    pub(super) whole: bool,
}

impl Reading {
    pub(super) fn new(at: ContainerAt, patience: Duration, doubtful: bool) -> Self {
        let until = Instant::now() + patience.max(OPENING);
        Self {
            stamped: Stamped::default(),
            seen: Seen::from(at),
            said: Vec::new(),
            until,
            began: false,
            leaving: false,
            doubtful,
            whole: false,
        }
    }

    pub(super) fn leave(&mut self) {
        (self.leaving, self.until) = (true, Instant::now() + LEAVING);
    }

    /// Whether what came may be a later run's.
    pub(super) fn may_be_other(&self) -> bool {
        let is_line = |said: &Said| matches!(said, Said::Line { .. });
        let knows_none = self.seen.is_at_start() && self.said.iter().any(is_line);
        self.doubtful && (knows_none || first_without(&self.seen, &self.said).is_some())
    }

    /// How a clean end is meant: what is left is the start of a line, or the kubelet's last word.
    pub(super) fn end(&mut self) -> End {
        self.stamped.let_go(&mut self.said);
        self.whole = true;
        match self.said.last() {
            _ if self.may_be_other() => End::Replaced,
            _ if self.leaving => End::Over,
            Some(Said::Kubelet(words)) => End::Broken(Failure::Busy(words.clone(), None)),
            _ => End::Clean,
        }
    }
}

/// The time of the first new line, where the line that was told last is not before it.
pub(super) fn first_without(seen: &Seen, said: &[Said]) -> Option<u64> {
    let mut seen = seen.clone();
    for said in said {
        if !seen.lacks() {
            return None;
        }
        if let Said::Line { time, .. } = said
            && seen.take(*time).is_some()
        {
            return Some(*time);
        }
    }
    None
}
