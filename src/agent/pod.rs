//! The agent of a pod: how it comes into a container, what it finds there, and how a hub reaches it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::select;
use tokio::time::{sleep, timeout};

use super::protocol::SILENCE;
use super::serve::SOCKET;

/// The agent's file name.
pub const PROGRAM: &str = "foghorn-agent";

/// How long a bridge waits for an agent that is about to listen.
const READY: Duration = Duration::from_secs(5);

/// What an agent finds in its container.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The container's working directory.
    pub dir: PathBuf,
    launchers: Vec<PathBuf>,
}

impl Pod {
    pub(super) fn here(launchers: Vec<PathBuf>) -> io::Result<Self> {
        Ok(Self { dir: std::env::current_dir()?, launchers })
    }

    /// What the image starts its programs with: it sets the environment that its build has made.
    pub(super) fn launcher(&self) -> Option<PathBuf> {
        self.launchers.iter().find(|path| path.is_file() && access(path.as_path(), Access::EXEC_OK).is_ok()).cloned()
    }
}

/// Copies this program into a directory.
///
/// # Errors
/// What the system says.
pub fn install(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROGRAM);
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path)?;
    io::copy(&mut File::open("/proc/self/exe")?, &mut to)?;
    // Whatever the umask is: the command's container may have another user.
    to.set_permissions(std::fs::Permissions::from_mode(0o755))
}

/// Carries bytes between this process's stdin and stdout and the agent in `dir`, until either side ends or the hub has
/// said nothing for [`SILENCE`]: a bridge whose hub is gone must not stay in a pod.
///
/// # Errors
/// Where there is no agent, or a side fails.
pub fn connect(dir: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let agent = timeout(READY, reach(dir)).await??;
        let (from_agent, to_agent) = agent.into_split();
        let stdin = pipe::Receiver::from_owned_fd(rustix::io::dup(rustix::stdio::stdin())?)?;
        let stdout = pipe::Sender::from_owned_fd(rustix::io::dup(rustix::stdio::stdout())?)?;
        select! {
            up = carry(stdin, to_agent) => up,
            down = carry(from_agent, stdout) => down,
        }
    })
}

async fn reach(dir: &Path) -> io::Result<UnixStream> {
    loop {
        // By way of its descriptor, since a socket's path is limited to 107 bytes.
        let opened = OpenOptions::new().read(true).open(dir);
        let connected = match &opened {
            Ok(dir) => UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).await,
            Err(_) => Err(io::ErrorKind::NotFound.into()),
        };
        match connected {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                sleep(Duration::from_millis(10)).await;
            }
            connected => return connected,
        }
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = timeout(SILENCE, from.read(&mut buffer)).await??;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
