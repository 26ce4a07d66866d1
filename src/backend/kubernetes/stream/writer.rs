//! What goes to a container, in order, by a task of its own: a container that does not read holds up this task alone.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::protocol::Writer as Typist;
use crate::kubernetes::channel::Input;
use crate::record::Size;
use crate::tasks::Tasks;

/// How many messages may wait to be written.
const QUEUE: usize = 16;

/// What is written.
#[derive(Debug)]
pub(super) enum Piece {
    /// What somebody typed, up to this offset of their input.
    Typed(Typist, u64, Bytes),
    /// Input that nobody waits for to be acknowledged.
    Raw(Bytes),
    /// The end of stdin, where the protocol has one.
    End,
    /// Nothing more comes: the other side may end its connection.
    Close,
    /// The terminal's size.
    Resize(Size),
    /// A sign of life; with empty input where there is input at all.
    Beat(bool),
}

/// What came of a piece.
#[derive(Debug)]
pub(super) enum Written {
    /// It is on its way; a typist's input up to here.
    Done(Option<(Typist, u64)>),
    /// The connection is broken.
    Broken(String),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Writer {
    pieces: mpsc::Sender<Piece>,
    written: mpsc::Receiver<Written>,
    /// What was handed over and not written yet.
    pub(super) waiting: usize,
    /// Whether the protocol has an end of stdin.
    pub(super) ends_stdin: bool,
    _closed: DropGuard,
}

impl Writer {
    pub(super) fn start(input: Input, tasks: &Tasks) -> Self {
        let (pieces, to_write) = mpsc::channel(QUEUE);
        // As many as can wait, and the one that is being written: the task never waits for who reads this.
        let (done, written) = mpsc::channel(QUEUE + 2);
        let closed = CancellationToken::new();
        let ends_stdin = input.ends_stdin;
        tasks.spawn("container-input", {
            let closed = closed.clone();
            async move {
                let _ended = closed.run_until_cancelled(write(input, to_write, done)).await;
            }
        });
        Self { pieces, written, waiting: 0, ends_stdin, _closed: closed.drop_guard() }
    }

    /// Hands a piece over, or gives it back where enough waits already.
    pub(super) fn put(&mut self, piece: Piece) -> Result<(), Piece> {
        if self.waiting >= QUEUE {
            return Err(piece);
        }
        self.pieces.try_send(piece).map_err(|error| error.into_inner())?;
        self.waiting += 1;
        Ok(())
    }

    /// Whether another piece may be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < QUEUE && !self.pieces.is_closed()
    }

    /// What came of the next piece. Safe to cancel.
    pub(super) async fn written(&mut self) -> Written {
        match self.written.recv().await {
            Some(written) => {
                self.waiting = self.waiting.saturating_sub(1);
                written
            }
            // The task has ended, and said why.
            None => std::future::pending().await,
        }
    }
}

async fn write(mut input: Input, mut pieces: mpsc::Receiver<Piece>, done: mpsc::Sender<Written>) {
    while let Some(piece) = pieces.recv().await {
        let (wrote, typed) = match piece {
            Piece::Typed(typist, end, data) => (input.stdin(&data).await, Some((typist, end))),
            Piece::Raw(data) => (input.stdin(&data).await, None),
            Piece::End => (input.end_stdin().await, None),
            Piece::Resize(size) => (input.resize(size).await, None),
            Piece::Beat(stdin) => (input.beat(stdin).await, None),
            Piece::Close => {
                input.close().await;
                (Ok(()), None)
            }
        };
        let written = match wrote {
            Ok(()) => Written::Done(typed),
            Err(error) => Written::Broken(error.to_string()),
        };
        let broken = matches!(written, Written::Broken(_));
        if done.send(written).await.is_err() || broken {
            return;
        }
    }
}
