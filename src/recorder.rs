//! The recorder reads a session like a viewer and commits its records to the store, in batches.
//!
//! A store that is slow or away stops nobody: the ring moves on, the source's spool keeps what is not acknowledged, and
//! the recorder reads it back from there. Only what is committed is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use crate::record::{Batch, Cause, Exit, Marks, Payload, Reason, Record, between};
use crate::session::history::pack;
use crate::session::notices::Notice;
use crate::session::subscription::Subscription;
use crate::session::{Session, now};
use crate::source::Command;
use crate::store::{Chunk, ChunkKind, Extent, StoreError};

/// Bytes of records in one chunk, unless one read has more.
const CHUNK: usize = 256 << 10;

/// The same while the recorder is behind: a store whose answers take long gets more with each.
const LARGE_CHUNK: usize = 1 << 20;

/// How long records are gathered before they are committed.
const GATHER: Duration = Duration::from_millis(150);

/// How long the recorder waits before it asks a store that failed again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A journal is cut back to its limit when it is over it by this part of the limit, so that not each commit does.
const SLACK: u64 = 8;

/// Records a session until its end is in the store.
pub async fn record(session: Arc<Session>, journal_bytes: u64) {
    let recorder = Recorder { session, journal_bytes };
    if recorder.session.row.record { recorder.all().await } else { recorder.end_only().await }
}

/// How far a commit came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Committed {
    /// The store has it.
    All,
    /// The store has less than it had: an older copy was put in place. The journal goes on from its end.
    Back,
}

/// What the store has after an append.
enum Appended {
    /// The journal up to the end of what was appended.
    To(Extent),
    /// Less than it had before, and not what was appended.
    Back(Extent),
}

struct Recorder {
    session: Arc<Session>,
    journal_bytes: u64,
}

impl Recorder {
    async fn all(&self) {
        while self.go_on_behind_the_journal().await == Committed::Back {}
        self.end().await;
    }

    /// Commits what follows the journal to the session's end, or until the store turns out to have less than before.
    async fn go_on_behind_the_journal(&self) -> Committed {
        let mut following = self.session.subscribe(self.session.journal.extent().to).past_the_journal();
        let mut marks = self.last_marks().await;
        let mut ended = false;
        while !ended {
            let Some(batch) = gather(&mut following).await else { break };
            let batch = batch.without(&marks);
            marks.append(&batch);
            ended = batch.ends;
            if !batch.is_empty() && self.commit(&batch).await == Committed::Back {
                return Committed::Back;
            }
        }
        Committed::All
    }

    /// The records without length at the end of what an earlier hub committed.
    async fn last_marks(&self) -> Marks {
        let mut marks = Marks::default();
        let extent = self.session.journal.extent();
        if extent.next_seq > 0 {
            let last = self.surely(|| self.session.journal.read(extent.to)).await;
            marks.append(&last.unwrap_or_default());
        }
        marks
    }

    /// A session that is not recorded leaves its end, and how much is not there.
    async fn end_only(&self) {
        let mut status = self.session.status();
        let Ok(Some(exit)) = status.wait_for(|status| status.exit.is_some()).await.map(|status| status.exit.clone())
        else {
            return;
        };
        let (head, time) = (self.session.head(), now() as u64);
        let mut bytes = BytesMut::new();
        if head > 0 {
            let reason = if between(0, head) > 0 { Reason::NotRecorded } else { Reason::Renumbered };
            let payload = Payload::Dropped { to: head, reason };
            Record { offset: 0, time, payload }.encode(&mut bytes);
        }
        Record { offset: head, time, payload: Payload::Exit(Exit::clone(&exit)) }.encode(&mut bytes);
        if let Ok(batch) = Batch::parse(bytes.freeze()) {
            while self.commit(&batch).await == Committed::Back {}
        }
        self.end().await;
    }

    /// Commits a batch, however long the store takes, and then tells the source that it need not keep it.
    async fn commit(&self, batch: &Batch) -> Committed {
        let extent = match self.surely(|| self.append(batch)).await {
            Appended::To(extent) => extent,
            Appended::Back(extent) => {
                tracing::warn!(session = %self.session.id(), to = extent.to, "an older copy of the database was put in place: its journal goes on from its end");
                self.session.journal.moved(extent);
                return Committed::Back;
            }
        };
        self.session.journal.moved(extent);
        if self.session.row.record {
            self.session.tell(Command::Ack(batch.to, false)).await;
        }
        let slack = if batch.ends { 0 } else { self.journal_bytes / SLACK };
        if extent.stored_bytes > self.journal_bytes + slack {
            self.trim().await;
        }
        Committed::All
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, StoreError> {
        let mut extent = self.session.journal.extent();
        if batch.from != extent.to {
            // Somebody who read has found out before that the store has less.
            return Ok(Appended::Back(extent));
        }
        let no_memory = |error: std::io::Error| StoreError::of_row("chunks", error);
        let data = Bytes::from(pack(&batch.bytes).map_err(no_memory)?);
        let stored_bytes = data.len() as u64;
        let chunk = Chunk {
            kind: ChunkKind::Records,
            seq: extent.next_seq,
            from: batch.from,
            to: batch.to,
            first_time: batch.first_time as i64,
            last_time: batch.last_time as i64,
            data,
        };
        if let Err(error) = self.session.journal.store().append(self.session.id(), &[chunk]).await {
            return self.after(error, batch, &extent).await;
        }
        if extent.next_seq == 0 {
            extent.from = batch.from;
        }
        extent.to = batch.to;
        extent.next_seq += 1;
        extent.stored_bytes += stored_bytes;
        Ok(Appended::To(extent))
    }

    /// What an append that failed came to after all.
    async fn after(&self, error: StoreError, batch: &Batch, extent: &Extent) -> Result<Appended, StoreError> {
        let (id, store) = (self.session.id(), self.session.journal.store());
        if matches!(error, StoreError::NoSession(_)) {
            let row = store.restore_session(self.session.row_now()).await?;
            tracing::warn!(session = %id, name = row.name, "put a session back that the database did not know any more");
            if row.name != self.session.row.name {
                self.session.notices.say(Notice::renamed(&self.session.row.name, &row.name));
            }
            return Ok(Appended::Back(store.extent(id).await?));
        }
        let there = store.extent(id).await?;
        // The commit of an earlier try may have gone through although its answer was lost.
        if there.next_seq == extent.next_seq + 1 && there.to == batch.to {
            return Ok(Appended::To(there));
        }
        match error {
            StoreError::NotContiguous { .. } if there.to <= batch.from => Ok(Appended::Back(there)),
            error => Err(error),
        }
    }

    async fn trim(&self) {
        let (id, store) = (self.session.id(), self.session.journal.store());
        let trimmed = async {
            store.trim(id, self.journal_bytes).await?;
            store.extent(id).await
        };
        match trimmed.await {
            Ok(extent) => self.session.journal.moved(extent),
            Err(error) => tracing::warn!(%error, session = %id, "cannot trim a journal"),
        }
    }

    /// Stores the end, then lets the agent go.
    async fn end(&self) {
        let status = self.session.status_now();
        let lost = || Arc::new(Exit::from(Cause::Lost { reason: "its end is not known".into() }));
        let exit = status.exit.unwrap_or_else(lost);
        let at = status.ended_at.unwrap_or_else(now);
        let (id, store) = (self.session.id(), self.session.journal.store());
        self.surely(|| store.end_session(id, &exit, at)).await;
        self.session.note_safe();
        self.session.tell(Command::Ack(self.session.head(), true)).await;
    }

    /// Asks the store until it answers.
    async fn surely<T, F: Future<Output = Result<T, StoreError>>>(&self, ask: impl Fn() -> F) -> T {
        let mut wait = AGAIN.0;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::warn!(%error, session = %self.session.id(), "the store failed; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(AGAIN.1);
                }
            }
        }
    }
}

/// What comes within a moment, as one batch; `None` once the exit was returned.
async fn gather(following: &mut Subscription) -> Option<Batch> {
    let mut out = Vec::new();
    let mut len = 0;
    let mut deadline = None;
    let enough = if following.behind() > 2 * CHUNK as u64 { LARGE_CHUNK } else { CHUNK };
    loop {
        let before = out.len();
        let next = following.next(&mut out);
        let more = match deadline {
            None => next.await,
            Some(deadline) => match timeout_at(deadline, next).await {
                Ok(more) => more,
                Err(_) => break,
            },
        };
        len += out[before..].iter().map(Bytes::len).sum::<usize>();
        if !more || len >= enough {
            break;
        }
        deadline.get_or_insert(Instant::now() + GATHER);
    }
    let bytes = if out.len() == 1 { out.pop()? } else { out.concat().into() };
    Batch::parse(bytes).ok().filter(|batch| !batch.is_empty())
}
