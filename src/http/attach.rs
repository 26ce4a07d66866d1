//! The websocket that follows a session: records go out, input and control come in.
//!
//! The two directions run side by side, so that a viewer who does not read can still interrupt a command. Each viewer
//! is a cursor over the session's ring; there is no queue that could fill up.

use std::net::SocketAddr;
use std::sync::Arc;

mod incoming;
mod outgoing;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, Path, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role as Side, WebSocketConfig};

use super::auth::{self, Caller, Presented, hash, secret};
use super::error::ApiError;
use super::sessions::{audited, find, line};
use super::{Hub, Place};
use crate::agent::protocol::Writer;
use crate::protocol::{ClientMessage, Close, HELLO_LIMIT, HubMessage, MAX_CLIENT_MESSAGE, Mode, Role, SUBPROTOCOL};
use crate::record::Size;
use crate::registry::PACE_WINDOW;
use crate::session::Session;
use crate::session::presence::Guest;
use crate::store::Right;

use incoming::Incoming;
use outgoing::Outgoing;

/// Bytes that a websocket reads at once. What viewers say is short.
const READ_BUFFER: usize = 4 << 10;

/// Bytes that a websocket writes at once, at least.
const WRITE_BUFFER: usize = 128 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

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
    let session = find(&hub, &caller, &id, Right::Read, "follow this session").await;
    let resume = match &session {
        Ok(_) => use_ticket(&hub, &caller, &token).await,
        Err(_) => Ok(None),
    };
    let line = line(&caller, "join", session.as_ref().ok().map(|session| session.id()), peer);
    let (session, resume) = audited(&hub, line, session.and_then(|session| Ok((session, resume?))))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let viewer = Viewer { hub: hub.clone(), caller, peer, session, resume, _place: place };
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
    let Caller::Ticket(bearer) = caller else { return Ok(None) };
    let ticket = &bearer.ticket;
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
        self.hub.audit(line(&self.caller, "driver", Some(self.session.id()), self.peer));
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
