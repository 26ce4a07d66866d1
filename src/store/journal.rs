//! What may be appended to a journal, and what goes when it is trimmed: the rules, without a database.

use uuid::Uuid;

use super::rows::{signed, unsigned};
use super::{Chunk, ChunkKind, Extent, StoreError};

/// What a session's row says of its journal. Held under the row's lock while it is changed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Journal {
    /// The session's day, which all its chunks carry.
    pub(super) day: i64,
    /// The oldest chunk of records that is there; `next_seq` where none is.
    pub(super) first_seq: i64,
    pub(super) next_seq: i64,
    pub(super) next_screen: i64,
    #[sqlx(rename = "journal_from")]
    pub(super) start: i64,
    #[sqlx(rename = "journal_to")]
    pub(super) end: i64,
    pub(super) stored_bytes: i64,
}

impl Journal {
    pub(super) fn extent(&self) -> Result<Extent, StoreError> {
        Ok(Extent {
            from: unsigned("sessions", self.start)?,
            to: unsigned("sessions", self.end)?,
            next_seq: self.next_seq,
            stored_bytes: unsigned("sessions", self.stored_bytes)?,
        })
    }

    /// Takes a chunk in. The `seq` that it is stored under: its own for records, the next one for screens.
    pub(super) fn accept(&mut self, chunk: &Chunk) -> Result<i64, StoreError> {
        let (from, to) = (signed("chunks", chunk.from)?, signed("chunks", chunk.to)?);
        self.stored_bytes += signed("chunks", chunk.data.len() as u64)?;
        match chunk.kind {
            ChunkKind::Records => self.accept_records(chunk, from, to),
            ChunkKind::Screen => {
                self.next_screen += 1;
                Ok(self.next_screen - 1)
            }
        }
    }

    fn accept_records(&mut self, chunk: &Chunk, from: i64, to: i64) -> Result<i64, StoreError> {
        let empty = self.first_seq == self.next_seq;
        if chunk.seq != self.next_seq || to < from || (!empty && from != self.end) {
            let end = unsigned("sessions", self.end)?;
            return Err(StoreError::NotContiguous { from: chunk.from, end });
        }
        if empty {
            self.start = from;
        }
        self.end = to;
        self.next_seq += 1;
        Ok(chunk.seq)
    }

    /// Takes all chunks out. What comes next still has the next `seq`.
    pub(super) fn clear(&mut self) {
        self.first_seq = self.next_seq;
        self.start = self.end;
        self.stored_bytes = 0;
    }

    /// Takes out what goes so that at most `max_bytes` are left. `pieces` are all of the journal, by kind and place.
    pub(super) fn trim(&mut self, pieces: &[Piece], max_bytes: u64) -> Cut {
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        let (records, screens) = pieces.split_at(pieces.partition_point(|piece| piece.kind == 0));
        let mut kept: i64 = records.iter().map(|piece| piece.bytes).sum();
        let mut gone = 0;
        loop {
            let from = records.get(gone).map_or(self.end, |piece| piece.from_offset);
            let cut = Cut {
                records_before: records.get(gone).map_or(self.next_seq, |piece| piece.seq),
                screens_before: screens.iter().rev().map(|s| s.from_offset).find(|at| *at <= from).unwrap_or(0),
            };
            let drawn: i64 =
                screens.iter().filter(|s| s.from_offset >= cut.screens_before).map(|piece| piece.bytes).sum();
            if kept + drawn <= max_bytes || gone == records.len() {
                self.first_seq = cut.records_before;
                self.start = from;
                self.stored_bytes = kept + drawn;
                return cut;
            }
            kept -= records[gone].bytes;
            gone += 1;
        }
    }
}

/// A chunk without its data.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(super) struct Piece {
    pub(super) kind: i16,
    pub(super) seq: i64,
    pub(super) from_offset: i64,
    pub(super) bytes: i64,
}

/// What goes of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Chunks of records with a `seq` below this.
    pub(super) records_before: i64,
    /// Screens at an offset below this.
    pub(super) screens_before: i64,
}

/// The query that writes a session's [`Journal`] back, for either database.
macro_rules! set_journal {
    ($session:expr, $journal:expr) => {
        sqlx::query(sql::SET_JOURNAL)
            .bind($session)
            .bind($journal.first_seq)
            .bind($journal.next_seq)
            .bind($journal.next_screen)
            .bind($journal.start)
            .bind($journal.end)
            .bind($journal.stored_bytes)
    };
}
pub(super) use set_journal;

/// The journal of a session that must be there.
pub(super) fn present(session: Uuid, journal: Option<Journal>) -> Result<Journal, StoreError> {
    journal.ok_or(StoreError::NoSession(session))
}
