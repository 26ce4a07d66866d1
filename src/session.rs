//! A session: one source with its history, its viewers, its state and its end. No I/O of its own.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`ring`] | the newest records, in memory, bounded |
//! | [`history`] | what has left the ring: the journal, and the source's own spool |
//! | [`subscription`] | one reader's way through history and ring, without a seam |
//! | [`crier`] | telling those who follow that there is more |
//! | [`input`] | who types, and what was typed but has not reached the command |
//! | [`presence`] | who is here |
//! | [`notices`] | what they should know |
//! | [`pump`] | from the source into the ring |
//! | [`keeper`] | the terminal's screen, followed like a viewer does |
//!
//! Invariant: records are appended by the one pump, under a lock that is held for no longer than that; whoever follows
//! holds a cursor and is told by the crier that the head moved. Publishing waits for nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::record::{Batch, Cause, Exit, Payload, Record, Size};
use crate::source::{Command, Control};
use crate::store::{Micros, SessionRow, State};

pub mod crier;
pub mod history;
pub mod input;
pub mod keeper;
pub mod notices;
pub mod presence;
pub mod pump;
pub mod ring;
pub mod screen;
pub mod subscription;

use crier::Crier;
use history::Journal;
use input::Input;
use keeper::Keeper;
use notices::Notices;
use presence::Presence;
use ring::Ring;
use subscription::Subscription;

/// How far a session has come, as everyone may know.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// When its command was started.
    pub started_at: Option<Micros>,
    /// When it ended.
    pub ended_at: Option<Micros>,
    /// Its end.
    pub exit: Option<Arc<Exit>>,
    /// Whether the end is in the store.
    pub safe: bool,
    /// Whether the source is gone, with all that it kept.
    pub source_gone: bool,
}

/// What a session may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of records in memory.
    pub ring_bytes: usize,
}

/// See the module's documentation.
pub struct Session {
    /// The session as it was made. What changes later is in [`Session::status`].
    pub row: SessionRow,
    ring: Mutex<Ring>,
    /// Where the output ends, and who is told that it moved.
    crier: Crier,
    /// The terminal's size, once it is known: after a hub's death it is found in the journal or said by a driver.
    size: Mutex<Option<Size>>,
    /// What the driver's window is, until the source has it: the record says so.
    wanted_size: Mutex<Option<Size>>,
    status: watch::Sender<Status>,
    /// The connection to the source, while there is one.
    control: watch::Sender<Option<Control>>,
    /// Up to where a command that a client paces may produce output, once that client said so.
    pace: Mutex<Option<u64>>,
    /// What is in the store.
    pub journal: Journal,
    /// Who wants it to end, before there is a source that could be told.
    stop_asked: watch::Sender<Option<String>>,
    /// Held while something is put on the way to the source that has to keep its order.
    telling: tokio::sync::Mutex<()>,
    /// Held by the one who keeps the screen.
    keeping: tokio::sync::Mutex<()>,
    /// Who types.
    pub input: Input,
    /// Who is here.
    pub presence: Arc<Presence>,
    /// What they should know.
    pub notices: Notices,
    /// Who it is, for its source to keep.
    card: Mutex<serde_json::Value>,
    /// The terminal's screen; absent without a terminal.
    pub keeper: Option<Keeper>,
}

/// In a session's place: whether its driver left it on purpose, so that nobody has to hold it.
pub(crate) const RELEASED: &str = "released";

/// Microseconds since the Unix epoch, now.
#[must_use]
pub fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves data that is whole: no lock is held over more than one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// A session whose output so far ends at `from`.
    #[must_use]
    pub fn new(row: SessionRow, journal: Journal, from: u64, limits: Limits) -> Arc<Self> {
        let status = Status {
            state: row.state,
            started_at: row.started_at,
            ended_at: row.ended_at,
            exit: row.exit.clone().map(Arc::new),
            safe: row.exit.is_some(),
            source_gone: row.exit.is_some(),
        };
        let keeper = row.tty.then(|| Keeper::new(Size::DEFAULT));
        Arc::new(Self {
            ring: Mutex::new(Ring::new(from, limits.ring_bytes)),
            crier: Crier::new(from),
            size: Mutex::default(),
            wanted_size: Mutex::default(),
            status: watch::Sender::new(status),
            control: watch::Sender::new(None),
            pace: Mutex::new(None),
            telling: tokio::sync::Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            journal,
            input: Input::default(),
            presence: Presence::new(row.place[RELEASED] == true),
            stop_asked: watch::Sender::new(None),
            notices: Notices::default(),
            card: Mutex::default(),
            keeper,
            row,
        })
    }

    /// A session that has ended, from what the store has of it.
    #[must_use]
    pub fn ended(row: SessionRow, journal: Journal, limits: Limits) -> Arc<Self> {
        let extent = journal.extent();
        let exit = row.exit.clone().unwrap_or(Exit::from(Cause::Lost { reason: "its end is not known".into() }));
        let time = row.ended_at.unwrap_or_default() as u64;
        let session = Self::new(row, journal, extent.to, limits);
        session.publish(Batch::of(&Record { offset: extent.to, time, payload: Payload::Exit(exit) }));
        session
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.row.id
    }

    /// Appends records. Waits for nobody, and copies nothing.
    pub fn publish(&self, batch: Batch) {
        let (to, ends) = (batch.to, batch.ends);
        if batch.resizes {
            self.note_size(&batch);
        }
        lock(&self.ring).push(batch);
        // Before it has ended: who sees the end must find where it is.
        self.crier.moved(to);
        if ends {
            self.note_end();
            self.crier.nudge_all();
        }
    }

    fn note_size(&self, batch: &Batch) {
        for record in batch.records() {
            if let Payload::Resize(size) = record.payload {
                *lock(&self.size) = Some(size);
                lock(&self.wanted_size).take_if(|wanted| *wanted == size);
            }
        }
    }

    /// The ring's last record is the exit: tells everyone.
    fn note_end(&self) {
        let last = lock(&self.ring).last();
        let exit = last.and_then(|batch| batch.records().last());
        if let Some(Record { payload: Payload::Exit(exit), time, .. }) = exit {
            self.status.send_modify(|status| {
                status.state = State::Ended;
                status.ended_at = Some(time as Micros);
                status.exit = Some(Arc::new(exit));
            });
        }
    }

    /// The command runs. Whether that is new.
    pub fn note_started(&self, at: Micros) -> bool {
        self.status.send_if_modified(|status| {
            let first = status.state == State::Starting;
            if first {
                (status.state, status.started_at) = (State::Running, Some(at));
            }
            first
        })
    }

    /// The end is in the store.
    pub fn note_safe(&self) {
        self.status.send_modify(|status| status.safe = true);
    }

    /// The source is gone, with all that it kept.
    pub(crate) fn note_source_gone(&self) {
        self.status.send_modify(|status| status.source_gone = true);
    }

    /// The row as it would be made now.
    #[must_use]
    pub fn row_now(&self) -> SessionRow {
        let status = self.status_now();
        let mut row = self.row.clone();
        row.state = if status.started_at.is_some() { State::Running } else { State::Starting };
        row.started_at = status.started_at;
        self.set_released(&mut row.place, self.presence.now().released);
        row
    }

    /// Who it is, for the source to keep.
    pub(crate) fn set_card(&self, card: &impl serde::Serialize) {
        *lock(&self.card) = serde_json::to_value(card).unwrap_or_default();
    }

    /// The card, with whether somebody has to hold the session.
    fn card(&self) -> serde_json::Value {
        let mut card = lock(&self.card).clone();
        self.set_released(&mut card, self.presence.now().released);
        card
    }

    fn set_released(&self, object: &mut serde_json::Value, released: bool) {
        if !object.is_object() {
            *object = serde_json::json!({});
        }
        object[RELEASED] = released.into();
    }

    /// Notes for a later hub whether somebody has to hold the session. Whether the store took it.
    async fn store_released(&self, released: bool) -> bool {
        let mut place = self.row.place.clone();
        self.set_released(&mut place, released);
        let stored = self.journal.store().set_place(self.id(), &place).await;
        if let Err(error) = &stored {
            tracing::warn!(%error, session = %self.id(), "cannot store that a session was left on purpose; trying again");
        }
        stored.is_ok()
    }

    /// Follows the session's state.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The state now.
    #[must_use]
    pub fn status_now(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until the command runs, or could not be started.
    pub async fn begun(&self) {
        let begun = |status: &Status| status.started_at.is_some() || status.exit.is_some();
        // Never closed while the session is here.
        let _ = self.status().wait_for(begun).await;
    }

    /// Waits until the end is in the store and the source is let go.
    pub async fn settled(&self) {
        let mut status = self.status();
        let mut control = self.control.subscribe();
        // Neither is closed while the session is here.
        let _ = status.wait_for(|status| status.safe).await;
        let _ = control.wait_for(Option::is_none).await;
    }

    /// Whether it has its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.status.borrow().exit.is_some()
    }

    /// Offset at which the output ends now.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.crier.head()
    }

    /// The terminal's size, where there is one.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        let kept = || self.keeper.as_ref().map(Keeper::size);
        let known = *lock(&self.size);
        known.or_else(kept).filter(|_| self.row.tty)
    }

    /// Follows the session from an offset: replay and live are one.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, from: u64) -> Subscription {
        Subscription::new(self.clone(), from)
    }

    /// The connection to the source is this one now.
    pub(crate) fn set_control(&self, control: Option<Control>) {
        self.control.send_replace(control);
    }

    /// The connection to the source, if there is one now.
    #[must_use]
    pub fn control(&self) -> Option<Control> {
        self.control.borrow().clone()
    }

    /// Output may be produced up to `limit`; a lower one than before changes nothing.
    pub async fn set_pace(&self, limit: u64) {
        {
            let mut pace = lock(&self.pace);
            if pace.is_some_and(|pace| pace >= limit) {
                return;
            }
            *pace = Some(limit);
        }
        // A connection that is just told what it has to know may have been told the limit of before.
        let _order = self.telling.lock().await;
        let newest = lock(&self.pace).unwrap_or(limit);
        self.tell(Command::Pace(newest)).await;
    }

    /// Gives the terminal another size, if it is another one.
    pub async fn resize(&self, size: Size) {
        let size = size.clamped();
        if self.row.tty && self.wants(size) {
            self.tell(Command::Resize(size)).await;
        }
    }

    /// Notes the size that the terminal is to have. Whether it is another one than it has, or is about to have.
    fn wants(&self, size: Size) -> bool {
        let mut wanted = lock(&self.wanted_size);
        let is_new = wanted.or(*lock(&self.size)) != Some(size);
        if is_new {
            *wanted = Some(size);
        }
        is_new
    }

    /// Tells the source something that is lost where there is no connection, as a resize may be.
    pub async fn tell(&self, command: Command) -> bool {
        match self.control() {
            Some(control) => control.send(command).await,
            None => false,
        }
    }

    /// Ends the session: tells the source as soon as it can be reached, or whoever waits for it to be there.
    pub async fn stop(&self, by: &str) {
        self.stop_asked.send_replace(Some(by.to_owned()));
        self.tell_surely(|| Command::Stop(by.to_owned())).await;
    }

    /// Waits until somebody wants the session to end, and until then at least; says who.
    async fn to_be_stopped(&self, until: Option<Instant>) -> String {
        let mut asked = self.stop_asked.subscribe();
        // Never closed while the session is here.
        let by = asked.wait_for(Option::is_some).await.ok().and_then(|by| by.clone()).unwrap_or_default();
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        by
    }

    /// Tells the source something that has to reach it: waits for a connection, and gives up where the session ends.
    pub async fn tell_surely(&self, command: impl Fn() -> Command) {
        let mut control = self.control.subscribe();
        let mut status = self.status();
        let told = async {
            loop {
                let connected = control.borrow_and_update().clone();
                if let Some(connected) = connected
                    && connected.send(command()).await
                {
                    return;
                }
                if control.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = told => {}
            _ = status.wait_for(|status| status.exit.is_some()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stream;
    use crate::store::{self, Extent};

    #[tokio::test]
    async fn a_size_that_was_taken_back_before_the_source_had_it_is_told_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store::open(None, &dir.path().join("store")).await.expect("a store");
        let row = SessionRow { tty: true, ..row() };
        let journal = Journal::new(store, row.id, Extent::default());
        let session = Session::new(row, journal, 0, Limits { ring_bytes: 1000 });
        let [small, large] = [80, 120].map(|cols| Size { cols, rows: 24 });
        let records = |size| Batch::of(&Record { offset: 0, time: 1, payload: Payload::Resize(size) });
        session.publish(records(small));
        assert!(!session.wants(small));
        assert!(session.wants(large) && !session.wants(large));
        assert!(session.wants(small), "what it has is not what it was told last");
        session.publish(records(large));
        assert_eq!(*lock(&session.wanted_size), Some(small), "it is still to have that");
        session.publish(records(small));
        assert_eq!(*lock(&session.wanted_size), None);
        assert!(!session.wants(small));
    }

    pub(super) fn row() -> SessionRow {
        SessionRow {
            id: Uuid::now_v7(),
            name: "run.1".into(),
            kind: store::Kind::Run,
            state: State::Running,
            app: "blog".into(),
            owner: "ada".into(),
            command: vec!["true".into()],
            command_cut: false,
            tty: false,
            record: true,
            detached: false,
            backend: "local".into(),
            place: serde_json::Value::Null,
            idempotency_key: None,
            request_hash: None,
            created_at: 1,
            started_at: Some(2),
            ended_at: None,
            exit: None,
        }
    }

    #[tokio::test]
    async fn who_sees_that_it_has_ended_finds_where() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store::open(None, &dir.path().join("store")).await.expect("a store");
        let last = Record { offset: 0, time: 3, payload: Payload::Output(Stream::Stdout, "bye".into()) };
        let exit = Record { offset: 3, time: 4, payload: Payload::Exit(Cause::Lost { reason: String::new() }.into()) };
        let batch = Batch::parse([last.to_bytes(), exit.to_bytes()].concat().into()).expect("records");
        for _ in 0..2000 {
            let row = row();
            let journal = Journal::new(store.clone(), row.id, Extent::default());
            let session = Session::new(row, journal, 0, Limits { ring_bytes: 1000 });
            let head = std::thread::scope(|threads| {
                let looks = threads.spawn(|| {
                    while !session.has_ended() {
                        std::hint::spin_loop();
                    }
                    session.head()
                });
                session.publish(batch.clone());
                looks.join().expect("looks")
            });
            assert_eq!(head, 3);
        }
    }
}
