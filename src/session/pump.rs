//! The pump: takes records from the source and appends them, over as many connections as it needs.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::crier::GATHER;
use super::notices::{Notice, STARTING};
use super::{Session, lock, now};
use crate::agent::protocol::Start;
use crate::backend::{Backend, BackendError, TAKERS};
use crate::metrics::Metrics;
use crate::record::{Batch, Cause, NUMBERS, Payload, Reason, Record};
use crate::source::{Command, Control, Event, Printed, Source};
use crate::store::StoreError;

/// How long the pump waits before it connects again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection that lives shorter than this was none.
const SHORT: Duration = Duration::from_secs(1);

/// What is said of a session whose agent was killed.
const AGENT_KILLED: &str = "its agent was killed; output that no hub had taken from it is lost";

/// What is said of a session without any trace of an agent.
const NO_TRACE: &str = "there is no trace of its agent: the hub that saw its end has not stored it in this database, \
                        which may be an older copy, or died before the agent was made";

/// How long the pump waits before it stores again what the store did not take.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// How long a store may take to give what a source asks for.
const PRINTED: Duration = Duration::from_secs(5);

/// Output that comes in messages of less than this, in bytes, is left to gather before more is read, where nobody types:
/// a bit longer than the crier waits between two calls, so that it is ready to tell of each read at once.
const LITTLE: usize = 4 << 10;
const LET_GATHER: Duration = GATHER.saturating_add(Duration::from_millis(2));

/// How long a session that somebody wants to end is left to its source where that cannot be reached: it may be on a node
/// that has died, or wait for a pod that never comes.
const IN_VAIN: Duration = Duration::from_secs(30);

/// How long a source may take to close its connection once all of it is stored and it was told so. The connection may be
/// a relay's, which does not always say that what was behind it has gone.
const LEAVES: Duration = Duration::from_secs(2);

impl Session {
    /// Pumps until the session has its end and the source is not needed any more. `start` is what a source that was not
    /// told yet is told; what the source could not give is counted in `metrics`.
    pub async fn pump(
        self: &Arc<Self>,
        backend: &dyn Backend,
        place: &serde_json::Value,
        mut start: Option<Start>,
        metrics: &Metrics,
    ) {
        let mut wait = AGAIN.0;
        let mut first = true;
        let mut away = Instant::now();
        // Whether the start was told of as it went on.
        let told = AtomicBool::new(false);
        loop {
            let tell = |text| {
                told.store(true, Ordering::Relaxed);
                self.notices.say(Notice::starting(text));
            };
            let connected = tokio::select! {
                connected = backend.connect(self.id(), place, self.head(), &tell) => connected,
                // Nothing was started that could be told to stop, or it cannot be told.
                by = self.to_be_stopped(if first && start.is_some() { None } else { Some(away + IN_VAIN) }),
                    if !self.has_ended() =>
                {
                    Err(BackendError::Ended(Cause::Stopped { by }))
                }
            };
            match connected {
                Ok(source) => {
                    self.notices.take_back(STARTING);
                    if std::mem::take(&mut first) {
                        self.learn(source.card.as_ref());
                    }
                    let since = Instant::now();
                    self.pump_from(source, &mut start, metrics, &told).await;
                    self.set_control(None);
                    away = Instant::now();
                    if since.elapsed() >= SHORT {
                        wait = AGAIN.0;
                    }
                }
                Err(BackendError::Taken(by)) => {
                    tracing::warn!(session = %self.id(), by, "another hub has this session; it is left to that one");
                    // Whoever has it stopped here is not told that it is before it is.
                    let by = self.to_be_stopped(None).await;
                    backend.clean_up(self.id(), place).await;
                    self.conclude(Cause::Stopped { by });
                    self.note_source_gone();
                }
                Err(error @ (BackendError::Gone | BackendError::NoTrace | BackendError::Ended(_))) => {
                    self.notices.take_back(STARTING);
                    let (cause, unknown) = match error {
                        // What the hub numbers is shown as it comes. An agent may have kept what no store has.
                        BackendError::Ended(cause)
                            if backend.numbers(place) || matches!(cause, Cause::StartFailed { .. }) =>
                        {
                            (cause, Some(Reason::Renumbered))
                        }
                        BackendError::Ended(cause) => (cause, Some(Reason::AgentLost)),
                        BackendError::Gone => (Cause::Lost { reason: AGENT_KILLED.into() }, Some(Reason::AgentLost)),
                        _ => (Cause::Lost { reason: NO_TRACE.into() }, None),
                    };
                    backend.clean_up(self.id(), place).await;
                    if let Some(reason) = unknown.filter(|_| first && start.is_none()) {
                        self.renumber(reason, place[TAKERS].as_u64().unwrap_or(0));
                    }
                    self.conclude(cause);
                    self.note_source_gone();
                }
                Err(error) => {
                    tracing::warn!(session = %self.id(), %error, "cannot reach an agent; trying again");
                }
            }
            let status = self.status_now();
            if status.exit.is_some() && (status.safe || status.source_gone) {
                if status.safe {
                    backend.release(self.id(), place).await;
                }
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    /// Takes from the card that an earlier hub gave the source what the store may not have.
    fn learn(&self, card: Option<&serde_json::Value>) {
        if let Some(released) = card.and_then(|card| card[super::RELEASED].as_bool()) {
            self.presence.set_released(released);
        }
    }

    /// One connection's worth. After the exit the connection is kept: the recorder may still read from it.
    async fn pump_from(
        self: &Arc<Self>,
        mut source: Source,
        start: &mut Option<Start>,
        metrics: &Metrics,
        told: &AtomicBool,
    ) {
        let Some(mut early) = self.tell_anew(&mut source, start.as_ref()).await else { return };
        let (mut first, mut little) = (true, false);
        let mut ended = self.has_ended();
        loop {
            let at_once = early.pop_front().map(Some).or_else(|| source.events.next().now_or_never());
            let event = match at_once {
                Some(event) => event,
                None if ended => tokio::select! {
                    event = source.events.next() => event,
                    () = self.has_been_left() => return,
                },
                None => {
                    // Each read is a wake-up, and viewers who do not type are told of output gathered anyway.
                    if little && !self.crier.is_urgent() {
                        tokio::time::sleep(LET_GATHER).await;
                    }
                    source.events.next().await
                }
            };
            let Some(event) = event else { return };
            match event {
                Event::Records(batch) => {
                    let begins = std::mem::take(&mut first);
                    let batch = if begins { self.continued(batch) } else { batch };
                    if !begins && !batch.is_empty() && batch.from != self.head() {
                        tracing::warn!(session = %self.id(), from = batch.from, "records that do not follow; connecting anew");
                        return;
                    }
                    little = batch.bytes.len() < LITTLE;
                    ended |= batch.ends;
                    if batch.drops {
                        batch.gaps().for_each(|reason| metrics.source_gap(reason));
                    }
                    if !batch.is_empty() {
                        self.publish(batch);
                    }
                }
                Event::InputAck(writer, offset) => self.note_input(writer, offset),
                Event::Started => {
                    if self.note_started(now()) && told.swap(false, Ordering::Relaxed) {
                        self.notices.say(Notice::source(format!("up, {}", self.row.name)));
                    }
                    // What an agent was told of the window before its command was there, it could not do.
                    let size = *lock(&self.wanted_size);
                    size.map(|size| source.control.send_now(Command::Resize(size)));
                }
                Event::Idle(left) => self.note_idle(left),
                Event::Said(text) => self.notices.say(Notice::source(text)),
            }
        }
    }

    /// Tells a source that was connected to what it has to know. What it says meanwhile; none where it is not needed. A
    /// source may obey only while its events are taken, so they are.
    async fn tell_anew(&self, source: &mut Source, start: Option<&Start>) -> Option<VecDeque<Event>> {
        let mut early = VecDeque::new();
        let mut told = pin!(self.told(source.control.clone(), source.asks, source.started, start));
        loop {
            tokio::select! {
                biased;
                goes_on = &mut told => return goes_on.then_some(early),
                event = source.events.next() => early.push_back(event?),
            }
        }
    }

    /// Whether the source is needed.
    async fn told(&self, control: Control, asks: bool, started: bool, start: Option<&Start>) -> bool {
        control.send(Command::Card(self.card())).await;
        if asks {
            control.send(Command::Printed(self.printed().await)).await;
        }
        if !started {
            let Some(start) = start else {
                // The hub that knew what to start died before it said so; nobody knows it any more.
                control.send(Command::Stop("nobody".into())).await;
                let reason = "the hub died before the command was started".to_owned();
                self.conclude(Cause::StartFailed { status: 125, reason });
                self.note_source_gone();
                return false;
            };
            control.send(Command::Start(Box::new(start.clone()))).await;
        }
        // Whoever asked for the end may have told a connection that was broken already.
        let by = self.stop_asked.borrow().clone();
        if let Some(by) = by {
            control.send(Command::Stop(by)).await;
        }
        let _order = self.telling.lock().await;
        self.type_again(&control).await;
        let pace = *lock(&self.pace);
        if let Some(limit) = pace {
            control.send(Command::Pace(limit)).await;
        }
        let size = *lock(&self.wanted_size);
        if let Some(size) = size {
            control.send(Command::Resize(size)).await;
        }
        self.set_control(Some(control));
        true
    }

    /// Waits until a source that is not needed any more had its time to leave.
    async fn has_been_left(&self) {
        // Never closed while the session is here.
        let _ = self.status().wait_for(|status| status.safe).await;
        tokio::time::sleep(LEAVES).await;
    }

    /// What is known of the output; nothing where the store does not say it: no source waits for a store.
    async fn printed(&self) -> Printed {
        let to = self.head();
        // Either helps without the other.
        let (first, last) = tokio::join!(self.in_time(self.journal.first(to)), self.in_time(self.journal.last(to)));
        let (last, anew) = last;
        Printed { first, last, anew }
    }

    /// What the journal has, if it can be read in time.
    async fn in_time<T: Default>(&self, read: impl Future<Output = Result<T, StoreError>>) -> T {
        match tokio::time::timeout(PRINTED, read).await {
            Ok(Ok(read)) => return read,
            Ok(Err(error)) => tracing::warn!(session = %self.id(), %error, "cannot read what a session printed"),
            Err(_) => tracing::warn!(session = %self.id(), "the store does not say in time what a session printed"),
        }
        T::default()
    }

    /// The first batch of a connection, without the records that came over the connection before.
    fn continued(&self, batch: Batch) -> Batch {
        let marks = lock(&self.ring).marks();
        batch.after(self.head()).without(&marks)
    }

    /// The sequence goes on behind all that an earlier hub may have shown and not stored.
    fn renumber(&self, reason: Reason, takers: u64) {
        let (offset, time) = (self.head(), now() as u64);
        let to = (offset + NUMBERS).max(takers.saturating_mul(NUMBERS) + offset % NUMBERS);
        // Of what is not recorded nobody knows whether there was any.
        let to = if self.row.record { to } else { to + 1 };
        let payload = Payload::Dropped { to, reason };
        self.publish(Batch::of(&Record { offset, time, payload }));
    }

    /// Ends the session from this side: the source will not.
    pub fn conclude(&self, cause: Cause) {
        if !self.has_ended() {
            let record = Record { offset: self.head(), time: now() as u64, payload: Payload::Exit(cause.into()) };
            self.publish(Batch::of(&record));
        }
    }

    /// Waits until the client that holds an attached session has been away for `grace`. Never returns for one that
    /// nobody has to hold.
    pub async fn abandoned(&self, grace: Duration) {
        if self.row.detached {
            return std::future::pending().await;
        }
        let mut present = self.presence.follow();
        let mut since = None;
        loop {
            let held = {
                let present = present.borrow_and_update();
                present.driver.is_some() || present.released
            };
            // Others may come and go meanwhile.
            since = if held { None } else { since.or(Some(Instant::now())) };
            let over = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + grace).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = present.changed() => if changed.is_err() { return },
                () = over => return,
            }
        }
    }

    /// Tells the source how long it is to live without a hub: less for a session that a client holds.
    pub async fn follow_orphan_limit(&self, held: Duration, released: Duration) {
        let mut present = self.presence.follow();
        let mut told = !present.borrow().released;
        let mut stored = told;
        loop {
            let holds = !present.borrow_and_update().released;
            if holds != told && !self.row.detached {
                let limit = if holds { held } else { released };
                self.tell_surely(|| Command::OrphanLimit(limit.as_millis() as u64)).await;
                self.tell_surely(|| Command::Card(self.card())).await;
                told = holds;
            }
            if stored != told && self.store_released(!told).await {
                stored = told;
            }
            tokio::select! {
                changed = present.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(STORE_AGAIN), if stored != told => {}
            }
        }
    }
}
