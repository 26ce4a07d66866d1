//! What a viewer says: input, and control.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::{Closed, Hello, Socket, Viewer, bad};
use crate::http::error::ApiError;
use crate::http::sessions::{audited, line};
use crate::protocol::{ClientMessage, Close, HubMessage, INPUT_HEADER_LEN, SILENCE};
use crate::record::Size;
use crate::registry::PACE_WINDOW;
use crate::session::input::InputError;
use crate::session::presence::Guest;
use crate::source::Command;
use crate::store::Right;

/// What the incoming half has to say to the viewer.
pub(super) enum Reply {
    Say(HubMessage),
    Close(Closed),
    /// The viewer takes the seat: it is told by the presence that follows.
    Look,
}

/// What a viewer says.
pub(super) struct Incoming<'a> {
    pub(super) viewer: &'a Viewer,
    pub(super) guest: &'a Guest,
    pub(super) hello: &'a Hello,
    pub(super) size: Option<Size>,
    pub(super) replies: mpsc::Sender<Reply>,
}

impl Incoming<'_> {
    /// Obeys the viewer until it leaves, falls silent, or is told to go.
    pub(super) async fn run(mut self, mut stream: SplitStream<Socket>) {
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
                return Ok(self.control("signal", Command::Signal(signal)).await);
            }
            ClientMessage::Stop => {
                let by = self.viewer.caller.name().to_owned();
                return Ok(self.control("stop", Command::Stop(by)).await);
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
        viewer.hub.audit(line(&viewer.caller, "driver", Some(viewer.session.id()), viewer.peer));
        if let Some(size) = self.size {
            viewer.session.resize(size).await;
        }
        viewer.session.set_pace(u64::MAX).await;
        Reply::Look
    }

    /// Signals and stops: for who has the right to control; to type is another right.
    async fn control(&self, action: &str, command: Command) -> Option<Reply> {
        let viewer = self.viewer;
        let may = viewer.caller.right(&viewer.session.row) == Some(Right::Control);
        let outcome = if may { Ok(()) } else { Err(ApiError::forbidden(&format!("{action} this session"))) };
        let line = line(&viewer.caller, action, Some(viewer.session.id()), viewer.peer);
        match audited(&viewer.hub, line, outcome) {
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
