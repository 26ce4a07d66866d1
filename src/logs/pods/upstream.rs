//! The log of one container as it comes: each run of it from where it was read to its end, in order.
//!
//! A kubelet's answer may stop, or go silent, without a word while the container goes on: when its log is rotated, when
//! the kubelet or the API server is busy or restarted. So a clean end is an end only if the container has ended, and
//! then the log is read once more from where it was; and one that is silent for longer than it was wont to be is asked
//! anew. Each new answer goes on from the position: nothing twice, and nothing left out that is still in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kube::api::Api;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pace::{LEAVES, Pace};
use super::past::entry;
use super::reading::{End, Reading, first_without};
use super::request::{Failure, Following, From, Run, open};
use super::seen::Seen;
use super::stamped::{Said, Stamped};
use super::standing::{self, Phase, Standing};
use super::trouble::{TROUBLE, Trouble};
use super::{Container, Object, Place};
use crate::logs::files::notice;
use crate::logs::line::Entry;
use crate::logs::position::{ContainerAt, Move};
use crate::logs::{AT_ONCE, Event, Log};
use crate::session::now;

/// What passes before a failed answer is asked anew, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long after a clean end it is waited for the pod to say that its container has ended.
const ENDING: Duration = Duration::from_secs(3);

/// The API server did not say how a container stands.
struct Unknown;

/// See the module's documentation.
pub(super) struct Upstream {
    log: Arc<Log>,
    place: Arc<Place>,
    container: Arc<Container>,
    standing: watch::Receiver<Standing>,
    at: ContainerAt,
    /// Whether the run was read to its end.
    done: bool,
    /// Whether its pod was told to end.
    hurries: bool,
    pace: Pace,
    backoff: Duration,
    trouble: Trouble,
    /// The answer that ended last, where its end may be that of the log: a line without an end is still in it.
    rest: Option<Reading>,
    /// Whether the next answer may be the log of a later run, as far as is known: the one before it ended.
    doubtful: bool,
    /// Since when the log that is given is not this run's.
    replaced: Option<Instant>,
    /// Whether it is followed from the run before on: what cannot be read of it is missing then.
    goes_on: bool,
}

impl Upstream {
    pub(super) fn new(
        log: Arc<Log>,
        place: Arc<Place>,
        container: Arc<Container>,
        at: ContainerAt,
        done: bool,
    ) -> Self {
        let standing = container.standing.subscribe();
        let (pace, backoff) = (Pace::new(), BACKOFF.0);
        Self {
            log,
            place,
            container,
            standing,
            at,
            done,
            hurries: false,
            pace,
            backoff,
            trouble: Trouble::default(),
            rest: None,
            doubtful: false,
            replaced: None,
            goes_on: false,
        }
    }

    /// Tells what the container says until its pod is gone.
    pub(super) async fn read(mut self) {
        loop {
            let standing = self.standing.borrow_and_update().clone();
            if standing.restart > self.at.restart {
                self.turn(&standing).await;
            } else if standing.runs(self.at.restart) {
                self.follow().await;
            } else if standing.phase != Phase::Coming && !self.done {
                self.finish(Run::Newest, &standing).await;
            } else if standing.gone || self.standing.changed().await.is_err() {
                break;
            }
        }
        self.leave();
    }

    /// A later run has begun: reads the rest of the one that was read, and goes on to the next.
    async fn turn(&mut self, standing: &Standing) {
        let ahead = standing.restart - self.at.restart;
        if !self.done && ahead == 1 {
            return self.finish(Run::Previous, standing).await;
        }
        self.tell_rest().await;
        if ahead > 1 + u64::from(self.done) {
            self.say("what an earlier run of it said last cannot be read any more: it was restarted again too soon");
        }
        // Of those in between, the last one can be read.
        self.at = ContainerAt::start((self.at.restart + 1).max(standing.restart - 1));
        (self.done, self.replaced, self.goes_on) = (false, None, true);
        self.log.publish([Event::Moved(Move::Container(self.container.id, self.at))]);
    }

    /// Reads what is left of a run that has ended; tries once.
    async fn finish(&mut self, run: Run, standing: &Standing) {
        let reason = match self.try_finish(run, standing).await {
            Ok(()) => return,
            // Its log goes with the pod.
            Err(failure @ (Failure::Busy(..) | Failure::Refused(_))) if !standing.gone => {
                return self.failed(&failure).await;
            }
            Err(failure) => failure.reason().to_owned(),
        };
        tracing::debug!(reason, pod = self.container.pod.name, "a log is gone");
        let was_read = self.goes_on || self.at.time > 0 || self.rest.is_some();
        if !self.tell_rest().await && was_read {
            self.say(&format!("what it said last may be missing: {reason}"));
        }
        if was_read && !standing.gone && standing.exit(self.at.restart).is_none() {
            self.say("Process exited; with what status is not known");
        }
        self.finished(standing);
    }

    async fn try_finish(&mut self, run: Run, standing: &Standing) -> Result<(), Failure> {
        self.finish_from(run).await?;
        self.finished(standing);
        Ok(())
    }

    fn finished(&mut self, standing: &Standing) {
        self.untroubled();
        (self.done, self.rest, self.replaced) = (true, None, None);
        if let Some(exit) = standing.exit(self.at.restart) {
            let exited = Entry { time: now(), ..self.container.exited(self.at.restart, exit) };
            self.log.publish([Event::Line(exited)]);
        }
    }

    /// Tells what is left of the answer that ended last. Whether that was all that the log had.
    async fn tell_rest(&mut self) -> bool {
        let Some(mut rest) = self.rest.take() else { return false };
        rest.stamped.let_go(&mut rest.said);
        self.publish(&mut rest.seen, &mut rest.said).await.is_none() && rest.whole
    }

    /// Notes that what came after the answer that is kept could not be read.
    fn doubt_rest(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.whole = false;
        }
    }

    async fn finish_from(&mut self, run: Run) -> Result<(), Failure> {
        let mut answer = open(&self.place.reach.cluster.client, &self.container, run, since(self.at)).await?;
        // A log that was opened stays the same one's. When its lines were written does not tell whose they are: on a busy
        // machine that may be seconds after their process has ended.
        let newest = self.at.restart + u64::from(run == Run::Previous);
        match self.look().await {
            Ok(Some(standing)) if standing.restart != newest => return Err(restarted()),
            // Of a pod that is gone no other run begins.
            Err(Unknown) if !self.standing.borrow().gone => {
                return Err(Failure::Busy("the API server does not say how it stands".into(), None));
            }
            _ => {}
        }
        let (mut stamped, mut seen) = (Stamped::default(), Seen::from(self.at));
        let (mut said, mut is_own) = (Vec::new(), false);
        while let Some(data) = answer.next().await? {
            stamped.feed(&data, &mut said);
            if let Some(time) = first_without(&seen, &said).filter(|_| !is_own) {
                self.check(run, Some(time))?;
                is_own = true;
            }
            if let Some(words) = self.publish(&mut seen, &mut said).await {
                return Err(Failure::Gone(words));
            }
        }
        stamped.let_go(&mut said);
        if !is_own && seen.lacks() {
            match first_without(&seen, &said) {
                None if !said.is_empty() => {}
                first => self.check(run, first)?,
            }
        }
        self.publish(&mut seen, &mut said).await.map_or(Ok(()), |words| Err(Failure::Gone(words)))
    }

    /// A kubelet knows of a later run before the API server does, and gives that one's log then. A log without the line that
    /// was told last is one, unless it was rotated: then its first line, if it has one, was written before the run's end.
    fn check(&mut self, run: Run, first: Option<u64>) -> Result<(), Failure> {
        let ended = self.standing.borrow().exit(self.at.restart).map(|exit| exit.at);
        if first.zip(ended).is_some_and(|(first, ended)| (first / 1_000_000_000) as i64 <= ended) {
            return Ok(());
        }
        let since = *self.replaced.get_or_insert_with(Instant::now);
        match run {
            Run::Previous => Err(Failure::replaced()),
            // The API server has had its time.
            _ if since.elapsed() >= TROUBLE => Ok(()),
            _ => Err(restarted()),
        }
    }

    /// Follows the run until it has ended, as soon as it may.
    async fn follow(&mut self) {
        let Some(_permit) = self.permit().await else { return };
        (self.pace, self.hurries) = (Pace::new(), false);
        self.doubtful = false;
        while self.standing.borrow().runs(self.at.restart) {
            let end = self.follow_answer().await;
            self.doubtful |= matches!(end, End::Clean | End::Replaced | End::Broken(_));
            match end {
                End::Over => return,
                End::Silent => {
                    self.doubt_rest();
                    self.pace.silent();
                }
                End::Broken(failure) => {
                    self.doubt_rest();
                    self.failed(&failure).await;
                }
                End::Clean | End::Replaced if self.has_ended().await => return,
                End::Clean | End::Replaced => self.wait(None).await,
            }
        }
    }

    /// The right to follow; none where the run ended before it was there.
    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        let upstreams = self.place.reach.upstreams.clone();
        if let Ok(permit) = upstreams.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _waits = Waits::new(&self.place);
        let restart = self.at.restart;
        tokio::select! {
            permit = upstreams.acquire_owned() => permit.ok(),
            _ = self.standing.wait_for(|standing| !standing.runs(restart)) => None,
        }
    }

    async fn follow_answer(&mut self) -> End {
        let (client, container) = (self.place.reach.cluster.client.clone(), self.container.clone());
        let (mut standing, restart) = (self.standing.clone(), self.at.restart);
        let ended = async move {
            let _gone_with_the_log = standing.wait_for(|standing| !standing.runs(restart)).await;
        };
        let mut standing = self.standing.clone();
        let leaves = async move {
            let _gone_with_the_log = standing.wait_for(|standing| standing.leaves).await;
        };
        tokio::pin!(ended, leaves);
        let mut answer = Following::new(&client, &container, since(self.at));
        let mut reading = Reading::new(self.at, self.pace.patience, self.doubtful);
        loop {
            tokio::select! {
                next = answer.next() => {
                    if let Some(end) = self.take(next, &mut reading).await {
                        let is_last = matches!(end, End::Over | End::Clean);
                        if is_last && (reading.began || self.rest.is_none()) {
                            self.rest = Some(reading);
                        }
                        return end;
                    }
                }
                () = sleep_until(reading.until), if !reading.leaving => return End::Silent,
                () = sleep_until(reading.until) => {
                    if reading.began {
                        self.rest = Some(reading);
                    }
                    return End::Over;
                }
                () = &mut ended, if !reading.leaving => {
                    reading.leave();
                    if self.finish_at_once().await {
                        return End::Over;
                    }
                }
                () = &mut leaves, if !self.hurries => {
                    self.hurries = true;
                    self.pace.hurry();
                    reading.until = reading.until.min(Instant::now() + LEAVES);
                }
            }
        }
    }

    /// Reads what is left of a run that has just ended, while the pod is there: it may be gone in a moment, and what the
    /// open answer has need not be all. Whether that could be had; else the answer has what there is.
    async fn finish_at_once(&mut self) -> bool {
        let standing = self.standing.borrow().clone();
        let run = match standing.restart.checked_sub(self.at.restart) {
            Some(0) if !standing.gone => Run::Newest,
            Some(1) => Run::Previous,
            _ => return false,
        };
        self.try_finish(run, &standing).await.is_ok()
    }

    /// Takes what came of an answer; how it ended, where it did.
    async fn take(&mut self, next: Result<Option<Bytes>, Failure>, reading: &mut Reading) -> Option<End> {
        let data = match next {
            Ok(Some(data)) => data,
            Ok(None) => return Some(reading.end()),
            Err(_) if reading.leaving => return Some(End::Over),
            Err(failure) => return Some(End::Broken(failure)),
        };
        reading.stamped.feed(&data, &mut reading.said);
        if reading.may_be_other() {
            let restart = self.at.restart;
            // Rotated, if the pod does not say otherwise in a moment.
            if timeout(ENDING, self.standing.wait_for(|standing| !standing.runs(restart))).await.is_ok() {
                return Some(End::Replaced);
            }
        }
        if reading.said.iter().any(|said| matches!(said, Said::Line { .. })) {
            (reading.doubtful, self.doubtful, self.rest) = (false, false, None);
        }
        let (at, began) = (self.at, std::mem::replace(&mut reading.began, true));
        if let Some(words) = self.publish(&mut reading.seen, &mut reading.said).await {
            return Some(End::Broken(Failure::Busy(words, None)));
        }
        if reading.leaving {
            reading.leave();
        } else if self.at != at || !began {
            reading.until = Instant::now() + self.pace.patience;
        }
        None
    }

    /// Tells the lines that are new; what the kubelet said instead of going on. Where there is much, it is told no faster
    /// than it is read.
    async fn publish(&mut self, seen: &mut Seen, said: &mut Vec<Said>) -> Option<String> {
        let mut words = None;
        while !said.is_empty() {
            let mut events = Vec::new();
            for said in said.drain(..said.len().min(AT_ONCE)) {
                match said {
                    Said::Line { time, bytes, cut } => {
                        // Another answer may have been read meanwhile.
                        let Some(at) = seen.take(time).filter(|at| *at > self.at) else { continue };
                        self.at = at;
                        events.push(Event::Line(entry(&self.container, time, bytes, cut, at)));
                    }
                    Said::Kubelet(said) => words = Some(said),
                }
            }
            if !events.is_empty() {
                self.pace.lines(events.len());
                self.backoff = BACKOFF.0;
                self.untroubled();
                self.log.publish(events);
                self.log.let_read().await;
            }
        }
        words.filter(|words| !words.is_empty())
    }

    /// How the container stands at this moment; none where its pod is gone.
    ///
    /// # Errors
    /// Where the API server does not say it in time.
    async fn look(&self) -> Result<Option<Standing>, Unknown> {
        let pods = Api::<Object>::namespaced(self.place.reach.cluster.client.clone(), &self.container.pod.namespace);
        match timeout(ENDING, pods.get_opt(&self.container.pod.name)).await {
            Ok(Ok(pod)) => Ok(pod.and_then(|pod| standing::containers(&pod).remove(&*self.container.name))),
            _ => Err(Unknown),
        }
    }

    /// Whether the run has ended, after its log did.
    async fn has_ended(&mut self) -> bool {
        let restart = self.at.restart;
        let runs = self.look().await.map_or(true, |standing| standing.is_some_and(|standing| standing.runs(restart)));
        // Who follows the pods learns it in a moment.
        !runs && timeout(ENDING, self.standing.wait_for(|standing| !standing.runs(restart))).await.is_ok()
    }

    /// Waits before the next try, and says so where it goes on for long.
    async fn failed(&mut self, failure: &Failure) {
        let reason = failure.reason();
        tracing::debug!(reason, pod = self.container.pod.name, "cannot read a container's log; trying again");
        if let Some(message) = self.trouble.fail(failure) {
            self.container.set_trouble(Some(message.clone()));
            self.say(&message);
        }
        self.wait(if let Failure::Busy(_, after) = failure { *after } else { None }).await;
    }

    fn untroubled(&mut self) {
        if self.trouble.end() {
            self.container.set_trouble(None);
        }
    }

    async fn wait(&mut self, after: Option<Duration>) {
        sleep(self.backoff.max(after.unwrap_or_default().min(BACKOFF.1))).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    fn say(&self, message: &str) {
        self.log.publish([Event::Line(self.container.notice(message))]);
    }

    /// The pod is gone; the last of its readers says so.
    fn leave(&self) {
        self.log.publish([Event::Moved(Move::ContainerEnd(self.container.id))]);
        let pod = &self.container.pod;
        if pod.reading.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.log.publish([Event::Line(notice(pod.process.clone(), format!("Pod {} is gone", pod.name)))]);
        }
    }
}

fn restarted() -> Failure {
    Failure::Busy("it was restarted meanwhile".into(), None)
}

/// Where to ask a log from that was read so far.
pub(super) fn since(at: ContainerAt) -> From {
    if at.time == 0 { From::Start } else { From::Second(at.time) }
}

/// One that waits until it may follow.
struct Waits(Arc<Place>);

impl Waits {
    fn new(place: &Arc<Place>) -> Self {
        place.waiting.send_modify(|waiting| *waiting += 1);
        Self(place.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}
