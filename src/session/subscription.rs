//! A subscription: one reader's way through journal, spool and ring. Replay and live are the same operation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::sync::watch;

use super::ring::{Cursor, Found, Ring};
use super::{Session, lock};
use crate::record::{Batch, Marks, Payload, Reason, Record, between};

/// The most that one read takes, in bytes, unless one batch is longer.
pub const PIECE: usize = 256 << 10;

/// How long a reader waits before it asks a store that failed again.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module's documentation.
pub struct Subscription {
    session: Arc<Session>,
    /// Moves when there may be more.
    moved: watch::Receiver<u64>,
    cursor: Cursor,
    /// Records without length at the end of what was read of the past: the next read, from that offset, has them again.
    marks: Marks,
    /// Whether what left the ring may be read from the journal; the one who writes the journal must not.
    journal: bool,
    ended: bool,
}

/// What a look at the ring found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Records were put out.
    Records,
    /// Nothing new.
    Nothing,
    /// What comes next is not in the ring, which starts here: [`Subscription::older`] has it.
    Older(u64),
    /// The exit was put out before.
    Ended,
}

impl Subscription {
    pub(super) fn new(session: Arc<Session>, from: u64) -> Self {
        let moved = session.crier.gathered();
        Self { moved, cursor: Ring::cursor(from), marks: Marks::default(), session, journal: true, ended: false }
    }

    /// For the recorder: what left the ring comes from the source alone.
    #[must_use]
    pub fn past_the_journal(mut self) -> Self {
        self.journal = false;
        self
    }

    /// For whoever types: told of every record at once, and of what the command has got.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.moved = self.session.crier.at_once();
        self
    }

    /// The offset up to which all was returned.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.cursor.offset
    }

    /// Goes on at another offset, as a viewer does who was given a snapshot.
    pub fn seek(&mut self, offset: u64) {
        self.cursor = Ring::cursor(offset);
    }

    /// How many bytes the reader is behind.
    #[must_use]
    pub fn behind(&self) -> u64 {
        between(self.cursor.offset, self.session.head())
    }

    /// Puts what comes next into `out`: whole records, as many as are there up to [`PIECE`]. Waits where there is
    /// nothing new; `false` once the exit was returned. Safe to cancel.
    pub async fn next(&mut self, out: &mut Vec<Bytes>) -> bool {
        loop {
            match self.take(out) {
                Taken::Records => return true,
                Taken::Ended => return false,
                Taken::Nothing => self.moved().await,
                Taken::Older(ring) => {
                    let batch = self.older(ring).await;
                    out.push(self.accept(batch));
                    return true;
                }
            }
        }
    }

    /// What is new in the ring, without waiting.
    pub fn take(&mut self, out: &mut Vec<Bytes>) -> Taken {
        if self.ended {
            return Taken::Ended;
        }
        self.moved.borrow_and_update();
        // Before the ring is read: the exit is in it when the session has ended.
        let ended = self.session.has_ended();
        let found = lock(&self.session.ring).read(&mut self.cursor, PIECE, out);
        match found {
            Found::Records => Taken::Records,
            Found::Older(ring) => Taken::Older(ring),
            Found::Nothing if ended => {
                self.ended = true;
                Taken::Ended
            }
            Found::Nothing => Taken::Nothing,
        }
    }

    /// Waits until there may be more than was last taken.
    pub async fn moved(&mut self) {
        if self.moved.changed().await.is_err() {
            // Never: the session, which is held here, has the other end.
            self.ended = true;
        }
    }

    /// What the ring, which starts at `ring`, has no more. The future holds nothing of the subscription; what it gives
    /// is for [`Subscription::accept`].
    pub fn older(&self, ring: u64) -> impl Future<Output = Batch> + Send + use<> {
        let past = Past { session: self.session.clone(), offset: self.cursor.offset, journal: self.journal };
        async move { past.read(ring).await }
    }

    /// Goes on behind what was read of the past.
    pub fn accept(&mut self, batch: Batch) -> Bytes {
        let batch = batch.without(&self.marks);
        self.marks.append(&batch);
        self.cursor = Ring::cursor(batch.to.max(self.cursor.offset));
        self.ended = batch.ends;
        batch.bytes
    }
}

/// One read of what has left the ring.
struct Past {
    session: Arc<Session>,
    offset: u64,
    journal: bool,
}

impl Past {
    /// From the journal, else from the source. Waits while neither has it but one may get it; a gap is told where
    /// neither can.
    async fn read(&self, ring: u64) -> Batch {
        let offset = self.offset;
        loop {
            let mut extent = self.session.journal.follow();
            let mut control = self.session.control.subscribe();
            let mut status = self.session.status();
            let journal_end = extent.borrow_and_update().to;
            let connected = control.borrow_and_update().clone();
            let (settled, gone) = {
                let status = status.borrow_and_update();
                (status.safe, status.safe || status.source_gone)
            };
            if self.journal && (offset < journal_end || settled) {
                match self.session.journal.read(offset).await {
                    Ok(Some(batch)) => return short_of(batch, ring),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, session = %self.session.id(), "cannot read a journal");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
            }
            if let Some(control) = connected.filter(|_| !settled)
                && let Some(batch) = self.ask_source(&control, ring).await
            {
                return batch;
            }
            if gone {
                return self.gap(ring);
            }
            select! {
                _ = extent.changed() => {}
                _ = control.changed() => {}
                _ = status.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn ask_source(&self, control: &crate::source::Control, ring: u64) -> Option<Batch> {
        let offset = self.offset;
        let to = ring.min(offset + PIECE as u64);
        let batches = control.read(offset, to).await?;
        // What was committed while the source was asked is gone there: it is in the journal now.
        let committed = self.journal && self.session.journal.extent().to > offset;
        let gap = |batch: &Batch| batch.starts_with_gap() && (committed || batch.from > offset);
        let bytes: Vec<Bytes> = batches.into_iter().take_while(|batch| !gap(batch)).map(|batch| batch.bytes).collect();
        let batch = Batch::parse(bytes.concat().into()).ok()?;
        (batch.from == offset && batch.to > offset).then(|| short_of(batch, ring))
    }

    fn gap(&self, to: u64) -> Batch {
        let reason = match self.session.row.record {
            true if self.session.journal.extent().from > self.offset => Reason::JournalLimit,
            true => Reason::AgentLost,
            false => Reason::NotRecorded,
        };
        let time = super::now() as u64;
        Batch::of(&Record { offset: self.offset, time, payload: Payload::Dropped { to, reason } })
    }
}

/// A gap ends where the ring has something again, though who was asked has not.
fn short_of(batch: Batch, ring: u64) -> Batch {
    let first = if batch.drops { batch.records().next() } else { None };
    match first {
        Some(Record { offset, time, payload: Payload::Dropped { to, reason } }) if to > ring => {
            Batch::of(&Record { offset, time, payload: Payload::Dropped { to: ring, reason } })
        }
        _ => batch,
    }
}
