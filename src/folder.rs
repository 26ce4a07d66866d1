//! The state folder: which folder that is, who holds it, and how a client reaches the hub in it.
//!
//! What lies in the state folder says where a client sends its token and its environment, and what a hub takes up and
//! runs. So it counts only where nobody but its user, or root, can have put it there:
//!
//! * The folder belongs to this user, and nobody else can write to it. Its mode is never changed.
//! * In a folder that is meant to be shared the state has a folder of this user's own, [`own_name`]: in a sticky folder such as
//!   `/tmp`, and in a volume of root's that is open to a group or to all, as those are that a kubelet mounts.
//! * A file in it is opened without following links, and has to belong to this user or to root.
//! * Who holds the [`Lock`] is the hub of the folder. Where nobody holds it, `hub.json` is what a hub left that is gone.
//! * A client reaches the hub by a socket in the folder, and takes it for the hub only where it runs as this user.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// Name of the socket that the folder's hub listens on.
pub const SOCKET: &str = "hub.sock";

/// Name of the file that the folder's hub holds a lock on. Its text is the hub's process id.
const LOCK: &str = "lock";

/// Longest time for which a starting hub tries to take the lock, which a client may hold for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Pause between two tries to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Longest text that is read from a file of the folder, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// Permission bits with which others than the owner can write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Permission bit of a folder in which nobody can remove the files of others.
const STICKY: u32 = 0o1000;

/// A state folder that is not used, and why.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {path} cannot be used: {reason}; set FOGHORN_HOME to another one", path = path.display())]
pub struct Unusable {
    /// The folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Unusable {
    /// Says what is wrong with a folder.
    pub fn new(path: &Path, reason: impl ToString) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Returns this process's user.
fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns whether a file or folder can be changed by others than its owner and root. A group that only its owner is in
/// is not counted: by convention it has the owner's number.
#[must_use]
pub fn others_can_write(of: &Metadata) -> bool {
    let group = of.mode() & GROUP_WRITES != 0 && of.gid() != of.uid();
    group || of.mode() & OTHERS_WRITE != 0
}

/// Returns whether a file or folder belongs to this user or to root, and nobody else can change it.
#[must_use]
pub fn is_trusted(of: &Metadata) -> bool {
    (of.uid() == me() || of.uid() == 0) && !others_can_write(of)
}

/// Returns the name of the folder of this user's own in a folder that several write to.
#[must_use]
pub fn own_name() -> String {
    format!("hub-{}", me())
}

/// Returns the folder that has the state where `home` is set as the state folder. It need not be there yet.
///
/// # Errors
/// [`Unusable`] where others own it or can write to it, or it cannot be looked at.
pub fn locate(home: &Path) -> Result<PathBuf, Unusable> {
    let unusable = |reason: String| Unusable::new(home, reason);
    let failed = |error: io::Error| unusable(error.to_string());
    ancestors(home)?;
    match fs::symlink_metadata(home) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(home.to_owned()),
        Err(error) => return Err(failed(error)),
    }
    let folder = fs::metadata(home).map_err(failed)?;
    if !folder.is_dir() {
        return Err(unusable("it is not a folder".into()));
    }
    let own = folder.uid() == me();
    let shared = others_can_write(&folder);
    if own && !shared {
        return Ok(home.to_owned());
    }
    let meant_for_several = folder.mode() & STICKY != 0 || is_mount_point(home);
    if shared && meant_for_several && (own || folder.uid() == 0) {
        return below(home);
    }
    Err(unusable(match own {
        true => format!("others can write to it (mode {:04o}); `chmod go-w` it", folder.mode() & 0o7777),
        false => format!("it belongs to another user (uid {})", folder.uid()),
    }))
}

/// Returns this user's own folder in one that several write to.
fn below(home: &Path) -> Result<PathBuf, Unusable> {
    let path = home.join(own_name());
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path),
        Err(error) => Err(Unusable::new(&path, error)),
        Ok(folder) if folder.is_dir() && folder.uid() == me() && !others_can_write(&folder) => Ok(path),
        Ok(_) => Err(Unusable::new(&path, "another user made it, or can write to it")),
    }
}

/// Checks that nobody else can put another folder in the place of one on the way to `home`, or of `home` itself: links are
/// this user's or root's, and so are the folders, which others cannot write to unless they are sticky.
fn ancestors(home: &Path) -> Result<(), Unusable> {
    let unusable = |reason: String| Unusable::new(home, reason);
    let absolute = std::path::absolute(home).map_err(|error| unusable(error.to_string()))?;
    // Without a slash at its end, which would lead through a link.
    let absolute: PathBuf = absolute.components().collect();
    for path in absolute.ancestors() {
        let Ok(there) = fs::symlink_metadata(path) else { continue };
        if there.is_symlink() && !is_ours(&there) {
            let link =
                if path == absolute { "it".to_owned() } else { format!("{}, on the way to it,", path.display()) };
            return Err(unusable(format!("{link} is a link that another user made (uid {})", there.uid())));
        }
    }
    let above = absolute.ancestors().skip(1).find_map(|path| fs::canonicalize(path).ok()).unwrap_or_default();
    for path in above.ancestors() {
        let Ok(folder) = fs::metadata(path) else { continue };
        let shown = path.display();
        if !is_ours(&folder) {
            return Err(unusable(format!("{shown}, which it is in, belongs to another user (uid {})", folder.uid())));
        }
        if folder.mode() & OTHERS_WRITE != 0 && folder.mode() & STICKY == 0 && !is_mount_point(path) {
            return Err(unusable(format!("everybody can write to {shown}, which it is in")));
        }
    }
    Ok(())
}

/// Returns whether something belongs to this user or to root. In a container without root's rights on its machine, root
/// there is nobody that can be named (`man 7 user_namespaces`).
fn is_ours(there: &Metadata) -> bool {
    let unnamed = || fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|uid| uid.trim().parse().ok());
    there.uid() == me() || there.uid() == 0 || (in_a_namespace() && unnamed() == Some(there.uid()))
}

/// Returns whether this process sees only some of its machine's users.
fn in_a_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

/// Returns whether something is mounted right at this path (`man 5 proc_pid_mountinfo`).
fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let escaped = path.display().to_string().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    points.into_iter().any(|point| point == escaped)
}

/// Makes the folder that has the state, for this user alone, where it is not there. One that is there keeps its mode.
///
/// # Errors
/// [`Unusable`].
pub fn make(home: &Path) -> Result<PathBuf, Unusable> {
    let folder = locate(home)?;
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&folder);
    made.map_err(|error| Unusable::new(&folder, error))?;
    // Somebody may have been faster.
    locate(home)
}

/// Makes a folder in the state folder, for this user alone, where it is not there.
///
/// # Errors
/// What the system says, and that what is there is not this user's own.
pub fn make_inner(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let there = fs::symlink_metadata(path)?;
    let own = there.is_dir() && there.uid() == me() && !others_can_write(&there);
    own.then_some(()).ok_or_else(|| io::Error::other("it is there, and is not a folder of this user's alone"))
}

/// Moves the state that lies in `home` into `folder`, which is below it, and leaves links: a hub of 0.1 that an upgrade is
/// taken back to follows them. Only files and folders of this user's own that nobody else can write to are moved. What
/// `folder` has already stays as it is.
///
/// # Errors
/// What the system says, and state of this user's own that others can write to: nobody knows who has.
pub fn move_in(home: &Path, folder: &Path) -> io::Result<()> {
    for name in STATE {
        let (from, to) = (home.join(name), folder.join(name));
        let Ok(there) = fs::symlink_metadata(&from) else { continue };
        // A second name may be that of a file which is elsewhere.
        let plain = there.is_dir() || there.is_file() && there.nlink() == 1;
        if !plain || there.uid() != me() || to.exists() {
            continue;
        }
        if others_can_write(&there) {
            let reason = format!("others can write to {}; `chmod go-w` it, or move it away", from.display());
            return Err(io::Error::other(reason));
        }
        fs::rename(&from, &to)?;
        if !name.starts_with("foghorn.db-") {
            std::os::unix::fs::symlink(Path::new(folder.file_name().unwrap_or_default()).join(name), &from)?;
        }
    }
    Ok(())
}

/// Names of the state that is moved. A lock is on a file in its place, and a `hub.json` is of no use behind the hub that
/// wrote it; the settings in `foghorn.toml` are read where they are. The database's own files go before it.
const STATE: [&str; 8] =
    ["agents", "epoch", "foghorn.db-shm", "foghorn.db-wal", "foghorn.db", "hub.log", "logins.json", "token"];

/// Opens a file of the folder, without following a link. One that does not belong to this user or to root, or that others
/// can write to, is not opened.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // A pipe in its place is waited for by nobody.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = options.custom_flags(flags).mode(0o600).open(path)?;
    let there = file.metadata()?;
    let own = there.is_file() && is_trusted(&there);
    own.then_some(file).ok_or_else(|| {
        let reason = "it is not a file of this user's alone";
        io::Error::new(ErrorKind::PermissionDenied, format!("{}: {reason}", path.display()))
    })
}

/// Reads a file of the folder.
///
/// # Errors
/// What the system says; see [`open`].
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path, OpenOptions::new().read(true))?.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file of the folder that only this user can read, at once or not at all.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // One that was left halfway.
    let _ = fs::remove_file(&new);
    let mut file = open(&new, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The right to be the hub of a folder, for as long as it is held.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A hub of 0.1 that takes the lock next does not say who it is.
        let _ = self.0.set_len(0);
    }
}

/// Who holds a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No hub.
    Nobody,
    /// A hub: its process id, where that can be told.
    Hub(Option<u32>),
}

impl Lock {
    /// Takes the lock and tells this process's id in it. `None` where another hub holds it. Those who only look are
    /// waited for, which blocks this thread for at most [`LOCK_WAIT`].
    ///
    /// # Errors
    /// What the system says.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        Self::take_within(folder, LOCK_WAIT)
    }

    fn take_within(folder: &Path, limit: Duration) -> io::Result<Option<Self>> {
        let options = &mut OpenOptions::new();
        let mut file = open(&folder.join(LOCK), options.read(true).write(true).create(true).truncate(false))?;
        let since = Instant::now();
        while !lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            // Those who only look can be waited for. A hub cannot: it may be told to stop, and this one would follow it.
            if !lock(&file, FlockOperation::NonBlockingLockShared)? || since.elapsed() > limit {
                return Ok(None);
            }
            rustix::fs::flock(&file, FlockOperation::Unlock)?;
            std::thread::sleep(LOCK_PAUSE);
        }
        file.set_len(0)?;
        // A disk without room takes nothing from the lock itself.
        let _ = file.write_all(std::process::id().to_string().as_bytes());
        Ok(Some(Self(file)))
    }
}

/// Locks a file, or returns `false` where others hold it in a way that keeps this out.
fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns who holds a folder. Its lock is taken for a moment, together with whoever else looks.
///
/// # Errors
/// What the system says; a folder or a lock that is not there is held by nobody.
pub fn holder(folder: &Path) -> io::Result<Holder> {
    let mut file = match open(&folder.join(LOCK), OpenOptions::new().read(true)) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Holder::Nobody);
        }
        file => file?,
    };
    if lock(&file, FlockOperation::NonBlockingLockShared)? {
        return Ok(Holder::Nobody);
    }
    let mut text = String::new();
    let read = (&mut file).take(MAX_TEXT).read_to_string(&mut text);
    let told = read.ok().and_then(|_| text.trim().parse().ok());
    Ok(Holder::Hub(match fs::read_to_string("/proc/locks") {
        // What the text says may be of a hub that was killed.
        Ok(locks) => {
            let inode = file.metadata()?.ino();
            let mut holders = locks.lines().filter_map(|line| exclusive(line, inode));
            let first = holders.next();
            told.filter(|told| first == Some(*told) || holders.any(|holder| holder == *told)).or(first)
        }
        Err(_) => told,
    }))
}

/// Reads a line of `/proc/locks` (`man 5 proc_locks`): who holds a lock of the kind of [`Lock`] on a file with this inode.
fn exclusive(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", holder, file, ..] = fields[..] else { return None };
    (file.rsplit(':').next()?.parse() == Ok(inode)).then(|| holder.parse().ok())?
}

/// A path of a socket that is short enough for one: the folder's own path may be longer than the 107 bytes that a
/// socket's may have. It is good for as long as this is held.
struct ShortPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl ShortPath {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        if !Path::new("/proc/self/fd").exists() {
            return Ok(Self { path: folder.join(name), _folder: None });
        }
        let flags = (OFlags::PATH | OFlags::DIRECTORY).bits() as i32;
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }
}

/// Connects to a socket in a folder.
///
/// # Errors
/// What the system says.
pub async fn connect_to(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = ShortPath::new(folder, name)?;
    UnixStream::connect(&socket.path).await
}

/// Listens on the folder's socket, in the place of a hub that is gone. The caller holds the [`Lock`].
///
/// # Errors
/// What the system says.
pub fn listen(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(SOCKET);
    match fs::symlink_metadata(&path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(&path)?,
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", path.display()))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(&ShortPath::new(folder, SOCKET)?.path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the folder's hub. Whoever listens there has to run as this user: nothing was sent yet.
///
/// # Errors
/// What the system says, and that it is another user's.
pub async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let stream = connect_to(folder, SOCKET).await?;
    let uid = stream.peer_cred()?.uid();
    if uid != me() {
        let reason = format!("{} is of another user (uid {uid})", folder.join(SOCKET).display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, reason));
    }
    Ok(stream)
}

/// Returns whether whoever has connected to the folder's hub is its user, or root.
#[must_use]
pub fn is_own(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == me() || peer.uid() == 0)
}

#[cfg(test)]
mod tests;
