//! A wall clock that a test sets, for programs that it starts: their other clocks go on as they do.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A library that stands before the system's own: the wall clock is off by the seconds that a file says.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *path = getenv("FOGHORN_TEST_CLOCK");
    if (result != 0 || clock != CLOCK_REALTIME || path == NULL) return result;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atoll(text);
        close(file);
    }
    return result;
}
"#;

/// See the module's documentation.
pub(crate) struct Clock(tempfile::TempDir);

impl Clock {
    /// A clock that goes right so far. `None`, with a loud line, where there is no C compiler.
    pub(crate) fn new() -> Option<Self> {
        let clock = Self(tempfile::tempdir().unwrap());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-x", "c", "-", "-o"]).arg(clock.library()).stdin(Stdio::piped());
        let Ok(mut compiler) = compiler.spawn() else {
            let _ = std::io::stderr().write_all(b"SKIPPED: no C compiler, so the clock cannot be set\n");
            return None;
        };
        compiler.stdin.take().unwrap().write_all(LIBRARY.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success());
        clock.set(0);
        Some(clock)
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("seconds")
    }

    /// What a program needs in its environment to have this clock.
    pub(crate) fn env(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| path.display().to_string();
        [("LD_PRELOAD", text(self.library())), ("FOGHORN_TEST_CLOCK", text(self.file()))]
    }

    /// Sets it to so many seconds after the right time, or before it.
    pub(crate) fn set(&self, seconds: i64) {
        // At once, so that nobody reads the half of it.
        let new = self.0.path().join("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, self.file()).unwrap();
    }
}
