//! A connection as it was accepted: over TCP, or over the socket of a state folder.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::folder;
use crate::protocol::PING;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// From anywhere.
    Tcp(TcpStream),
    /// From this machine, by this hub's user or root.
    Unix(UnixStream),
}

/// A listener.
#[derive(Debug)]
pub enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On the socket of a state folder.
    Unix(UnixListener),
}

/// The address of whoever came by a socket of this machine.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Listener {
    /// Listens on the socket of a state folder that this process holds.
    ///
    /// # Errors
    /// What the system says.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        folder::listen(folder).map(Self::Unix)
    }

    /// Waits for the next connection, and tells where it comes from. `None` for one of a user who has no business here.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<Option<(Stream, SocketAddr)>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A socket that refuses this is served without it.
                let _ = tune(&stream);
                Ok(Some((Stream::Tcp(stream), peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(folder::is_own(&stream).then_some((Stream::Unix(stream), HERE)))
            }
        }
    }
}

/// Small frames go at once: an echo that waits for an acknowledgement takes 40 ms. And a peer that vanished without a
/// word is noticed, also by doors that only send.
fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PING * 2)?;
    sockopt::set_tcp_keepintvl(stream, PING / 3)?;
    Ok(sockopt::set_tcp_keepcnt(stream, 3)?)
}

/// Calls the same method of whichever connection it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl Stream {
    /// Has what the system still keeps for the peer go with the connection, which is reset.
    pub fn forget(&self) {
        if let Self::Tcp(stream) = self {
            // A socket that refuses this keeps it until the system gives its peer up.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }

    /// Waits until something of `interest` can be done.
    ///
    /// # Errors
    /// What the system says.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, stream => stream.ready(interest).await)
    }

    /// Waits until there is something to be read.
    ///
    /// # Errors
    /// What the system says.
    pub async fn readable(&self) -> io::Result<()> {
        either!(self, stream => stream.readable().await)
    }

    /// Waits until something can be written.
    ///
    /// # Errors
    /// What the system says.
    pub async fn writable(&self) -> io::Result<()> {
        either!(self, stream => stream.writable().await)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` where nothing is there.
    pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(bytes))
    }

    /// Appends what is there to a buffer.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` where nothing is there.
    pub fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        either!(self, stream => stream.try_read_buf(buffer))
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` where it takes nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_write(bytes))
    }

    /// Writes what the socket takes, from where it lies.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` where it takes nothing.
    pub fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.try_write_vectored(parts))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}
