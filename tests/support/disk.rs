//! A small disk of a test's own, which can be filled: a `tmpfs`, for which the test must be root.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// With `1`, tests that cannot mount fail instead of being skipped.
const REQUIRE_VARIABLE: &str = "FOGHORN_TEST_REQUIRE_MOUNT";

/// A mounted folder. Dropping it unmounts it.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A disk of so many MiB. `None`, with a loud line, where nothing can be mounted.
    pub(crate) fn new(mib: usize) -> Option<Self> {
        // Not in the user's own temporary folder: another user has to reach it.
        let path = tempfile::Builder::new().prefix("foghorn-disk-").tempdir_in("/tmp").unwrap().keep();
        let options = format!("size={mib}m,mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "foghorn-test"]).arg(&path).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            let _ = std::fs::remove_dir(&path);
            assert!(std::env::var(REQUIRE_VARIABLE).as_deref() != Ok("1"), "cannot mount a small disk");
            let _ = writeln!(std::io::stderr(), "SKIPPED: cannot mount a small disk");
            return None;
        }
        Some(Self { path })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Gives some of the room back, in bytes.
    pub(crate) fn free_some(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(self.ballast()).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Whether there is no room for another page.
    pub(crate) fn is_full(&self) -> bool {
        let probe = self.path.join("probe");
        let written = File::create(&probe).and_then(|mut file| file.write_all(&[0; 4096]));
        let _ = std::fs::remove_file(probe);
        written.is_err()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: an agent may just be leaving.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        let _ = std::fs::remove_dir(&self.path);
    }
}
