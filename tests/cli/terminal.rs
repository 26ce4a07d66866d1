//! The program at a real pseudo-terminal.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use rustix::termios::{Termios, tcgetattr};

use crate::home::{FOGHORN, Home, eventually, try_status};

/// A terminal that the program runs at.
pub(crate) struct Terminal {
    pty: Arc<Pty>,
    pub(crate) child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    from: usize,
    before: Termios,
}

impl Terminal {
    /// Starts the program at a terminal of this many columns and rows.
    pub(crate) fn start(home: &Home, args: &[&str], size: (u16, u16)) -> Self {
        Self::start_with(home, args, size, &[])
    }

    /// The same, with more in its environment.
    pub(crate) fn start_with(home: &Home, args: &[&str], (cols, rows): (u16, u16), env: &[(&str, &str)]) -> Self {
        let (pty, pts) = open().expect("a terminal");
        pty.resize(Size::new(rows, cols)).expect("resizes");
        let before = tcgetattr(&pty).expect("a terminal");
        let command =
            Command::new(FOGHORN).args(args).envs(home.env()).envs(env.iter().copied()).current_dir(home.path());
        let child = command.spawn(pts).expect("starts");
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Vec::new())));
        let (reader, sees) = (pty.clone(), seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = (&*reader).read(&mut buffer) {
                sees.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..len]);
            }
        });
        Self { pty, child, seen, from: 0, before }
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("writes");
    }

    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        self.pty.resize(Size::new(rows, cols)).expect("resizes");
    }

    /// All that was shown so far.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// All that was shown, once the program has ended.
    pub(crate) fn sees_all(&self) -> Vec<u8> {
        // The thread that reads ends with the terminal's other side, and lets go of its copies then.
        eventually("the last of it", || (Arc::strong_count(&self.seen) == 1).then_some(()));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is shown behind what was waited for before.
    pub(crate) fn sees(&mut self, text: &str) {
        let from = self.from;
        let (seen, bytes) = (self.seen.clone(), text.as_bytes());
        let find = || {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen[from..].windows(bytes.len()).position(|window| window == bytes)
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(80);
        let found = eventually(&format!("{text:?} on the screen"), || {
            if std::time::Instant::now() > deadline {
                panic!("{text:?} was not shown behind {from}; shown: {:?}", self.shown());
            }
            find()
        });
        self.from = from + found + bytes.len();
    }

    /// Waits for the program's end; its exit status. The terminal must be as it was.
    pub(crate) fn ends(&mut self) -> i32 {
        let status =
            try_status(&mut self.child).unwrap_or_else(|| panic!("it has not ended; shown: {:?}", self.shown()));
        assert!(self.is_as_before(), "the terminal was left in another mode");
        status
    }

    /// Whether the terminal has the modes that it had before the program.
    pub(crate) fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.pty).expect("a terminal");
        let modes = |modes: &Termios| (modes.input_modes, modes.output_modes, modes.control_modes, modes.local_modes);
        modes(&now) == modes(&self.before)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
