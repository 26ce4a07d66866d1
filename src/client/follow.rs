//! A session followed across connections: each record once, each key once, whatever breaks in between.
//!
//! [`Follower::next`] is the one thing to wait for. It can be dropped and called again at any time; it connects, sends
//! what there is to send, and answers pings while it is waited for. It owns no task.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::api::session_path;
use super::backoff::Backoff;
use super::error::ClientError;
use super::hubs::Hubs;
use super::outgoing::Outgoing;
use super::sequence::{Sequence, Step};
use super::socket::{Socket, connect};
use crate::protocol::{ClientMessage, Close, HubMessage, Mode, Role, Secret, SessionInfo};
use crate::record::{Record, Size};
use link::{Link, Outbox, Turn};

mod link;

/// How long a client that leaves waits for the hub to take its last words.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// How often a hub that has just started may refuse a token that is about to change.
const STALE_TOKENS: u32 = 5;

/// What to follow, and as what.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The session's UUID or short name.
    pub id: String,
    /// How.
    pub mode: Mode,
    /// As what.
    pub role: Role,
    /// From which offset; none: see [`ClientMessage::Hello`].
    pub from: Option<u64>,
    /// The window's size.
    pub size: Option<Size>,
    /// Whether this client paces the command.
    pub paces: bool,
}

/// What a connection began with.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The session.
    pub session: SessionInfo,
    /// Whether this viewer types.
    pub driving: bool,
    /// The terminal's size.
    pub size: Option<Size>,
    /// Where the output ended.
    pub head: u64,
    /// Whether an earlier connection was lost.
    pub back: bool,
}

/// What happens to a follower.
#[derive(Debug)]
pub enum Event {
    /// A connection is made.
    Welcome(Box<Welcome>),
    /// The next record.
    Record(Record),
    /// The hub says something else.
    Message(HubMessage),
    /// The connection is lost, or was never made, for this reason; it is being made again.
    Lost(String),
    /// The hub has sent everything; nothing follows.
    Closed,
    /// It is over, and nothing can be done here.
    Failed(ClientError),
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = Result<Socket, ClientError>> + Send>>),
    Waiting(Pin<Box<Sleep>>),
    Open(Box<Link>),
    Ended,
}

/// A session that is followed.
pub struct Follower {
    hubs: Arc<Hubs>,
    ask: Ask,
    writer: Option<String>,
    resume: Option<String>,
    sequence: Sequence,
    outbox: Outbox,
    records: Bytes,
    events: VecDeque<Event>,
    state: State,
    reading: bool,
    lost_since: Option<Instant>,
    last_error: Option<(String, String)>,
    refusals: u32,
    backoff: Backoff,
    driving: bool,
    /// Another token, for one that has ended, is being found.
    renewing: Option<Pin<Box<dyn Future<Output = Option<String>> + Send>>>,
}

impl Follower {
    /// Begins to follow.
    #[must_use]
    pub fn new(hubs: Arc<Hubs>, ask: Ask) -> Self {
        let mut follower = Self {
            sequence: Sequence::new(ask.from),
            writer: (ask.role != Role::Watch).then(random_writer),
            hubs,
            ask,
            resume: None,
            outbox: Outbox::default(),
            records: Bytes::new(),
            events: VecDeque::new(),
            state: State::Ended,
            reading: true,
            lost_since: None,
            last_error: None,
            refusals: 0,
            backoff: Backoff::default(),
            driving: false,
            renewing: None,
        };
        follower.connect();
        follower
    }

    /// What happens next. Can be dropped and called again.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether records are taken off the connection; a client that cannot put them anywhere stops that for a while.
    pub fn set_reading(&mut self, reading: bool) {
        if let (State::Open(link), true) = (&mut self.state, reading && !self.reading) {
            link.heard_now();
        }
        self.reading = reading;
    }

    /// What is typed. Look at [`Outgoing::has_room`] first.
    pub fn input(&mut self) -> &mut Outgoing {
        &mut self.outbox.input
    }

    /// Whether this viewer types, as far as it knows.
    #[must_use]
    pub fn is_driving(&self) -> bool {
        self.driving
    }

    /// Whether there is a connection on which the hub has answered.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(&self.state, State::Open(link) if link.is_welcome())
    }

    /// The first offset that was not seen yet.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.sequence.next()
    }

    /// Tells the hub something, now or as soon as there is one.
    pub fn tell(&mut self, message: ClientMessage) {
        self.outbox.push(message);
    }

    /// The window has another size.
    pub fn resize(&mut self, size: Size) {
        self.ask.size = Some(size);
        if self.driving {
            self.outbox.push(ClientMessage::Resize { size });
        }
    }

    /// The output was used up to here.
    pub fn consumed(&mut self, offset: u64) {
        if self.ask.paces {
            self.outbox.consumed(offset);
        }
    }

    /// Begins anew with a snapshot of the screen as it is; also how the sizes of a screen are told apart.
    pub fn redraw(&mut self) {
        self.restart(Mode::Screen, None);
    }

    /// Begins anew, in another way or elsewhere.
    pub fn restart(&mut self, mode: Mode, from: Option<u64>) {
        (self.ask.mode, self.sequence) = (mode, Sequence::new(from));
        self.connect();
    }

    /// From the next connection on: a snapshot first.
    pub fn snapshot_next(&mut self) {
        (self.ask.mode, self.sequence) = (Mode::Screen, Sequence::new(None));
    }

    /// Says a last thing behind all that was typed, and leaves. Whether the hub took it.
    pub async fn leave(mut self, last: Option<ClientMessage>) -> bool {
        self.outbox.leave(last);
        self.set_reading(true);
        let leaving = async {
            loop {
                match poll_fn(|cx| self.poll_leave(cx)).await {
                    Some(Turn::Flushed) => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
        };
        let given = timeout(LEAVE_LIMIT, leaving).await.unwrap_or(false);
        // What the system has taken may be on a network that is gone: the hub answers a close when it has read all.
        match self.state {
            State::Open(link) => timeout(LEAVE_LIMIT, link.close()).await.unwrap_or(false) && given,
            _ => given,
        }
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        if let State::Open(link) = &mut self.state
            && link.poll_flushed(cx, &mut self.outbox).is_ready()
        {
            return Poll::Ready(Some(Turn::Flushed));
        }
        match ready!(self.poll_next(cx)) {
            Event::Closed | Event::Failed(_) => Poll::Ready(None),
            _ => Poll::Ready(Some(Turn::Quiet)),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(event) = self.next_event() {
                return Poll::Ready(event);
            }
            self.poll_renewed(cx);
            match &mut self.state {
                State::Ended => return Poll::Ready(Event::Closed),
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.connect();
                }
                State::Connecting(connecting) => match ready!(connecting.as_mut().poll(cx)) {
                    Ok(socket) => self.open(socket),
                    Err(error) => self.refused(error),
                },
                State::Open(link) => {
                    let turn = ready!(link.poll(cx, &mut self.outbox, self.reading));
                    self.turn(turn);
                }
            }
        }
    }

    /// Sends another token once it is found; without one the hub will close.
    fn poll_renewed(&mut self, cx: &mut Context<'_>) {
        let Some(renewing) = &mut self.renewing else { return };
        let Poll::Ready(token) = renewing.as_mut().poll(cx) else { return };
        self.renewing = None;
        if let Some(token) = token {
            self.outbox.push(ClientMessage::Renew { token: Secret::new(token) });
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while self.reading && !self.records.is_empty() {
            match Record::decode(&mut self.records) {
                Ok(Some(record)) => match self.sequence.step(record) {
                    Step::Take(record) => return Some(Event::Record(record)),
                    Step::Known => {}
                    Step::Hole { from, to } => self.lost(format!("bytes {from} to {to} were left out")),
                },
                Ok(None) => {}
                Err(error) => self.lost(error.to_string()),
            }
        }
        self.events.pop_front()
    }

    fn connect(&mut self) {
        self.records = Bytes::new();
        let (hubs, token) = (self.hubs.clone(), self.resume.clone());
        let path = session_path(&self.ask.id, "/attach");
        self.state = State::Connecting(Box::pin(async move {
            let hub = hubs.find().await?;
            let connected = connect(&hub, &path, token.as_deref()).await;
            match connected {
                // Its token may have ended since it was found.
                Err(ClientError::Refused { status: 401, .. }) if token.is_none() && hubs.refused(&hub.url).await => {
                    connect(&hubs.find().await?, &path, None).await
                }
                connected => connected,
            }
        }));
    }

    fn open(&mut self, socket: Socket) {
        self.last_error = None;
        self.outbox.rewind();
        let hello = ClientMessage::Hello {
            mode: self.ask.mode,
            role: self.ask.role,
            from: self.sequence.next(),
            writer: self.writer.clone(),
            size: self.ask.size,
            paces: self.ask.paces,
        };
        self.state = State::Open(Box::new(Link::new(socket, &hello)));
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Records(records) => {
                self.backoff.reset();
                self.records = records;
            }
            Turn::Message(message) => self.message(message),
            Turn::Closed(code, reason) => self.closed(code, reason),
            Turn::Lost(reason) => self.lost(reason),
            Turn::Flushed | Turn::Quiet => {}
        }
    }

    fn message(&mut self, message: HubMessage) {
        match message {
            HubMessage::Welcome { session, driving, size, head, resume, .. } => {
                self.resume = resume.or_else(|| self.resume.take());
                self.now_driving(driving);
                self.refusals = 0;
                let back = self.lost_since.take().is_some();
                self.outbox.welcome(driving);
                let welcome = Welcome { session: *session, driving, size, head, back };
                self.events.push_back(Event::Welcome(Box::new(welcome)));
            }
            HubMessage::InputAck { offset } => {
                self.outbox.input.ack(offset);
                // There is room for more to be typed: who asked before has to ask again.
                self.events.push_back(Event::Message(HubMessage::InputAck { offset }));
            }
            HubMessage::GoingAway { .. } => self.lost("the hub stops".to_owned()),
            HubMessage::Renew => {
                let hubs = self.hubs.clone();
                self.renewing = Some(Box::pin(async move { hubs.renewed().await }));
            }
            HubMessage::Renewed => {}
            other => {
                match &other {
                    HubMessage::Presence { driving, .. } => self.now_driving(*driving),
                    HubMessage::Error { code, detail } => self.last_error = Some((code.clone(), detail.clone())),
                    _ => {}
                }
                self.events.push_back(Event::Message(other));
            }
        }
    }

    /// Who types is told by the hub; a later connection asks for no more than this one has.
    fn now_driving(&mut self, driving: bool) {
        self.driving = driving;
        self.outbox.drive(driving);
        if self.writer.is_some() {
            self.ask.role = if driving { Role::Drive } else { Role::Watch };
        }
    }

    fn closed(&mut self, code: u16, reason: String) {
        let normal = code == Close::Normal as u16;
        let is_final = (4400..4500).contains(&code) && code != Close::Timeout as u16;
        if normal {
            self.end(Event::Closed);
        } else if is_final {
            let (error, detail) = self.last_error.take().unwrap_or_else(|| ("closed".to_owned(), reason));
            self.end(Event::Failed(ClientError::Refused { status: code, code: error, detail }));
        } else {
            self.lost(if reason.is_empty() { format!("the hub closed it with code {code}") } else { reason });
        }
    }

    fn end(&mut self, event: Event) {
        self.state = State::Ended;
        self.events.push_back(event);
    }

    fn refused(&mut self, error: ClientError) {
        let stale = self.hubs.is_embedded() && matches!(error, ClientError::Refused { status: 401, .. });
        self.refusals += u32::from(stale);
        // A hub of this machine that could not be started now may be later, and what is followed goes on meanwhile.
        let later = self.lost_since.is_some() && matches!(error, ClientError::NotStarted { .. });
        let passes = error.is_passing() || later;
        if passes || (stale && self.refusals <= STALE_TOKENS) {
            self.hubs.pass_over();
            self.lost(error.to_string());
        } else {
            self.end(Event::Failed(error));
        }
    }

    fn lost(&mut self, reason: String) {
        self.records = Bytes::new();
        let limit = self.hubs.settings().reconnect_limit;
        let first = self.lost_since.is_none();
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= limit {
            let limit = humantime::format_duration(limit).to_string();
            return self.end(Event::Failed(ClientError::GaveUp { limit, reason }));
        }
        self.state = State::Waiting(Box::pin(sleep(self.backoff.wait())));
        if first {
            self.events.push_back(Event::Lost(reason));
        }
    }
}

/// 32 hexadecimal digits that nobody else has.
fn random_writer() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
