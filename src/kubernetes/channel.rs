//! The streams of a container over one websocket: exec and attach.
//!
//! The protocol is `v5.channel.k8s.io`, or `v4.channel.k8s.io` of API servers before 1.30; the constants are those of
//! `k8s.io/apimachinery/pkg/util/remotecommand`. Every binary message starts with the number of its stream. The frames
//! are driven here, so that stdout and stderr keep their order, nothing is copied on the way, and what is typed never
//! waits for what is printed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::record;
use crate::record::Size;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// In version 5: the stream that the next byte names is at its end.
const CLOSE: u8 = 255;

/// The longest piece of input in one message, in bytes.
const MAX_INPUT: usize = 64 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What comes from a container.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Output.
    Output(record::Stream, Bytes),
    /// How it ended: nothing else follows.
    Ended(Ended),
    /// Nothing but that the other side lives.
    Alive,
}

/// How an exec, or a container that was attached to, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command's exit status.
    Exited(i32),
    /// It could not be started, or the kubelet failed.
    Failed(String),
}

/// Opens the streams that a request for exec or attach asks for.
///
/// # Errors
/// What the API server says.
pub async fn open(client: &Client, request: http::Request<Vec<u8>>) -> Result<(Output, Input), kube::Error> {
    let connection = client.connect(request).await?;
    let ends_stdin = connection.supports_stream_close();
    let (sink, stream) = connection.into_stream().split();
    Ok((Output { stream, rest: Bytes::new(), ended: None }, Input { sink, ends_stdin }))
}

/// What comes from the container.
pub struct Output {
    stream: SplitStream<Socket>,
    /// Of stdout, what [`AsyncRead`] has not given yet.
    rest: Bytes,
    ended: Option<String>,
}

impl Output {
    /// The next frame; none where the connection ended without telling how the container did.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Error>> {
        loop {
            let message = match ready!(self.stream.poll_next_unpin(cx)) {
                Some(message) => message?,
                None => return Poll::Ready(Ok(None)),
            };
            match message {
                Message::Binary(data) => {
                    if let Some(frame) = frame(data) {
                        return Poll::Ready(Ok(Some(frame)));
                    }
                }
                Message::Pong(_) => return Poll::Ready(Ok(Some(Frame::Alive))),
                Message::Close(_) => return Poll::Ready(Ok(None)),
                _ => {}
            }
        }
    }

    /// What was said of the end, to whoever read it as bytes.
    #[must_use]
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }
}

/// What a message is; none for one without content.
fn frame(data: Bytes) -> Option<Frame> {
    let stream = *data.first()?;
    let rest = data.slice(1..);
    match stream {
        STDOUT if !rest.is_empty() => Some(Frame::Output(record::Stream::Stdout, rest)),
        STDERR if !rest.is_empty() => Some(Frame::Output(record::Stream::Stderr, rest)),
        ERROR => Some(Frame::Ended(ended(&rest))),
        _ => None,
    }
}

/// The end that a status object tells.
fn ended(status: &[u8]) -> Ended {
    let Ok(status) = serde_json::from_slice::<Status>(status) else {
        return Ended::Failed(String::from_utf8_lossy(status).into_owned());
    };
    if status.status.as_deref() == Some("Success") {
        return Ended::Exited(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()?.parse().ok()) {
        Some(code) => Ended::Exited(code),
        None => Ended::Failed(status.message.unwrap_or_else(|| "it gave no reason".into())),
    }
}

/// The stdout of a container as plain bytes; what it says on stderr is kept for its end.
impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.poll_frame(cx)).map_err(std::io::Error::other)? {
                Some(Frame::Output(record::Stream::Stdout, data)) => self.rest = data,
                Some(Frame::Alive) => {}
                Some(Frame::Output(_, data)) => self.ended = Some(String::from_utf8_lossy(&data).trim().to_owned()),
                Some(Frame::Ended(Ended::Failed(reason))) => {
                    self.ended.get_or_insert(reason);
                    return Poll::Ready(Ok(()));
                }
                Some(Frame::Ended(Ended::Exited(_))) | None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(buffer.remaining());
        let data = self.rest.split_to(taken);
        buffer.put_slice(&data);
        Poll::Ready(Ok(()))
    }
}

/// What goes to the container.
pub struct Input {
    sink: SplitSink<Socket, Message>,
    /// Whether the protocol has an end of stdin (version 5).
    pub ends_stdin: bool,
}

impl Input {
    /// Types.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn stdin(&mut self, data: &[u8]) -> Result<(), Error> {
        self.sink.send(framed(STDIN, data)).await
    }

    /// Ends stdin, where the protocol can; does nothing otherwise.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn end_stdin(&mut self) -> Result<(), Error> {
        if self.ends_stdin { self.sink.send(framed(CLOSE, &[STDIN])).await } else { Ok(()) }
    }

    /// Asks the other side whether it lives, and says to all in between that this one does: they close what is silent
    /// for long. Empty input is what a kubelet counts.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn beat(&mut self, stdin: bool) -> Result<(), Error> {
        if stdin {
            self.stdin(&[]).await?;
        }
        self.sink.send(Message::Ping(Bytes::new())).await
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn resize(&mut self, size: Size) -> Result<(), Error> {
        let size = format!("{{\"Width\":{},\"Height\":{}}}", size.cols, size.rows);
        self.sink.send(framed(RESIZE, size.as_bytes())).await
    }

    /// Closes the connection.
    pub async fn close(&mut self) {
        let _it_is_gone_already = self.sink.close().await;
    }
}

fn framed(stream: u8, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(stream);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

/// Stdin as plain bytes. A write is on its way once it is flushed.
impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        ready!(Pin::new(&mut self.sink).poll_ready(cx)).map_err(std::io::Error::other)?;
        let data = &data[..data.len().min(MAX_INPUT)];
        Pin::new(&mut self.sink).start_send(framed(STDIN, data)).map_err(std::io::Error::other)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(cx).map_err(std::io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.sink).poll_close(cx).map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_a_status() {
        let status = |json: &str| ended(json.as_bytes());
        assert_eq!(status(r#"{"metadata":{},"status":"Success"}"#), Ended::Exited(0));
        let failed = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(status(failed), Ended::Exited(7));
        let broken = r#"{"metadata":{},"status":"Failure","message":"no such container"}"#;
        assert_eq!(status(broken), Ended::Failed("no such container".into()));
        assert_eq!(status("what"), Ended::Failed("what".into()));
    }

    #[test]
    fn frames_have_the_number_of_their_stream() {
        let data = |bytes: &'static [u8]| frame(Bytes::from_static(bytes));
        assert_eq!(data(b"\x01out"), Some(Frame::Output(record::Stream::Stdout, "out".into())));
        assert_eq!(data(b"\x02err"), Some(Frame::Output(record::Stream::Stderr, "err".into())));
        assert_eq!(data(b"\x01"), None);
        assert_eq!(data(b""), None);
        assert_eq!(data(b"\x09x"), None);
        assert_eq!(framed(RESIZE, b"x"), Message::Binary(Bytes::from_static(b"\x04x")));
    }
}
