//! Reading stdin from a thread of its own, so that a read which never returns holds up no exit.

use std::io;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::protocol::MAX_INPUT;

/// What is read, piece by piece; the channel's end is the input's. No more than a piece is read ahead.
pub type Input = mpsc::Receiver<Bytes>;

/// Starts to read stdin.
///
/// # Errors
/// Where no thread can be started.
pub fn start() -> io::Result<Input> {
    let (pieces, input) = mpsc::channel(1);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        while let Some(piece) = read() {
            if pieces.blocking_send(piece).is_err() {
                return;
            }
        }
    })?;
    Ok(input)
}

/// The next bytes, or `None` at the end, which a terminal that is gone is too.
fn read() -> Option<Bytes> {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; MAX_INPUT];
    loop {
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => return None,
            Ok(len) => {
                buffer.truncate(len);
                return Some(buffer.into());
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None).ok()?;
            }
            Err(_) => return None,
        }
    }
}
