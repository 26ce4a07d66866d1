//! What real programs write to a real pseudo-terminal.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use foghorn::record::Size;
use foghorn::session::screen::Screen;
use pty_process::blocking::{Command, Pty, open};

use super::oracle::Step;

/// No program needs as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs on a terminal, and all that it wrote.
pub struct Program {
    name: String,
    pty: Arc<Pty>,
    child: Child,
    output: Receiver<Vec<u8>>,
    /// What a viewer would show, to wait for.
    screen: Screen,
    steps: Vec<Step>,
}

impl Program {
    pub fn start(size: Size, name: &str, args: &[&str]) -> Self {
        let (pty, pts) = open().expect("a pseudo-terminal");
        pty.resize(pty_process::Size::new(size.rows, size.cols)).expect("its size is set");
        let home = std::env::temp_dir();
        let child = Command::new(name)
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("LESSHISTFILE", "-")])
            .env("HOME", &home)
            .current_dir(&home)
            .spawn(pts)
            .expect("the program starts");
        let pty = Arc::new(pty);
        let (send, output) = channel();
        let reader = pty.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = (&*reader).read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { name: name.to_owned(), pty, child, output, screen: Screen::new(size), steps: Vec::new() }
    }

    /// Takes the next piece of output; whether there was one within `wait`.
    fn take(&mut self, wait: Duration) -> Result<bool, ()> {
        match self.output.recv_timeout(wait) {
            Ok(bytes) => {
                self.screen.feed(&bytes);
                self.steps.push(Step::Write(bytes));
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    /// Waits until the screen shows `text`.
    pub fn shows(&mut self, text: &str) -> &mut Self {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen.lines().iter().any(|line| line.contains(text)) {
            let ended = self.take(Duration::from_millis(100)).is_err();
            let lines = || self.screen.lines().join("\n");
            let waited = Instant::now() >= deadline;
            assert!(!ended && !waited, "{} never shows {text:?}:\n{}", self.name, lines());
        }
        self
    }

    pub fn types(&mut self, keys: &str) -> &mut Self {
        (&*self.pty).write_all(keys.as_bytes()).expect("the program reads");
        self
    }

    pub fn resize(&mut self, size: Size) -> &mut Self {
        self.pty.resize(pty_process::Size::new(size.rows, size.cols)).expect("its size is set");
        self.screen.resize(size);
        self.steps.push(Step::Resize(size));
        self
    }

    /// Waits for the program's end, and gives all that it wrote.
    pub fn ends(&mut self) -> Vec<Step> {
        let deadline = Instant::now() + PATIENCE;
        while self.take(Duration::from_millis(100)).is_ok() {
            assert!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.screen.lines().join("\n"));
        }
        self.child.wait().expect("it ended");
        std::mem::take(&mut self.steps)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
