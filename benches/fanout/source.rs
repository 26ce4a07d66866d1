//! The source: the benchmark plays an agent, whose socket all systems read. What it sends is the same for all.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foghorn::agent::protocol::{AgentHello, HEADER_LEN, HubHello, RECORDS, ToAgent, ToHub, header};
use foghorn::record::{Header, Stream};

/// Bytes of a line, its end included.
pub const LINE: usize = 120;

/// Lines a second.
pub const LINES: u32 = 2000;

/// Bytes that the bulk source writes at once.
pub const CHUNK: usize = 16 << 10;

/// Digits of the time at a line's start: nanoseconds since the Unix epoch.
pub const STAMP: usize = 19;

/// What the source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All that is taken, in chunks of 16 KiB.
    Bulk,
    /// 2000 lines a second of 120 bytes, each written by itself.
    Lines,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Lines => "lines",
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64
}

/// A thread that plays the agent of a session for one connection.
pub struct Source {
    limit: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Listens at `path`. Nothing is sent before [`Source::allow`] was called.
    pub fn start(path: &Path, session: &str, kind: Kind) -> Self {
        let _stale = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("a socket");
        let (limit, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (allowed, stopped, session) = (limit.clone(), stop.clone(), session.to_owned());
        let thread = std::thread::spawn(move || {
            let stream = greeted(&listener, session);
            let mut sender = Sender { stream, offset: 0 };
            match kind {
                Kind::Bulk => sender.bulk(&allowed, &stopped),
                Kind::Lines => sender.lines(&allowed, &stopped),
            }
        });
        Self { limit, stop, thread: Some(thread) }
    }

    /// Lets the bulk source send up to this offset; any at all lets the lines begin.
    pub fn allow(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A server that is gone ends it too.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// What a system says first on the agent's socket.
pub fn greet(socket: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("a source");
    let hello = HubHello { min: 1, max: 1, epoch: 1, from: 0 };
    stream.write_all(&ToAgent::Hello(hello).encode()).expect("writes");
    stream
}

fn greeted(listener: &UnixListener, session: String) -> UnixStream {
    let (mut stream, _) = listener.accept().expect("a hub");
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).expect("a greeting");
    let len = u32::from_be_bytes(head[4..].try_into().expect("four bytes"));
    stream.read_exact(&mut vec![0; len as usize]).expect("a greeting");
    let hello = AgentHello { version: 1, session, nonce: Some("bench".into()), oldest: 0, head: 0, card: None };
    stream.write_all(&ToHub::Hello(hello).encode()).expect("writes");
    stream.write_all(&ToHub::Started(1).encode()).expect("writes");
    let mut told = stream.try_clone().expect("a socket");
    // What the hub acknowledges is of no interest.
    std::thread::spawn(move || while told.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
    stream
}

struct Sender {
    stream: UnixStream,
    offset: u64,
}

impl Sender {
    /// Sends a record in a message of its own. Whether somebody takes it.
    fn send(&mut self, data: &[u8]) -> bool {
        let record = Header::output(Stream::Stdout, data.len(), self.offset, now() / 1000).encode();
        let message = header(RECORDS, record.len() + data.len());
        let parts = [IoSlice::new(&message), IoSlice::new(&record), IoSlice::new(data)];
        let Ok(mut written) = self.stream.write_vectored(&parts) else { return false };
        // A socket that is nearly full takes a part.
        for part in [&message[..], &record, data] {
            let have = written.min(part.len());
            written -= have;
            if self.stream.write_all(&part[have..]).is_err() {
                return false;
            }
        }
        self.offset += data.len() as u64;
        true
    }

    fn bulk(&mut self, limit: &AtomicU64, stop: &AtomicBool) {
        let text = log_like(64 * CHUNK);
        for chunk in text.chunks(CHUNK).cycle() {
            while self.offset + CHUNK as u64 > limit.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            if !self.send(chunk) {
                return;
            }
        }
    }

    fn lines(&mut self, limit: &AtomicU64, stop: &AtomicBool) {
        while limit.load(Ordering::Relaxed) == 0 && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let since = Instant::now();
        for n in 1u32.. {
            let due = since + Duration::from_secs(1) * n / LINES;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut line = format!("{:0STAMP$} level=info n={n} ", now());
            line.extend(std::iter::repeat_n('.', LINE - 1 - line.len()));
            line.push('\n');
            if !self.send(line.as_bytes()) || stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Text as programs log it: repetitive, but no line twice.
fn log_like(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 200);
    let mut state = 1u64;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (id, ms) = (state >> 33, (state >> 20) % 997);
        text.extend_from_slice(
            format!("level=info method=GET path=/items/{id} status=200 ms={ms} request={state:016x}\n").as_bytes(),
        );
    }
    text.truncate(len);
    text
}
