//! A session's output over plain HTTP: raw bytes, NDJSON, server-sent events, and asciicast v2.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Path, Query, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use super::Hub;
use super::auth::{Caller, again};
use super::error::ApiError;
use super::format::Format;
use super::sessions::{audited, find, line, time};
use crate::protocol::PING;
use crate::record::{Batch, Payload, Record, Size, Stream};
use crate::session::Session;
use crate::session::subscription::Subscription;
use crate::store::Right;

/// What [`output`] can be asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct OutputQuery {
    /// The first offset.
    #[serde(default)]
    from: u64,
    /// Go on until the session ends.
    #[serde(default)]
    follow: bool,
}

fn written(format: Format, record: &Record) -> Bytes {
    match (format, &record.payload) {
        (Format::Plain, Payload::Output(_, data)) => data.clone(),
        (Format::Plain, _) => Bytes::new(),
        (Format::Json, _) => object(record).map_or_else(Bytes::new, |object| format!("{object}\n").into()),
        (Format::Events, _) => {
            object(record).map_or_else(Bytes::new, |object| format!("id: {}\ndata: {object}\n\n", record.end()).into())
        }
    }
}

/// Whether the record says that output is missing.
fn is_loss(record: &Record) -> bool {
    matches!(record.payload, Payload::Dropped { reason, .. } if reason.is_loss())
}

/// A record as JSON; `data` is base64.
fn object(record: &Record) -> Option<serde_json::Value> {
    let (offset, at) = (record.offset, time(record.time as i64));
    Some(match &record.payload {
        Payload::Output(stream, data) => {
            json!({"type": "output", "offset": offset, "time": at, "stream": stream, "data": BASE64_STANDARD.encode(data)})
        }
        Payload::Resize(size) => {
            json!({"type": "resize", "offset": offset, "time": at, "cols": size.cols, "rows": size.rows})
        }
        Payload::Dropped { to, reason } => {
            json!({"type": "dropped", "offset": offset, "time": at, "to": to, "reason": reason})
        }
        Payload::Exit(exit) => {
            json!({"type": "exit", "offset": offset, "time": at, "exit": exit, "status": exit.status()})
        }
        Payload::Snapshot(..) | Payload::Unknown(_) => return None,
    })
}

/// A door's way through a session: to the end it had when asked, or as it goes on.
struct Reading {
    hub: Arc<Hub>,
    caller: Caller,
    session: Arc<Session>,
    following: Subscription,
    until: Option<u64>,
    checked: Instant,
    done: bool,
    /// Whether something was left out that the form of the answer has no word for.
    gap: bool,
}

/// Why an answer is broken off: so that a part is not taken for the whole.
fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, why)
}

impl Reading {
    fn new(hub: Arc<Hub>, caller: Caller, session: Arc<Session>, from: u64, follow: bool) -> Self {
        let until = (!follow && !session.has_ended()).then_some(session.head());
        let done = until.is_some_and(|until| from >= until);
        let following = session.subscribe(from);
        Self { hub, caller, session, following, until, checked: Instant::now(), done, gap: false }
    }

    /// What comes next; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Vec<Record>>> {
        let stop = self.hub.tasks.stopping();
        let mut out = Vec::new();
        while !self.done && out.is_empty() {
            let due = self.checked + PING;
            let next = stop.run_until_cancelled(timeout_at(due, self.following.next(&mut out))).await;
            let next = next.ok_or_else(|| broken("the hub stops"))?;
            if Instant::now() >= due {
                if !self.may_go_on().await {
                    return Err(broken("the right has ended"));
                }
                self.checked = Instant::now();
            }
            if next == Ok(false) && self.following.offset() > self.session.head() {
                return Err(broken("the output ends before the offset"));
            }
            self.done = next == Ok(false) || self.until.is_some_and(|until| self.following.offset() >= until);
        }
        if out.is_empty() && self.gap {
            // What was said so far is on its way by then, and not thrown away with the connection.
            tokio::task::yield_now().await;
            return Err(broken("some output is missing"));
        }
        if out.is_empty() {
            return Ok(None);
        }
        let batches = out.into_iter().filter_map(|bytes| Batch::parse(bytes).ok());
        Ok(Some(batches.flat_map(|batch| batch.records()).collect()))
    }

    async fn may_go_on(&self) -> bool {
        let Some(caller) = again(&self.hub, &self.caller).await else { return false };
        caller.right(&self.hub, &self.session.row).await.is_ok_and(|right| right.is_some())
    }
}

/// `GET /v1/sessions/{id}/output`.
pub async fn output(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<OutputQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let session = read(&hub, &caller, &id, peer).await?;
    // Who follows one that goes on may be ahead of this hub, which has the rest from the agent in a moment.
    if query.from > session.head() && (session.has_ended() || !query.follow) {
        let detail = format!("the output ends at {}", session.head());
        return Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "offset_beyond_end", detail));
    }
    let format = Format::asked(&headers);
    let reading = Reading::new(hub, caller, session, query.from, query.follow);
    let pieces = stream::try_unfold((reading, Vec::new().into_iter()), move |(mut reading, mut ready)| async move {
        loop {
            for record in ready.by_ref() {
                let bytes: Bytes = written(format, &record);
                reading.gap |= format == Format::Plain && is_loss(&record);
                if !bytes.is_empty() {
                    return Ok::<_, io::Error>(Some((bytes, (reading, ready))));
                }
            }
            let Some(records) = reading.next().await? else { return Ok(None) };
            ready = records.into_iter();
        }
    });
    Ok(([(header::CONTENT_TYPE, format.content_type("application/octet-stream"))], Body::from_stream(pieces))
        .into_response())
}

async fn read(hub: &Hub, caller: &Caller, id: &str, peer: SocketAddr) -> Result<Arc<Session>, ApiError> {
    let session = find(hub, caller, id, Right::Read, "read this session").await;
    let line = line(caller, "read", session.as_ref().ok().map(|session| session.id()), peer);
    audited(hub, line, session)
}

/// `GET /v1/sessions/{id}/recording.cast`: asciicast version 2.
pub async fn recording(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let session = read(&hub, &caller, &id, peer).await?;
    let mut reading = Reading::new(hub, caller, session.clone(), 0, false);
    let first = reading.next().await.ok().flatten().unwrap_or_default();
    let cast = Cast::new(&session, &first);
    let header = cast.header(&session);
    let state = (reading, Some(first), cast, Some(header));
    let pieces = stream::try_unfold(state, |(mut reading, mut ready, mut cast, mut header)| async move {
        let mut text = header.take().unwrap_or_default();
        let records = match ready.take() {
            Some(records) => records,
            None => match reading.next().await {
                Ok(Some(records)) => records,
                end => {
                    // What is unfinished at the end is shown, and an answer that is broken off still is.
                    cast.finish(&mut text);
                    if text.is_empty() {
                        return end.map(|_| None);
                    }
                    return Ok(Some((Bytes::from(text), (reading, None, cast, None))));
                }
            },
        };
        for record in &records {
            reading.gap |= is_loss(record);
            cast.event(record, &mut text);
        }
        Ok::<_, io::Error>(Some((Bytes::from(text), (reading, None, cast, None))))
    });
    let kind = HeaderValue::from_static("application/x-asciicast");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response())
}

/// Writes asciicast version 2 (docs.asciinema.org/manual/asciicast/v2): a header, then events of time, code and text.
struct Cast {
    /// When the recording starts, in microseconds since the Unix epoch.
    start: u64,
    size: Size,
    /// When the last record was written, as `start`.
    last: u64,
    /// Bytes of a character that is not whole yet, of stdout and of stderr.
    carry: [Vec<u8>; 2],
    /// True where a terminal made CR LF of the line ends. Else it is made here: a player is a terminal.
    tty: bool,
    /// True where the last character was a CR.
    after_cr: bool,
}

impl Cast {
    fn new(session: &Session, first: &[Record]) -> Self {
        let size = first.iter().find_map(|record| match record.payload {
            Payload::Resize(size) => Some(size),
            _ => None,
        });
        let start = first.first().map_or(session.row.created_at as u64, |record| record.time);
        Self::at(start, size.or(session.size()).unwrap_or(Size::DEFAULT), session.row.tty)
    }

    fn at(start: u64, size: Size, tty: bool) -> Self {
        Self { start, size, last: start, carry: [Vec::new(), Vec::new()], tty, after_cr: false }
    }

    fn header(&self, session: &Session) -> String {
        let header = json!({
            "version": 2, "width": self.size.cols, "height": self.size.rows, "timestamp": self.start / 1_000_000,
            "command": session.row.command.join(" "), "title": format!("{} {}", session.row.app, session.row.name),
        });
        format!("{header}\n")
    }

    fn event(&mut self, record: &Record, out: &mut String) {
        self.last = record.time;
        let (code, data) = match &record.payload {
            Payload::Output(stream, data) => ("o", self.text(*stream, data)),
            Payload::Resize(size) if *size != self.size => {
                self.size = *size;
                ("r", size.to_string())
            }
            _ => return,
        };
        self.write(code, &data, out);
    }

    /// Writes what is left of characters that never became whole.
    fn finish(&mut self, out: &mut String) {
        let unfinished = self.carry.iter().filter(|carry| !carry.is_empty()).count();
        self.carry = Default::default();
        self.write("o", &"\u{fffd}".repeat(unfinished), out);
    }

    fn write(&self, code: &str, data: &str, out: &mut String) {
        let time = self.last.saturating_sub(self.start);
        if !data.is_empty() {
            // Written by hand: the time has to have six digits behind its point, whatever its size.
            let _ = writeln!(out, "[{}.{:06}, \"{code}\", {}]", time / 1_000_000, time % 1_000_000, json!(data));
        }
    }

    /// Whole characters; a part of one waits for the rest, and what is no character is replaced.
    fn text(&mut self, stream: Stream, data: &[u8]) -> String {
        let carry = &mut self.carry[usize::from(stream == Stream::Stderr)];
        carry.extend_from_slice(data);
        let mut text = String::new();
        let mut rest = &carry[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (whole, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole));
                    rest = after;
                    match error.error_len() {
                        Some(len) => {
                            text.push('\u{fffd}');
                            rest = &rest[len..];
                        }
                        None => break,
                    }
                }
            }
        }
        *carry = rest.to_vec();
        if self.tty { text } else { self.returned(&text) }
    }

    /// The text with a CR before each LF that has none.
    fn returned(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if c == '\n' && !self.after_cr {
                out.push('\r');
            }
            out.push(c);
            self.after_cr = c == '\r';
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_in_two_is_whole_again() {
        let mut cast = Cast::at(0, Size::DEFAULT, true);
        let bytes = "aé\u{1f600}z".as_bytes();
        let text: String = bytes.iter().map(|byte| cast.text(Stream::Stdout, &[*byte])).collect();
        assert_eq!(text, "aé\u{1f600}z");
        assert_eq!(cast.text(Stream::Stdout, b"\xffx"), "\u{fffd}x");
    }

    #[test]
    fn lines_that_no_terminal_ended_end_with_a_carriage_return_wherever_they_are_split() {
        for (tty, expected) in [(false, "a\r\nb\r\n\r\nc\rd"), (true, "a\nb\r\n\nc\rd")] {
            let mut cast = Cast::at(0, Size::DEFAULT, tty);
            let text: String = b"a\nb\r\n\nc\rd".iter().map(|byte| cast.text(Stream::Stdout, &[*byte])).collect();
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_last_unfinished_character_is_shown_and_streams_do_not_mix() {
        let mut cast = Cast::at(0, Size::DEFAULT, false);
        let parts = [(Stream::Stdout, &b"x\xf0\x9f"[..]), (Stream::Stderr, b"e"), (Stream::Stdout, b"\x98\x80\xc3")];
        let text: String = parts.iter().map(|(stream, data)| cast.text(*stream, data)).collect();
        assert_eq!(text, "xe\u{1f600}");
        let mut out = String::new();
        cast.finish(&mut out);
        assert_eq!(out, "[0.000000, \"o\", \"\u{fffd}\"]\n");
        cast.finish(&mut out);
        assert_eq!(out.lines().count(), 1);
    }
}
