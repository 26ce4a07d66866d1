//! The streams while they are open, and what happens on them.

use std::collections::VecDeque;

use futures_util::future::BoxFuture;
use tokio::select;
use tokio::time::Instant;

use super::join::{Joined, Unjoined};
use super::writer::{Writer, Written};
use crate::agent::protocol::Writer as Typist;
use crate::kubernetes::channel::{Frame, Output};

/// The streams, as far as they are there.
pub(super) enum Link {
    /// It is not known yet what to start.
    Idle,
    Opening(BoxFuture<'static, Result<Joined, Unjoined>>),
    Open(Box<Open>),
    /// The session has its end.
    Closed,
}

pub(super) struct Open {
    pub(super) output: Output,
    pub(super) held: VecDeque<Frame>,
    pub(super) writer: Writer,
    /// What was typed and handed to the writer.
    pub(super) typed: VecDeque<(Typist, u64)>,
    /// When something last came.
    pub(super) heard: Instant,
    /// Whether something was typed since then: a container that does not read holds up all that comes behind.
    pub(super) may_be_full: bool,
    pub(super) beat_at: Instant,
}

/// What happens next on the streams.
pub(super) enum Happened {
    Joined(Result<Joined, Unjoined>),
    Frame(Frame),
    Wrote(Option<(Typist, u64)>),
    Broke(String),
}

impl Link {
    /// What happens next. Safe to cancel.
    pub(super) async fn next(&mut self, read: bool) -> Happened {
        match self {
            Self::Opening(joined) => Happened::Joined(joined.await),
            Self::Open(open) => open.next(read).await,
            Self::Idle | Self::Closed => std::future::pending().await,
        }
    }
}

impl Open {
    async fn next(&mut self, read: bool) -> Happened {
        if let Some(frame) = self.held.pop_front_if(|_| read) {
            return Happened::Frame(frame);
        }
        select! {
            frame = self.output.next(), if read => {
                (self.heard, self.may_be_full) = (Instant::now(), false);
                match frame {
                    Ok(Some(frame)) => Happened::Frame(frame),
                    Ok(None) => Happened::Broke("it was closed".into()),
                    Err(error) => Happened::Broke(error.to_string()),
                }
            }
            written = self.writer.written() => match written {
                Written::Done(typed) => Happened::Wrote(typed),
                Written::Broken(reason) => Happened::Broke(reason),
            },
        }
    }
}
