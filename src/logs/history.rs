//! What a source said before: a session from its journal, a file from its bytes; and all of them merged by time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dated::leading_time;
use super::files::notice;
use super::line::{Entry, Stream};
use super::pods::past::ContainerPast;
use super::position::{FileAt, Move, SessionAt};
use super::sessions::{ended, entry, number, started};
use super::split::{CUT, Held, Splitter};
use super::tail::Handle;
use super::text;
use crate::record::Batch;
use crate::registry::Registry;
use crate::session::subscription::Subscription;
use crate::store::{Micros, SessionRow};

/// What one read of a file takes, in bytes.
const PIECE: usize = 128 << 10;

/// A part of what a source said, in its order.
pub struct Past {
    source: Source,
    ready: VecDeque<Entry>,
    /// Nothing that comes next is from before this.
    floor: Micros,
    over: bool,
}

enum Source {
    Session(Box<SessionPast>),
    File(FilePast),
    Container(Box<ContainerPast>),
    /// What was made beforehand.
    Made,
}

struct SessionPast {
    registry: Arc<Registry>,
    row: SessionRow,
    from: SessionAt,
    /// Up to where; none: to the end of the session.
    to: Option<SessionAt>,
    reading: Option<(Subscription, Splitter)>,
}

struct FilePast {
    handle: Handle,
    read: u64,
    /// Up to where; none: all that there is, and then the file is done with.
    to: Option<u64>,
    held: Held,
    head: Option<u32>,
    /// The last time that was known.
    time: Option<Micros>,
}

impl Past {
    fn new(source: Source, floor: Micros) -> Self {
        Self { source, ready: VecDeque::new(), floor, over: false }
    }

    /// A session from one position to another, or to its end.
    #[must_use]
    pub fn session(registry: Arc<Registry>, row: SessionRow, from: SessionAt, to: Option<SessionAt>) -> Self {
        let floor = row.created_at;
        let mut ready = VecDeque::new();
        if !from.begun {
            ready.push_back(started(&row));
        }
        let session = SessionPast { registry, row, from, to, reading: None };
        Self { ready, ..Self::new(Source::Session(Box::new(session)), floor) }
    }

    /// A file from one offset to another, or to its end.
    #[must_use]
    pub fn file(handle: Handle, from: u64, to: Option<u64>) -> Self {
        let file = FilePast { handle, read: from, to, held: Held::default(), head: None, time: None };
        Self::new(Source::File(file), Micros::MIN)
    }

    /// The log of a container.
    #[must_use]
    pub fn container(past: ContainerPast) -> Self {
        let floor = past.floor();
        Self::new(Source::Container(Box::new(past)), floor)
    }

    /// A line of Foghorn's own that comes before all others.
    #[must_use]
    pub fn notice(message: String) -> Self {
        Self::said(notice("log".into(), message))
    }

    /// The same, as it is.
    #[must_use]
    pub fn said(entry: Entry) -> Self {
        Self { ready: [entry].into(), over: true, ..Self::new(Source::Made, Micros::MIN) }
    }

    /// The time of what comes next, or one that is not behind it.
    fn time(&self) -> Micros {
        match &self.source {
            Source::Made => Micros::MIN,
            _ => self.ready.front().map_or(self.floor, |entry| entry.time),
        }
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Entry> {
        while self.ready.is_empty() && !self.over {
            self.fill().await;
        }
        let entry = self.ready.pop_front()?;
        self.floor = entry.time;
        Some(entry)
    }

    async fn fill(&mut self) {
        self.over = match &mut self.source {
            Source::Session(session) => session.fill(&mut self.ready).await,
            Source::File(file) => file.fill(&mut self.ready).await,
            Source::Container(container) => container.fill(&mut self.ready).await,
            Source::Made => true,
        };
    }
}

impl SessionPast {
    /// Reads on. Whether this was all.
    async fn fill(&mut self, ready: &mut VecDeque<Entry>) -> bool {
        let process: Arc<str> = self.row.name.as_str().into();
        self.open().await;
        let Some((following, splitter)) = &mut self.reading else {
            let mut gone = notice(process, "its output is not there any more".into());
            gone.moved = Move::SessionEnd(number(&self.row));
            ready.push_back(gone);
            return true;
        };
        let (mut lines, mut out, mut end) = (Vec::new(), Vec::new(), None);
        let to = self.to.map(SessionAt::high);
        let more = to.is_none_or(|to| following.offset() < to) && following.next(&mut out).await;
        for record in out.drain(..).filter_map(|bytes| Batch::parse(bytes).ok()).flat_map(|batch| batch.records()) {
            if to.is_none_or(|to| record.offset < to) {
                splitter.feed(&record, &mut lines);
                end = ended(&self.row, &record);
            }
        }
        let over = !more || end.is_some() || to.is_some_and(|to| following.offset() >= to);
        if over {
            splitter.let_go(&mut lines);
        }
        ready.extend(lines.into_iter().map(|line| entry(&self.row, &process, line)));
        ready.extend(end);
        tokio::task::yield_now().await;
        over
    }

    /// Finds the session, at the first read.
    async fn open(&mut self) {
        if self.reading.is_none()
            && let Ok(Some(session)) = self.registry.find(&self.row.id.to_string()).await
        {
            let splitter = Splitter::new(self.row.tty, self.from, self.to);
            self.reading = Some((session.subscribe(self.from.low()), splitter));
        }
    }
}

impl FilePast {
    /// Reads on. Whether this was all.
    async fn fill(&mut self, ready: &mut VecDeque<Entry>) -> bool {
        let room = self.to.map_or(PIECE as u64, |to| to.saturating_sub(self.read)).min(PIECE as u64) as usize;
        let (handle, offset, headless) = (self.handle.clone(), self.read, self.head.is_none());
        // A thread that may wait for a disk reads.
        let read = tokio::task::spawn_blocking(move || {
            let head = if headless { handle.at(u64::MAX).ok().map(|at| at.head) } else { None };
            let modified = handle.metadata().and_then(|meta| meta.modified()).ok();
            let within = headless && offset > 0 && handle.read(offset - 1, 1).is_ok_and(|byte| byte != b"\n");
            (handle.read(offset, room).unwrap_or_default(), head, modified, within)
        });
        let Ok((data, head, modified, within)) = read.await else { return true };
        if within {
            self.held = Held::within();
        }
        self.head = self.head.or(head);
        let mut entries = Vec::new();
        self.split(&data, &mut entries);
        let over = data.len() < room || self.to.is_some_and(|to| self.read >= to);
        if over && let Some(bytes) = self.held.let_go() {
            entries.push(self.line(&bytes, false, self.read));
        }
        let modified =
            modified.and_then(|time| jiff::Timestamp::try_from(time).ok()).unwrap_or_default().as_microsecond();
        self.date(&mut entries, modified);
        if over && self.to.is_none() {
            match entries.last_mut() {
                Some(last) => last.moved = Move::FileEnd(self.handle.id),
                None => return true,
            }
        }
        ready.extend(entries);
        over
    }

    fn split(&mut self, data: &[u8], entries: &mut Vec<Entry>) {
        let mut held = std::mem::take(&mut self.held);
        held.feed(data, self.read, |piece| entries.push(self.line(piece.bytes, piece.cut, piece.end)));
        self.held = held;
        self.read += data.len() as u64;
    }

    /// A line, with the time that it starts with, or none: the smallest.
    fn line(&self, bytes: &[u8], cut: bool, end: u64) -> Entry {
        let mut message = text::plain(bytes);
        let time = leading_time(&message).unwrap_or(Micros::MIN);
        if cut {
            message.push_str(CUT);
        }
        let moved = Move::File(self.handle.id, self.at(end));
        Entry {
            time,
            process: self.handle.process.clone(),
            container: None,
            stream: Stream::Stdout,
            private: None,
            message,
            moved,
        }
    }

    /// The head of a long file is the same at all its offsets; that of a short one is made where it is needed.
    fn at(&self, offset: u64) -> FileAt {
        let long = offset >= super::tail::HEAD as u64;
        let head = self.head.filter(|_| long).or_else(|| self.handle.at(offset).ok().map(|at| at.head));
        FileAt { offset, head: head.unwrap_or_default() }
    }

    /// Gives lines without a time that of the line before, at the start of the next that has one, else the file's.
    fn date(&mut self, entries: &mut [Entry], modified: Micros) {
        let known = entries.iter().map(|entry| entry.time).find(|time| *time != Micros::MIN);
        let mut time = self.time.or(known).unwrap_or(modified);
        for entry in entries {
            if entry.time == Micros::MIN {
                entry.time = time;
            }
            time = entry.time;
            self.time = Some(time);
        }
    }
}

/// Several sources, merged: always the one whose next line is the oldest. Each keeps its own order.
#[derive(Default)]
pub struct Merge(Vec<Past>);

impl Merge {
    /// Merges these.
    #[must_use]
    pub fn new(pasts: Vec<Past>) -> Self {
        Self(pasts)
    }

    /// The next line; `None` at the end. What is not needed yet is not opened yet.
    pub async fn next(&mut self) -> Option<Entry> {
        loop {
            let (at, oldest) = self.0.iter_mut().enumerate().min_by_key(|(_, past)| past.time())?;
            if !oldest.ready.is_empty() {
                return oldest.next().await;
            }
            if oldest.over {
                self.0.remove(at);
            } else {
                oldest.fill().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn merged(files: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let past = |(number, text): (usize, &&str)| {
            let path = dir.path().join(format!("{number}.log"));
            std::fs::write(&path, text).expect("writes");
            Past::file(Handle::open(&path).expect("opens").expect("a file"), 0, Some(text.len() as u64))
        };
        let mut merge = Merge::new(files.iter().enumerate().map(past).collect());
        let mut lines = Vec::new();
        while let Some(entry) = merge.next().await {
            lines.push(entry.message.rsplit(' ').next().unwrap_or_default().to_owned());
        }
        lines
    }

    #[tokio::test]
    async fn sources_are_merged_by_time_and_keep_their_order() {
        let one = "2026-11-22T10:00:01Z a\n2026-11-22T10:00:03Z c\ncontinued\n2026-11-22T10:00:05Z e\n";
        let two = "early\n2026-11-22T10:00:02Z b\n2026-11-22T10:00:04Z d\n2026-11-22T10:00:01Z wrong-clock\n";
        let none = "undated\n";
        assert_eq!(
            merged(&[one, two, none]).await,
            ["a", "early", "b", "c", "continued", "d", "wrong-clock", "e", "undated"]
        );
    }
}
