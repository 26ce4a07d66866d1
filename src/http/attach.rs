//! The websocket that follows a session: records go out, input and control come in.
//!
//! The two directions run side by side, so that a viewer who does not read can still interrupt a command. Each viewer
//! is a cursor over the session's ring; there is no queue that could fill up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role as Side, WebSocketConfig};

use super::Hub;
use super::auth::{self, Caller, Presented, hash, secret, still_valid};
use super::error::ApiError;
use super::sessions::{audited, find, info, line};
use crate::agent::protocol::Writer;
use crate::protocol::{
    ClientMessage, Close, HELLO_LIMIT, HubMessage, INPUT_HEADER_LEN, MAX_CLIENT_MESSAGE, Mode, PING, Role, SILENCE,
    SUBPROTOCOL,
};
use crate::record::Size;
use crate::registry::PACE_WINDOW;
use crate::session::Session;
use crate::session::input::InputError;
use crate::session::presence::{Guest, Present};
use crate::session::subscription::Subscription;
use crate::source::Command;
use crate::store::Right;

/// A screen's viewer that is further behind than this is brought up by a snapshot, in bytes.
const SNAPSHOT_BEHIND: u64 = 256 << 10;

/// How often at most viewers are told that others came and went.
const PRESENCE: Duration = Duration::from_secs(1);

/// Bytes that a websocket reads at once. What viewers say is short.
const READ_BUFFER: usize = 4 << 10;

/// Bytes that a websocket writes at once, at least.
const WRITE_BUFFER: usize = 128 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// `GET /v1/sessions/{id}/attach`.
pub async fn attach(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Presented(token): Presented,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let accept = accept_key(request.headers())?;
    let session = find(&hub, &caller, &id, Right::Read, "follow this session").await;
    let resume = match &session {
        Ok(_) => use_ticket(&hub, &caller, &token).await,
        Err(_) => Ok(None),
    };
    let line = line(&caller, "join", session.as_ref().ok().map(|session| session.id()), peer);
    let (session, resume) = audited(&hub, line, session.and_then(|session| Ok((session, resume?)))).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    let viewer = Viewer { hub: hub.clone(), caller, peer, session, resume };
    hub.tasks.clone().spawn_to_end("viewer", async move {
        match upgrade.await {
            Ok(upgraded) => viewer.run(upgraded).await,
            Err(error) => tracing::debug!(%error, "a websocket was not taken up"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// The answer to the client's key (RFC 6455, section 4.2).
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, ApiError> {
    let words = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let has = |name, word: &str| words(name).any(|value| value.trim().eq_ignore_ascii_case(word));
    let invalid = |code, detail: &str| ApiError::new(StatusCode::BAD_REQUEST, code, detail);
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(invalid("websocket_needed", "this door speaks websocket; for plain HTTP there is …/output"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(invalid("websocket_version", "this hub speaks version 13 of the websocket protocol"));
    }
    if !has(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(invalid("unsupported_subprotocol", "this hub speaks foghorn.v1; ask for it as subprotocol"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| invalid("invalid_request", "the key is missing"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| invalid("invalid_request", "a bad key"))
}

/// Uses a one-use ticket up; what its viewer reconnects with is returned.
async fn use_ticket(hub: &Hub, caller: &Caller, token: &str) -> Result<Option<String>, ApiError> {
    let Caller::Ticket(ticket) = caller else { return Ok(None) };
    if !ticket.one_use || ticket.hash != hash(token) {
        return Ok(None);
    }
    let resume = secret().map_err(|_| ApiError::unavailable())?;
    let used = hub.store().use_ticket(ticket.id, crate::session::now(), &hash(&resume)).await?;
    if used { Ok(Some(resume)) } else { Err(ApiError::new(StatusCode::UNAUTHORIZED, "ticket_used", auth::TICKET_USED)) }
}

/// One who follows a session.
struct Viewer {
    hub: Arc<Hub>,
    caller: Caller,
    peer: SocketAddr,
    session: Arc<Session>,
    resume: Option<String>,
}

/// What the viewer said in its hello.
struct Hello {
    mode: Mode,
    role: Role,
    from: Option<u64>,
    writer: Option<Writer>,
    size: Option<Size>,
    paces: bool,
}

/// Why a viewer's connection is closed by the hub.
struct Closed(Close, &'static str, String);

impl Viewer {
    async fn run(self, upgraded: Upgraded) {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(MAX_CLIENT_MESSAGE))
            .max_frame_size(Some(MAX_CLIENT_MESSAGE));
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Side::Server, Some(config)).await;
        let hello = match hello(&mut socket).await {
            Ok(hello) => hello,
            Err(closed) => return close(&mut socket, closed).await,
        };
        if let Err(closed) = self.check(&hello) {
            return close(&mut socket, closed).await;
        }
        let guest = self.session.presence.join(self.caller.name());
        self.seat(&guest, &hello).await;
        let (sink, stream) = socket.split();
        let (replies, outbox) = mpsc::channel(16);
        let incoming = Incoming { viewer: &self, guest: &guest, hello: &hello, size: hello.size, replies };
        let outgoing = Outgoing { viewer: &self, guest: &guest, hello: &hello, sink };
        select! {
            () = incoming.run(stream) => {}
            () = outgoing.run(outbox) => {}
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), Closed> {
        let right = self.caller.right(&self.session.row).unwrap_or(Right::Read);
        if hello.role != Role::Watch && right < Right::Write {
            let error = ApiError::forbidden("type in this session");
            return Err(Closed(Close::Forbidden, error.code, error.detail));
        }
        if hello.role != Role::Watch && hello.writer.is_none() {
            return Err(bad("who drives names its writer: 32 hexadecimal digits"));
        }
        let head = self.session.head();
        if hello.from.is_some_and(|from| from > head) && self.session.has_ended() {
            return Err(Closed(Close::BadMessage, "offset_beyond_end", format!("the output ends at {head}")));
        }
        Ok(())
    }

    /// Gives the viewer the driver's seat where it asks for it and may have it.
    async fn seat(&self, guest: &Guest, hello: &Hello) {
        if hello.role == Role::Watch
            || !self.session.presence.drive(guest.viewer, hello.role == Role::Take, hello.writer)
        {
            return;
        }
        self.hub.audit(line(&self.caller, "driver", Some(self.session.id()), self.peer)).await;
        if let Some(size) = hello.size {
            self.session.resize(size).await;
        }
        let pace = if hello.paces { hello.from.unwrap_or(0).saturating_add(PACE_WINDOW) } else { u64::MAX };
        self.session.set_pace(pace).await;
    }
}

fn bad(detail: &str) -> Closed {
    Closed(Close::BadMessage, "bad_message", detail.into())
}

async fn hello(socket: &mut Socket) -> Result<Hello, Closed> {
    let first = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Some(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    };
    let text = timeout(HELLO_LIMIT, first).await;
    let text = text.map_err(|_| Closed(Close::Timeout, "hello_timeout", "no hello came in time".into()))?;
    let text = text.ok_or_else(|| bad("the first message is a hello, as text"))?;
    let Ok(ClientMessage::Hello { mode, role, from, writer, size, paces }) = serde_json::from_str(&text) else {
        return Err(bad("the first message is a hello"));
    };
    let writer = writer.map(|writer| Writer::from_str_radix(&writer, 16).ok().filter(|_| writer.len() == 32));
    let writer = writer.map(|writer| writer.ok_or_else(|| bad("a writer is 32 hexadecimal digits"))).transpose()?;
    Ok(Hello { mode, role, from, writer, size: size.map(Size::clamped), paces })
}

async fn close(socket: &mut Socket, Closed(code, name, detail): Closed) {
    let error = HubMessage::Error { code: name.into(), detail: detail.clone() };
    // The peer may be gone already.
    let _ = socket.send(text(&error)).await;
    let _ = socket.close(Some(frame(code, detail))).await;
}

fn frame(code: Close, reason: String) -> CloseFrame {
    // A close frame's reason has at most 123 bytes (RFC 6455, section 5.5).
    let reason: String = reason.chars().take(100).collect();
    CloseFrame { code: (code as u16).into(), reason: reason.into() }
}

fn text(message: &HubMessage) -> Message {
    Message::text(serde_json::to_string(message).unwrap_or_default())
}

/// What the incoming half has to say to the viewer.
enum Reply {
    Say(HubMessage),
    Close(Closed),
    /// The viewer takes the seat: it is told by the presence that follows.
    Look,
}

/// What a viewer says.
struct Incoming<'a> {
    viewer: &'a Viewer,
    guest: &'a Guest,
    hello: &'a Hello,
    size: Option<Size>,
    replies: mpsc::Sender<Reply>,
}

impl Incoming<'_> {
    /// Obeys the viewer until it leaves, falls silent, or is told to go.
    async fn run(mut self, mut stream: SplitStream<Socket>) {
        loop {
            let message = match timeout(SILENCE, stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(_) => return,
                Err(_) => {
                    tracing::debug!(session = %self.viewer.session.id(), "a viewer fell silent");
                    return;
                }
            };
            let outcome = match message {
                Message::Binary(data) => self.typed(data).await,
                Message::Text(message) => match serde_json::from_str(&message) {
                    Ok(message) => self.told(message).await,
                    // A message of a later version is passed over, one that is no message is not.
                    Err(_) if serde_json::from_str::<Typed>(&message).is_ok() => Ok(None),
                    Err(_) => Err(bad("a text message is a JSON object with a type")),
                },
                Message::Close(_) => return,
                _ => Ok(None),
            };
            let reply = match outcome {
                Ok(None) => continue,
                Ok(Some(reply)) => reply,
                Err(closed) => Reply::Close(closed),
            };
            let last = matches!(reply, Reply::Close(_));
            if self.replies.send(reply).await.is_err() {
                return;
            }
            if last {
                return std::future::pending().await;
            }
        }
    }

    async fn typed(&self, mut data: Bytes) -> Result<Option<Reply>, Closed> {
        let Some(writer) = self.hello.writer else { return Ok(Some(not_driving())) };
        if data.len() < INPUT_HEADER_LEN {
            return Err(bad("input starts with its offset, 8 bytes"));
        }
        let offset = bytes::Buf::get_u64(&mut data);
        match self.viewer.session.type_in(self.guest.viewer, writer, offset, data).await {
            Ok(()) => Ok(None),
            Err(InputError::NotDriving) => Ok(Some(not_driving())),
            Err(error @ InputError::OutOfWindow) => {
                Err(Closed(Close::BadMessage, "input_out_of_window", error.to_string()))
            }
        }
    }

    async fn told(&mut self, message: ClientMessage) -> Result<Option<Reply>, Closed> {
        let session = &self.viewer.session;
        let drives = session.presence.drives(self.guest.viewer);
        match message {
            ClientMessage::Hello { .. } => return Err(bad("there is one hello")),
            ClientMessage::Resize { size } => {
                self.size = Some(size.clamped());
                if drives {
                    session.resize(size).await;
                }
            }
            ClientMessage::InputEnd { offset } => {
                let Some(writer) = self.hello.writer else { return Ok(Some(not_driving())) };
                if session.end_input(self.guest.viewer, writer, offset).await.is_err() {
                    return Ok(Some(not_driving()));
                }
            }
            ClientMessage::Consumed { offset } => {
                if drives && self.hello.paces {
                    session.set_pace(offset.min(session.head()).saturating_add(PACE_WINDOW)).await;
                }
            }
            ClientMessage::Take => return Ok(Some(self.take().await)),
            ClientMessage::Signal { signal } => {
                return Ok(self.control("signal", drives, Command::Signal(signal)).await);
            }
            ClientMessage::Stop => {
                let by = self.viewer.caller.name().to_owned();
                return Ok(self.control("stop", drives, Command::Stop(by)).await);
            }
            ClientMessage::Detach => {
                session.presence.release(self.guest.viewer);
                if drives {
                    session.set_pace(u64::MAX).await;
                }
                return Err(Closed(Close::Normal, "detached", "detached".into()));
            }
        }
        Ok(None)
    }

    async fn take(&self) -> Reply {
        let viewer = self.viewer;
        let right = viewer.caller.right(&viewer.session.row).unwrap_or(Right::Read);
        if right < Right::Write || self.hello.writer.is_none() {
            let error = ApiError::forbidden("type in this session");
            return Reply::Say(HubMessage::Error { code: error.code.into(), detail: error.detail });
        }
        viewer.session.presence.drive(self.guest.viewer, true, self.hello.writer);
        viewer.hub.audit(line(&viewer.caller, "driver", Some(viewer.session.id()), viewer.peer)).await;
        if let Some(size) = self.size {
            viewer.session.resize(size).await;
        }
        viewer.session.set_pace(u64::MAX).await;
        Reply::Look
    }

    /// Signals and stops: for the driver, and for who has the right to control.
    async fn control(&self, action: &str, drives: bool, command: Command) -> Option<Reply> {
        let viewer = self.viewer;
        let may = drives || viewer.caller.right(&viewer.session.row) == Some(Right::Control);
        let outcome = if may { Ok(()) } else { Err(ApiError::forbidden(&format!("{action} this session"))) };
        let line = line(&viewer.caller, action, Some(viewer.session.id()), viewer.peer);
        match audited(&viewer.hub, line, outcome).await {
            Ok(()) => {
                viewer.session.tell(command).await;
                None
            }
            Err(error) => Some(Reply::Say(HubMessage::Error { code: error.code.into(), detail: error.detail })),
        }
    }
}

/// A message of a type that this version does not know.
#[derive(serde::Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    _type: String,
}

fn not_driving() -> Reply {
    let detail = "somebody else types in this session; take over with `foghorn attach --take`".into();
    Reply::Say(HubMessage::Error { code: "not_driving".into(), detail })
}

/// What goes to a viewer.
struct Outgoing<'a> {
    viewer: &'a Viewer,
    guest: &'a Guest,
    hello: &'a Hello,
    sink: SplitSink<Socket, Message>,
}

impl Outgoing<'_> {
    /// Sends until all is sent, the viewer's connection fails, or the hub stops.
    async fn run(mut self, mut outbox: mpsc::Receiver<Reply>) {
        // Whether the viewer got all is its own to find out.
        let _ = self.send_all(&mut outbox).await;
    }

    async fn send_all(&mut self, outbox: &mut mpsc::Receiver<Reply>) -> Result<(), SendError> {
        let session = &self.viewer.session;
        let mut present = session.presence.follow();
        let mut acks = session.input.follow();
        let mut acked = 0;
        let stop = self.viewer.hub.tasks.stopping();
        let mut ping = interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.sink.send(self.welcome()).await?;
        let mut following = self.start().await?;
        let mut told = present.borrow_and_update().clone();
        self.sink.send(self.presence(&told)).await?;
        let mut tell_at = Instant::now();
        let mut look = false;
        let mut out = Vec::new();
        loop {
            if self.hello.mode == Mode::Screen && following.behind() > SNAPSHOT_BEHIND {
                self.bring_up(&mut following).await?;
            }
            select! {
                biased;
                Some(reply) = outbox.recv() => match reply {
                    Reply::Say(message) => self.sink.send(text(&message)).await?,
                    Reply::Close(closed) => return self.close(closed).await,
                    Reply::Look => look = true,
                },
                () = stop.cancelled() => {
                    self.sink.send(text(&HubMessage::GoingAway { offset: following.offset() })).await?;
                    return self.close_with(Close::GoingAway, "the hub stops".into()).await;
                }
                Ok(()) = acks.changed(), if self.hello.writer.is_some() => {
                    let now = self.hello.writer.map_or(0, |writer| session.input.acked(writer));
                    if now != acked {
                        acked = now;
                        self.sink.send(text(&HubMessage::InputAck { offset: acked })).await?;
                    }
                }
                Ok(()) = present.changed(), if !look => look = true,
                () = sleep_until(tell_at), if look => {
                    look = false;
                    let now = present.borrow_and_update().clone();
                    if now != told {
                        self.sink.send(self.presence(&now)).await?;
                        tell_at = Instant::now() + PRESENCE;
                        told = now;
                    }
                }
                _ = ping.tick() => {
                    if !still_valid(&self.viewer.hub, &self.viewer.caller, &session.row.app).await {
                        let error = ApiError::unauthorized();
                        return self.close(Closed(Close::Unauthorized, error.code, error.detail)).await;
                    }
                    self.sink.send(Message::Ping(Bytes::new())).await?;
                }
                more = following.next(&mut out) => {
                    if !more {
                        return self.close_with(Close::Normal, "the session has ended".into()).await;
                    }
                    for bytes in out.drain(..) {
                        self.sink.feed(Message::Binary(bytes)).await?;
                    }
                    self.sink.flush().await?;
                }
            }
        }
    }

    fn welcome(&self) -> Message {
        let session = &self.viewer.session;
        text(&HubMessage::Welcome {
            session: Box::new(info(&session.row, Some(session))),
            viewer: self.guest.viewer,
            driving: session.presence.drives(self.guest.viewer),
            size: session.size(),
            head: session.head(),
            resume: self.viewer.resume.clone(),
        })
    }

    fn presence(&self, present: &Present) -> Message {
        let driving = present.driver.as_ref().is_some_and(|driver| driver.viewer == self.guest.viewer);
        text(&HubMessage::Presence {
            driver: present.driver.clone(),
            watchers: present.viewers - usize::from(present.driver.is_some()),
            driving,
        })
    }

    /// Starts where the viewer asks, or, for a screen, with what it looks like now.
    async fn start(&mut self) -> Result<Subscription, SendError> {
        let session = &self.viewer.session;
        let mut following = session.subscribe(self.hello.from.unwrap_or(0));
        if self.hello.mode == Mode::Screen && self.hello.from.is_none() {
            if session.has_ended() && session.control().is_none() {
                // Nobody keeps the screen of one that has ended: it is drawn again from its last checkpoint.
                session.clone().keep_screen().await;
            }
            self.show_screen(&mut following).await?;
        }
        Ok(following)
    }

    /// Replaces what a screen's viewer has missed by a snapshot, where there is one from further on.
    async fn bring_up(&mut self, following: &mut Subscription) -> Result<(), SendError> {
        let kept = self.viewer.session.keeper.as_ref().map_or(0, |keeper| keeper.offset());
        if kept > following.offset() + SNAPSHOT_BEHIND / 2 {
            self.show_screen(following).await?;
        }
        Ok(())
    }

    async fn show_screen(&mut self, following: &mut Subscription) -> Result<(), SendError> {
        if let Some(keeper) = &self.viewer.session.keeper {
            let snapshot = keeper.snapshot();
            following.seek(snapshot.offset);
            self.sink.send(Message::Binary(snapshot.to_bytes())).await?;
        }
        Ok(())
    }

    async fn close(&mut self, Closed(code, name, detail): Closed) -> Result<(), SendError> {
        if code != Close::Normal {
            let error = HubMessage::Error { code: name.into(), detail: detail.clone() };
            self.sink.send(text(&error)).await?;
        }
        self.close_with(code, detail).await
    }

    async fn close_with(&mut self, code: Close, reason: String) -> Result<(), SendError> {
        self.sink.send(Message::Close(Some(frame(code, reason)))).await
    }
}

type SendError = tokio_tungstenite::tungstenite::Error;
