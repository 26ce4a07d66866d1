//! The kernel's word that a file or a folder has changed (inotify). It is a wake-up alone: what changed is looked for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::tail::Handle;

/// Bytes of events that are read at once.
const EVENTS: usize = 4 << 10;

/// Files and folders that the kernel watches. What it cannot watch is looked at.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing; none where the kernel has no more of them.
    #[must_use]
    pub fn new() -> Option<Self> {
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        made.map(Self).inspect_err(|error| tracing::debug!(%error, "log files are looked at")).ok()
    }

    /// Returns what becomes readable when the kernel tells of something.
    ///
    /// # Errors
    /// What the system says.
    #[expect(unsafe_code, reason = "registering a descriptor that is owned")]
    pub fn listen(self: Arc<Self>) -> io::Result<AsyncFd<Arc<Self>>> {
        // SAFETY: the `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` shares it.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Watches an open file for what is written to it, whatever its name is.
    pub fn add_file(&self, file: &Handle) {
        let flags = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
        self.add(Path::new(&file.open_path()), flags);
    }

    /// Watches a folder for new names.
    pub fn add_folder(&self, folder: &Path) {
        self.add(folder, WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR);
    }

    fn add(&self, path: &Path, flags: WatchFlags) {
        if let Err(error) = inotify::add_watch(&self.0, path, flags) {
            tracing::debug!(%error, path = %path.display(), "the kernel does not watch a log file");
        }
    }

    /// Reads all that the kernel tells. Returns whether there may be a new name.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where it tells nothing, or what the system says.
    pub fn read(&self) -> io::Result<bool> {
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(&self.0, &mut room);
        let named = ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::QUEUE_OVERFLOW;
        let mut any = None;
        loop {
            match reader.next() {
                Ok(event) => any = Some(any.unwrap_or_default() || event.events().intersects(named)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return any.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
