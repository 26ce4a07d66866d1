//! What must hold of the parsers of bytes from outside, whatever the bytes. The fuzz targets and a test of the seeds share
//! these.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use foghorn::agent::protocol::{Reader, ToAgent, ToHub};
use foghorn::protocol::{ClientMessage, HubMessage, NewSession, NewTicket, Problem};
use foghorn::record::{Batch, Record, Size};
use foghorn::session::screen::Screen;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};

/// A socket that gives at most so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.0.split_at(self.0.len().min(self.1).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

fn messages(data: &[u8], step: usize) -> (Vec<(u8, Bytes)>, bool) {
    let mut reader = Reader::new(Pieces(data, step));
    let mut messages = Vec::new();
    loop {
        match reader.next().now_or_never().expect("such a socket does not wait") {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, true),
            Err(_) => return (messages, false),
        }
    }
}

/// The protocol between an agent and a hub, in both directions: a socket that splits messages anywhere gives the same
/// ones, and what is understood is understood as the same when it is said again.
pub fn agent_protocol(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (said, whole) = messages(data, usize::MAX);
    assert_eq!(messages(data, usize::from(*first) + 1), (said.clone(), whole));
    for (kind, rest) in said {
        if let Ok(Some(message)) = ToAgent::decode(kind, rest.clone())
            && !matches!(&message, ToAgent::Card(card) if has_float(card))
        {
            let again = message.encode();
            assert_eq!(ToAgent::decode(again[0], again.slice(8..)).expect("as it was said"), Some(message));
        }
        if let Ok(Some(message)) = ToHub::decode(kind, rest)
            && !matches!(&message, ToHub::Hello(hello) if hello.card.as_ref().is_some_and(has_float))
        {
            if let ToHub::Records(records) | ToHub::Read(_, records) = &message {
                batch(records.clone(), u64::from(*first));
            }
            let again = message.encode();
            assert_eq!(ToHub::decode(again[0], again.slice(8..)).expect("as it was said"), Some(message));
        }
    }
}

/// Numbers of this kind are read to within a hair only. No card has one.
fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_float),
        Value::Object(fields) => fields.values().any(has_float),
        _ => false,
    }
}

/// Records and runs of them: what is read is read as the same again, and a run that is cut is a run.
pub fn record(data: &[u8]) {
    let Some((cut, data)) = data.split_at_checked(8) else { return };
    let mut rest = Bytes::copy_from_slice(data);
    while let Ok(Some(record)) = Record::decode(&mut rest) {
        assert!(record.end() >= record.offset);
        assert_eq!(Record::decode(&mut record.to_bytes()), Ok(Some(record)));
    }
    batch(Bytes::copy_from_slice(data), u64::from_be_bytes(cut.try_into().expect("8 bytes")));
}

fn batch(bytes: Bytes, cut: u64) {
    let Ok(batch) = Batch::parse(bytes) else { return };
    assert!(batch.to >= batch.from);
    let _ = (batch.records().count(), batch.starts_with_gap());
    let mut marks = foghorn::record::Marks::default();
    marks.append(&batch);
    for cut in [cut, batch.from.saturating_add(cut), batch.to, 0, u64::MAX] {
        let rest = batch.clone().after(cut);
        let again = Batch::parse(rest.bytes.clone()).expect("what is left is whole records");
        assert!(rest.is_empty() || (again.from, again.to) == (rest.from, batch.to));
        assert!(rest.is_empty() || rest.from >= cut.min(batch.to));
        let _ = rest.without(&marks);
    }
}

/// What viewers and hubs say as text: what is understood is understood as the same when it is said again.
pub fn viewer_protocol(data: &[u8]) {
    same::<ClientMessage>(data);
    same::<HubMessage>(data);
    same::<NewSession>(data);
    same::<NewTicket>(data);
    same::<Problem>(data);
}

fn same<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(data) else { return };
    let again = serde_json::to_string(&message).expect("serializes");
    assert_eq!(serde_json::from_str::<T>(&again).expect("as it was said"), message, "{again}");
}

/// The terminal model: it takes anything in any pieces, draws itself again from its own snapshot, and stays small.
pub fn screen(data: &[u8]) {
    let Some((&[cols, rows, other, cut], data)) = data.split_first_chunk() else { return };
    let size = Size { cols: u16::from(cols % 40) + 1, rows: u16::from(rows % 20) + 1 };
    let mut screen = Screen::new(size);
    screen.feed(data);
    let mut pieces = Screen::new(size);
    data.chunks(usize::from(cut) + 1).for_each(|piece| pieces.feed(piece));
    restored(&screen);
    assert_eq!(pieces.snapshot(), screen.snapshot(), "the pieces make no difference");
    let cells = usize::from(size.cols) * usize::from(size.rows);
    assert!(screen.snapshot().len() < (1 << 18) + cells * 400, "{} bytes", screen.snapshot().len());
    screen.resize(Size { cols: u16::from(other % 50) + 1, rows: u16::from(other / 9) + 1 });
    restored(&screen);
    screen.feed(data);
    restored(&screen);
}

fn restored(screen: &Screen) {
    let snapshot = screen.snapshot();
    let again = Screen::restore(screen.size(), &snapshot);
    assert_eq!(again.lines(), screen.lines());
    assert_eq!(again.snapshot(), snapshot);
}
