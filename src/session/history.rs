//! What has left the ring: the journal in the store, and the source's own spool.

use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use crate::record::{Batch, NUMBERS, Payload, Reason, Record};
use crate::source::Printed;
use crate::store::{Chunk, Extent, SharedStore, StoreError, unreadable};

/// Bytes asked of the journal or the spool in one read.
const PIECE: u64 = 256 << 10;

/// A chunk that unpacks to more than this is not ours, in bytes.
const MAX_CHUNK: usize = 64 << 20;

/// A session's records in the store.
pub struct Journal {
    store: SharedStore,
    session: Uuid,
    extent: Arc<watch::Sender<Extent>>,
}

impl Journal {
    /// The journal of a session that has `extent` so far.
    #[must_use]
    pub fn new(store: SharedStore, session: Uuid, extent: Extent) -> Self {
        Self { store, session, extent: Arc::new(watch::Sender::new(extent)) }
    }

    /// Where it starts and ends.
    #[must_use]
    pub fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    /// Follows where it starts and ends.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Extent> {
        self.extent.subscribe()
    }

    /// Records were committed, or deleted.
    pub fn moved(&self, extent: Extent) {
        self.extent.send_replace(extent);
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Records from `offset` on, some of them; empty where it has none from there. What was deleted, and what cannot be
    /// read, comes as a dropped record.
    ///
    /// # Errors
    /// What the store says.
    pub async fn read(&self, offset: u64) -> Result<Option<Batch>, StoreError> {
        let end = self.extent().to;
        let chunks = self.store.chunks(self.session, offset, PIECE / 4).await?;
        let (mut bytes, mut at) = (bytes::BytesMut::new(), offset);
        // Whether there was a chunk that cannot be read; and of those that say where they end, the first end.
        let (mut told, mut broken) = (false, None);
        for chunk in &chunks {
            // What compresses well is much more than what was read.
            if bytes.len() as u64 >= PIECE && at > offset {
                break;
            }
            match records(chunk) {
                Ok(batch) if batch.from <= at => {
                    let rest = batch.after(at);
                    at = at.max(rest.to);
                    bytes.extend_from_slice(&rest.bytes);
                }
                Err(reason) if bytes.is_empty() => {
                    tell(self.session, &format!("chunk {}", chunk.seq), &reason);
                    told = true;
                    let to = Some(chunk.to).filter(|to| (offset + 1..=end).contains(to));
                    broken = broken.into_iter().chain(to).min();
                }
                Ok(batch) if bytes.is_empty() => return self.missing(offset, Some(batch.from), end, told).await,
                // What is missing here is told by the next read.
                _ => break,
            }
        }
        match bytes.is_empty() {
            true => self.missing(offset, broken, end, told).await,
            false => Ok(Batch::parse(bytes.freeze()).ok()),
        }
    }

    /// A dropped record up to `to`, or to the journal's end, which was `end` before it was read; none where it had
    /// nothing from `offset` on. The log names it, unless it was `told` of what stands there.
    async fn missing(&self, offset: u64, to: Option<u64>, end: u64, told: bool) -> Result<Option<Batch>, StoreError> {
        if offset >= to.unwrap_or(end) {
            return Ok(None);
        }
        let there = match self.store.extent(self.session).await {
            Err(StoreError::Row { reason, .. }) => {
                tell(self.session, "the extent", &reason);
                self.extent()
            }
            there => there?,
        };
        // An older copy of the store was put in place.
        if there.to < self.extent().to {
            self.moved(there);
        }
        let to = to.unwrap_or(end.min(there.to));
        let (to, reason) = match offset < there.from {
            true => (to.min(there.from), Reason::JournalLimit),
            false => (to, Reason::Unreadable),
        };
        if offset >= to {
            return Ok(None);
        }
        if reason == Reason::Unreadable && !told {
            tell(self.session, &format!("the range before {to}"), "there is no chunk of it");
        }
        let payload = Payload::Dropped { to, reason };
        Ok(Some(Batch::of(&Record { offset, time: super::now() as u64, payload })))
    }

    /// The last output up to `to`, in one piece, and how much of it came after numbers that were left out: as
    /// [`Printed`] has them.
    ///
    /// # Errors
    /// Those of [`Journal::read`].
    pub async fn last(&self, to: u64) -> Result<(Vec<u8>, Option<usize>), StoreError> {
        self.output(self.back(to, Printed::LAST as u64).await?, to).await
    }

    /// The output from its start on, as [`Printed`] has it, up to `to` or to where something may be missing.
    ///
    /// # Errors
    /// Those of [`Journal::read`].
    pub async fn first(&self, to: u64) -> Result<Vec<u8>, StoreError> {
        let to = to.min(Printed::FIRST as u64);
        let mut bytes = Vec::new();
        let mut ends = false;
        while !ends && (bytes.len() as u64) < to {
            let Some(batch) = self.read(bytes.len() as u64).await? else { break };
            let mut grew = false;
            for record in batch.records() {
                ends |= matches!(record.payload, Payload::Dropped { .. });
                if let (Payload::Output(_, data), false) = (record.payload, ends) {
                    grew = true;
                    bytes.extend(data);
                }
            }
            ends |= !grew;
        }
        bytes.truncate(to as usize);
        Ok(bytes)
    }

    /// The offset that is so many bytes of output before another one: numbers that a hub has left out are none.
    ///
    /// # Errors
    /// Those of [`Journal::read`].
    pub async fn back(&self, mut to: u64, mut count: u64) -> Result<u64, StoreError> {
        loop {
            let from = to.saturating_sub(count);
            if to < NUMBERS {
                return Ok(from);
            }
            let first = self.read(from).await?.and_then(|batch| batch.records().next());
            match first.map(|record| record.payload) {
                Some(Payload::Dropped { to: end, reason: Reason::Renumbered }) => {
                    // Several hubs' numbers may have been left out at once.
                    let reached = end.min(to);
                    (to, count) = (reached.saturating_sub(NUMBERS), count.saturating_sub(to - reached));
                }
                _ => return Ok(from),
            }
        }
    }

    /// The output in a range, as far as it ends that in one piece; and how many bytes of that came after numbers that a
    /// hub has left out, if some are among them.
    async fn output(&self, from: u64, to: u64) -> Result<(Vec<u8>, Option<usize>), StoreError> {
        let (mut bytes, mut anew, mut at) = (Vec::new(), None, from);
        while at < to {
            let Some(batch) = self.read(at).await?.filter(|batch| batch.to > at) else { return Ok((Vec::new(), None)) };
            for record in batch.records().take_while(|record| record.offset < to) {
                match record.payload {
                    Payload::Output(_, data) => {
                        let before = bytes.len();
                        bytes.extend(data.iter().take((to - record.offset) as usize));
                        anew = anew.map(|anew| anew + bytes.len() - before);
                    }
                    Payload::Dropped { reason: Reason::Renumbered, .. } => anew = Some(0),
                    Payload::Dropped { .. } => (bytes, anew) = (Vec::new(), None),
                    _ => {}
                }
            }
            at = batch.to;
        }
        Ok((bytes, anew))
    }
}

/// Says in the log what of a session's journal cannot be read, once.
pub fn tell(session: Uuid, what: &str, reason: &str) {
    unreadable::tell_of(&format!("{what} of the journal of {session}"), reason);
}

/// Compresses encoded records for a chunk.
///
/// # Errors
/// Where the compressor runs out of memory.
pub fn pack(records: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(records, 1)
}

/// The encoded records that were packed.
///
/// # Errors
/// Where the data are not what [`pack`] made; in words.
pub fn unpack(data: &[u8]) -> Result<bytes::Bytes, String> {
    if data.is_empty() {
        // To zstd that is no frame, and so nothing that could be wrong.
        return Err("it is empty".into());
    }
    let size = zstd::zstd_safe::get_frame_content_size(data).ok().flatten().unwrap_or_default();
    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_CHUNK).ok_or("it is too large")?;
    zstd::bulk::decompress(data, size).map(Into::into).map_err(|error| error.to_string())
}

/// The records of a chunk, all of which can be decoded, and which stand where the chunk says.
///
/// # Errors
/// Where that is not so; in words.
pub fn records(chunk: &Chunk) -> Result<Batch, String> {
    let batch = Batch::parse(unpack(&chunk.data)?).map_err(|error| error.to_string())?;
    let mut rest = batch.bytes.clone();
    while Record::decode(&mut rest).map_err(|error| error.to_string())?.is_some() {}
    match (batch.from, batch.to) == (chunk.from, chunk.to) {
        true => Ok(batch),
        false => Err(format!("its records are from {} to {}, and not where it says", batch.from, batch.to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stream;
    use crate::session::tests::row;
    use crate::store::{self, ChunkKind};

    #[tokio::test]
    async fn what_was_printed_is_found_across_numbers_that_were_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store::open(None, &dir.path().join("store")).await.expect("a store");
        let row = row();
        store.create_session(row.clone()).await.expect("a session");
        let output = |text: &str| Payload::Output(Stream::Stdout, text.to_owned().into());
        let renumbered = |to| Payload::Dropped { to, reason: Reason::Renumbered };
        let lines: String = (0..2000).map(|line| format!("line {line}\n")).collect();
        let len = lines.len() as u64;
        // One hub's numbers are left out, then two hubs' at once.
        let (first, last) = (NUMBERS + len, 3 * NUMBERS + len + 2);
        let mut at = 0;
        for (seq, payload) in
            [output(&lines), renumbered(first), output("ab"), renumbered(last), output("cd")].into_iter().enumerate()
        {
            let batch = Batch::of(&Record { offset: at, time: 1, payload });
            at = batch.to;
            let (data, kind, seq) = (pack(&batch.bytes).expect("packs").into(), ChunkKind::Records, seq as i64);
            let chunk = Chunk { kind, seq, from: batch.from, to: batch.to, first_time: 1, last_time: 1, data };
            store.append(row.id, &[chunk]).await.expect("appends");
        }
        let journal = Journal::new(store.clone(), row.id, store.extent(row.id).await.expect("an extent"));
        for (count, offset) in
            [(1, at - 1), (2, at - 2), (3, first + 1), (4, first), (5, len - 1), (len, 4), (len + 4, 0), (2 * len, 0)]
        {
            assert_eq!(journal.back(at, count).await.expect("reads"), offset, "{count}");
        }
        assert_eq!(journal.first(at).await.expect("reads"), &lines.as_bytes()[..Printed::FIRST]);
        let text = format!("{}abcd", &lines[lines.len() + 4 - Printed::LAST..]).into_bytes();
        assert_eq!(journal.last(at).await.expect("reads"), (text, Some(2)));
        assert_eq!(journal.last(last).await.expect("reads").1, Some(0));
        assert_eq!(journal.last(len).await.expect("reads").1, None);
    }
}
