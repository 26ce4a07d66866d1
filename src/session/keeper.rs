//! The keeper follows a terminal session like a viewer does and keeps its screen, so that whoever joins late sees what
//! the others see. It checkpoints the screen into the journal, so that a later hub need not read all.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::history::{pack, records, tell};
use super::screen::Screen;
use super::{Session, lock, now};
use crate::record::{Batch, Payload, Record, Size};
use crate::store::{Chunk, ChunkKind};

/// After how many bytes of output the screen is checkpointed.
const CHECKPOINT: u64 = 1 << 20;

/// A screen and where it stands in the output.
struct Kept {
    screen: Screen,
    offset: u64,
}

/// See the module's documentation.
pub struct Keeper(Mutex<Kept>);

impl Keeper {
    /// An empty screen at the session's start.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self(Mutex::new(Kept { screen: Screen::new(size), offset: 0 }))
    }

    /// The screen as it stands, as a snapshot record; what follows continues at its offset.
    #[must_use]
    pub fn snapshot(&self) -> Record {
        let kept = lock(&self.0);
        let payload = Payload::Snapshot(kept.screen.size(), kept.screen.snapshot());
        Record { offset: kept.offset, time: now() as u64, payload }
    }

    /// The size of the screen as it stands.
    #[must_use]
    pub fn size(&self) -> Size {
        lock(&self.0).screen.size()
    }

    /// The offset that the screen stands at.
    #[must_use]
    pub fn offset(&self) -> u64 {
        lock(&self.0).offset
    }

    /// Goes on from a checkpoint.
    fn restore(&self, record: Record) {
        if let Payload::Snapshot(size, data) = record.payload {
            *lock(&self.0) = Kept { screen: Screen::restore(size, &data), offset: record.offset };
        }
    }

    fn follow(&self, batch: Batch) {
        for record in batch.records() {
            // One record at a time, so that who joins waits for no more than one.
            let mut kept = lock(&self.0);
            kept.offset = record.end();
            match record.payload {
                Payload::Output(_, data) => kept.screen.feed(&data),
                Payload::Resize(size) => kept.screen.resize(size),
                _ => {}
            }
        }
    }
}

/// Waits for what goes on beside, where something does.
async fn done(beside: &mut Option<BoxFuture<'_, ()>>) {
    match beside {
        Some(beside) => beside.await,
        None => std::future::pending().await,
    }
}

impl Session {
    /// Keeps the screen, until the session has ended.
    pub(crate) async fn keep_screen(self: Arc<Self>) {
        let Some(keeper) = &self.keeper else { return };
        // One at a time: another viewer of a session that has ended finds the screen done.
        let _one = self.keeping.lock().await;
        if keeper.offset() > 0 && keeper.offset() >= self.head() {
            return;
        }
        if let Some(record) = self.checkpointed().await {
            keeper.restore(record);
        }
        let mut kept = lock(&keeper.0).offset;
        let mut following = self.subscribe(kept);
        let mut out = Vec::new();
        // Beside the following: a store that is slow or away must not hold up the screen.
        let mut storing: Option<BoxFuture<'_, ()>> = None;
        loop {
            tokio::select! {
                more = following.next(&mut out) => if !more { break },
                () = done(&mut storing) => storing = None,
            }
            for bytes in out.drain(..) {
                if let Ok(batch) = Batch::parse(bytes) {
                    keeper.follow(batch);
                }
                tokio::task::yield_now().await;
            }
            if storing.is_none() && following.offset() >= kept + CHECKPOINT {
                kept = following.offset();
                storing = Some(Box::pin(self.checkpoint(keeper.snapshot())));
            }
        }
        if let Some(storing) = storing {
            storing.await;
        }
    }

    /// The newest screen in the journal.
    async fn checkpointed(&self) -> Option<Record> {
        if self.journal.extent().to == 0 {
            return None;
        }
        let mut before = self.head();
        loop {
            let chunk = self.journal.store().screen(self.id(), before).await.ok()??;
            match records(&chunk) {
                Ok(batch) => return batch.records().next(),
                // The one before it does as well: then more is read.
                Err(reason) => {
                    tell(self.id(), &format!("the screen at {}", chunk.to), &reason);
                    before = chunk.to.min(before).checked_sub(1)?;
                }
            }
        }
    }

    /// A checkpoint that cannot be stored is left out: the next hub then reads more.
    async fn checkpoint(&self, record: Record) {
        if !self.row.record {
            return;
        }
        let Ok(data) = pack(&record.to_bytes()) else { return };
        let chunk = Chunk {
            kind: ChunkKind::Screen,
            seq: (record.offset / CHECKPOINT) as i64,
            from: record.offset,
            to: record.offset,
            first_time: record.time as i64,
            last_time: record.time as i64,
            data: Bytes::from(data),
        };
        if let Err(error) = self.journal.store().append(self.id(), &[chunk]).await {
            tracing::warn!(%error, session = %self.id(), "cannot store a screen");
        }
    }
}
