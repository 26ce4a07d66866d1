//! An agent's life: it waits to be told what to start, watches over it, ends what is left, and keeps the exit until a
//! hub has it.
//!
//! One thread, one future: every part borrows the same [`Agent`], and none waits for a hub.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus};
use tokio::net::UnixListener;
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::command::{Channel, Command};
use super::connection::{self, Greeted};
use super::descendants::Family;
use super::input::{Input, give};
use super::pod::Pod;
use super::protocol::Start;
use super::spool::Spool;
use super::wire::WriteHalf;
use crate::record::{Cause, Payload, Stream};

/// How long an agent waits to be told what to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long output is read after the last process is gone, where something else holds a pipe open.
const DRAIN: Duration = Duration::from_secs(2);

/// How long before the idle limit ends the command a warning is given, at most; less where the limit is short.
const IDLE_WARNING: Duration = Duration::from_secs(60);

/// How long an exit is kept for a hub that does not come.
const EXIT_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of the socket in the agent's directory.
pub const SOCKET: &str = "sock";

/// What an agent is told when it is made. All else comes with the start message.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of its own, readable by its user alone; the agent removes it at its end.
    pub dir: PathBuf,
    /// The session's id.
    pub session: String,
    /// The limit of open files that the command gets, where the hub raised its own.
    pub nofile: Option<u64>,
    /// Whether it is the agent of a pod, and what may be there to start the command, such as `/cnb/lifecycle/launcher`.
    pub pod: Option<Vec<PathBuf>>,
}

/// What all parts of an agent share.
pub(super) struct Agent {
    pub(super) session: String,
    pub(super) spool: RefCell<Spool>,
    pub(super) input: RefCell<Input>,
    pub(super) start: watch::Sender<Option<Rc<Start>>>,
    pub(super) command: RefCell<Option<Rc<Command>>>,
    /// Something is there to be sent.
    pub(super) moved: watch::Sender<()>,
    /// Input is there to be given.
    pub(super) typed: watch::Sender<()>,
    /// Output may be produced up to this offset.
    pub(super) pace: watch::Sender<u64>,
    /// Who or what asked for the end.
    pub(super) ending: watch::Sender<Option<Cause>>,
    /// A hub has the exit.
    pub(super) exit_safe: watch::Sender<bool>,
    /// The highest epoch that a hub had.
    pub(super) epoch: Cell<u64>,
    /// Whether a hub is connected; one that falls silent is not for long.
    pub(super) connected: watch::Sender<bool>,
    /// When a hub last spoke.
    pub(super) contact: Cell<Instant>,
    /// When something was last typed or printed.
    pub(super) activity: Cell<Instant>,
    /// When the idle limit ends the command, once that is near.
    pub(super) idle_at: Cell<Option<Instant>>,
    /// Who the session is, as a hub said.
    pub(super) card: RefCell<Option<serde_json::Value>>,
    /// How long it goes on without a hub, in milliseconds.
    pub(super) orphan_limit: Cell<u64>,
    copy: RefCell<Option<std::sync::mpsc::SyncSender<Bytes>>>,
    /// The container that it is the first process of.
    pod: Option<Pod>,
    dir: PathBuf,
    born: (SystemTime, Instant),
}

/// Runs an agent to its end.
///
/// # Errors
/// Where its directory, socket or runtime cannot be had.
pub fn run(options: &Options) -> io::Result<()> {
    // A session of its own: no terminal, no signal and no end of the hub's reaches it.
    let _already_leader = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    if let Some(limit) = options.nofile {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum })?;
    }
    let pod = options.pod.clone().map(Pod::here).transpose()?;
    if pod.is_some() {
        DirBuilder::new().mode(0o700).recursive(true).create(&options.dir)?;
    }
    // Paths of sockets are short, so it is named relative to the directory.
    std::env::set_current_dir(&options.dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(options, pod));
    std::env::set_current_dir("/")?;
    let _may_be_gone = std::fs::remove_dir_all(&options.dir);
    result
}

async fn serve(options: &Options, pod: Option<Pod>) -> io::Result<()> {
    // One that a container which was started again left.
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(Path::new(SOCKET))?;
    // The first process of a container gets only the signals that it asks for.
    let told_to_end = pod.is_some().then(|| signal(SignalKind::terminate())).transpose()?;
    let agent = Agent::new(options, pod);
    if options.pod.is_none() {
        ready();
    }
    select! {
        result = agent.live() => result,
        () = agent.accept(&listener) => Ok(()),
        () = agent.evicted(told_to_end) => Ok(()),
    }
}

/// Tells the starter that the socket is there.
fn ready() {
    let mut out = io::stdout();
    let _starter_may_be_gone = out.write_all(b"ready\n").and_then(|()| out.flush());
}

impl Agent {
    fn new(options: &Options, pod: Option<Pod>) -> Self {
        Self {
            session: options.session.clone(),
            spool: RefCell::new(Spool::new(&options.dir, 0)),
            input: RefCell::default(),
            start: watch::Sender::new(None),
            command: RefCell::default(),
            moved: watch::Sender::new(()),
            typed: watch::Sender::new(()),
            pace: watch::Sender::new(u64::MAX),
            ending: watch::Sender::new(None),
            exit_safe: watch::Sender::new(false),
            epoch: Cell::new(0),
            connected: watch::Sender::new(false),
            contact: Cell::new(Instant::now()),
            activity: Cell::new(Instant::now()),
            idle_at: Cell::new(None),
            card: RefCell::default(),
            orphan_limit: Cell::new(u64::MAX),
            copy: RefCell::default(),
            pod,
            dir: options.dir.clone(),
            born: (SystemTime::now(), Instant::now()),
        }
    }

    /// Microseconds since the Unix epoch, by a clock that is set once and then only goes on.
    pub(super) fn time(&self) -> u64 {
        let born = self.born.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        (born + self.born.1.elapsed()).as_micros() as u64
    }

    /// Something was typed or printed.
    pub(super) fn note_activity(&self) {
        self.activity.set(Instant::now());
        if self.idle_at.take().is_some() {
            self.moved.send_replace(());
        }
    }

    /// Appends a record that is not output.
    pub(super) fn mark(&self, payload: Payload) {
        self.spool.borrow_mut().mark(self.time(), payload);
        self.moved.send_replace(());
    }

    /// Serves one hub at a time; one that greets with an epoch at least as high takes the place of the one before it.
    async fn accept(&self, listener: &UnixListener) {
        let mut current: Option<Greeted> = None;
        loop {
            let next = match current.take() {
                None => connection::greeted(self, listener).await,
                Some(greeted) => select! {
                    next = connection::greeted(self, listener) => next,
                    () = self.served(greeted) => continue,
                },
            };
            current = Some(next);
        }
    }

    async fn served(&self, greeted: Greeted) {
        self.connected.send_replace(true);
        connection::serve(self, greeted).await;
        self.contact.set(Instant::now());
        self.connected.send_replace(false);
    }

    async fn live(&self) -> io::Result<()> {
        let mut started = self.start.subscribe();
        let Ok(Ok(start)) =
            timeout(START_LIMIT, started.wait_for(Option::is_some)).await.map(|start| start.map(|start| start.clone()))
        else {
            return Ok(());
        };
        if let Some(start) = start {
            let cause = self.work(&start).await?;
            self.mark(Payload::Exit(cause.into()));
            let mut safe = self.exit_safe.subscribe();
            let _kept_long_enough = timeout(self.exit_kept(), safe.wait_for(|safe| *safe)).await;
            // The hub that has it may still be reading what is on its way.
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// How long the exit is kept: in a pod, which costs its platform something, no longer than it lives without a hub.
    fn exit_kept(&self) -> Duration {
        let orphan = Duration::from_millis(self.orphan_limit.get());
        match self.pod {
            Some(_) if *self.connected.borrow() => orphan.min(EXIT_KEPT),
            Some(_) => orphan.saturating_sub(self.contact.get().elapsed()).min(EXIT_KEPT),
            None => EXIT_KEPT,
        }
    }

    /// The platform ends the container: the command is ended in order, within the grace that is left.
    async fn evicted(&self, told: Option<tokio::signal::unix::Signal>) {
        if let Some(mut told) = told
            && told.recv().await.is_some()
        {
            let reason = "its pod was told to stop".to_owned();
            self.ending.send_if_modified(|ending| {
                let first = ending.is_none();
                ending.get_or_insert(Cause::Evicted { reason });
                first
            });
            if self.start.borrow().is_none() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Starts the command and sees it through, until none of its processes is left and all its output is read.
    async fn work(&self, start: &Start) -> io::Result<Cause> {
        *self.spool.borrow_mut() = Spool::new(&self.dir, start.spool_bytes);
        self.pace.send_replace(start.pace.unwrap_or(u64::MAX));
        self.activity.set(Instant::now());
        self.orphan_limit.set(start.orphan_limit);
        // Before the command is there, so that no child ends unseen.
        let mut children = signal(SignalKind::child())?;
        let mut command = match Command::start(start, &self.session, self.pod.as_ref()) {
            Ok(command) => command,
            Err(error) => {
                return Ok(Cause::StartFailed { status: error.status, reason: error.to_string() });
            }
        };
        // The only holder, so that the end of input closes it.
        let input = command.input.take();
        let command = Rc::new(command);
        if start.copy_output && command.terminal.is_none() {
            *self.copy.borrow_mut() = Some(copier());
        }
        if let Some(size) = start.terminal {
            self.mark(Payload::Resize(size));
        }
        *self.command.borrow_mut() = Some(command.clone());
        self.moved.send_replace(());

        let status = watch::Sender::new(None);
        let gone = watch::Sender::new(false);
        let (cause, ()) = select! {
            both = async { tokio::join!(self.supervise(start, &status, &gone), self.read(&command, &gone)) } => both,
            () = self.give_input(&command, input) => (Cause::Lost { reason: "the agent failed".into() }, ()),
            () = reap(command.pid, &mut children, &status) => (Cause::Lost { reason: "the agent failed".into() }, ()),
        };
        *self.copy.borrow_mut() = None;
        Ok(cause)
    }

    /// Waits for the command's end or for a reason to end it, then ends all that it started.
    async fn supervise(
        &self,
        start: &Start,
        status: &watch::Sender<Option<WaitStatus>>,
        gone: &watch::Sender<bool>,
    ) -> Cause {
        let mut exited = status.subscribe();
        let cause = select! {
            biased;
            cause = self.limits(start) => cause,
            status = exited.wait_for(Option::is_some) => natural(status.ok().and_then(|status| *status)),
        };
        let family = Family { session: self.session.clone(), agent: Some(rustix::process::getpid()) };
        family.end(Duration::from_millis(start.hup_wait), Duration::from_millis(start.term_wait)).await;
        // Nobody is left to sign for; what remains is in the pipes and bounded by them.
        *self.command.borrow_mut() = None;
        self.pace.send_replace(u64::MAX);
        gone.send_replace(true);
        cause
    }

    /// Waits until somebody asks for the end or a limit is reached, by a clock that nobody sets.
    async fn limits(&self, start: &Start) -> Cause {
        let born = Instant::now();
        let mut ending = self.ending.subscribe();
        let mut connected = self.connected.subscribe();
        loop {
            let orphan = Some(self.orphan_limit.get()).filter(|_| !*connected.borrow_and_update());
            if let Some(cause) = ending.borrow_and_update().clone() {
                return cause;
            }
            let far = born + Duration::from_secs(u64::from(u32::MAX));
            let at = |from: Instant, limit: Option<u64>| {
                limit.and_then(|limit| from.checked_add(Duration::from_millis(limit))).unwrap_or(far)
            };
            let idle = start.idle_limit.filter(|_| start.terminal.is_some());
            let idle_at = at(self.activity.get(), idle);
            let limits = [
                (at(born, start.time_limit), Cause::TimeLimit),
                (idle_at, Cause::Idle),
                (at(self.contact.get(), orphan), orphaned(self.orphan_limit.get())),
            ];
            let Some((next, cause)) = limits.into_iter().min_by_key(|(at, _)| *at) else { continue };
            if next <= Instant::now() {
                return cause;
            }
            let warn_at = self.warn_of(idle_at, idle);
            select! {
                () = sleep_until(next.min(warn_at.unwrap_or(next))) => {}
                _ = ending.changed() => {}
                _ = connected.changed() => {}
            }
        }
    }

    /// Warns when the idle limit is near; otherwise says when to look again, where there is one.
    fn warn_of(&self, idle_at: Instant, limit: Option<u64>) -> Option<Instant> {
        let limit = Duration::from_millis(limit?);
        let warn_at = idle_at.checked_sub(IDLE_WARNING.min(limit / 2))?;
        if warn_at > Instant::now() {
            return Some(warn_at);
        }
        if self.idle_at.replace(Some(idle_at)) != Some(idle_at) {
            self.moved.send_replace(());
        }
        None
    }

    /// Reads all outputs to their end, or until a while after the last process is gone.
    async fn read(&self, command: &Command, gone: &watch::Sender<bool>) {
        let mut gone = gone.subscribe();
        let deadline = async {
            let _ = gone.wait_for(|gone| *gone).await;
            sleep(DRAIN).await;
        };
        let paced = command.terminal.is_none();
        let first = self.read_output(command.outputs.first(), paced);
        let second = self.read_output(command.outputs.get(1), paced);
        select! {
            _ = async { tokio::join!(first, second) } => {}
            () = deadline => {}
        }
    }

    async fn read_output(&self, output: Option<&(Stream, Channel)>, paced: bool) {
        let Some((stream, channel)) = output else { return };
        let mut pace = self.pace.subscribe();
        loop {
            if paced {
                let head = || self.spool.borrow().head();
                let _never_closed = pace.wait_for(|limit| head() < *limit).await;
            }
            let Ok(mut ready) = channel.readable().await else { return };
            let read = ready.try_io(|fd| {
                let read = |buffer: &mut [u8]| Ok(rustix::io::read(fd.as_fd(), buffer)?);
                self.spool.borrow_mut().append(*stream, self.time(), read)
            });
            match read {
                // A terminal whose last user is gone says EIO.
                Ok(Ok(0)) => return,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return,
                Ok(Ok(_)) => self.printed(),
                Err(_would_block) => {}
            }
        }
    }

    fn printed(&self) {
        self.note_activity();
        if let Some(copy) = &*self.copy.borrow() {
            // Whoever reads the copy too slowly misses some of it: it never blocks anything.
            let _ = self.spool.borrow().newest().map(|data| copy.try_send(data));
        }
        self.moved.send_replace(());
    }

    async fn give_input(&self, command: &Command, input: Option<WriteHalf>) {
        match input {
            Some(to) => {
                let typed = self.typed.subscribe();
                give(&self.input, to, || command.end_of_file(), typed, &self.moved).await;
            }
            None => self.input.borrow_mut().close(),
        }
        std::future::pending().await
    }
}

fn orphaned(limit: u64) -> Cause {
    let limit = Duration::from_millis(limit);
    Cause::Lost { reason: format!("no hub spoke to its agent for {limit:?}") }
}

/// How the command ended by itself.
fn natural(status: Option<WaitStatus>) -> Cause {
    let signal = status.and_then(WaitStatus::terminating_signal);
    match (signal, status.and_then(WaitStatus::exit_status)) {
        (Some(signal), _) => Cause::Signalled { signal: signal as u8 },
        (None, Some(status)) => Cause::Exited { status: status as u8 },
        (None, None) => Cause::Lost { reason: "its status is not known".into() },
    }
}

/// Waits for every child, the command's and those that fell to the agent as their subreaper.
async fn reap(command: Pid, children: &mut tokio::signal::unix::Signal, status: &watch::Sender<Option<WaitStatus>>) {
    loop {
        while let Ok(Some((pid, ended))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == command {
                status.send_replace(Some(ended));
            }
        }
        if children.recv().await.is_none() {
            return;
        }
    }
}

/// A thread that copies output to this process's own stdout, which may block.
fn copier() -> std::sync::mpsc::SyncSender<Bytes> {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Bytes>(256);
    std::thread::spawn(move || {
        let mut out = io::stdout().lock();
        while let Ok(data) = receiver.recv() {
            if out.write_all(&data).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    });
    sender
}
