//! A session without a terminal on this side: bytes in, bytes out, every one of them.

use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::failure::{BROKEN_PIPE, Failure};
use super::input::Input;
use super::output::{Progress, Sink};
use crate::client::follow::{Event, Follower};
use crate::protocol::{ClientMessage, HubMessage};
use crate::record::{Exit, NUMBERS, Payload, Reason, Record, STATUS_HUB_FAILED, Stream, between};

/// No more is taken off the connection while so many bytes wait to be written. A hub lets a paced command run less far
/// ahead, so that its client always hears what the hub says.
const QUEUE_LIMIT: usize = 1 << 20;

/// The hub is told what was written whenever it is so much, in bytes, or all there was.
const CONSUMED_STEP: u64 = 64 << 10;

/// A second signal within this time does not only interrupt the command but stops the session.
const TWICE: Duration = Duration::from_secs(2);

/// Until when a session is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it ends.
    End,
    /// Until where its output ended when the hub was first reached.
    Head,
}

/// What becomes of the output.
pub type Shape = Box<dyn FnMut(&Record, bool) -> Option<(Stream, Bytes)>>;

/// A session without a terminal on this side.
pub struct Piped {
    /// The session.
    pub follower: Follower,
    /// Where the output goes.
    pub sink: Sink,
    /// What is typed, where anything is.
    pub input: Option<Input>,
    /// Whether INT and TERM go to the command instead of ending this process.
    pub forward: bool,
    /// Whether the session is stopped when nobody reads its output any more.
    pub stop_if_unread: bool,
    /// Until when.
    pub until: Until,
    /// What becomes of an output record; `true` says that more from before this client came will follow it. Without a
    /// shape the bytes go to the streams that they came from.
    pub shape: Option<Shape>,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The session's end, where it was seen.
    pub exit: Option<Exit>,
    /// Whether something was missing from the output.
    pub gaps: bool,
}

enum Turn {
    On,
    Exit(Exit),
    Reached,
    Stop(Failure),
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    last: Option<Instant>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, last: None })
    }

    /// The next signal's number, and whether it follows another one closely.
    async fn next(&mut self) -> (u8, bool) {
        let number = select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
        };
        let again = self.last.replace(Instant::now()).is_some_and(|last| last.elapsed() < TWICE);
        (number, again)
    }
}

async fn next_signal(signals: &mut Option<Signals>) -> (u8, bool) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn next_input(input: &mut Option<Input>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

struct Run {
    piped: Piped,
    head: Option<u64>,
    told: u64,
    gaps: bool,
}

impl Piped {
    /// Follows it to its end.
    ///
    /// # Errors
    /// Where the hub is lost for good, nobody reads any more, or a signal came twice.
    pub async fn run(self) -> Result<Outcome, Failure> {
        let mut signals = self.forward.then(Signals::new).transpose()?;
        let mut run = Run { piped: self, head: None, told: 0, gaps: false };
        let turn = loop {
            let turn = run.turn(&mut signals).await;
            if !matches!(turn, Turn::On) {
                break turn;
            }
        };
        run.end(turn).await
    }
}

impl Run {
    async fn turn(&mut self, signals: &mut Option<Signals>) -> Turn {
        let Piped { follower, sink, input, .. } = &mut self.piped;
        follower.set_reading(sink.queued() < QUEUE_LIMIT);
        let types = input.is_some() && follower.input().has_room();
        select! {
            event = follower.next() => self.event(event),
            progress = sink.changed() => self.progress(&progress),
            (number, again) = next_signal(signals) => self.signal(number, again),
            bytes = next_input(input), if types => {
                match bytes {
                    Some(bytes) => follower.input().push(bytes),
                    None => {
                        follower.input().close();
                        *input = None;
                    }
                }
                Turn::On
            }
        }
    }

    fn event(&mut self, event: Event) -> Turn {
        match event {
            Event::Record(record) => self.record(&record),
            Event::Welcome(welcome) => {
                let head = *self.head.get_or_insert(welcome.head);
                if self.piped.until == Until::Head && head == 0 { Turn::Reached } else { Turn::On }
            }
            Event::Lost(reason) => {
                self.piped.sink.note(&format!("the hub is lost, reconnecting… ({reason})"));
                Turn::On
            }
            Event::Message(message) => self.message(message),
            Event::Closed => Turn::Reached,
            Event::Failed(error) => Turn::Stop(Failure::from(error)),
        }
    }

    fn message(&mut self, message: HubMessage) -> Turn {
        match message {
            HubMessage::Notice { text, .. } => self.piped.sink.note(&text),
            HubMessage::Error { code, detail } if self.piped.forward => {
                self.piped.sink.note(&format!("{detail} [{code}]"))
            }
            _ => {}
        }
        Turn::On
    }

    fn record(&mut self, record: &Record) -> Turn {
        let past = self.head.is_some_and(|head| record.end() < head);
        match &record.payload {
            Payload::Output(stream, data) => {
                let shaped = match &mut self.piped.shape {
                    Some(shape) => shape(record, past),
                    None => Some((*stream, data.clone())),
                };
                let (stream, data) = shaped.unwrap_or((*stream, Bytes::new()));
                self.piped.sink.write(stream, data, Some(record.end()));
            }
            Payload::Dropped { to, reason } => {
                self.gaps |= reason.is_loss();
                self.piped.sink.note(&gap(record.offset, *to, *reason));
                // What a shape kept may have to come now; a command that this client paces goes on behind it.
                let shaped = self.piped.shape.as_mut().and_then(|shape| shape(record, past));
                let (stream, data) = shaped.unwrap_or((Stream::Stdout, Bytes::new()));
                self.piped.sink.write(stream, data, Some(*to));
            }
            Payload::Exit(exit) => return Turn::Exit(exit.clone()),
            _ => {}
        }
        let reached = self.piped.until == Until::Head && self.head.is_some_and(|head| record.end() >= head);
        if reached { Turn::Reached } else { Turn::On }
    }

    fn progress(&mut self, progress: &Progress) -> Turn {
        if let Some((kind, text)) = &progress.error {
            let error = std::io::Error::new(*kind, text.clone());
            return Turn::Stop(match Failure::from(error) {
                broken if broken.status == BROKEN_PIPE => broken,
                other => Failure::new(STATUS_HUB_FAILED, format!("the output cannot be written: {}", other.message)),
            });
        }
        let idle = self.piped.sink.queued() == 0;
        if progress.written >= self.told + CONSUMED_STEP || (idle && progress.written > self.told) {
            self.told = progress.written;
            self.piped.follower.consumed(progress.written);
        }
        Turn::On
    }

    fn signal(&mut self, number: u8, again: bool) -> Turn {
        if again && !self.piped.follower.is_connected() {
            return Turn::Stop(Failure::new(128 + number, "left without word of the session, which may still run"));
        }
        self.piped.follower.tell(ClientMessage::Signal { signal: number });
        if again {
            self.piped.follower.tell(ClientMessage::Stop);
        }
        Turn::On
    }

    async fn end(mut self, turn: Turn) -> Result<Outcome, Failure> {
        let exit = match turn {
            Turn::Exit(exit) => Some(exit),
            Turn::Stop(failure) => {
                let unread = failure.status == BROKEN_PIPE;
                let stop = unread && self.piped.stop_if_unread;
                self.piped.follower.leave(stop.then_some(ClientMessage::Stop)).await;
                self.piped.sink.finish_within(TWICE).await;
                return Err(failure);
            }
            _ => None,
        };
        if let Some((stream, data)) = self.piped.shape.as_mut().and_then(|shape| shape(&end_mark(), false)) {
            self.piped.sink.write(stream, data, None);
        }
        match self.piped.sink.finish().await {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::silent(BROKEN_PIPE)),
            Err(error) => Err(Failure::new(STATUS_HUB_FAILED, format!("the output cannot be written: {error}"))),
            Ok(()) => Ok(Outcome { exit, gaps: self.gaps }),
        }
    }
}

/// What a shape is given at the end, so that it can let go of what it kept.
fn end_mark() -> Record {
    Record { offset: u64::MAX, time: 0, payload: Payload::Unknown(0) }
}

/// A gap, for a person.
#[must_use]
pub fn gap(from: u64, to: u64, reason: Reason) -> String {
    let why = reason.describe();
    match (reason, between(from, to)) {
        (Reason::Renumbered, _) => format!("what the command printed right before may be missing here, because {why}"),
        // How much it was, nobody knows.
        (_, 0 | 1) => format!("some of the output is missing here, because {why}"),
        (_, count) => {
            let from = from % NUMBERS;
            format!("bytes {from} to {} of the output are missing, because {why}", from + count)
        }
    }
}
