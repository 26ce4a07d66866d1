//! A source: where a session's output comes from and its input goes to, as a value.
//!
//! What is behind it, an agent on this machine or in a pod, is not known here. A session's pump takes the events one by
//! one, straight from the socket; commands go the other way through a bounded queue.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

use crate::agent::protocol::{Start, Writer};
use crate::record::{Batch, Size};

/// What comes from a source.
#[derive(Debug)]
pub enum Event {
    /// The next records of the sequence.
    Records(Batch),
    /// The command has this writer's input up to this offset.
    InputAck(Writer, u64),
    /// The command runs.
    Started,
    /// The idle limit ends the command after so long, unless something happens; none once something has.
    Idle(Option<Duration>),
    /// A sentence for the people at the session: what the source cannot do, or cannot know.
    Said(String),
}

/// What a source is told.
#[derive(Debug)]
pub enum Command {
    /// What to run.
    Start(Box<Start>),
    /// A writer that is not known says that it is at the offset: the acknowledgement says where the source has it. One that
    /// knows less than the writer takes its word.
    Meet(Writer, u64),
    /// A writer's bytes, the first one at the offset.
    Input(Writer, u64, Bytes),
    /// A writer's input ends at the offset.
    InputEnd(Writer, u64),
    /// The terminal's new size.
    Resize(Size),
    /// A signal's number, for the foreground processes.
    Signal(u8),
    /// Who ends it.
    Stop(String),
    /// All up to the offset is safe, and the exit too where it says so.
    Ack(u64, bool),
    /// Output may be produced up to the offset.
    Pace(u64),
    /// In milliseconds, how long the source lives without a hub.
    OrphanLimit(u64),
    /// Who the session is, for a later hub whose store does not know it. An old source is not told.
    Card(serde_json::Value),
    /// Records from an offset to another, from what the source has kept. What is gone comes as a dropped record. The
    /// answer may reach past the end that was asked for.
    Read(u64, u64, oneshot::Sender<Vec<Batch>>),
    /// What is known of the output up to where the events start, for one that asked for it.
    Printed(Printed),
}

/// What is known of a session's output, for a source that has to find where it stands in what is kept elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// Its first bytes; empty where they are not known.
    pub first: Vec<u8>,
    /// Its last bytes, in one piece; empty where they are not known.
    pub last: Vec<u8>,
    /// How many of these came since another hub has taken the source over, where that was among them: right before them
    /// there may have been more.
    pub anew: Option<usize>,
}

impl Printed {
    /// Bytes of its start that are kept.
    pub const FIRST: usize = 64;

    /// Bytes of its end that are kept.
    pub const LAST: usize = 4 << 10;
}

/// A connection to a source. Its end is the end of the connection, not of the session: that is the exit record.
pub struct Source {
    /// What it says, in order.
    pub events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// How it is told things.
    pub control: Control,
    /// Whether it was told what to start already.
    pub started: bool,
    /// Who the session is, as an earlier hub told the source; an old source does not know it.
    pub card: Option<serde_json::Value>,
    /// Whether it says nothing before it was told [`Command::Printed`].
    pub asks: bool,
}

/// Tells a source things. Clones tell the same source.
#[derive(Clone, Debug)]
pub struct Control(mpsc::Sender<Command>);

/// How many commands may wait for a source.
const QUEUE: usize = 256;

impl Control {
    /// A control and what it fills.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Tells the source; waits while it has much to obey. Whether the connection lives.
    pub async fn send(&self, command: Command) -> bool {
        self.0.send(command).await.is_ok()
    }

    /// Tells the source, where it has room for it at once.
    pub fn send_now(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }

    /// Reads back records that the source has kept; `None` where the connection broke.
    pub async fn read(&self, from: u64, to: u64) -> Option<Vec<Batch>> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Command::Read(from, to, sender)).await.ok()?;
        receiver.await.ok()
    }
}
