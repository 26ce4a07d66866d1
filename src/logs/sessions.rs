//! The sessions of an app's log: which there are, and their lines as they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout, timeout_at};

use super::line::{Entry, Private, Stream};
use super::position::{Move, SessionAt};
use super::split::{MAX_LINE, SessionLine, Splitter};
use super::{Event, Log};
use crate::record::{Batch, Cause, Payload, Record};
use crate::registry::Registry;
use crate::session::{Session, now};
use crate::store::{Kind, SessionFilter, SessionRow, StoreError};

/// How long a part of a line waits for its end.
pub const HELD: Duration = Duration::from_secs(1);

/// Sessions asked of the store at once.
pub const PAGE: u32 = 100;

/// How long a new session may be in the store and not in memory; after that, its start failed in between.
const STARTING: Duration = Duration::from_secs(5);

/// How long the place where a session's last line starts is looked for.
const SEEK: Duration = Duration::from_secs(2);

/// How long to wait before the registry is asked again for a session that is being started.
const AGAIN: Duration = Duration::from_millis(100);

/// How long to wait before a store that failed is asked again.
const STORE_AGAIN: Duration = Duration::from_secs(2);

/// The number in a session's name: sessions are numbered in the order in which the store has them.
#[must_use]
pub fn number(row: &SessionRow) -> u64 {
    row.name.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The line that says that a session has started.
#[must_use]
pub fn started(row: &SessionRow) -> Entry {
    let line = |command: &str| one_line(&format!("Starting process with command `{command}`"));
    let others = Some(line(&first_word(&row.command)));
    Entry {
        time: row.created_at,
        process: row.name.as_str().into(),
        container: None,
        stream: Stream::Hub,
        private: Some(Private { owner: row.owner.as_str().into(), others }),
        message: line(&row.command.join(" ")),
        moved: Move::Session(number(row), SessionAt { begun: true, ..SessionAt::default() }),
    }
}

/// The most characters of a command that those see who do not see its session.
const MAX_FIRST_WORD: usize = 64;

/// A command as those may know it who do not see its session: what follows its name may be a secret.
fn first_word(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let word = program.split_whitespace().next().unwrap_or_default();
    let shown: String = word.chars().take(MAX_FIRST_WORD).collect();
    if command.len() == 1 && shown == program { shown } else { format!("{shown} …") }
}

fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The line that says how a session has ended, where the record is its exit.
#[must_use]
pub fn ended(row: &SessionRow, record: &Record) -> Option<Entry> {
    let Payload::Exit(exit) = &record.payload else { return None };
    let message = one_line(&format!("Process {exit}"));
    // The reason may name the command, or where it was to start.
    let private = matches!(exit.cause, Cause::StartFailed { .. })
        .then(|| Private { others: Some("Process could not be started".into()), ..Private::of(&row.owner) });
    let (time, process) = (record.time as i64, row.name.as_str().into());
    Some(Entry {
        time,
        process,
        container: None,
        stream: Stream::Hub,
        private,
        message,
        moved: Move::SessionEnd(number(row)),
    })
}

/// A session's line as an entry.
#[must_use]
pub fn entry(row: &SessionRow, process: &Arc<str>, line: SessionLine) -> Entry {
    let SessionLine { time, stream, message, at } = line;
    let private = (row.tty && stream != Stream::Hub).then(|| Private::of(&row.owner));
    let moved = Move::Session(number(row), at);
    Entry { time, process: process.clone(), container: None, stream, private, message, moved }
}

/// Whether an app's log has a session: what a run prints is its app's, as its pod's log has it too. What goes on in an
/// exec is for those who see the session, and a pod that was handed over is told by its own log.
#[must_use]
pub fn is_told(row: &SessionRow) -> bool {
    row.kind == Kind::Run
}

/// The app's sessions with numbers above `newest` that its log has, the oldest first.
///
/// # Errors
/// What the store says.
pub async fn newer(registry: &Registry, app: &str, newest: u64) -> Result<Vec<SessionRow>, StoreError> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let filter = SessionFilter { app: Some(app.into()), before, limit: PAGE, ..SessionFilter::default() };
        let page = registry.store().sessions(&filter).await?;
        before = page.next;
        let known = !page.rows.is_empty() && page.rows.iter().all(|row| number(row) <= newest);
        found.extend(page.rows.into_iter().filter(|row| number(row) > newest && is_told(row)));
        if known || before.is_none() {
            break;
        }
    }
    found.sort_by_key(number);
    Ok(found)
}

/// The number of the app's newest session.
async fn newest(registry: &Registry, app: &str) -> Result<u64, StoreError> {
    let mut filter = SessionFilter { app: Some(app.into()), limit: PAGE, ..SessionFilter::default() };
    loop {
        let page = registry.store().sessions(&filter).await?;
        // None of a page may be one that can be read.
        match (page.rows.iter().map(number).max(), page.next) {
            (None, Some(next)) => filter.before = Some(next),
            (newest, _) => return Ok(newest.unwrap_or(0)),
        }
    }
}

/// The app's sessions that have not ended, the oldest first.
///
/// # Errors
/// What the store says.
pub async fn live(registry: &Registry, app: &str) -> Result<Vec<SessionRow>, StoreError> {
    let filter = SessionFilter { app: Some(app.into()), live: Some(true), limit: u32::MAX, ..SessionFilter::default() };
    let mut rows = registry.store().sessions(&filter).await?.rows;
    rows.retain(is_told);
    rows.sort_by_key(number);
    Ok(rows)
}

/// Where a session of the store is.
enum Found {
    Here(Arc<Session>),
    /// Its start is under way.
    NotYet,
    /// Its start failed in between.
    Never,
}

async fn find(registry: &Registry, row: &SessionRow) -> Found {
    if let Some(session) = registry.live().into_iter().find(|session| session.id() == row.id) {
        return Found::Here(session);
    }
    let known = match registry.store().session(row.id).await {
        Ok(Some(row)) if row.exit.is_some() => registry.find(&row.id.to_string()).await.ok().flatten(),
        _ => None,
    };
    match known {
        Some(session) => Found::Here(session),
        None if now() - row.created_at < STARTING.as_micros() as i64 => Found::NotYet,
        None => Found::Never,
    }
}

impl Log {
    /// Takes up the sessions that live: what they have said so far counts as told.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn open_sessions(self: &Arc<Self>) -> Result<(), StoreError> {
        let newest = newest(&self.registry, self.app()).await?;
        // Asked for after the newest number was: one that comes in between has a higher number, and is found as new.
        let rows = live(&self.registry, self.app()).await?;
        let mut known = newest;
        for row in rows.iter().filter(|row| number(row) <= newest) {
            match find(&self.registry, row).await {
                Found::Here(session) => {
                    let at = last_line(&session).await;
                    self.publish([Event::Moved(Move::Session(number(row), at))]);
                    self.read(session, at);
                }
                Found::NotYet => {
                    known = number(row) - 1;
                    break;
                }
                Found::Never => {}
            }
        }
        self.note_newest(known);
        Ok(())
    }

    /// Follows which sessions there are until the log is closed.
    pub(super) async fn follow_sessions(self: Arc<Self>) {
        let mut count = self.registry.count();
        let mut wanted = self.looks.wanted.subscribe();
        loop {
            count.borrow_and_update();
            let number = *wanted.borrow_and_update();
            let mut wait = AGAIN;
            let settled = self.take_new().await.unwrap_or_else(|error| {
                tracing::warn!(%error, app = self.app(), "cannot look for new sessions of a log");
                wait = STORE_AGAIN;
                false
            });
            if settled {
                self.looks.sessions.send_replace(number);
            }
            tokio::select! {
                changed = count.changed() => if changed.is_err() { return },
                _ = wanted.changed() => {}
                () = sleep(wait), if !settled => {}
            }
        }
    }

    /// Takes up sessions in the order of their numbers, as far as they are there. Whether all were.
    async fn take_new(self: &Arc<Self>) -> Result<bool, StoreError> {
        for row in newer(&self.registry, self.app(), self.newest()).await? {
            match find(&self.registry, &row).await {
                Found::Here(session) => {
                    let at = SessionAt { begun: true, ..SessionAt::default() };
                    self.publish([Event::Line(started(&row))]);
                    self.read(session, at);
                }
                Found::NotYet => return Ok(false),
                Found::Never => self.publish([Event::Moved(Move::SessionEnd(number(&row)))]),
            }
        }
        Ok(true)
    }

    fn read(self: &Arc<Self>, session: Arc<Session>, at: SessionAt) {
        self.note_session(number(&session.row), session.clone(), at.low());
        self.spawn("log-session", self.clone().read_session(session, at));
    }

    /// Tells a session's lines until it has ended.
    async fn read_session(self: Arc<Self>, session: Arc<Session>, at: SessionAt) {
        let row = &session.row;
        let process: Arc<str> = row.name.as_str().into();
        let mut splitter = Splitter::new(row.tty, at, None);
        let mut following = session.subscribe(at.low());
        let mut out = Vec::new();
        loop {
            let mut lines = Vec::new();
            let more = match splitter.held_since() {
                Some(since) => timeout_at(since + HELD, following.next(&mut out)).await.ok(),
                None => Some(following.next(&mut out).await),
            };
            if more.is_none() {
                splitter.let_go(&mut lines);
            }
            let mut end = None;
            for record in out.drain(..).filter_map(|bytes| Batch::parse(bytes).ok()).flat_map(|batch| batch.records()) {
                splitter.feed(&record, &mut lines);
                end = ended(row, &record);
            }
            let over = end.is_some() || more == Some(false);
            let lines = lines.into_iter().map(|line| Event::Line(entry(row, &process, line)));
            let read = Event::Read(number(row), following.offset());
            self.publish(lines.chain([read]).chain(end.map(Event::Line)));
            if over {
                self.publish([Event::Moved(Move::SessionEnd(number(row)))]);
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Where a session's last line, which may not be whole, starts on each stream. What cannot be had in time does not
/// matter: then the first line of the log may be the rest of one.
async fn last_line(session: &Arc<Session>) -> SessionAt {
    let head = session.head();
    let from = SessionAt { begun: true, ..SessionAt::both(head.saturating_sub(MAX_LINE as u64)) };
    let mut splitter = Splitter::new(session.row.tty, from, None);
    let mut following = session.subscribe(from.low());
    let seek = async {
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        while following.offset() < head && following.next(&mut out).await {
            for record in out.drain(..).filter_map(|bytes| Batch::parse(bytes).ok()).flat_map(|batch| batch.records()) {
                if !matches!(record.payload, Payload::Exit(_)) {
                    splitter.feed(&record, &mut lines);
                }
            }
        }
        splitter.at()
    };
    let at = timeout(SEEK, seek).await.unwrap_or(SessionAt::both(head));
    SessionAt { begun: true, ..at }
}
