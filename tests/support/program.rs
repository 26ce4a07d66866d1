//! The real `foghorn` command, on pipes, as a client of a hub.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::server::{Server, until};

type Seen = Arc<Mutex<Vec<u8>>>;

/// A client that runs.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Seen,
    stderr: Seen,
}

impl Program {
    /// Starts the command with these arguments; it reaches the hub at `url`.
    pub(crate) fn start(server: &Server, url: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.args(args).env("FOGHORN_URL", url).env("FOGHORN_TOKEN", server.token()).env("FOGHORN_APP", "test");
        command.env("FOGHORN_HOME", server.home().join("client"));
        Self::run(command)
    }

    /// Starts a command as it is.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let stdin = child.stdin.take();
        let stdout = follow(child.stdout.take().expect("piped"));
        let stderr = follow(child.stderr.take().expect("piped"));
        Self { child, stdin, stdout, stderr }
    }

    /// What it writes its input to; taken once.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("its input")
    }

    /// Types.
    pub(crate) fn types(&mut self, text: &str) {
        self.stdin.as_mut().expect("its input").write_all(text.as_bytes()).expect("types");
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> Vec<u8> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has said so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until it has printed this.
    pub(crate) async fn prints(&self, text: &str) {
        let has = || self.stdout().windows(text.len()).any(|window| window == text.as_bytes());
        until(&format!("{text:?} is printed"), async || has().then_some(())).await;
    }

    /// Waits until it has said this.
    pub(crate) async fn says(&self, text: &str) {
        until(&format!("{text:?} is said"), async || self.stderr().contains(text).then_some(())).await;
    }

    /// Waits for its end; its exit status, and what it printed.
    pub(crate) async fn ends(mut self) -> (Option<i32>, Vec<u8>, String) {
        drop(self.stdin.take());
        let status = until("the client ends", async || self.child.try_wait().expect("waits")).await;
        // The threads that read have the end of the pipes when they hold the last copies but ours.
        until("all is read", async || {
            (Arc::strong_count(&self.stdout) + Arc::strong_count(&self.stderr) == 2).then_some(())
        })
        .await;
        (status.code(), self.stdout(), self.stderr())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(mut pipe: impl Read + Send + 'static) -> Seen {
    let seen = Seen::default();
    let sees = seen.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(len @ 1..) = pipe.read(&mut buffer) {
            sees.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..len]);
        }
    });
    seen
}
