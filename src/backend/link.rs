//! The hub's end of a connection to an agent, over whatever carries bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::BackendError;
use crate::agent::protocol::{
    AgentHello, CARDS, HEARTBEAT, HubHello, MAX_VERSION, MIN_VERSION, NOT_IDLE, ProtocolError, Reader, SILENCE,
    ToAgent, ToHub,
};
use crate::metrics::Metrics;
use crate::record::Batch;
use crate::source::{Command, Control, Event, Source};
use crate::tasks::Tasks;

/// How long an agent may take to answer the greeting.
const GREETING: Duration = Duration::from_secs(10);

/// Bytes of commands gathered into one write.
const GATHER: usize = 64 << 10;

/// What a read is answered with at most, in bytes; a piece is asked for, and its last record may be longer. What is at the
/// other end of a connection may be whatever a container has made of its agent.
const MAX_READ: usize = 4 << 20;

/// What has been read for each read that is under way.
type Reads = Arc<Mutex<HashMap<u64, (Vec<Batch>, oneshot::Sender<Vec<Batch>>)>>>;

/// Greets the agent behind `read` and `write` and makes a source of it.
///
/// # Errors
/// [`BackendError::Taken`] where the agent refuses this hub, [`BackendError::Unreachable`] where it does not answer.
pub async fn open<R, W>(
    read: R,
    mut write: W,
    hello: &HubHello,
    session: &str,
    (tasks, metrics): (&Tasks, Arc<Metrics>),
) -> Result<Source, BackendError>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let unreachable = |error: &dyn std::fmt::Display| BackendError::Unreachable(error.to_string());
    let mut reader = Reader::new(read);
    let greeting = async {
        write.write_all(&ToAgent::Hello(hello.clone()).encode()).await?;
        write.flush().await?;
        reader.next().await
    };
    let answer = timeout(GREETING, greeting).await.map_err(|error| unreachable(&error))?;
    let answer = answer.map_err(|error| unreachable(&error))?;
    let agent = greeted(answer, session)?;
    let (control, commands) = Control::new();
    let reads = Reads::default();
    let closed = CancellationToken::new();
    tasks.spawn("agent-commands", {
        let (reads, closed, version) = (reads.clone(), closed.clone(), agent.version);
        async move {
            let _ended = closed.run_until_cancelled(obey(write, commands, reads, version)).await;
        }
    });
    let events = Events { reader, reads, metrics, _closed: closed.drop_guard() };
    let events = stream::unfold(events, |mut events| async move { Some((events.next().await?, events)) });
    Ok(Source { events: Box::pin(events), control, started: agent.nonce.is_some(), card: agent.card, asks: false })
}

fn greeted(answer: Option<(u8, Bytes)>, session: &str) -> Result<AgentHello, BackendError> {
    let Some((kind, rest)) = answer else {
        return Err(BackendError::Unreachable("it closed the connection".into()));
    };
    match ToHub::decode(kind, rest) {
        Ok(Some(ToHub::Hello(hello))) if !(MIN_VERSION..=MAX_VERSION).contains(&hello.version) => {
            Err(BackendError::Unreachable(format!("it speaks version {}", hello.version)))
        }
        Ok(Some(ToHub::Hello(hello))) if hello.session != session => {
            Err(BackendError::Unreachable(format!("it is the agent of {}", hello.session)))
        }
        Ok(Some(ToHub::Hello(hello))) => Ok(hello),
        Ok(Some(ToHub::Refused(reason))) => Err(BackendError::Taken(reason)),
        _ => Err(BackendError::Unreachable("it does not speak the agent's protocol".into())),
    }
}

/// What the agent says, until its connection ends or it falls silent.
struct Events<R> {
    reader: Reader<R>,
    reads: Reads,
    metrics: Arc<Metrics>,
    _closed: DropGuard,
}

impl<R: AsyncRead + Unpin> Events<R> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let message = match timeout(SILENCE, self.reader.next()).await {
                Ok(Ok(message)) => message?,
                Ok(Err(error)) => return ended(&error),
                Err(_) => return ended(&"it fell silent"),
            };
            match self.event(message.0, message.1) {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(error) => return ended(&error),
            }
        }
    }

    fn event(&self, kind: u8, rest: Bytes) -> Result<Option<Event>, ProtocolError> {
        let batch = |records| Batch::parse(records).map_err(|_| ProtocolError::Malformed(kind));
        Ok(match ToHub::decode(kind, rest)? {
            Some(ToHub::Records(records)) => {
                self.metrics.source_messages.inc();
                self.metrics.source_bytes.inc_by(records.len() as u64);
                Some(Event::Records(batch(records)?))
            }
            Some(ToHub::InputAck(writer, offset)) => Some(Event::InputAck(writer, offset)),
            Some(ToHub::Started(_)) => Some(Event::Started),
            Some(ToHub::Idle(left)) => Some(Event::Idle((left != NOT_IDLE).then(|| Duration::from_millis(left)))),
            Some(ToHub::Read(id, records)) => {
                let batch = batch(records)?;
                if let Some((batches, _)) = lock(&self.reads).get_mut(&id) {
                    if batches.iter().map(|batch| batch.bytes.len()).sum::<usize>() > MAX_READ {
                        return Err(ProtocolError::Malformed(kind));
                    }
                    batches.push(batch);
                }
                None
            }
            Some(ToHub::ReadEnd(id)) => {
                let read = lock(&self.reads).remove(&id);
                // Whoever asked may have left.
                let _ = read.map(|(batches, reader)| reader.send(batches));
                None
            }
            Some(ToHub::Hello(_) | ToHub::Pong | ToHub::Refused(_)) | None => None,
        })
    }
}

fn ended(error: &dyn std::fmt::Display) -> Option<Event> {
    tracing::debug!(%error, "connection to an agent ended");
    None
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes commands, several with one call, and a ping where there was none for a while.
async fn obey(mut write: impl AsyncWrite + Unpin, mut commands: mpsc::Receiver<Command>, reads: Reads, version: u16) {
    let mut next_read = 0;
    let mut out = BytesMut::new();
    loop {
        let command = select! {
            command = commands.recv() => match command {
                Some(command) => Some(command),
                None => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => None,
        };
        match command {
            None => out.extend_from_slice(&ToAgent::Ping.encode()),
            Some(command) => put(&mut out, message(command, &mut next_read, &reads), version),
        }
        while out.len() < GATHER
            && let Ok(command) = commands.try_recv()
        {
            put(&mut out, message(command, &mut next_read, &reads), version);
        }
        // What carries bytes may gather them.
        if write.write_all(&out).await.is_err() || write.flush().await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Appends a message, as far as the agent's version has it.
fn put(out: &mut BytesMut, message: Option<ToAgent>, version: u16) {
    if let Some(message) = message.filter(|message| version >= CARDS || !matches!(message, ToAgent::Card(_))) {
        out.extend_from_slice(&message.encode());
    }
}

fn message(command: Command, next_read: &mut u64, reads: &Reads) -> Option<ToAgent> {
    Some(match command {
        Command::Start(start) => ToAgent::Start(start),
        // No bytes at all, which an agent acknowledges with what it has of this writer.
        Command::Meet(writer, _) => ToAgent::Input(writer, 0, Bytes::new()),
        Command::Input(writer, offset, data) => ToAgent::Input(writer, offset, data),
        Command::InputEnd(writer, offset) => ToAgent::InputEnd(writer, offset),
        Command::Resize(size) => ToAgent::Resize(size),
        Command::Signal(signal) => ToAgent::Signal(signal),
        Command::Stop(by) => ToAgent::Stop(by),
        Command::Ack(offset, exit) => ToAgent::Ack(offset, exit),
        Command::Pace(offset) => ToAgent::Pace(offset),
        Command::OrphanLimit(limit) => ToAgent::OrphanLimit(limit),
        Command::Card(card) => ToAgent::Card(card),
        Command::Read(from, to, reader) => {
            *next_read += 1;
            lock(reads).insert(*next_read, (Vec::new(), reader));
            ToAgent::Read(*next_read, from, to)
        }
        // An agent has it all.
        Command::Printed(_) => return None,
    })
}
