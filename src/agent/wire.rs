//! What carries bytes between processes of one machine: sockets, pipes and terminals, which wake whoever reads when there
//! is something to read, and whoever writes only where he had to wait.
//!
//! A Unix socket, and a terminal, say that they can be written to each time that the other side has read (`EPOLLOUT`, also
//! edge-triggered). Who registers for both, as tokio's own sockets do, is woken for it: an agent nearly once for each key.
//! So each direction is registered apart, and writing only while it is full. The price is a few system calls for each time
//! that it is, which is for each 200 KiB of a flood.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The two halves of a connected socket.
///
/// # Errors
/// Where there are no more descriptors.
pub fn split(socket: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let socket = socket.into_std()?;
    let writes: OwnedFd = socket.try_clone()?.into();
    Ok((ReadHalf(watch(socket.into(), Interest::READABLE)?), WriteHalf::new(writes)))
}

/// Registers a descriptor that does not block.
///
/// # Errors
/// Where the system has no room for it.
#[expect(unsafe_code, reason = "registering a descriptor that is owned")]
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// The half that reads.
#[derive(Debug)]
pub struct ReadHalf(AsyncFd<OwnedFd>);

impl AsyncRead for ReadHalf {
    #[expect(unsafe_code, reason = "tokio's buffer is not cleared before each read, which costs as much as the read")]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            // SAFETY: nothing is written to it but what is read.
            let room = unsafe { buffer.unfilled_mut() };
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *room)?.0.len())) {
                Ok(Ok(read)) => {
                    // SAFETY: so many bytes were read into it.
                    unsafe { buffer.assume_init(read) };
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// What is written to. Dropping it closes it, where no other half is left.
#[derive(Debug)]
pub struct WriteHalf {
    fd: OwnedFd,
    /// Another descriptor of the same, while it is full.
    full: Option<AsyncFd<OwnedFd>>,
}

impl WriteHalf {
    /// Writes to `fd`, which does not block.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, full: None }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                ready!(full.poll_write_ready(cx))?.clear_ready();
            }
            match write(&self.fd) {
                Ok(written) => {
                    self.full = None;
                    return Poll::Ready(Ok(written));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if self.full.is_some() => {}
                Err(rustix::io::Errno::AGAIN) => self.full = Some(watch(self.fd.try_clone()?, Interest::WRITABLE)?),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, |fd| rustix::io::write(fd, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, |fd| rustix::io::writev(fd, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
