//! What goes to a viewer: records as they lie in the ring, and words about who is here.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::incoming::Reply;
use super::{Closed, Hello, Socket, Viewer, frame, text};
use crate::http::auth::again;
use crate::http::error::ApiError;
use crate::http::sessions::info;
use crate::protocol::{Close, HubMessage, Mode, PING};
use crate::session::presence::{Guest, Present};
use crate::session::subscription::Subscription;

/// A screen's viewer that is further behind than this is brought up by a snapshot, in bytes.
const SNAPSHOT_BEHIND: u64 = 256 << 10;

/// How often at most viewers are told that others came and went.
const PRESENCE: Duration = Duration::from_secs(1);

type SendError = tokio_tungstenite::tungstenite::Error;

/// What goes to a viewer.
pub(super) struct Outgoing<'a> {
    pub(super) viewer: &'a Viewer,
    pub(super) guest: &'a Guest,
    pub(super) hello: &'a Hello,
    pub(super) sink: SplitSink<Socket, Message>,
}

impl Viewer {
    /// Returns when the viewer has no longer the right that it came with.
    async fn right_ended(&self) {
        let row = &self.session.row;
        let had = self.caller.right(row);
        loop {
            tokio::time::sleep(PING).await;
            let caller = again(&self.hub, &self.caller).await;
            if caller.and_then(|caller| caller.right(row)) < had {
                return;
            }
        }
    }
}

impl Outgoing<'_> {
    /// Sends until all is sent, the viewer's connection fails, or the hub stops.
    pub(super) async fn run(mut self, mut outbox: mpsc::Receiver<Reply>) {
        // Whether the viewer got all is its own to find out.
        let _ = self.send_all(&mut outbox).await;
    }

    async fn send_all(&mut self, outbox: &mut mpsc::Receiver<Reply>) -> Result<(), SendError> {
        let session = &self.viewer.session;
        let mut present = session.presence.follow();
        let mut acks = session.input.follow();
        let mut acked = 0;
        let mut notices = session.notices.follow();
        // One that holds now is told too.
        notices.mark_changed();
        let stop = self.viewer.hub.tasks.stopping();
        let mut ping = interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Asked beside all else: a database that does not answer holds up no viewer.
        let viewer = self.viewer;
        let mut ended_right = pin!(viewer.right_ended());
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
                Ok(()) = notices.changed() => {
                    let newest = notices.borrow_and_update().clone();
                    if let Some(notice) = newest {
                        let (code, sentence) = (notice.code.into(), notice.text.clone());
                        self.sink.send(text(&HubMessage::Notice { code, text: sentence })).await?;
                    }
                }
                _ = ping.tick() => self.sink.send(Message::Ping(Bytes::new())).await?,
                () = &mut ended_right => {
                    let error = ApiError::unauthorized();
                    return self.close(Closed(Close::Unauthorized, error.code, error.detail)).await;
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
