//! The process of a session: started on a terminal of its own or on three pipes.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;

use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{SpecialCodeIndex, Winsize, tcgetattr, tcgetpgrp, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::descendants::MARK;
use super::pod::Pod;
use super::protocol::Start;
use super::wire::{WriteHalf, watch};
use crate::record::{Size, Stream};

/// One end of a terminal or a pipe that is read, not blocking.
pub type Channel = Rc<AsyncFd<OwnedFd>>;

/// A command that was started.
#[derive(Debug)]
pub struct Command {
    /// Its process id.
    pub pid: Pid,
    /// What it writes to.
    pub outputs: Vec<(Stream, Channel)>,
    /// What it reads from; none where its standard input is at its end.
    pub input: Option<WriteHalf>,
    /// The terminal's master side.
    pub terminal: Option<Channel>,
}

/// Why a command could not be started.
#[derive(Debug)]
pub struct CannotStart {
    /// What the client exits with: 127 not found, 126 not executable, 125 anything else.
    pub status: u8,
    reason: String,
}

/// What is said where no process can be started.
pub const NO_PROCESSES: &str = "this machine, or the hub's user on it, can have no more processes; end some, or raise \
                                the limit (ulimit -u)";

/// Whether a process could not be started for want of room for it.
#[must_use]
pub fn is_out_of_processes(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

impl fmt::Display for CannotStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl CannotStart {
    fn program(program: &str, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self { status: 127, reason: format!("{program}: command not found") },
            ErrorKind::PermissionDenied => Self { status: 126, reason: format!("{program}: permission denied") },
            _ if is_out_of_processes(error) => Self { status: 125, reason: format!("{program}: {NO_PROCESSES}") },
            // ENOEXEC: neither a program nor a script with an interpreter line.
            _ if error.raw_os_error() == Some(8) => Self { status: 126, reason: format!("{program}: cannot execute") },
            _ => Self { status: 125, reason: format!("{program}: {error}") },
        }
    }

    fn system(what: &str, error: impl fmt::Display) -> Self {
        Self { status: 125, reason: format!("{what}: {error}") }
    }
}

/// The longest name that is told whole in a reason, in bytes.
const NAME_BYTES: usize = 256;

/// A program's or a directory's name, for a reason: a caller may have made it as long as a request.
fn named(name: &OsStr) -> String {
    let mut name = name.to_string_lossy().into_owned();
    if name.len() > NAME_BYTES {
        name.truncate(name.floor_char_boundary(NAME_BYTES));
        name.push('…');
    }
    name
}

impl Command {
    /// Starts what `start` says, marked with the session's id; in a pod, as the container's own program would be.
    ///
    /// # Errors
    /// [`CannotStart`] with a sentence for a person.
    pub fn start(start: &Start, session: &str, pod: Option<&Pod>) -> Result<Self, CannotStart> {
        let launcher = pod.and_then(Pod::launcher);
        let mut words = launcher.iter().map(AsRef::as_ref).chain(start.command.iter().map(AsRef::<OsStr>::as_ref));
        let program = words.next().ok_or(CannotStart::system("command", "empty"))?;
        let dir = pod.map_or(Path::new(&start.dir), |pod| &pod.dir);
        if !dir.is_dir() {
            return Err(CannotStart { status: 126, reason: format!("{}: no such directory", named(dir.as_os_str())) });
        }
        if access(dir, Access::EXEC_OK).is_err() {
            let reason = format!("{}: permission denied to start there", named(dir.as_os_str()));
            return Err(CannotStart { status: 126, reason });
        }
        let mut command = std::process::Command::new(program);
        command.args(words).current_dir(dir);
        if pod.is_none() {
            command.env_clear();
        }
        command.envs(&start.env).env(MARK, session);
        let program = &*named(program);
        match start.terminal {
            Some(size) => Self::on_terminal(command, size, start.stdin),
            None => Self::on_pipes(command, start.stdin),
        }
        .map_err(|error| match error {
            Failed::Spawn(error) => CannotStart::program(program, &error),
            Failed::Channel(error) => CannotStart::system("cannot make a terminal or pipe", error),
        })
    }

    fn on_terminal(command: std::process::Command, size: Size, stdin: bool) -> Result<Self, Failed> {
        let (pty, pts) = pty_process::blocking::open().map_err(Failed::channel)?;
        pty.resize(pty_process::Size::new(size.rows, size.cols)).map_err(Failed::channel)?;
        let mut command: pty_process::blocking::Command = command.into();
        if !stdin {
            command = command.stdin(Stdio::null());
        }
        let child = command.spawn(pts).map_err(|error| match error {
            pty_process::Error::Io(error) => Failed::Spawn(error),
            error => Failed::channel(error),
        })?;
        let pty = unblocked(pty.into())?;
        let input = stdin.then(|| pty.try_clone().map(WriteHalf::new)).transpose().map_err(Failed::Channel)?;
        let terminal = channel(pty)?;
        Ok(Self {
            pid: pid(&child)?,
            outputs: vec![(Stream::Stdout, terminal.clone())],
            input,
            terminal: Some(terminal),
        })
    }

    fn on_pipes(mut command: std::process::Command, stdin: bool) -> Result<Self, Failed> {
        let input = if stdin { Stdio::piped() } else { Stdio::null() };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(Failed::Spawn)?;
        let mut outputs = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            outputs.push((Stream::Stdout, channel(unblocked(stdout.into())?)?));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.push((Stream::Stderr, channel(unblocked(stderr.into())?)?));
        }
        let input = child.stdin.take().map(|stdin| unblocked(stdin.into()).map(WriteHalf::new)).transpose()?;
        Ok(Self { pid: pid(&child)?, outputs, input, terminal: None })
    }

    /// Sends a signal as a terminal would: to the foreground process group, or to the command's own.
    ///
    /// # Errors
    /// Where the number is no signal, or nobody is left to get it.
    pub fn signal(&self, signal: u8) -> io::Result<()> {
        let signal = Signal::from_named_raw(i32::from(signal)).ok_or(ErrorKind::InvalidInput)?;
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal.as_fd()).ok());
        Ok(kill_process_group(foreground.unwrap_or(self.pid), signal)?)
    }

    /// Gives the terminal another size; the command gets WINCH. Does nothing without a terminal.
    pub fn resize(&self, size: Size) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
            // Fails only on what is no terminal.
            let _ = tcsetwinsize(terminal.as_fd(), size);
        }
    }

    /// What ends the input of a terminal: its end-of-file character.
    #[must_use]
    pub fn end_of_file(&self) -> Option<u8> {
        let terminal = self.terminal.as_ref()?;
        Some(tcgetattr(terminal.as_fd()).map_or(4, |modes| modes.special_codes[SpecialCodeIndex::VEOF]))
    }
}

enum Failed {
    Spawn(io::Error),
    Channel(io::Error),
}

impl Failed {
    fn channel(error: pty_process::Error) -> Self {
        Self::Channel(match error {
            pty_process::Error::Io(error) => error,
            error => io::Error::other(error.to_string()),
        })
    }
}

fn unblocked(fd: OwnedFd) -> Result<OwnedFd, Failed> {
    let set = fcntl_getfl(&fd).and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
    set.map(|()| fd).map_err(|error| Failed::Channel(error.into()))
}

fn channel(fd: OwnedFd) -> Result<Channel, Failed> {
    watch(fd, Interest::READABLE).map(Rc::new).map_err(Failed::Channel)
}

/// The handle itself is dropped: the agent waits for all its children in one place.
fn pid(child: &std::process::Child) -> Result<Pid, Failed> {
    Pid::from_raw(child.id() as i32).ok_or(Failed::Channel(ErrorKind::NotFound.into()))
}
