//! The door to a session's websocket: who may come in, and what they say first. [`viewer`] does the rest.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod incoming;
mod stays;
mod viewer;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Path, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::Instrument;
use tracing::field::Empty;

use super::auth::{self, Caller, Presented, hash, secret};
use super::error::ApiError;
use super::sessions::{audited, find_with_right, line};
use super::stream::Stream;
use super::taken::Taken;
use super::websocket::{Decoder, FrameError, Message, Outbox};
use super::{Hub, Place};
use crate::agent::protocol::Writer;
use crate::protocol::{ClientMessage, Close, HELLO_LIMIT, HubMessage, Mode, Role, SUBPROTOCOL};
use crate::record::Size;
use crate::session::Session;
use crate::store::{AuditRow, Right};

use viewer::Viewer;

/// How long the last words to a viewer may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// `GET /v1/sessions/{id}/attach`.
pub async fn attach(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(place): Extension<Place>,
    caller: Caller,
    Presented(token): Presented,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let accept = accept_key(request.headers())?;
    let found = find_with_right(&hub, &caller, &id, Right::Read, "follow this session").await;
    let resume = match &found {
        Ok(_) => use_ticket(&hub, &caller, &token).await,
        Err(_) => Ok(None),
    };
    let line = line(&caller, "join", found.as_ref().ok().map(|(session, _)| session.id()), peer);
    let ((session, right), resume) = audited(&hub, line, found.and_then(|found| Ok((found, resume?))))?;
    let upgrade = hyper::upgrade::on(&mut request);
    // Of a level that is mostly off: it is entered at each wake-up of each viewer.
    let span = tracing::debug_span!(parent: None, "viewer", session = %session.id(), viewer = Empty);
    // Boxed, as the connection is: what is passed on by value is in the task's memory once for each hand that it passes.
    let guest =
        Guest { hub: hub.clone(), caller, renewed: Mutex::default(), right, peer, session, resume, _place: place };
    let guest = Box::new(guest);
    let follow = async move {
        match upgrade.await.map(Connection::new) {
            Ok(Some(connection)) => guest.enter(connection).await,
            Ok(None) => tracing::error!("a websocket is not on the connection that the listener accepted"),
            Err(error) => tracing::debug!(%error, "a websocket was not taken up"),
        }
    };
    hub.tasks.clone().spawn_to_end("viewer", follow.instrument(span));
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
    let Caller::Ticket(bearer) = caller else { return Ok(None) };
    let ticket = &bearer.ticket;
    if !ticket.one_use || ticket.hash != hash(token) {
        return Ok(None);
    }
    let resume = secret().map_err(|_| ApiError::unavailable())?;
    let used = hub.store().use_ticket(ticket.id, crate::session::now(), &hash(&resume)).await?;
    if used { Ok(Some(resume)) } else { Err(ApiError::new(StatusCode::UNAUTHORIZED, "ticket_used", auth::TICKET_USED)) }
}

/// One who may follow a session.
struct Guest {
    hub: Arc<Hub>,
    /// Who came.
    caller: Caller,
    /// The same person, with a token that was sent since.
    renewed: Mutex<Option<Caller>>,
    /// The right that they came with. Who loses it has to go.
    right: Right,
    peer: SocketAddr,
    session: Arc<Session>,
    resume: Option<String>,
    _place: Place,
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

impl Closed {
    fn unauthorized() -> Self {
        let error = ApiError::unauthorized();
        Self(Close::Unauthorized, error.code, error.detail)
    }
}

impl From<FrameError> for Closed {
    fn from(error: FrameError) -> Self {
        let (close, code) = match error {
            FrameError::Protocol(_) => (Close::Protocol, "bad_frame"),
            FrameError::TooLong => (Close::TooLong, "too_large"),
            FrameError::NotText => (Close::NotText, "not_utf8"),
        };
        Self(close, code, error.to_string())
    }
}

/// A websocket: what came half, what is on its way out.
struct Connection {
    stream: Stream,
    decoder: Decoder,
    outbox: Outbox,
}

impl Connection {
    /// Takes over the connection of an upgraded request.
    fn new(upgraded: Upgraded) -> Option<Box<Self>> {
        let parts = upgraded.downcast::<TokioIo<Taken<Stream>>>().ok()?;
        let decoder = Decoder::new(&parts.read_buf);
        Some(Box::new(Self { stream: parts.io.into_inner().into_inner(), decoder, outbox: Outbox::default() }))
    }

    /// The next message; `None` where the connection ends.
    async fn next(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            if let Some(message) = self.decoder.decode()? {
                return Ok(Some(message));
            }
            if self.stream.readable().await.and_then(|()| self.read()).is_err() {
                return Ok(None);
            }
        }
    }

    /// Reads what has come. Whether something has; the peer's end is an error.
    fn read(&mut self) -> io::Result<bool> {
        match self.decoder.read(&self.stream) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds a message.
    fn say(&mut self, message: &HubMessage) {
        self.outbox.text(&serde_json::to_string(message).unwrap_or_default());
    }

    /// Adds the reason, and the end.
    fn say_closed(&mut self, Closed(close, code, detail): Closed) {
        if close != Close::Normal && close != Close::GoingAway {
            self.say(&HubMessage::Error { code: code.into(), detail: detail.clone() });
        }
        self.outbox.close(close as u16, &detail);
    }

    /// Writes what is on its way, then waits for the peer's end, so that nothing that was written is lost. In bounded
    /// time.
    async fn finish(mut self: Box<Self>) {
        let written = async {
            while let Ok((_, false)) = self.outbox.write(&self.stream) {
                self.stream.writable().await?;
            }
            rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write)?;
            let mut passed_over = [0; 64];
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut passed_over) {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        };
        // A peer that is gone, or that does not take it, gets no more.
        let _: Result<io::Result<()>, _> = timeout(FAREWELL, written).await;
    }
}

impl Guest {
    /// Hears the hello, and follows the session as it says.
    async fn enter(self: Box<Self>, mut connection: Box<Connection>) {
        let hello = match hello(&mut connection).await {
            Ok(Some(hello)) => self.check(&hello).map(|()| hello),
            Ok(None) => return,
            Err(closed) => Err(closed),
        };
        match hello {
            Ok(hello) => Viewer::new(self, hello, connection).run().await,
            Err(closed) => {
                connection.say_closed(closed);
                connection.finish().await;
            }
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), Closed> {
        if hello.role != Role::Watch && self.right < Right::Write {
            let error = ApiError::needs_ticket("type in this session");
            let line = line(&self.caller, "driver", Some(self.session.id()), self.peer);
            self.hub.audit(AuditRow { outcome: error.code.into(), ..line });
            return Err(Closed(Close::Forbidden, error.code, error.detail));
        }
        if hello.role != Role::Watch && hello.writer.is_none() {
            return Err(bad("who drives names its writer: 32 hexadecimal digits"));
        }
        let head = self.session.head();
        if hello.from.is_some_and(|from| from > head) && self.session.has_ended() {
            return Err(beyond_end(head));
        }
        Ok(())
    }
}

/// There never will be what the viewer waits for: the output ends before it.
fn beyond_end(head: u64) -> Closed {
    Closed(Close::BadMessage, "offset_beyond_end", format!("the output ends at {head}"))
}

fn bad(detail: &str) -> Closed {
    Closed(Close::BadMessage, "bad_message", detail.into())
}

/// The first message; `None` where the connection ends before it.
async fn hello(connection: &mut Connection) -> Result<Option<Box<Hello>>, Closed> {
    let first = async {
        loop {
            match connection.next().await? {
                Some(Message::Text(text)) => return Ok(Some(text)),
                Some(Message::Ping(payload)) => {
                    connection.outbox.pong(&payload);
                    // What the socket does not take now goes with the welcome.
                    let _ = connection.outbox.write(&connection.stream);
                }
                Some(Message::Pong) => {}
                Some(Message::Binary(_)) => return Err(bad("the first message is a hello, as text")),
                Some(Message::Close) => return Err(Closed(Close::Normal, "closed", String::new())),
                None => return Ok(None),
            }
        }
    };
    let text = timeout(HELLO_LIMIT, first).await;
    let text = text.map_err(|_| Closed(Close::Timeout, "hello_timeout", "no hello came in time".into()))?;
    let Some(text) = text? else { return Ok(None) };
    let Ok(ClientMessage::Hello { mode, role, from, writer, size, paces }) = serde_json::from_str(&text) else {
        return Err(bad("the first message is a hello"));
    };
    let digits = |writer: &String| writer.len() == 32 && writer.bytes().all(|digit| digit.is_ascii_hexdigit());
    let parse = |writer: String| Some(writer).filter(digits).and_then(|text| Writer::from_str_radix(&text, 16).ok());
    let writer =
        writer.map(|writer| parse(writer).ok_or_else(|| bad("a writer is 32 hexadecimal digits"))).transpose()?;
    Ok(Some(Box::new(Hello { mode, role, from, writer, size: size.map(Size::clamped), paces })))
}
