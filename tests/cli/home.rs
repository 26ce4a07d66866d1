//! A state folder with a hub of its own, and the end of both.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use foghorn::protocol::{HubFile, SessionInfo};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The program.
pub(crate) const FOGHORN: &str = env!("CARGO_BIN_EXE_foghorn");

/// Looks until there is something, or fails.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("text")
    }

    /// The lines on stderr that are not the command line's own.
    pub(crate) fn command_stderr(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| !line.starts_with("Running ") && !line.starts_with("foghorn: ")).collect()
    }
}

/// A state folder.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::with_settings("")
    }

    /// With a `foghorn.toml`.
    pub(crate) fn with_settings(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("foghorn-cli-").tempdir().expect("a folder");
        fs::write(folder.path().join("foghorn.toml"), settings).expect("writes");
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Variables of the program's environment.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        let home = self.path().display().to_string();
        [
            ("FOGHORN_HOME", home),
            ("FOGHORN_APP", "blog".into()),
            ("PS1", "$ ".into()),
            ("TERM", "xterm-256color".into()),
        ]
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(FOGHORN);
        command.args(args).envs(self.env()).current_dir(self.path());
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    }

    /// Runs it to its end with this input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // A command that does not read breaks the pipe, which is its right.
        thread::spawn(move || stdin.write_all(&input));
        finish(child)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.run_with(args, b"")
    }

    pub(crate) fn session(&self, id: &str) -> SessionInfo {
        let shown = self.run(&["show", id, "-o", "json"]);
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("no session: {shown:?}"))
    }

    /// The hub, as its file says.
    pub(crate) fn hub(&self) -> Option<HubFile> {
        serde_json::from_slice(&fs::read(self.path().join("hub.json")).ok()?).ok()
    }

    /// Kills the hub that runs now, and waits until it is gone; its process id.
    pub(crate) fn kill_hub(&self) -> u32 {
        let pid = eventually("a hub", || self.hub().map(|hub| hub.pid).filter(|pid| alive(*pid)));
        signal(pid, rustix::process::Signal::KILL);
        eventually("the hub's end", || (!alive(pid)).then_some(()));
        pid
    }
}

/// Waits for a program's end.
pub(crate) fn finish(mut child: Child) -> Ended {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = read(stdout.map(|pipe| Box::new(pipe) as _));
    let stderr = read(stderr.map(|pipe| Box::new(pipe) as _));
    let status = status(&mut child);
    let stderr = String::from_utf8_lossy(&stderr.join().expect("reads")).into_owned();
    Ended { status, stdout: stdout.join().expect("reads"), stderr }
}

/// A program's exit status, or 256 and the signal that ended it.
pub(crate) fn status(child: &mut Child) -> i32 {
    try_status(child).unwrap_or_else(|| panic!("{child:?} has not ended within {LIMIT:?}"))
}

/// The same; none where it goes on for too long.
pub(crate) fn try_status(child: &mut Child) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("waits") {
            return Some(status.code().unwrap_or(256 + status.signal().unwrap_or(0)));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    foghorn::client::hubs::is_alive(pid)
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    // It may have ended.
    let _ = rustix::process::kill_process(pid, signal);
}

/// Processes that have this text in their arguments or their environment.
pub(crate) fn processes(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(text)
    };
    pids.filter(|pid| *pid != std::process::id() && alive(*pid))
        .filter(|pid| has(pid, "cmdline") || has(pid, "environ"))
        .collect()
}

impl Drop for Home {
    fn drop(&mut self) {
        let folder = self.path().display().to_string();
        let agents = || !processes(&format!("{folder}/agents")).is_empty();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !thread::panicking() && agents() && Instant::now() < deadline {
            // The hub takes an agent's last word first.
            thread::sleep(Duration::from_millis(20));
        }
        if !thread::panicking() {
            self.run(&["server", "stop"]);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut left = processes(&folder);
        while !left.is_empty() && !thread::panicking() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            left = processes(&folder);
        }
        let told: Vec<_> = left.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline"))).collect();
        left.iter().for_each(|pid| signal(*pid, rustix::process::Signal::KILL));
        if !thread::panicking() {
            assert!(left.is_empty(), "processes were left: {told:?}");
        }
    }
}
