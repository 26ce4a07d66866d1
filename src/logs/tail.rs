//! One file, followed: what is new in it, through its truncation. What happens to its name is [`super::files`]'s matter.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::line::{Entry, Stream};
use super::pattern;
use super::position::{FileAt, FileId, Move, hash};
use super::sessions::HELD;
use super::split::{CUT, Held, MAX_LINE};
use super::text;
use crate::session::now;

/// So many bytes at a file's start tell it from another one.
pub const HEAD: usize = 256;

/// The most that one look at a file takes from it, in bytes.
const PIECE: usize = 256 << 10;

/// What one look at a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// There was nothing new.
    Nothing,
    /// There was something, and all of it was read.
    All,
    /// There was something, and there is more.
    More,
}

/// A file that can be read, whatever its name is by now.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Which file.
    pub id: FileId,
    /// What its lines are from.
    pub process: Arc<str>,
    file: Arc<File>,
}

impl Handle {
    /// Opens a regular file; `None` for anything else, which is not even opened.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        if !std::fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        // Should it have become a pipe in between: it is opened without waiting, and then let go.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
        let meta = file.metadata()?;
        let handle = Self { id: id(&meta), process: pattern::process(path).into(), file: Arc::new(file) };
        Ok(meta.is_file().then_some(handle))
    }

    /// Returns a path to the open file itself, whatever its name is.
    #[must_use]
    pub fn open_path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// What the system says of it.
    ///
    /// # Errors
    /// What the system says instead.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Reads at most `max` bytes at `offset`.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; max];
        let mut len = 0;
        while len < max {
            match self.file.read_at(&mut bytes[len..], offset + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// The position at `offset`, as the file is now.
    ///
    /// # Errors
    /// What the system says.
    pub fn at(&self, offset: u64) -> io::Result<FileAt> {
        let head = self.read(0, HEAD.min(usize::try_from(offset).unwrap_or(HEAD)))?;
        Ok(FileAt { offset, head: hash(&head) })
    }

    /// Whether the file still has what was read of it up to `at`.
    #[must_use]
    pub fn continues(&self, at: FileAt) -> bool {
        let long_enough = self.metadata().is_ok_and(|meta| meta.len() >= at.offset);
        long_enough && self.at(at.offset).is_ok_and(|now| now == at)
    }
}

/// Which file this is.
#[must_use]
pub fn id(meta: &Metadata) -> FileId {
    FileId { dev: meta.dev(), ino: meta.ino() }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Tail {
    /// How it is read.
    pub handle: Handle,
    /// Its name when it was last seen.
    pub path: PathBuf,
    held: Held,
    /// Up to where it was read.
    read: u64,
    /// Its first bytes, as far as they were read.
    head: Vec<u8>,
    /// What it started with before it was emptied.
    head_before: Vec<u8>,
    /// Length and time of change at the last look.
    seen: (u64, i64, i64),
}

impl Tail {
    /// A file of which nothing was read.
    #[must_use]
    pub fn from_start(handle: Handle, path: PathBuf) -> Self {
        Self {
            handle,
            path,
            held: Held::default(),
            read: 0,
            head: Vec::new(),
            head_before: Vec::new(),
            seen: (0, 0, 0),
        }
    }

    /// A file of which all whole lines were read, and the last one without its end if nothing was added for a while.
    ///
    /// # Errors
    /// What the system says.
    pub fn from_end(handle: Handle, path: PathBuf) -> io::Result<Self> {
        let meta = handle.metadata()?;
        let len = meta.len();
        let rests = meta.modified()?.elapsed().is_ok_and(|age| age >= HELD);
        let start = len.saturating_sub(MAX_LINE as u64);
        let last = handle.read(start, (len - start) as usize)?;
        let line = last.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        let read = if !rests && (line > 0 || start == 0) { start + line } else { len };
        let held =
            if last.is_empty() || last.last() == Some(&b'\n') || read < len { Held::default() } else { Held::within() };
        let head = handle.read(0, HEAD.min(usize::try_from(read).unwrap_or(HEAD)))?;
        Ok(Self { head, read, held, ..Self::from_start(handle, path) })
    }

    /// Where it stands: what is held is not told.
    #[must_use]
    pub fn at(&self) -> FileAt {
        self.at_offset(self.held.start().unwrap_or(self.read))
    }

    fn at_offset(&self, offset: u64) -> FileAt {
        let len = self.head.len().min(usize::try_from(offset).unwrap_or(HEAD));
        FileAt { offset, head: hash(&self.head[..len]) }
    }

    /// Whether `other` starts as this file does, or did: a copy that was made of it before it was emptied.
    #[must_use]
    pub fn is_copied_in(&self, other: &Handle) -> bool {
        let same =
            |head: &Vec<u8>| head.len() >= HEAD / 4 && other.read(0, head.len()).is_ok_and(|other| other == *head);
        same(&self.head) || same(&self.head_before)
    }

    /// Appends the lines that came since the last look.
    ///
    /// # Errors
    /// What the system says.
    pub fn look(&mut self, out: &mut Vec<Entry>) -> io::Result<Look> {
        let meta = self.handle.metadata()?;
        let seen = (meta.len(), meta.mtime(), meta.mtime_nsec());
        if seen == self.seen && meta.len() == self.read {
            if self.held.since().is_some_and(|since| since.elapsed() >= HELD) {
                self.let_go(out);
            }
            return Ok(Look::Nothing);
        }
        if meta.len() < self.read {
            self.start_again(out);
        }
        let data = self.handle.read(self.read, PIECE)?;
        // Looked at behind the read: if the file was emptied and filled anew before it, these bytes are from its middle.
        if self.handle.read(0, self.head.len())? != self.head {
            self.start_again(out);
            return Ok(Look::More);
        }
        self.seen = seen;
        if data.is_empty() {
            return Ok(Look::Nothing);
        }
        self.take(&data, out);
        Ok(if data.len() == PIECE { Look::More } else { Look::All })
    }

    fn take(&mut self, data: &[u8], out: &mut Vec<Entry>) {
        let missing = HEAD - self.head.len();
        self.head.extend_from_slice(&data[..missing.min(data.len())]);
        let time = now();
        let mut held = std::mem::take(&mut self.held);
        held.feed(data, self.read, |piece| {
            let mut message = text::plain(piece.bytes);
            if piece.cut {
                // A hole in the file, where a writer went on at its old place after it was emptied.
                if piece.bytes.iter().all(|byte| *byte == 0) {
                    return;
                }
                message.push_str(CUT);
            }
            out.push(self.entry(time, message, piece.end));
        });
        self.held = held;
        self.read += data.len() as u64;
    }

    fn entry(&self, time: i64, message: String, end: u64) -> Entry {
        let moved = Move::File(self.handle.id, self.at_offset(end));
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

    /// The file was emptied.
    fn start_again(&mut self, out: &mut Vec<Entry>) {
        self.let_go(out);
        (self.held, self.read, self.seen) = (Held::default(), 0, (0, 0, 0));
        self.head_before = std::mem::take(&mut self.head);
    }

    /// Lets go of a last line that has no end.
    pub fn let_go(&mut self, out: &mut Vec<Entry>) {
        if let Some(bytes) = self.held.let_go() {
            out.push(self.entry(now(), text::plain(&bytes), self.read));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Bed {
        _dir: tempfile::TempDir,
        path: PathBuf,
        tail: Tail,
    }

    impl Bed {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("web.log");
            std::fs::write(&path, text).expect("writes");
            let handle = Handle::open(&path).expect("opens").expect("a file");
            let tail = Tail::from_end(handle, path.clone()).expect("reads");
            Self { _dir: dir, path, tail }
        }

        fn append(&self, text: &str) {
            let file = OpenOptions::new().append(true).open(&self.path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("writes");
        }

        fn look(&mut self) -> Vec<String> {
            let mut out = Vec::new();
            while self.tail.look(&mut out).expect("reads") != Look::Nothing {}
            out.into_iter().map(|entry| entry.message).collect()
        }
    }

    #[test]
    fn what_is_new_comes_line_by_line_and_a_part_of_a_line_waits() {
        let mut bed = Bed::new("old\nhalf of ");
        assert_eq!(bed.tail.at().offset, 4);
        bed.append("a line\nnew\nwai");
        assert_eq!(bed.look(), ["half of a line", "new"]);
        assert_eq!(bed.tail.at().offset, 23);
        assert!(bed.tail.handle.continues(bed.tail.at()));
        bed.append("ted\n");
        assert_eq!(bed.look(), ["waited"]);
        bed.append("no end");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let mut found = Vec::new();
        while found.is_empty() && std::time::Instant::now() < until {
            found = bed.look();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(found, ["no end"], "it is told after a second");
        bed.append("\n");
        assert_eq!(bed.look(), [""; 0]);
        assert_eq!(bed.look(), [""; 0]);
    }

    #[test]
    fn a_file_that_was_emptied_is_read_from_its_start() {
        let mut bed = Bed::new("");
        bed.append("one\ntwo\ncut");
        assert_eq!(bed.look(), ["one", "two"]);
        let at = bed.tail.at();
        std::fs::write(&bed.path, "1\n").expect("writes");
        assert_eq!(bed.look(), ["cut", "1"]);
        assert!(!bed.tail.handle.continues(at));
        // Filled beyond where it was read: known by its start alone.
        let at = bed.tail.at();
        std::fs::write(&bed.path, "another beginning\n2\n").expect("writes");
        assert!(!bed.tail.handle.continues(at));
        assert_eq!(bed.look(), ["another beginning", "2"]);
    }

    #[test]
    fn a_hole_that_a_writer_left_is_not_told() {
        let mut bed = Bed::new("");
        let file = OpenOptions::new().write(true).open(&bed.path).expect("opens");
        file.write_all_at(b"one\n", 0).expect("writes");
        assert_eq!(bed.look(), ["one"]);
        file.set_len(0).expect("truncates");
        file.write_all_at(b"two\n", 300_000).expect("writes");
        assert_eq!(bed.look(), ["two"]);
    }

    #[test]
    fn only_files_are_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Handle::open(dir.path()).expect("looks").is_none());
        let pipe = dir.path().join("pipe.log");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("makes");
        assert!(Handle::open(&pipe).expect("looks").is_none());
    }
}
