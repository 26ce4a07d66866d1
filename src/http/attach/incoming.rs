//! What a viewer says: input, and control.

use bytes::{Buf, Bytes};

use super::viewer::Attending;
use super::{Closed, bad};
use crate::http::auth::renewed;
use crate::http::error::ApiError;
use crate::http::sessions::{audited, end, line};
use crate::http::websocket::Message;
use crate::protocol::{ClientMessage, Close, HubMessage, INPUT_HEADER_LEN, Secret};
use crate::record::Size;
use crate::registry::PACE_WINDOW;
use crate::session::input::InputError;
use crate::session::lock;
use crate::source::Command;
use crate::store::{AuditRow, Right};

/// What came of a message.
pub(super) enum Obeyed {
    /// What it asked for.
    Done,
    /// The viewer's window has another size.
    Resized(Size),
    /// The viewer has the seat now; it is told who is here.
    Took,
    /// The viewer has a token that is good.
    Renewed,
    /// The viewer is told something.
    Say(HubMessage),
    /// The viewer leaves, or has to.
    Close(Closed),
}

impl Attending<'_> {
    /// Obeys a message. `size` is the viewer's window.
    pub(super) async fn obey(self, message: Message, size: Option<Size>) -> Obeyed {
        let outcome = match message {
            Message::Binary(data) => self.typed(data).await,
            Message::Text(message) => match serde_json::from_str(&message) {
                Ok(message) => self.told(message, size).await,
                // A message of a later version is passed over, one that is no message is not.
                Err(_) if serde_json::from_str::<Typed>(&message).is_ok() => Ok(Obeyed::Done),
                Err(_) => Err(bad("a text message is a JSON object with a type")),
            },
            _ => Ok(Obeyed::Done),
        };
        outcome.unwrap_or_else(Obeyed::Close)
    }

    async fn typed(self, mut data: Bytes) -> Result<Obeyed, Closed> {
        let Some(writer) = self.hello.writer else { return Ok(not_driving()) };
        if data.len() < INPUT_HEADER_LEN {
            return Err(bad("input starts with its offset, 8 bytes"));
        }
        let offset = data.get_u64();
        match self.guest.session.type_in(self.here.viewer, writer, offset, data).await {
            Ok(()) => Ok(Obeyed::Done),
            Err(error) => not_typed(error),
        }
    }

    async fn told(self, message: ClientMessage, window: Option<Size>) -> Result<Obeyed, Closed> {
        let session = &self.guest.session;
        let drives = session.presence.drives(self.here.viewer);
        match message {
            ClientMessage::Hello { .. } => return Err(bad("there is one hello")),
            ClientMessage::Resize { size } => {
                if drives {
                    session.resize(size).await;
                }
                return Ok(Obeyed::Resized(size.clamped()));
            }
            ClientMessage::InputEnd { offset } => {
                let Some(writer) = self.hello.writer else { return Ok(not_driving()) };
                return match session.end_input(self.here.viewer, writer, offset).await {
                    Ok(()) => Ok(Obeyed::Done),
                    Err(error) => not_typed(error),
                };
            }
            ClientMessage::Consumed { offset } => {
                if drives && self.hello.paces {
                    session.set_pace(offset.min(session.head()).saturating_add(PACE_WINDOW)).await;
                }
            }
            ClientMessage::Take => return Ok(self.take(window).await),
            ClientMessage::Signal { signal } if !(1..=64).contains(&signal) => {
                let detail = "a signal's number is 1 to 64".into();
                return Ok(Obeyed::Say(HubMessage::Error { code: "invalid_request".into(), detail }));
            }
            ClientMessage::Signal { signal } => {
                return Ok(match self.may_control("signal") {
                    Ok(()) => {
                        session.tell(Command::Signal(signal)).await;
                        Obeyed::Done
                    }
                    Err(refused) => refused,
                });
            }
            ClientMessage::Stop => {
                return Ok(match self.may_control("stop") {
                    Ok(()) => {
                        end(&self.guest.hub, session, &self.guest.caller);
                        Obeyed::Done
                    }
                    Err(refused) => refused,
                });
            }
            ClientMessage::Detach => {
                session.presence.release(self.here.viewer);
                if drives {
                    session.set_pace(u64::MAX).await;
                }
                return Err(Closed(Close::Normal, "detached", "detached".into()));
            }
            ClientMessage::Renew { token } => return Ok(self.renew(token).await),
        }
        Ok(Obeyed::Done)
    }

    async fn renew(self, token: Secret) -> Obeyed {
        match renewed(&self.guest.hub, &self.guest.caller, token).await {
            Ok(caller) => {
                *lock(&self.guest.renewed) = Some(caller);
                Obeyed::Renewed
            }
            Err(error) => Obeyed::Say(HubMessage::Error { code: error.code.into(), detail: error.detail }),
        }
    }

    async fn take(self, size: Option<Size>) -> Obeyed {
        let guest = self.guest;
        if guest.right < Right::Write || self.hello.writer.is_none() {
            let error = ApiError::needs_ticket("type in this session");
            let line = line(&guest.caller, "driver", Some(guest.session.id()), guest.peer);
            guest.hub.audit(AuditRow { outcome: error.code.into(), ..line });
            return Obeyed::Say(HubMessage::Error { code: error.code.into(), detail: error.detail });
        }
        guest.session.presence.drive(self.here.viewer, true, self.hello.writer);
        guest.hub.audit(line(&guest.caller, "driver", Some(guest.session.id()), guest.peer));
        if let Some(size) = size {
            guest.session.resize(size).await;
        }
        guest.session.set_pace(u64::MAX).await;
        Obeyed::Took
    }

    /// Signals and stops: for who has the right to control; to type is another right.
    fn may_control(self, action: &str) -> Result<(), Obeyed> {
        let guest = self.guest;
        let may = guest.right == Right::Control;
        let outcome = if may { Ok(()) } else { Err(ApiError::needs_ticket(&format!("{action} this session"))) };
        let line = line(&guest.caller, action, Some(guest.session.id()), guest.peer);
        let said = |error: ApiError| Obeyed::Say(HubMessage::Error { code: error.code.into(), detail: error.detail });
        audited(&guest.hub, line, outcome).map_err(said)
    }
}

/// A message of a type that this version does not know.
#[derive(serde::Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    _type: String,
}

/// Why input was not taken: who does not drive is told so, who does not keep to the protocol has to go.
fn not_typed(error: InputError) -> Result<Obeyed, Closed> {
    match error {
        InputError::NotDriving => Ok(not_driving()),
        InputError::OutOfWindow => Err(Closed(Close::BadMessage, "input_out_of_window", error.to_string())),
    }
}

fn not_driving() -> Obeyed {
    let detail = "somebody else types in this session; take over with `foghorn attach --take`".into();
    Obeyed::Say(HubMessage::Error { code: "not_driving".into(), detail })
}
