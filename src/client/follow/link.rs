//! One connection, and what waits to be sent on it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, StreamExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client::outgoing::{Outgoing, Piece};
use crate::client::socket::Socket;
use crate::protocol::{ClientMessage, HubMessage, INPUT_HEADER_LEN, PING, SILENCE};

/// What waits to be sent, whichever connection takes it.
#[derive(Default)]
pub(super) struct Outbox {
    /// What is typed.
    pub(super) input: Outgoing,
    messages: VecDeque<ClientMessage>,
    last: Option<ClientMessage>,
    consumed: Option<u64>,
    consumed_due: bool,
    open: bool,
    driving: bool,
}

impl Outbox {
    /// Appends a message; of several sizes only the last one counts.
    pub(super) fn push(&mut self, message: ClientMessage) {
        if matches!(message, ClientMessage::Resize { .. }) {
            self.messages.retain(|waiting| !matches!(waiting, ClientMessage::Resize { .. }));
        }
        self.messages.push_back(message);
    }

    pub(super) fn consumed(&mut self, offset: u64) {
        (self.consumed, self.consumed_due) = (Some(offset), true);
    }

    /// What is to be said behind all that was typed.
    pub(super) fn leave(&mut self, last: Option<ClientMessage>) {
        self.last = last;
    }

    /// A connection is new: nothing may be sent before its welcome, and what was under way goes again.
    pub(super) fn rewind(&mut self) {
        self.input.rewind();
        (self.open, self.consumed_due) = (false, self.consumed.is_some());
    }

    pub(super) fn welcome(&mut self, driving: bool) {
        (self.open, self.driving) = (true, driving);
    }

    pub(super) fn drive(&mut self, driving: bool) {
        self.driving = driving;
    }

    fn next(&mut self) -> Option<Message> {
        if !self.open {
            return None;
        }
        if let Some(message) = self.messages.pop_front() {
            return Some(text(&message));
        }
        if let (Some(offset), true) = (self.consumed, self.consumed_due) {
            self.consumed_due = false;
            return Some(text(&ClientMessage::Consumed { offset }));
        }
        match if self.driving { self.input.next_piece() } else { None } {
            Some(Piece::Data(offset, data)) => Some(Message::Binary(input(offset, &data))),
            Some(Piece::End(offset)) => Some(text(&ClientMessage::InputEnd { offset })),
            None => self.last.take().map(|last| text(&last)),
        }
    }
}

fn text(message: &ClientMessage) -> Message {
    Message::text(serde_json::to_string(message).unwrap_or_default())
}

fn input(offset: u64, data: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(INPUT_HEADER_LEN + data.len());
    bytes.put_u64(offset);
    bytes.put_slice(data);
    bytes.freeze()
}

/// What came of looking at a connection.
pub(super) enum Turn {
    /// Whole records.
    Records(Bytes),
    /// A message.
    Message(HubMessage),
    /// The hub closed it with a code and a reason.
    Closed(u16, String),
    /// It broke.
    Lost(String),
    /// All is sent.
    Flushed,
    /// Nothing of interest.
    Quiet,
}

/// One connection.
pub(super) struct Link {
    socket: Socket,
    hello: Option<Message>,
    welcome: bool,
    ping: Interval,
    ping_due: bool,
    heard: Instant,
    /// When it is looked whether the hub has fallen silent.
    look: Pin<Box<Sleep>>,
}

impl Link {
    pub(super) fn new(socket: Socket, hello: &ClientMessage) -> Self {
        let mut ping = interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let look = Box::pin(sleep(SILENCE));
        Self { socket, hello: Some(text(hello)), welcome: false, ping, ping_due: false, heard: Instant::now(), look }
    }

    pub(super) fn is_welcome(&self) -> bool {
        self.welcome
    }

    /// Silence counts from now on only.
    pub(super) fn heard_now(&mut self) {
        self.heard = Instant::now();
    }

    /// Sends what there is, and takes what comes if `reading`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox, reading: bool) -> Poll<Turn> {
        while self.ping.poll_tick(cx).is_ready() {
            self.ping_due = true;
        }
        if reading && self.is_silent(cx) {
            return Poll::Ready(Turn::Lost(format!("no word from the hub for {} s", SILENCE.as_secs())));
        }
        if let Poll::Ready(Err(error)) = self.poll_send(cx, outbox) {
            return Poll::Ready(Turn::Lost(error.to_string()));
        }
        // Without reading there are no records to come, but a welcome has to.
        if !reading && self.welcome {
            return Poll::Pending;
        }
        self.poll_receive(cx)
    }

    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        while self.look.as_mut().poll(cx).is_ready() {
            let limit = self.heard + SILENCE;
            if limit <= Instant::now() {
                return true;
            }
            self.look.as_mut().reset(limit);
        }
        false
    }

    /// Ready once nothing waits any more and all is handed to the system.
    pub(super) fn poll_flushed(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Poll<()> {
        match self.poll_send(cx, outbox) {
            Poll::Ready(Ok(())) if self.welcome => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Closes it, and waits until the hub has read everything up to there. Whether it says so.
    pub(super) async fn close(mut self: Box<Self>) -> bool {
        let mut answered = false;
        if self.socket.close(None).await.is_ok() {
            while let Some(Ok(message)) = self.socket.next().await {
                let Message::Close(frame) = message else { continue };
                // One that goes away may not have read it.
                answered |= frame.is_none_or(|frame| frame.code == CloseCode::Normal);
            }
        }
        answered
    }

    fn next_message(&mut self, outbox: &mut Outbox) -> Option<Message> {
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(Message::Ping(Bytes::new()));
        }
        outbox.next()
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
    ) -> Poll<Result<(), tokio_tungstenite::tungstenite::Error>> {
        while Pin::new(&mut self.socket).poll_ready(cx)?.is_ready() {
            match self.next_message(outbox) {
                Some(message) => self.socket.start_send_unpin(message)?,
                None => return self.socket.poll_flush_unpin(cx),
            }
        }
        Poll::Pending
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let received = std::task::ready!(self.socket.poll_next_unpin(cx));
        self.heard = Instant::now();
        Poll::Ready(match received {
            Some(Ok(Message::Binary(records))) => Turn::Records(records),
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(message) => {
                    self.welcome |= matches!(message, HubMessage::Welcome { .. });
                    Turn::Message(message)
                }
                // A type that this version does not know.
                Err(_) => Turn::Quiet,
            },
            Some(Ok(Message::Close(Some(frame)))) => Turn::Closed(frame.code.into(), frame.reason.to_string()),
            Some(Ok(Message::Close(None))) | None => Turn::Lost("the hub closed the connection".to_owned()),
            Some(Ok(_)) => Turn::Quiet,
            Some(Err(error)) => Turn::Lost(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Size;

    fn drained(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.next())
            .map(|message| message.to_text().map_or("input".into(), ToOwned::to_owned))
            .collect()
    }

    #[test]
    fn nothing_goes_before_the_welcome() {
        let mut outbox = Outbox::default();
        outbox.push(ClientMessage::Stop);
        outbox.input.push("a".into());
        assert!(drained(&mut outbox).is_empty());
        outbox.welcome(true);
        assert_eq!(drained(&mut outbox).len(), 2);
    }

    #[test]
    fn the_last_word_comes_behind_what_was_typed() {
        let mut outbox = Outbox::default();
        outbox.leave(Some(ClientMessage::Detach));
        outbox.input.push("a".into());
        outbox.consumed(3);
        outbox.welcome(true);
        let sent = drained(&mut outbox);
        assert_eq!(sent[0], r#"{"type":"consumed","offset":3}"#);
        assert_eq!(sent.last().map(String::as_str), Some(r#"{"type":"detach"}"#));
        outbox.rewind();
        outbox.welcome(true);
        assert_eq!(drained(&mut outbox).len(), 2, "what was under way goes again, and what was used");
    }

    #[test]
    fn of_several_sizes_the_last_one_counts() {
        let mut outbox = Outbox::default();
        for cols in 1..9 {
            outbox.push(ClientMessage::Resize { size: Size { cols, rows: 1 } });
        }
        outbox.welcome(true);
        assert_eq!(drained(&mut outbox), [r#"{"type":"resize","cols":8,"rows":1}"#]);
    }

    #[test]
    fn a_watcher_sends_no_input() {
        let mut outbox = Outbox::default();
        outbox.input.push("a".into());
        outbox.welcome(false);
        assert!(drained(&mut outbox).is_empty());
    }
}
