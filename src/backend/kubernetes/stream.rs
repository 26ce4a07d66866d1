//! A container's own streams as a source: the hub's own half of an agent, for an exec and for a container that is
//! attached to.
//!
//! It numbers what comes, keeps what no store has acknowledged, gives each key once, keeps the limits, and ends with the
//! exit, as an agent does. It lives in the events that the session's pump takes, and ends with them: what an agent has
//! beyond that, a life of its own beside the hub's, nobody gives to streams.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`join`] | having the streams, and what was printed before them |
//! | [`link`] | the streams while they are open |
//! | [`splice`] | where a log continues streams, and streams a log |
//! | [`obey`] | what the session's people want of it |
//! | [`limits`] | the limits of its time |
//! | [`writer`] | what goes to the container, in order |
//!
//! Invariant: what comes from the container never waits for what goes to it, nor the other way round.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use self::join::{Container, Joined, Past, Streams, Unjoined};
use self::limits::{Due, Limits};
use self::link::{Happened, Link, Open};
use self::splice::Known;
use self::writer::{Piece, Writer};
use super::start;
use crate::agent::input::Input;
use crate::agent::protocol::{HEARTBEAT, SILENCE};
use crate::agent::spool::{Cursor, Spool};
use crate::kubernetes::channel::{Ended, Frame};
use crate::metrics::Metrics;
use crate::record::{Batch, Cause, NUMBERS, Payload, Reason, Size, Stream};
use crate::source::{Command, Control, Event, Source};
use crate::tasks::Tasks;

pub(super) mod join;
mod limits;
mod link;
mod obey;
mod splice;
mod writer;

/// Bytes of records taken from the spool at once.
const PIECE: usize = 256 << 10;

/// How long passes before a container is attached to again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long a command may go on after the end of its input that it cannot be told of, before the people are told.
const UNHEARD: Duration = Duration::from_secs(2);

/// How long a container whose pod was deleted may take to be seen to have ended, on top of its pod's grace.
const DELETED: Duration = Duration::from_secs(30);

/// What is done with a container whose session is to end.
#[derive(Clone)]
pub(super) enum AtEnd {
    /// The streams are closed, and nothing else.
    Leave,
    /// Its pod is deleted, by this. It gives the container this time to end.
    Delete(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>, Duration),
}

/// What the streams are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A command that is started for them.
    Exec,
    /// A container whose own first process it is.
    Attach {
        /// Whether its stdin ends with the connection that wrote to it.
        stdin_once: bool,
    },
}

/// What a source of streams is made with.
pub(super) struct Parts<'a> {
    pub(super) container: Container,
    pub(super) way: Way,
    pub(super) at_end: AtEnd,
    /// Where the output goes on.
    pub(super) from: u64,
    /// Whether it was told what to start already.
    pub(super) started: bool,
    /// How many hubs have taken the session up, this one too.
    pub(super) takers: u64,
    /// Who the session is, where that is noted.
    pub(super) card: Option<serde_json::Value>,
    /// Where what is too much for the memory goes.
    pub(super) dir: &'a Path,
    /// How much is kept until a start says so, in bytes.
    pub(super) spool_bytes: u64,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
}

/// See the module's documentation.
struct Half {
    container: Container,
    way: Way,
    at_end: AtEnd,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    dir: std::path::PathBuf,
    spool: Spool,
    cursor: Cursor,
    known: Known,
    commands: mpsc::Receiver<Command>,
    events: VecDeque<Event>,
    link: Link,
    input: Input,
    /// Whether the container's stdin is at its end.
    input_over: bool,
    /// What waits to be written although nobody typed it.
    raw: VecDeque<Piece>,
    size: Option<Size>,
    limits: Limits,
    pace: u64,
    /// Why it is to end, and until when it is waited for.
    ending: Option<(Cause, Instant)>,
    /// When the people are told that the command does not hear of its input's end.
    unheard: Option<Instant>,
    /// Whether another half was there before this one.
    taken_up: bool,
    /// Where this hub's numbers begin, until they do: the one before may have given others to what is not known here.
    numbers: Option<u64>,
    /// Whether streams were ever open.
    began: bool,
    ended: bool,
    safe: bool,
    born: (SystemTime, Instant),
}

/// A source of a container's streams.
pub(super) fn source(parts: Parts<'_>) -> Source {
    let (control, commands) = Control::new();
    let spool = Spool::starting_at(parts.dir, parts.spool_bytes, parts.from);
    let mut half = Half {
        cursor: spool.seek(parts.from),
        spool,
        known: Known::at(parts.from % NUMBERS),
        container: parts.container,
        way: parts.way,
        at_end: parts.at_end,
        tasks: parts.tasks,
        metrics: parts.metrics,
        dir: parts.dir.to_owned(),
        commands,
        events: VecDeque::new(),
        link: Link::Idle,
        input: Input::default(),
        input_over: false,
        raw: VecDeque::new(),
        size: None,
        limits: Limits::none(),
        pace: u64::MAX,
        ending: None,
        unheard: None,
        taken_up: parts.started,
        numbers: parts.started.then_some(parts.takers.saturating_mul(NUMBERS)),
        began: false,
        ended: false,
        safe: false,
        born: (SystemTime::now(), Instant::now()),
    };
    if parts.started && parts.from > 0 {
        half.input_went();
    }
    // What is in the log has the numbers that the hub right before this one gave it, though no store may know that.
    let before = parts.takers.saturating_sub(1).saturating_mul(NUMBERS);
    if parts.started && before > parts.from {
        half.renumber(before, Reason::Renumbered);
    }
    // What came before stands in the container's log, and where it ends there is known by what it was.
    let asks = parts.started && parts.from > 0;
    if parts.started && !asks {
        half.attach(Duration::ZERO, false);
    }
    let events = stream::unfold(half, |mut half| async move { Some((half.next().await?, half)) });
    Source { events: Box::pin(events), control, started: parts.started, card: parts.card, asks }
}

impl Half {
    /// The next event; none once the exit is stored, or nobody can tell it anything any more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front().or_else(|| self.records()) {
                return Some(event);
            }
            if self.safe && self.ended {
                return None;
            }
            self.hand_over();
            let read = self.container.tty || self.ending.is_some() || self.spool.head() % NUMBERS < self.pace % NUMBERS;
            let at = self.wake();
            select! {
                command = self.commands.recv() => self.obey(command?),
                happened = self.link.next(read) => self.act(happened),
                () = sleep_until(at) => self.tick(read),
            }
        }
    }

    fn records(&mut self) -> Option<Event> {
        let records = self.spool.read(&mut self.cursor, PIECE);
        let bytes = match records.len() {
            0 => return None,
            1 => records.into_iter().next()?,
            _ => records.concat().into(),
        };
        self.metrics.source_messages.inc();
        self.metrics.source_bytes.inc_by(bytes.len() as u64);
        // What the spool gives is whole.
        Batch::parse(bytes).ok().map(Event::Records)
    }

    fn time(&self) -> u64 {
        let born = self.born.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        (born + self.born.1.elapsed()).as_micros() as u64
    }

    fn say(&mut self, text: impl Into<String>) {
        self.events.push_back(Event::Said(text.into()));
    }

    fn mark(&mut self, payload: Payload) {
        self.spool.mark(self.time(), payload);
    }

    fn print(&mut self, stream: Stream, mut data: Bytes) {
        self.known.append(&data);
        while data.has_remaining() {
            let copied = self.spool.append(stream, self.time(), |room| {
                let len = data.len().min(room.len());
                data.copy_to_slice(&mut room[..len]);
                Ok(len)
            });
            debug_assert!(copied.is_ok(), "memory is always read");
        }
        self.note_activity();
    }

    fn note_activity(&mut self) {
        if self.limits.note_activity() {
            self.events.push_back(Event::Idle(None));
        }
    }

    /// The last record. Nothing is done any more but to read back what was kept.
    fn exit(&mut self, cause: Cause) {
        self.link = Link::Closed;
        self.input.close();
        self.acknowledge();
        self.ended = true;
        if let Some(numbers) = self.numbers.take() {
            // Nobody looked at what it printed meanwhile.
            self.renumber(numbers, Reason::NotLogged);
        }
        self.mark(Payload::Exit(cause.into()));
    }

    /// Attaches, after a while.
    fn attach(&mut self, wait: Duration, ended: bool) {
        let (container, known) = (self.container.clone(), self.known.clone());
        let stdin = self.container.stdin && !self.input_over;
        self.link = Link::Opening(Box::pin(async move {
            sleep(wait).await;
            container.attach(known, stdin, ended).await
        }));
    }

    fn act(&mut self, happened: Happened) {
        match happened {
            Happened::Joined(Ok(Joined::Streams(streams))) => self.open(*streams),
            Happened::Joined(Ok(Joined::Over(past, cause))) => {
                self.take_in(past);
                let cause = self.ending.take().map_or(cause, |(cause, _)| cause);
                self.exit(cause);
            }
            Happened::Joined(Err(error)) => self.not_joined(error),
            Happened::Frame(frame) => self.take(frame),
            Happened::Wrote(typed) => {
                if let (Link::Open(open), Some(_)) = (&mut self.link, typed) {
                    open.typed.pop_front();
                }
                if let Some((typist, end)) = typed {
                    self.input.given(typist, end);
                    self.acknowledge();
                }
            }
            Happened::Broke(reason) => self.broke(&reason),
        }
    }

    fn open(&mut self, streams: Streams) {
        let writer = Writer::start(streams.input, &self.tasks);
        self.take_in(streams.past);
        let now = Instant::now();
        self.link = Link::Open(Box::new(Open {
            output: streams.output,
            held: streams.held,
            writer,
            typed: VecDeque::new(),
            heard: now,
            may_be_full: false,
            beat_at: now + HEARTBEAT,
        }));
        if let Some(size) = self.size {
            self.raw.push_front(Piece::Resize(size));
        }
        if !self.container.stdin {
            self.input.close();
            self.acknowledge();
        }
        if !std::mem::replace(&mut self.began, true) {
            self.events.push_back(Event::Started);
        }
    }

    /// What was printed while nobody was attached.
    fn take_in(&mut self, past: Past) {
        let mut numbers = self.numbers.take();
        if past.lost || (past.unread && (numbers.is_some() || self.began)) {
            self.known.lose();
            match numbers.take() {
                Some(numbers) => self.renumber(numbers, Reason::NotLogged),
                None => self.mark(Payload::Dropped { to: self.spool.head() + 1, reason: Reason::NotLogged }),
            }
        }
        if !past.bytes.is_empty() {
            // A log does not say which of its lines were stderr.
            self.print(Stream::Stdout, past.bytes.into());
        }
        if let Some(numbers) = numbers {
            self.renumber(numbers, Reason::Renumbered);
            self.known.renumber();
        }
        if past.missing > 0 {
            let to = self.spool.head() + past.missing;
            self.mark(Payload::Dropped { to, reason: Reason::NotLogged });
        }
        if let Some(said) = past.said {
            self.say(said);
        }
    }

    /// Goes on at the same place in the output, with the numbers that begin here, or others that nobody had.
    fn renumber(&mut self, numbers: u64, reason: Reason) {
        let head = self.spool.head();
        let to = numbers + head % NUMBERS;
        self.mark(Payload::Dropped { to: if to > head { to } else { head + NUMBERS }, reason });
    }

    fn not_joined(&mut self, error: Unjoined) {
        let (Unjoined::Refused(reason) | Unjoined::Failed(reason)) = &error;
        match (self.way, &error) {
            (Way::Exec, _) => self.exit(cannot_start(reason)),
            (Way::Attach { .. }, Unjoined::Refused(_)) if !self.began && !self.taken_up => {
                self.exit(cannot_start(reason))
            }
            (Way::Attach { .. }, _) => {
                tracing::warn!(reason, pod = self.container.place.pod, "cannot attach to a container; trying again");
                self.attach(AGAIN, false);
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match (frame, self.way) {
            (Frame::Output(stream, data), _) => self.print(stream, data),
            (Frame::Alive, _) => {}
            (Frame::Ended(Ended::Exited(status)), Way::Exec) => {
                self.exit(Cause::Exited { status: status.clamp(0, 255) as u8 });
            }
            (Frame::Ended(Ended::Failed(reason)), Way::Exec) if self.spool.head() == 0 => {
                self.exit(cannot_start(&reason));
            }
            (Frame::Ended(Ended::Failed(reason)), Way::Exec) => self.exit(Cause::Lost { reason }),
            // How the container ended, it says itself.
            (Frame::Ended(_), Way::Attach { .. }) => {
                self.forget_typed(None);
                self.attach(Duration::ZERO, true);
            }
        }
    }

    /// The streams ended and nobody said why.
    fn broke(&mut self, reason: &str) {
        tracing::info!(reason, pod = self.container.place.pod, "the connection to a container broke");
        match self.way {
            Way::Exec => {
                let cause = self.ending.take().map(|(cause, _)| cause);
                let lost = format!("the connection to its container broke: {reason}; what it ran may go on there");
                self.exit(cause.unwrap_or(Cause::Lost { reason: lost }));
            }
            Way::Attach { .. } => {
                // A connection that was closed to end the input is not one that broke.
                let asked = self.input_over;
                self.forget_typed((!asked).then_some("what was typed last may not have reached the command"));
                if !asked {
                    self.input_went();
                }
                self.attach(if asked { Duration::ZERO } else { AGAIN }, false);
            }
        }
        self.acknowledge();
    }

    /// The connection that wrote to the container is gone, and with it the input of one that takes only one such.
    fn input_went(&mut self) {
        // A terminal's goes on all the same.
        if self.way == (Way::Attach { stdin_once: true }) && self.container.stdin && !self.container.tty {
            self.input_over = true;
            self.input.close();
            self.say("the connection to its container broke, and with it the command's input ended");
        }
    }

    /// What was handed to a connection that is gone counts as given: it is not known what of it was.
    fn forget_typed(&mut self, say: Option<&str>) {
        let Link::Open(open) = &mut self.link else { return };
        let typed = std::mem::take(&mut open.typed);
        if let (Some(text), false) = (say, typed.is_empty()) {
            self.say(text);
        }
        typed.into_iter().for_each(|(typist, end)| self.input.given(typist, end));
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        let acks = self.input.take_acks();
        self.events.extend(acks.into_iter().map(|(typist, offset)| Event::InputAck(typist, offset)));
    }

    /// When to look at the clock again.
    fn wake(&mut self) -> Instant {
        let mut at = Instant::now() + HEARTBEAT;
        if self.ended {
            return at;
        }
        match self.limits.due() {
            Due::Nothing(next) => at = at.min(next),
            Due::Warn(left) => {
                self.events.push_back(Event::Idle(Some(left)));
                return Instant::now();
            }
            Due::End(cause) if self.ending.is_none() => {
                self.end(cause);
                return Instant::now();
            }
            Due::End(_) => {}
        }
        let of_link = if let Link::Open(open) = &self.link { Some(open.beat_at) } else { None };
        let ending = self.ending.as_ref().map(|(_, at)| *at);
        [of_link, ending, self.unheard].into_iter().flatten().fold(at, Instant::min)
    }

    fn tick(&mut self, reads: bool) {
        let now = Instant::now();
        if self.unheard.is_some_and(|at| at <= now) {
            self.unheard = None;
            self.say(
                "the command is not told that its input has ended: this cluster's version of the protocol for that \
                 (v4.channel.k8s.io) cannot; end it with ctrl-C, or stop the session",
            );
        }
        if let Some((cause, _)) = self.ending.take_if(|(_, at)| *at <= now) {
            return self.exit(cause);
        }
        let stdin = self.container.stdin && !self.input_over;
        let Link::Open(open) = &mut self.link else { return };
        if open.beat_at > now {
            return;
        }
        open.beat_at = now + HEARTBEAT;
        if !reads || open.may_be_full {
            open.heard = now;
        } else if open.heard.elapsed() > SILENCE {
            return self.broke("it fell silent");
        }
        // Behind others it is not needed.
        if open.writer.waiting == 0 {
            let _there_is_room = open.writer.put(Piece::Beat(stdin));
        }
    }
}

fn cannot_start(reason: &str) -> Cause {
    Cause::StartFailed { status: start::status_of(reason), reason: reason.to_owned() }
}
