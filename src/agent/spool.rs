//! The spool: the agent's own copy of the records that no hub has acknowledged yet.
//!
//! The newest part is in memory; what is older overflows into an unnamed file beside the agent, and above the limit the
//! oldest part goes. Whoever asks for what is gone gets a dropped record with its range. Nothing here waits for a hub.
//!
//! Invariant: every record has an index one above the record before it, and what is held is a contiguous range of
//! indexes that ends with the newest record.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::record::{Batch, HEADER_LEN, Header, MAX_OUTPUT, Payload, Reason, Record, Stream};

/// Bytes held in memory before the oldest go to the file.
const MEMORY_LIMIT: usize = 4 << 20;

/// Bytes of a slot of the file, and so of the pieces in which records go there.
const SLOT: usize = 1 << 20;

/// Bytes of the blocks that output is read into.
const BLOCK: usize = 256 << 10;

/// With less room than this left in a block, a new one is taken, in bytes. A read from a terminal gives at most 4 KiB.
const MIN_ROOM: usize = 8 << 10;

/// What a held record costs besides its bytes.
const OVERHEAD: usize = size_of::<Batch>();

/// A reader's place in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    index: u64,
    /// The offset up to which the reader has all.
    pub offset: u64,
    /// The reader does not know [`Reason::Acknowledged`].
    old: bool,
}

impl Cursor {
    /// The same, for a hub that speaks version 1 of the protocol.
    #[must_use]
    pub fn for_version_1(self) -> Self {
        Self { old: true, ..self }
    }
}

/// A run of records in the file.
#[derive(Debug)]
struct Slot {
    place: u64,
    len: usize,
    index: u64,
    records: u64,
    from: u64,
    to: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Spool {
    block: BytesMut,
    memory: VecDeque<Batch>,
    memory_bytes: usize,
    /// Index of the first record in memory.
    memory_index: u64,
    slots: VecDeque<Slot>,
    free: Vec<u64>,
    file: Option<File>,
    places: u64,
    max_places: u64,
    head: u64,
    last_time: u64,
    /// Up to here a hub has had all.
    acknowledged: u64,
}

impl Spool {
    /// A spool that keeps at most `limit` bytes, those above a few MiB in an unnamed file in `dir`.
    #[must_use]
    pub fn new(dir: &Path, limit: u64) -> Self {
        Self {
            block: BytesMut::new(),
            memory: VecDeque::new(),
            memory_bytes: 0,
            memory_index: 0,
            slots: VecDeque::new(),
            free: Vec::new(),
            file: unnamed_file(dir).ok(),
            places: 0,
            max_places: limit.saturating_sub(MEMORY_LIMIT as u64) / SLOT as u64,
            head: 0,
            last_time: 0,
            acknowledged: 0,
        }
    }

    /// The same, of a sequence whose part before `head` is with others.
    #[must_use]
    pub fn starting_at(dir: &Path, limit: u64, head: u64) -> Self {
        Self { head, acknowledged: head, ..Self::new(dir, limit) }
    }

    /// The offset at which the sequence ends.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The offset of the oldest record held.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.slots.front().map(|slot| slot.from).or(self.memory.front().map(|batch| batch.from)).unwrap_or(self.head)
    }

    /// Lets `read` fill a buffer with output and appends what it read as one record. `Ok(0)` appends nothing.
    ///
    /// # Errors
    /// What `read` says.
    pub fn append(
        &mut self,
        stream: Stream,
        time: u64,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // The payload is read right behind where its header will be, so that nothing is moved afterwards.
        if self.block.len() < HEADER_LEN + MIN_ROOM {
            self.block = BytesMut::zeroed(BLOCK);
        }
        let room = self.block.len().min(HEADER_LEN + MAX_OUTPUT);
        let len = read(&mut self.block[HEADER_LEN..room])?;
        if len == 0 {
            return Ok(0);
        }
        let time = self.time(time);
        let header = Header::output(stream, len, self.head, time);
        self.block[..HEADER_LEN].copy_from_slice(&header.encode());
        let batch = Batch {
            from: self.head,
            to: self.head + len as u64,
            first_time: time,
            last_time: time,
            bytes: self.block.split_to(HEADER_LEN + len).freeze(),
            ..Batch::default()
        };
        self.push(batch);
        Ok(len)
    }

    /// The payload of the newest record, where it is still in memory.
    #[must_use]
    pub fn newest(&self) -> Option<Bytes> {
        self.memory.back().map(|batch| batch.bytes.slice(HEADER_LEN..))
    }

    /// Appends a record that is not output, at the head.
    pub fn mark(&mut self, time: u64, payload: Payload) {
        let record = Record { offset: self.head, time: self.time(time), payload };
        self.push(Batch::of(&record));
    }

    /// Time never goes back within a session.
    fn time(&mut self, time: u64) -> u64 {
        self.last_time = self.last_time.max(time);
        self.last_time
    }

    fn push(&mut self, batch: Batch) {
        self.head = batch.to;
        self.memory_bytes += batch.bytes.len() + OVERHEAD;
        self.memory.push_back(batch);
        while self.memory_bytes > MEMORY_LIMIT {
            self.overflow();
        }
    }

    /// Moves the oldest records in memory to the file, or drops them where there is no room.
    fn overflow(&mut self) {
        let index = self.memory_index;
        let (mut bytes, mut records) = (BytesMut::with_capacity(SLOT), 0);
        let (mut from, mut to) = (self.head, self.head);
        while let Some(batch) = self.memory.front() {
            if !bytes.is_empty() && bytes.len() + batch.bytes.len() > SLOT {
                break;
            }
            (from, to) = (if records == 0 { batch.from } else { from }, batch.to);
            bytes.put_slice(&batch.bytes);
            records += 1;
            self.pop_memory();
        }
        match self.write(&bytes) {
            Some(place) => self.slots.push_back(Slot { place, len: bytes.len(), index, records, from, to }),
            // What is held must be contiguous, and this was the oldest of it.
            None => debug_assert!(self.slots.is_empty(), "a slot was left out"),
        }
    }

    /// Writes the bytes of a slot into a free place, else a new one, else, above the limit or on a full disk, where the
    /// oldest slots lie, which have their room. `None` where no place takes them; no slot is left then.
    fn write(&mut self, bytes: &[u8]) -> Option<u64> {
        let mut place = self.free.pop().or_else(|| self.new_place());
        loop {
            let at = place.take().or_else(|| self.drop_oldest_slot())?;
            let written = self.file.as_ref().is_some_and(|file| write_slot(file, at * SLOT as u64, bytes).is_ok());
            if written {
                return Some(at);
            }
            // The last one that is tried again: others may lie where the disk has room.
            self.free.insert(0, at);
        }
    }

    fn pop_memory(&mut self) {
        if let Some(batch) = self.memory.pop_front() {
            self.memory_bytes -= batch.bytes.len() + OVERHEAD;
            self.memory_index += 1;
        }
    }

    fn new_place(&mut self) -> Option<u64> {
        (self.places < self.max_places).then(|| {
            self.places += 1;
            self.places - 1
        })
    }

    fn drop_oldest_slot(&mut self) -> Option<u64> {
        self.slots.pop_front().map(|slot| slot.place)
    }

    /// Forgets records that end at or before `offset`; those without length that stand right at it stay.
    pub fn acknowledge(&mut self, offset: u64) {
        self.acknowledged = self.acknowledged.max(offset.min(self.head));
        while let Some(slot) = self.slots.front().filter(|slot| slot.to < offset) {
            self.free.push(slot.place);
            self.slots.pop_front();
        }
        if !self.slots.is_empty() {
            return;
        }
        while self.memory.front().is_some_and(|batch| batch.to < offset || (batch.to == offset && batch.from < offset))
        {
            self.pop_memory();
        }
    }

    /// The place of a reader that has all up to `offset`.
    #[must_use]
    pub fn seek(&self, offset: u64) -> Cursor {
        let offset = offset.min(self.head);
        let before = |batch: &Batch| batch.to < offset || (batch.to == offset && batch.from < offset);
        // A slot is read whole, and what the reader has of it is cut off then.
        if let Some(slot) = self.slots.iter().find(|slot| slot.to >= offset) {
            return Cursor { index: slot.index, offset, old: false };
        }
        let skip = self.memory.partition_point(before);
        Cursor { index: self.memory_index + skip as u64, offset, old: false }
    }

    /// Takes what follows the cursor, at most `max` bytes but at least one record, and moves the cursor behind it.
    /// What was dropped comes as a dropped record. Empty where the reader has all.
    pub fn read(&self, cursor: &mut Cursor, max: usize) -> Vec<Bytes> {
        let oldest_index = self.slots.front().map_or(self.memory_index, |slot| slot.index);
        if cursor.index <= oldest_index {
            cursor.index = oldest_index;
            if cursor.offset < self.oldest() {
                return vec![self.gap(cursor, self.oldest())];
            }
        }
        let slot = self.slots.iter().find(|slot| cursor.index < slot.index + slot.records);
        match slot {
            Some(slot) => self.read_slot(slot, cursor),
            None => self.read_memory(cursor, max),
        }
    }

    /// A gap up to `to`, or up to where the reason for it changes.
    fn gap(&self, cursor: &mut Cursor, to: u64) -> Bytes {
        let acknowledged = to.min(self.acknowledged);
        let (to, reason) = match cursor.offset < acknowledged && !cursor.old {
            true => (acknowledged, Reason::Acknowledged),
            false => (to, Reason::SpoolFull),
        };
        let payload = Payload::Dropped { to, reason };
        let record = Record { offset: cursor.offset, time: self.last_time, payload };
        cursor.offset = to;
        record.to_bytes()
    }

    fn read_slot(&self, slot: &Slot, cursor: &mut Cursor) -> Vec<Bytes> {
        let mut bytes = vec![0; slot.len];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound.into());
        let read = file.and_then(|file| file.read_exact_at(&mut bytes, slot.place * SLOT as u64));
        let whole = read.ok().and_then(|()| Batch::parse(bytes.into()).ok());
        let skipped = cursor.index.saturating_sub(slot.index);
        cursor.index = slot.index + slot.records;
        let Some(mut batch) = whole else { return vec![self.gap(cursor, slot.to)] };
        for _ in 0..skipped {
            let _ = Record::decode(&mut batch.bytes);
        }
        let batch = Batch { from: slot.from, ..batch }.after(cursor.offset);
        cursor.offset = slot.to;
        if batch.is_empty() { self.read(cursor, SLOT) } else { vec![batch.bytes] }
    }

    fn read_memory(&self, cursor: &mut Cursor, max: usize) -> Vec<Bytes> {
        let mut bytes = Vec::new();
        let mut len = 0;
        let skip = (cursor.index - self.memory_index) as usize;
        for batch in self.memory.range(skip.min(self.memory.len())..) {
            if len > 0 && len + batch.bytes.len() > max {
                break;
            }
            let rest = batch.clone().after(cursor.offset);
            len += rest.bytes.len();
            bytes.push(rest.bytes);
            (cursor.index, cursor.offset) = (cursor.index + 1, batch.to);
        }
        bytes
    }
}

/// Writes into a slot, for which the disk has room as a whole: another one's bytes, somewhat more, may come in its place.
fn write_slot(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, at, SLOT as u64) {
        Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Err(io::ErrorKind::StorageFull.into()),
        // Where the file system knows no such thing, the write tells.
        _ => file.write_all_at(bytes, at),
    }
}

/// A file without a name, so that nothing is left of it when the agent dies.
fn unnamed_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?))
}

#[cfg(test)]
mod tests;
