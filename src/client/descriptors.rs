//! Keeping what this process inherited from the one that it starts.

use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first descriptor that is none of the three standard ones.
const FIRST: i32 = 3;

/// Marks every open descriptor but the three standard ones as not to be inherited by children.
///
/// Rust's own are marked already; a shell's (`exec 3>file`, a pipe of `$(…)`) are not, and a hub that kept one open
/// would keep its reader waiting for ever.
///
/// # Errors
/// Where the list of descriptors cannot be read.
#[expect(unsafe_code, reason = "a descriptor that was inherited has no owner in this process to borrow it from")]
pub(super) fn keep_from_children() -> std::io::Result<()> {
    for entry in std::fs::read_dir("/dev/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if number < FIRST {
            continue;
        }
        // SAFETY: only the flag of a descriptor is read and set, which changes nothing for an owner elsewhere in this
        // process; a number that was closed since it was listed is answered with an error.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if let Ok(flags) = fcntl_getfd(descriptor) {
            let _ = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
        }
    }
    Ok(())
}
