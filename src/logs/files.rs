//! The files of an app's log: which there are, what becomes of their names, and what is new in them.
//!
//! A file is known by device and inode. It is followed from when it is found until it has had no name that matches, and
//! nothing new, for a while; so a writer that goes on in a rotated file is heard. Every look reads the files that were
//! there before those that are new: the end of a rotated file comes before the start of its successor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use super::kernel::Watch;
use super::line::{Entry, Stream};
use super::pattern;
use super::position::{FileId, Move};
use super::tail::{Handle, Look, Tail, id};
use super::{Event, Log};
use crate::session::now;

/// The pause between two looks at the followed files where the kernel tells nothing.
pub const LOOK: Duration = Duration::from_millis(150);

/// How often the directories are read for new files; at once when a followed file has lost its name.
pub const SCAN: Duration = Duration::from_secs(1);

/// The least time between two readings of the directories because the kernel tells of a new name.
const TOLD_SCAN: Duration = Duration::from_millis(100);

/// The pause behind a look, so that a file that is written to all the time is read in larger pieces.
const PAUSE: Duration = Duration::from_millis(2);

/// How long a file without a matching name is followed after its last line.
const ROTATED_KEPT: Duration = Duration::from_secs(30);

/// The most files that one app's log follows.
pub const MAX_FILES: usize = 256;

/// A followed file, and since when it has had neither a matching name nor a new line.
#[derive(Debug)]
struct Followed {
    tail: Tail,
    left: Option<Instant>,
}

/// See the module's documentation. Reads files, so it is for threads that may wait.
#[derive(Debug, Default)]
pub struct Files {
    patterns: Vec<String>,
    followed: BTreeMap<FileId, Followed>,
    scanned: Option<Instant>,
    too_many: bool,
    /// The files and folders that cannot be read, as it was told.
    unread: BTreeMap<PathBuf, String>,
    watch: Option<Arc<Watch>>,
}

impl Files {
    /// The files that match now, of which all whole lines count as told. Where each stands is in the events.
    #[must_use]
    pub fn open(patterns: Vec<String>) -> (Self, Vec<Event>) {
        let mut files =
            Self { patterns, scanned: Some(Instant::now()), watch: Watch::new().map(Arc::new), ..Self::default() };
        let mut events = Vec::new();
        for (path, handle) in files.unknown(&mut events) {
            match Tail::from_end(handle, path) {
                Ok(tail) => files.follow(tail, &mut events),
                Err(error) => tracing::debug!(%error, "cannot read a log file"),
            }
        }
        (files, events)
    }

    fn follow(&mut self, tail: Tail, events: &mut Vec<Event>) {
        if let Some(watch) = &self.watch {
            watch.add_file(&tail.handle);
        }
        events.push(Event::Opened(tail.handle.clone(), tail.at()));
        self.followed.insert(tail.handle.id, Followed { tail, left: None });
    }

    /// One look at everything. Whether there is more to be read at once.
    pub fn look(&mut self, scan: bool) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        let lost_a_name = self.note_names();
        let mut more = self.read(&mut events);
        if scan || lost_a_name || self.scanned.is_none_or(|at| at.elapsed() >= SCAN) {
            self.scanned = Some(Instant::now());
            let new = self.unknown(&mut events);
            if !new.is_empty() {
                // A file may have been rotated since it was read: first its end, then its successor.
                self.note_names();
                more |= self.read(&mut events);
            }
            for (path, handle) in new {
                match self.start_of(handle, path) {
                    Ok(tail) => self.follow(tail, &mut events),
                    Err(error) => tracing::debug!(%error, "cannot read a log file"),
                }
                more = true;
            }
        }
        self.drop_departed(&mut events);
        (events, more)
    }

    /// A new file is read from its start, unless it is the copy that `copytruncate` leaves.
    fn start_of(&self, handle: Handle, path: PathBuf) -> std::io::Result<Tail> {
        let name = path.to_string_lossy().into_owned();
        let beside = |tail: &Tail| {
            name.strip_prefix(&*tail.path.to_string_lossy()).is_some_and(|rest| rest.starts_with(['.', '-']))
        };
        let copy = self.followed.values().any(|other| beside(&other.tail) && other.tail.is_copied_in(&handle));
        if copy { Tail::from_end(handle, path) } else { Ok(Tail::from_start(handle, path)) }
    }

    /// Notes which files have lost their names. Whether one has just now.
    fn note_names(&mut self) -> bool {
        let mut lost = false;
        for (id_then, followed) in &mut self.followed {
            let has_name = std::fs::metadata(&followed.tail.path).is_ok_and(|meta| id(&meta) == *id_then);
            if !has_name && followed.left.is_none() {
                followed.left = Some(Instant::now());
                lost = true;
            }
        }
        lost
    }

    /// Reads what is new, first in those that have lost their names.
    fn read(&mut self, events: &mut Vec<Event>) -> bool {
        let mut more = false;
        for departed in [true, false] {
            for followed in self.followed.values_mut().filter(|followed| followed.left.is_some() == departed) {
                let mut entries = Vec::new();
                match followed.tail.look(&mut entries) {
                    Ok(Look::Nothing) => {}
                    Ok(look) => {
                        more |= look == Look::More;
                        followed.left = followed.left.map(|_| Instant::now());
                    }
                    Err(error) => {
                        tracing::debug!(%error, path = %followed.tail.path.display(), "cannot read a log file")
                    }
                }
                events.extend(entries.into_iter().map(Event::Line));
            }
        }
        more
    }

    /// Files that match and are not followed yet; those that are get the names that they have now.
    fn unknown(&mut self, events: &mut Vec<Event>) -> Vec<(PathBuf, Handle)> {
        let mut new: BTreeMap<FileId, (PathBuf, Handle)> = BTreeMap::new();
        let (mut unread, mut paths) = (Vec::new(), Vec::new());
        for pattern in &self.patterns {
            let found = pattern::matches(pattern, &mut unread);
            if let Some(watch) = &self.watch {
                pattern::folders(pattern, &found).iter().for_each(|folder| watch.add_folder(folder));
            }
            paths.extend(found);
        }
        for path in paths {
            let meta = match std::fs::metadata(&path) {
                Ok(meta) => meta,
                Err(error) => {
                    unread.push((path, error));
                    continue;
                }
            };
            if let Some(known) = self.followed.get_mut(&id(&meta)) {
                if known.left.take().is_some() {
                    known.tail.path = path;
                }
                continue;
            }
            if self.followed.len() + new.len() >= MAX_FILES {
                self.note_too_many(events);
                break;
            }
            match Handle::open(&path) {
                Ok(Some(handle)) => drop(new.entry(handle.id).or_insert((path, handle))),
                Ok(None) => {}
                Err(error) => unread.push((path, error)),
            }
        }
        self.note_unread(unread, events);
        new.into_values().collect()
    }

    /// Tells of what cannot be read, once each. A file that went away meanwhile is none of it.
    fn note_unread(&mut self, unread: Vec<(PathBuf, std::io::Error)>, events: &mut Vec<Event>) {
        let told = |(path, error): (PathBuf, std::io::Error)| {
            let message = format!("{} cannot be read: {}", path.display(), error.kind());
            (error.kind() != std::io::ErrorKind::NotFound).then_some((path, message))
        };
        let unread: BTreeMap<_, _> = unread.into_iter().filter_map(told).take(MAX_FILES).collect();
        if unread != self.unread {
            events.push(Event::Unread(unread.values().cloned().collect()));
            self.unread = unread;
        }
    }

    fn note_too_many(&mut self, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.too_many, true) {
            let message =
                format!("more than {MAX_FILES} files match this app's patterns; those beyond are not followed");
            events.push(Event::Line(notice("log".into(), message)));
        }
    }

    fn drop_departed(&mut self, events: &mut Vec<Event>) {
        let over = |followed: &Followed| followed.left.is_some_and(|left| left.elapsed() >= ROTATED_KEPT);
        let gone: Vec<_> = self.followed.iter().filter(|(_, followed)| over(followed)).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(mut followed) = self.followed.remove(&id) {
                let mut entries = Vec::new();
                followed.tail.let_go(&mut entries);
                events.extend(entries.into_iter().map(Event::Line));
                events.push(Event::Moved(Move::FileEnd(id)));
            }
        }
    }
}

/// A line of Foghorn's own, which moves nothing.
#[must_use]
pub fn notice(process: Arc<str>, message: String) -> Entry {
    Entry { time: now(), process, container: None, stream: Stream::Hub, private: None, message, moved: Move::None }
}

/// Follows the files of a log until the log is closed.
pub(super) async fn follow(log: Arc<Log>, mut files: Files) {
    let mut wanted = log.looks.wanted.subscribe();
    let mut more = false;
    let mut told = files.watch.clone().and_then(|watch| watch.listen().ok());
    let (mut new_name, mut scanned) = (false, Instant::now());
    loop {
        if !more {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = wanted.changed() => {}
                heard = hear(&told) => match heard {
                    Ok(name) => new_name |= name,
                    Err(error) => {
                        tracing::warn!(%error, "the kernel tells nothing of log files any more; they are looked at");
                        told = None;
                    }
                },
            }
        }
        let number = *wanted.borrow_and_update();
        let is_named = new_name && scanned.elapsed() >= TOLD_SCAN;
        let asked = number > *log.looks.files.borrow() || is_named;
        if is_named {
            (new_name, scanned) = (false, Instant::now());
        }
        // A thread that may wait for a disk looks; it takes the files along and gives them back.
        let looked = tokio::task::spawn_blocking(move || {
            let (events, more) = files.look(asked);
            (files, events, more)
        });
        let Ok((again, events, left)) = looked.await else {
            tracing::error!(app = log.app(), "the files of a log cannot be followed any more");
            return;
        };
        (files, more) = (again, left);
        log.publish(events);
        if !more {
            log.looks.files.send_replace(number);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until the kernel tells of something. Returns whether there is a new name.
async fn hear(told: &Option<AsyncFd<Arc<Watch>>>) -> std::io::Result<bool> {
    let Some(told) = told else { return std::future::pending().await };
    loop {
        let mut ready = told.readable().await?;
        if let Ok(name) = ready.try_io(|watch| watch.get_ref().read()) {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{OpenOptions, rename, write};
    use std::io::Write;
    use std::path::Path;

    fn append(path: &Path, text: &str) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("writes");
    }

    /// `process: message` of all that comes until there is nothing more.
    fn lines(files: &mut Files) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let (events, more) = files.look(true);
            lines.extend(events.into_iter().filter_map(|event| match event {
                Event::Line(entry) => Some(format!("{}: {}", entry.process, entry.message)),
                _ => None,
            }));
            if !more {
                return lines;
            }
        }
    }

    fn bed(pattern: &str) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a directory");
        append(&dir.path().join("web.log"), "before\n");
        let (files, events) = Files::open(vec![dir.path().join(pattern).display().to_string()]);
        assert_eq!(events.len(), 1);
        (dir, files)
    }

    #[test]
    fn a_rotated_file_is_read_to_its_end_before_the_new_one() {
        let (dir, mut files) = bed("*.log");
        let path = dir.path().join("web.log");
        append(&path, "1\n");
        assert_eq!(lines(&mut files), ["web: 1"]);
        append(&path, "2\n");
        let rotated = dir.path().join("web.log.1");
        rename(&path, &rotated).expect("renames");
        append(&path, "4\n");
        append(&rotated, "3\n");
        assert_eq!(lines(&mut files), ["web: 2", "web: 3", "web: 4"]);
        // A writer that has not noticed yet.
        append(&rotated, "late\n");
        append(&path, "5\n");
        assert_eq!(lines(&mut files), ["web: late", "web: 5"]);
    }

    #[test]
    fn a_file_that_was_deleted_made_again_or_is_new_is_followed() {
        let (dir, mut files) = bed("*.log");
        let path = dir.path().join("web.log");
        append(&path, "1\n");
        std::fs::remove_file(&path).expect("removes");
        assert_eq!(lines(&mut files), ["web: 1"]);
        append(&path, "2\n");
        append(&dir.path().join("worker.log"), "w\n");
        append(&dir.path().join("other.txt"), "no\n");
        let mut found = lines(&mut files);
        found.sort();
        assert_eq!(found, ["web: 2", "worker: w"]);
    }

    #[test]
    fn a_copied_and_emptied_file_is_told_once() {
        let (dir, mut files) = bed("*.log*");
        let path = dir.path().join("web.log");
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        append(&path, &text);
        assert_eq!(lines(&mut files).len(), 40);
        std::fs::copy(&path, dir.path().join("web.log.1")).expect("copies");
        write(&path, "").expect("truncates");
        append(&path, "next\n");
        assert_eq!(lines(&mut files), ["web: next"]);
        // Renamed within what matches: the same file still.
        rename(&path, dir.path().join("web.log.2")).expect("renames");
        append(&dir.path().join("web.log.2"), "more\n");
        assert_eq!(lines(&mut files), ["web: more"]);
    }

    #[test]
    fn no_more_files_than_allowed_are_followed_and_that_is_said() {
        let (dir, mut files) = bed("*.log");
        for number in 0..MAX_FILES + 3 {
            append(&dir.path().join(format!("{number}.log")), "x\n");
        }
        let found = lines(&mut files);
        assert_eq!(found.len(), MAX_FILES);
        assert_eq!(found.iter().filter(|line| line.starts_with("log: more than 256")).count(), 1);
    }
}
