//! One hub's connection to an agent.
//!
//! Two halves run side by side: one obeys what the hub says, the other sends what there is to send. Neither waits for
//! the other, so a hub that does not read still stops a command, and one that says nothing still gets its output.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::select;
use tokio::time::{Instant, timeout, timeout_at};

use super::protocol::{
    AgentHello, CARDS, HubHello, MAX_VERSION, MIN_VERSION, NOT_IDLE, ProtocolError, READ, RECORDS, Reader, SILENCE,
    ToAgent, ToHub, header,
};
use super::serve::Agent;
use super::spool::Cursor;
use super::wire::{self, ReadHalf, WriteHalf};
use crate::record::{Cause, Payload};

/// How long a hub may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// Bytes of records sent in one message, unless one record is longer.
const PIECE: usize = 256 << 10;

/// How long acknowledgements of input wait for output to go with: an echo mostly follows at once, and a message of its
/// own would wake everyone on the way back before it.
const ACKS_WAIT: Duration = Duration::from_millis(1);

/// How many parts one write to the socket has at most.
const MAX_PARTS: usize = 64;

/// A hub that greeted: what it asks for, and what it may have sent behind its greeting.
pub(super) struct Greeted {
    hello: HubHello,
    reader: Reader<ReadHalf>,
    writer: WriteHalf,
}

/// What one connection still has to send, besides the live records.
struct Outbox {
    /// What both speak.
    version: u16,
    replies: RefCell<VecDeque<Bytes>>,
    reads: RefCell<VecDeque<(u64, Cursor, u64)>>,
}

/// Waits for the next hub that may have this agent.
pub(super) async fn greeted(agent: &Agent, listener: &UnixListener) -> Greeted {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(Some(greeted)) = timeout(GREETING, greet(agent, stream)).await {
                    return greeted;
                }
            }
            // Out of descriptors: the next one may find some.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Reads the greeting; answers and closes where the hub may not have the agent.
async fn greet(agent: &Agent, stream: UnixStream) -> Option<Greeted> {
    let peer = stream.peer_cred().ok()?.uid();
    if peer != rustix::process::geteuid().as_raw() && peer != 0 {
        return None;
    }
    let (read, mut writer) = wire::split(stream).ok()?;
    let mut reader = Reader::new(read);
    let (kind, rest) = reader.next().await.ok()??;
    let Ok(Some(ToAgent::Hello(hello))) = ToAgent::decode(kind, rest) else { return None };
    let refusal = if hello.max < MIN_VERSION || hello.min > MAX_VERSION {
        Some(format!("this agent speaks versions {MIN_VERSION} to {MAX_VERSION}"))
    } else if hello.epoch < agent.epoch.get() {
        Some(format!("a hub of epoch {} has this agent", agent.epoch.get()))
    } else {
        None
    };
    if let Some(reason) = refusal {
        let _ = writer.write_all(&ToHub::Refused(reason).encode()).await;
        return None;
    }
    agent.epoch.set(hello.epoch);
    Some(Greeted { hello, reader, writer })
}

/// Serves the hub until its connection ends or it falls silent.
pub(super) async fn serve(agent: &Agent, greeted: Greeted) {
    let Greeted { hello, mut reader, mut writer } = greeted;
    agent.contact.set(Instant::now());
    agent.input.borrow_mut().take_acks();
    let version = hello.max.min(MAX_VERSION);
    let outbox = Outbox { version, replies: RefCell::default(), reads: RefCell::default() };
    let cursor = outbox.seek(agent, hello.from);
    outbox.replies.borrow_mut().push_back(answer(agent, version));
    select! {
        _ = obey(agent, &mut reader, &outbox) => {}
        _ = send(agent, &mut writer, &outbox, cursor) => {}
    }
}

impl Outbox {
    fn seek(&self, agent: &Agent, offset: u64) -> Cursor {
        let cursor = agent.spool.borrow().seek(offset);
        if self.version < CARDS { cursor.for_version_1() } else { cursor }
    }
}

fn answer(agent: &Agent, version: u16) -> Bytes {
    let spool = agent.spool.borrow();
    let nonce = agent.start.borrow().as_ref().map(|start| start.nonce.clone());
    let card = agent.card.borrow().clone().filter(|_| version >= CARDS);
    let (session, oldest, head) = (agent.session.clone(), spool.oldest(), spool.head());
    ToHub::Hello(AgentHello { version, session, nonce, oldest, head, card }).encode()
}

async fn obey(agent: &Agent, reader: &mut Reader<ReadHalf>, outbox: &Outbox) -> Result<(), ProtocolError> {
    loop {
        let Ok(message) = timeout(SILENCE, reader.next()).await else { return Ok(()) };
        let Some((kind, rest)) = message? else { return Ok(()) };
        agent.contact.set(Instant::now());
        if let Some(message) = ToAgent::decode(kind, rest)? {
            act(agent, message, outbox).map_err(|_| ProtocolError::Malformed(kind))?;
            agent.moved.send_replace(());
        }
    }
}

fn act(agent: &Agent, message: ToAgent, outbox: &Outbox) -> Result<(), super::input::OutOfWindow> {
    match message {
        // Only the first message of a connection greets.
        ToAgent::Hello(_) => {}
        ToAgent::Start(start) => {
            agent.start.send_if_modified(|started| match started {
                Some(_) => false,
                None => {
                    *started = Some(Rc::new(*start));
                    true
                }
            });
        }
        ToAgent::Input(writer, offset, data) => {
            agent.input.borrow_mut().accept(writer, offset, data)?;
            agent.note_activity();
            agent.typed.send_replace(());
        }
        ToAgent::InputEnd(writer, offset) => {
            let terminal = agent.start.borrow().as_ref().is_some_and(|start| start.terminal.is_some());
            agent.input.borrow_mut().end(writer, offset, terminal);
            agent.typed.send_replace(());
        }
        ToAgent::Resize(size) => {
            let command = agent.command.borrow().clone();
            if let Some(command) = command.filter(|command| command.terminal.is_some()) {
                // The record first: what the command prints because of the new size stands behind it.
                agent.mark(Payload::Resize(size));
                command.resize(size);
            }
        }
        ToAgent::Signal(signal) => {
            if let Some(command) = &*agent.command.borrow() {
                // Whoever ended in between gets none.
                let _ = command.signal(signal);
            }
        }
        ToAgent::Stop(by) => {
            agent
                .ending
                .send_if_modified(|ending| ending.is_none().then(|| *ending = Some(Cause::Stopped { by })).is_some());
        }
        ToAgent::Ack(offset, exit) => {
            agent.spool.borrow_mut().acknowledge(offset);
            if exit {
                agent.exit_safe.send_replace(true);
            }
        }
        ToAgent::Read(id, from, to) => {
            let cursor = outbox.seek(agent, from);
            outbox.reads.borrow_mut().push_back((id, cursor, to));
        }
        ToAgent::Ping => outbox.replies.borrow_mut().push_back(ToHub::Pong.encode()),
        ToAgent::OrphanLimit(limit) => {
            agent.orphan_limit.set(limit);
        }
        ToAgent::Card(card) => {
            agent.card.replace(Some(card));
        }
        ToAgent::Pace(offset) => {
            // Once the command is gone nothing is held back any more.
            if agent.command.borrow().is_some() {
                agent.pace.send_replace(offset);
            }
        }
    }
    Ok(())
}

async fn send(agent: &Agent, writer: &mut WriteHalf, outbox: &Outbox, mut cursor: Cursor) -> io::Result<()> {
    let mut moved = agent.moved.subscribe();
    let mut started = false;
    let mut warned = None;
    let (mut acks, mut acks_due) = (VecDeque::new(), None);
    loop {
        moved.borrow_and_update();
        let mut parts = std::mem::take(&mut *outbox.replies.borrow_mut());
        if let Some(command) = agent.command.borrow().as_ref().filter(|_| !started) {
            parts.push_back(ToHub::Started(command.pid.as_raw_nonzero().get() as u32).encode());
            started = true;
        }
        acks.extend(agent.input.borrow_mut().take_acks());
        let idle_at = agent.idle_at.get();
        if outbox.version >= CARDS && idle_at != warned {
            let left = idle_at.map(|at| at.saturating_duration_since(Instant::now()).as_millis() as u64);
            parts.push_back(ToHub::Idle(left.unwrap_or(NOT_IDLE)).encode());
            warned = idle_at;
        }
        read_back(agent, outbox, &mut parts);
        let records = agent.spool.borrow().read(&mut cursor, PIECE);
        if !records.is_empty() {
            let len = records.iter().map(Bytes::len).sum();
            parts.push_back(Bytes::copy_from_slice(&header(RECORDS, len)));
            parts.extend(records);
        }
        if parts.is_empty() {
            if acks.is_empty() {
                let _never_closed = moved.changed().await;
                continue;
            }
            let due = *acks_due.get_or_insert_with(|| Instant::now() + ACKS_WAIT);
            if Instant::now() < due {
                let _or_due = timeout_at(due, moved.changed()).await;
                continue;
            }
        }
        acks_due = None;
        parts.extend(acks.drain(..).map(|(writer, offset)| ToHub::InputAck(writer, offset).encode()));
        write_all(writer, parts).await?;
    }
}

/// One piece of the oldest read that was asked for.
fn read_back(agent: &Agent, outbox: &Outbox, parts: &mut VecDeque<Bytes>) {
    let mut reads = outbox.reads.borrow_mut();
    let Some((id, cursor, to)) = reads.front_mut() else { return };
    let id = *id;
    let records = if cursor.offset < *to { agent.spool.borrow().read(cursor, PIECE) } else { Vec::new() };
    let done = records.is_empty() || cursor.offset >= *to;
    if !records.is_empty() {
        let len = 8 + records.iter().map(Bytes::len).sum::<usize>();
        parts.push_back(Bytes::copy_from_slice(&header(READ, len)));
        parts.push_back(Bytes::copy_from_slice(&id.to_be_bytes()));
        parts.extend(records);
    }
    if done {
        parts.push_back(ToHub::ReadEnd(id).encode());
        reads.pop_front();
    }
}

/// Writes all parts, many with one call, from where they lie.
async fn write_all(writer: &mut WriteHalf, mut parts: VecDeque<Bytes>) -> io::Result<()> {
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> = parts.iter().take(MAX_PARTS).map(|part| IoSlice::new(part)).collect();
        let mut written = writer.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(part) = parts.front_mut().filter(|_| written > 0) {
            let take = written.min(part.len());
            part.advance(take);
            written -= take;
            if part.is_empty() {
                parts.pop_front();
            }
        }
    }
    Ok(())
}
