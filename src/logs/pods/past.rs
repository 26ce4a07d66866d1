//! What a container said before: its log as the kubelet has it, without what comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::time::{Instant, sleep, timeout_at};

use super::patience::Patience;
use super::request::{Answer, Failure, From, Run, first_time, open};
use super::seen::Seen;
use super::stamped::{self, Said, Stamped};
use super::standing::{Phase, Standing};
use super::upstream::since;
use super::{Container, Reach};
use crate::logs::follower::Filter;
use crate::logs::line::{Entry, Private, Stream};
use crate::logs::position::{ContainerAt, ContainerId, Move};
use crate::logs::split::CUT;
use crate::logs::text;
use crate::session::now;
use crate::store::Micros;

/// How often a broken answer is asked anew, and what passes in between.
const TRIES: (usize, Duration) = (5, Duration::from_millis(300));

/// What passes in between at most, where the API server names a time.
const LONGEST: Duration = Duration::from_secs(5);

/// How long an answer may keep silent, and how long a node, where it is said what was before.
const SILENT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(8));

/// So many last lines tell how many of them have the same time.
const SAME: usize = 100;

/// The least that is asked for when last lines are looked for, and how much more each time.
const WINDOW: (usize, usize) = (200, 8);

/// The most that is asked for. No log has as many lines.
const MOST: usize = 1 << 40;

/// Nanoseconds in a microsecond.
const NANOS: u64 = 1000;

/// A container's line as an entry.
pub(super) fn entry(container: &Container, time: u64, bytes: Vec<u8>, cut: bool, at: ContainerAt) -> Entry {
    let mut message = text::plain(&bytes);
    if cut {
        message.push_str(CUT);
    }
    Entry {
        time: (time / NANOS) as Micros,
        process: container.process.clone(),
        container: Some(container.name.clone()),
        // The log endpoint does not tell them apart.
        stream: Stream::Stdout,
        // Who has a session of it sees it there.
        private: container.is_terminal.then(|| Private::of("")),
        message,
        moved: Move::Container(container.id, at),
    }
}

/// Where the log of a run is now: all that it has counts as told, and how it ended, if it has.
///
/// Where that cannot be had until then, it is by this machine's clock, for want of a better one.
pub(super) async fn newest(
    client: &Client,
    container: &Container,
    standing: &Standing,
    patience: &Patience,
    until: Instant,
) -> ContainerAt {
    if standing.phase != Phase::Running {
        return by_the_clock(standing);
    }
    let start = ContainerAt::start(standing.restart);
    let found = async {
        // One whose node only refuses must not keep the others waiting either.
        for _ in 0..TRIES.0 {
            let (mut seen, mut newest) = (Seen::from(start), start);
            let take = |time, _, _| newest = seen.take(time).unwrap_or(newest);
            let last = (Run::Newest, From::Last(SAME));
            match read(client, container, last, false, patience, take).await {
                Ok(()) => return Some(newest),
                Err(Failure::Gone(_)) => return Some(start),
                Err(Failure::Refused(_)) => return None,
                Err(Failure::Busy(reason, _)) => {
                    tracing::debug!(reason, pod = container.pod.name, "cannot read a log's last lines");
                    if patience.has_given_up(container.pod.node()) {
                        return None;
                    }
                    sleep(TRIES.1).await;
                }
            }
        }
        None
    };
    let found = timeout_at(until, found).await.ok().flatten();
    found.unwrap_or_else(|| by_the_clock(standing))
}

/// Where the log of a container's newest run is now, as far as this machine's clock tells.
pub(super) fn by_the_clock(standing: &Standing) -> ContainerAt {
    let start = ContainerAt::start(standing.restart);
    match standing.phase {
        Phase::Coming => start,
        Phase::Running => ContainerAt { time: now().unsigned_abs() * NANOS, ..start },
        Phase::Ended => ContainerAt::start(standing.restart + 1),
    }
}

/// Reads a whole answer, and gives each line to `take`: when it was written, its bytes, and whether it was cut.
async fn read(
    client: &Client,
    container: &Container,
    (run, from): (Run, From),
    ended: bool,
    patience: &Patience,
    mut take: impl FnMut(u64, Vec<u8>, bool),
) -> Result<(), Failure> {
    let node = container.pod.node();
    let mut answer = patience.wait(node, open(client, container, run, from)).await?;
    let (mut stamped, mut said) = (Stamped::default(), Vec::new());
    loop {
        let more = patience.wait(node, answer.next()).await?;
        match &more {
            Some(data) => stamped.feed(data, &mut said),
            None if ended => stamped.let_go(&mut said),
            None => {}
        }
        for said in said.drain(..) {
            if let Said::Line { time, bytes, cut } = said {
                take(time, bytes, cut);
            }
        }
        if more.is_none() {
            return Ok(());
        }
    }
}

/// The log of a container, as far as it can be read before the ring.
#[derive(Clone)]
pub struct Origin {
    reach: Arc<Reach>,
    container: Arc<Container>,
    /// Up to where.
    pub to: ContainerAt,
    patience: Arc<Patience>,
}

/// How long it is waited for all that is told of an app's containers before the ring.
#[must_use]
pub fn patience() -> Arc<Patience> {
    Arc::new(Patience::new(SILENT.0, SILENT.1))
}

impl Origin {
    /// The log of a container up to a position.
    #[must_use]
    pub fn new(reach: Arc<Reach>, container: Arc<Container>, to: ContainerAt, patience: Arc<Patience>) -> Self {
        Self { reach, container, to, patience }
    }

    /// All that the log of a container has by now, for one who does not follow: who does may be behind, or wait until it
    /// may.
    #[must_use]
    pub fn whole(reach: Arc<Reach>, container: Arc<Container>, patience: Arc<Patience>) -> Self {
        let standing = container.standing.borrow();
        let (restart, phase) = (standing.restart, standing.phase);
        drop(standing);
        let to = match phase {
            Phase::Ended => ContainerAt::start(restart + 1),
            Phase::Coming | Phase::Running => ContainerAt { restart, ..ContainerAt::OPEN },
        };
        Self::new(reach, container, to, patience)
    }

    /// Up to where, where that is known: where [`Self::scan`] found lines, it is.
    #[must_use]
    pub fn end(&self) -> Option<ContainerAt> {
        (self.to.time < ContainerAt::OPEN.time).then_some(self.to)
    }

    /// The last lines that are wanted: when each was written, and where a reader starts to get it. And why some cannot be
    /// read, where that was asked for anew until then.
    pub async fn scan(
        &mut self,
        tail: Option<usize>,
        since: Option<Micros>,
        filter: &Filter,
        until: Instant,
    ) -> (VecDeque<(Micros, Move)>, Option<String>) {
        let id = self.container.id;
        let place = |at| Move::Container(id, at);
        let first = self.container.first_run(self.to);
        let Some(tail) = tail else {
            let since = since.unwrap_or(0).max(0);
            let from = ContainerAt { time: since.unsigned_abs() * NANOS, ..ContainerAt::start(first) };
            return ([(since, place(from))].into(), None);
        };
        if self.container.is_terminal && !filter.shows(Some("")) {
            return (VecDeque::new(), None);
        }
        let mut found = VecDeque::new();
        for restart in (first..=self.to.restart).rev() {
            let wanted = tail.saturating_sub(found.len());
            if wanted == 0 {
                break;
            }
            match self.scan_run(restart, wanted, since, filter, until).await {
                Ok(more) => more.into_iter().rev().for_each(|(time, at)| found.push_front((time, place(at)))),
                Err(reason) => return (found, Some(reason)),
            }
        }
        (found, None)
    }

    /// Which container.
    #[must_use]
    pub fn id(&self) -> ContainerId {
        self.container.id
    }

    /// Returns the line that says why what the container said before cannot be read.
    #[must_use]
    pub fn unread(&self, reason: &str) -> Entry {
        self.container.unread(reason)
    }

    /// Of one run. The windows grow until there is enough in one.
    async fn scan_run(
        &mut self,
        restart: u64,
        tail: usize,
        since: Option<Micros>,
        filter: &Filter,
        until: Instant,
    ) -> Result<VecDeque<(Micros, ContainerAt)>, String> {
        let mut window = (tail.saturating_mul(2)).max(WINDOW.0);
        loop {
            let Some((run, ended)) = which(&self.container, restart) else { return Ok(VecDeque::new()) };
            let start = ContainerAt::start(restart);
            let (mut seen, mut before, mut found) = (Seen::from(start), start, VecDeque::new());
            let (mut lines, mut first, mut newest) = (0, None, start);
            // Of what is looked through nothing is kept but where the last lines are: it may be a whole log.
            let take = |time, bytes, cut| {
                lines += 1;
                let Some(at) = seen.take(time).filter(|at| *at <= self.to) else { return };
                first.get_or_insert((time, at));
                newest = at;
                let line = entry(&self.container, time, bytes, cut, at);
                // Where a line starts is known by the one before it.
                let from = std::mem::replace(&mut before, at);
                if since.is_none_or(|since| line.time >= since) && filter.wants(&line) {
                    found.push_back((line.time, from));
                }
                if found.len() > tail {
                    found.pop_front();
                }
            };
            let client = &self.reach.cluster.client;
            let last = (run, From::Last(window));
            let came = match read(client, &self.container, last, ended, &self.patience, take).await {
                // A kubelet counts the parts of long lines, so fewer lines than asked for need not be all.
                Ok(()) if lines < window => self.starts_with(run, first.map(|(time, _)| time)).await,
                came => came.map(|()| false),
            };
            let all = match came {
                Ok(all) => all,
                Err(Failure::Gone(_)) => return Ok(VecDeque::new()),
                Err(Failure::Refused(reason)) => return Err(reason),
                Err(Failure::Busy(reason, after)) => {
                    let given_up = self.patience.has_given_up(self.container.pod.node());
                    if given_up || Instant::now() + again(after) > until {
                        return Err(reason);
                    }
                    sleep(again(after)).await;
                    continue;
                }
            };
            if self.to.restart == restart && self.end().is_none() {
                // What comes meanwhile is not among the last.
                self.to = newest;
            }
            if !all && let Some((_, first)) = first {
                // The first line of a window may be the rest of one, whose time is another: neither it nor where the
                // next one starts is known.
                found.pop_front_if(|(_, from)| *from == start);
                found.pop_front_if(|(_, from)| *from == first);
            }
            let old_enough = since.zip(first).is_some_and(|(since, (oldest, _))| ((oldest / NANOS) as Micros) < since);
            if all || old_enough || found.len() >= tail {
                return Ok(found);
            }
            window = window.saturating_mul(WINDOW.1).min(MOST);
        }
    }

    /// Returns whether a run's log starts with a line of this time, or has none.
    async fn starts_with(&self, run: Run, first: Option<u64>) -> Result<bool, Failure> {
        let Some(first) = first else { return Ok(true) };
        let start = first_time(&self.reach.cluster.client, &self.container, run);
        let start = self.patience.wait(self.container.pod.node(), start).await?;
        Ok(stamped::time(&start) == Some(first))
    }

    /// What it said from a position on.
    #[must_use]
    pub fn past(&self, from: ContainerAt) -> ContainerPast {
        ContainerPast { origin: self.clone(), at: from, reading: None, tries: TRIES.0 }
    }
}

/// How long passes before an answer is asked anew, where it was said after how long, and where not.
fn again(after: Option<Duration>) -> Duration {
    after.map_or(TRIES.1, |after| after.clamp(TRIES.1, LONGEST))
}

/// How to ask for a run now, and whether it has ended; none where its log is not there any more.
fn which(container: &Container, restart: u64) -> Option<(Run, bool)> {
    let standing = container.standing.borrow();
    match standing.restart.checked_sub(restart)? {
        0 => Some((Run::Newest, standing.phase == Phase::Ended)),
        1 => Some((Run::Previous, true)),
        _ => None,
    }
}

/// A part of what a container said.
pub struct ContainerPast {
    origin: Origin,
    at: ContainerAt,
    reading: Option<(Answer, Stamped, Seen)>,
    tries: usize,
}

impl ContainerPast {
    /// Reads on. Whether this was all.
    pub(in crate::logs) async fn fill(&mut self, ready: &mut VecDeque<Entry>) -> bool {
        if self.at >= self.origin.to {
            return true;
        }
        match self.read(ready).await {
            Ok(Some(over)) => over,
            Ok(None) => self.next_run(ready),
            Err(Failure::Gone(reason)) => {
                tracing::debug!(reason, pod = self.origin.container.pod.name, "a log is gone");
                self.say(ready, "what it said before cannot be read any more");
                self.next_run(ready)
            }
            Err(Failure::Busy(_, after)) if self.tries > 0 && !self.is_given_up() => {
                (self.reading, self.tries) = (None, self.tries - 1);
                sleep(again(after)).await;
                false
            }
            Err(failure) => {
                ready.push_back(self.origin.unread(failure.reason()));
                true
            }
        }
    }

    /// One piece: whether it was the last one that is wanted; none at the end of a run.
    async fn read(&mut self, ready: &mut VecDeque<Entry>) -> Result<Option<bool>, Failure> {
        let container = &self.origin.container;
        let Some((run, ended)) = which(container, self.at.restart) else {
            return Err(Failure::Gone("it was restarted again".into()));
        };
        if self.reading.is_none() {
            let answer = open(&self.origin.reach.cluster.client, container, run, since(self.at));
            let answer = self.origin.patience.wait(container.pod.node(), answer).await?;
            self.reading = Some((answer, Stamped::default(), Seen::from(self.at)));
        }
        let Some((answer, stamped, seen)) = &mut self.reading else { return Ok(None) };
        let mut said = Vec::new();
        let more = match self.origin.patience.wait(container.pod.node(), answer.next()).await? {
            Some(data) => {
                stamped.feed(&data, &mut said);
                true
            }
            None => {
                if ended {
                    stamped.let_go(&mut said);
                }
                false
            }
        };
        let had_moved_on = seen.has_moved_on();
        for said in said {
            let Said::Line { time, bytes, cut } = said else { continue };
            let Some(at) = seen.take(time) else { continue };
            if at > self.origin.to {
                return Ok(Some(true));
            }
            if !had_moved_on && seen.has_moved_on() && at.time > self.at.time && self.at.count > 0 {
                ready.push_back(container.notice("its log was rotated meanwhile; lines before this may be missing"));
            }
            self.at = at;
            ready.push_back(entry(container, time, bytes, cut, at));
        }
        self.tries = TRIES.0;
        if more { Ok(Some(self.at >= self.origin.to)) } else { Ok(None) }
    }

    fn is_given_up(&self) -> bool {
        self.origin.patience.has_given_up(self.origin.container.pod.node())
    }

    /// Goes on with the next run, if there is one that is wanted.
    fn next_run(&mut self, ready: &mut VecDeque<Entry>) -> bool {
        self.reading = None;
        if self.at.restart >= self.origin.to.restart {
            return true;
        }
        if let Some(exit) = self.origin.container.standing.borrow().exit(self.at.restart) {
            let exited = self.origin.container.exited(self.at.restart, exit);
            // It is known by the second.
            if self.at.count > 0 || exited.time + 1_000_000 > self.floor() {
                ready.push_back(exited);
            }
        }
        // Where only a part was wanted, it is the same part.
        let time = if self.at.count == 0 { self.at.time } else { 0 };
        self.at = ContainerAt { time, ..ContainerAt::start(self.at.restart + 1) };
        false
    }

    /// Says what is missing, to those who had a part of it.
    fn say(&self, ready: &mut VecDeque<Entry>, message: &str) {
        if self.at.count > 0 {
            ready.push_back(self.origin.container.notice(message));
        }
    }

    /// Nothing that comes first is from before this.
    #[must_use]
    pub fn floor(&self) -> Micros {
        (self.at.time / NANOS) as Micros
    }
}
