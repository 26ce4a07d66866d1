//! A connection whose client has to take what it asked for: an answer that lies whole in memory is not held for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use axum::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Whether what is written now is an answer that lies whole in memory; a stream holds no more than a piece of itself.
#[derive(Clone, Debug, Default)]
pub struct Whole(Arc<AtomicBool>);

impl Whole {
    /// Notes which the next answer is.
    pub fn note(&self, response: &Response) {
        // What is not made as it is asked for knows its length.
        self.0.store(response.body().size_hint().exact().is_some(), Ordering::Relaxed);
    }
}

/// See the module's documentation. Writing fails where nothing of an answer in memory was taken for `limit`.
#[derive(Debug)]
pub struct Taken<S> {
    stream: S,
    whole: Whole,
    limit: Duration,
    /// Makes the system forget what it was given for the client, once that is given up.
    forget: fn(&S),
    /// Since something waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    /// A connection on which nothing waits.
    pub fn new(stream: S, limit: Duration, forget: fn(&S)) -> Self {
        Self { stream, whole: Whole::default(), limit, forget, waits: None }
    }

    /// What is told which answers are written.
    pub fn whole(&self) -> Whole {
        self.whole.clone()
    }

    /// The connection alone.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// The same outcome, or the end of a wait that was too long.
    fn waited<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || !self.whole.0.load(Ordering::Relaxed) {
            self.waits = None;
            return outcome;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waits.as_mut().poll(context));
        (self.forget)(&self.stream);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.waited(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.waited(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn answer(body: &'static str) -> Response {
        Response::new(body.into())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_memory_is_dropped_when_nothing_of_it_is_taken() {
        let (near, _far) = duplex(4);
        let mut near = Taken::new(near, LIMIT, |_| {});
        near.whole().note(&answer("more than there is room for"));
        near.write_all(b"four").await.expect("has room");
        let since = tokio::time::Instant::now();
        let failed = near.write_all(b"more").await.expect_err("nobody reads");
        assert_eq!((failed.kind(), since.elapsed().as_secs()), (io::ErrorKind::TimedOut, LIMIT.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_gets_all_of_it_and_a_stream_waits_for_ever() {
        let (near, mut far) = duplex(1);
        let mut near = Taken::new(near, LIMIT, |_| {});
        near.whole().note(&answer("abc"));
        let reads = async {
            let mut got = Vec::new();
            for _ in 0..6 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                got.push(far.read_u8().await.expect("comes"));
            }
            got
        };
        let (written, got) = tokio::join!(near.write_all(b"abcdef"), reads);
        written.expect("is taken");
        assert_eq!(got, b"abcdef");
        let stream = axum::body::Body::from_stream(futures_util::stream::pending::<io::Result<bytes::Bytes>>());
        near.whole().note(&Response::new(stream));
        let waits = near.write_all(b"gh");
        assert!(tokio::time::timeout(LIMIT * 5, waits).await.is_err(), "it waits");
    }
}
