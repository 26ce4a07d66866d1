//! The viewers. They take as little of the machine as they can: of the bulk they read the frames' headers and let the
//! kernel drop the rest, as if they were on other machines; of the lines they read all and note when each came.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use foghorn::record::HEADER_LEN;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::source::{CHUNK, Kind, LINE, STAMP, now};
use crate::support::wire::{Framing, MAX_HEAD, Parser, frame_head};

/// Threads that read.
const THREADS: usize = 2;

/// Bytes read at once.
const READ: usize = 256 << 10;

/// Delays are counted in steps of so many nanoseconds, up to a number of steps.
const STEP: u64 = 10_000;
const STEPS: usize = 500_000;

/// Viewers that read until they are stopped.
pub struct Crowd {
    offsets: Arc<Vec<AtomicU64>>,
    stop: Arc<AtomicBool>,
    measuring: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

/// What was seen while it was measured.
pub struct Seen {
    /// Lines that came.
    pub lines: u64,
    delays: Vec<u32>,
}

impl Seen {
    fn new() -> Self {
        Self { lines: 0, delays: vec![0; STEPS] }
    }

    /// Counts a line that was written then.
    fn note(&mut self, written: u64, came: u64) {
        self.lines += 1;
        self.delays[((came.saturating_sub(written) / STEP) as usize).min(STEPS - 1)] += 1;
    }

    /// The delay in milliseconds within which `part` of the lines came.
    pub fn delay(&self, part: f64) -> f64 {
        let wanted = (self.lines as f64 * part) as u64;
        let mut sum = 0;
        let at = self.delays.iter().position(|count| {
            sum += u64::from(*count);
            sum > wanted
        });
        at.unwrap_or(STEPS) as f64 * STEP as f64 / 1e6
    }
}

struct Viewer {
    stream: TcpStream,
    parser: Parser,
    skipper: Skipper,
    index: usize,
    /// The start of a line whose time is not all here.
    stamp: Vec<u8>,
}

impl Crowd {
    pub fn new(streams: Vec<TcpStream>, framing: Framing, kind: Kind, lossy: bool) -> Self {
        let offsets: Arc<Vec<AtomicU64>> = Arc::new(streams.iter().map(|_| AtomicU64::new(0)).collect());
        let (stop, measuring) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut parts: Vec<Vec<Viewer>> = (0..THREADS).map(|_| Vec::new()).collect();
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true).expect("a socket");
            parts[index % THREADS].push(Viewer {
                stream,
                parser: Parser::new(framing, lossy),
                skipper: Skipper::new(framing),
                index,
                stamp: Vec::new(),
            });
        }
        let start = |viewers: Vec<Viewer>| {
            let (offsets, stop, measuring) = (offsets.clone(), stop.clone(), measuring.clone());
            std::thread::spawn(move || read_all(viewers, kind, &offsets, &stop, &measuring))
        };
        let threads = parts.into_iter().map(start).collect();
        Self { offsets, stop, measuring, threads }
    }

    /// The offset of the slowest.
    pub fn slowest(&self) -> u64 {
        self.offsets.iter().map(|offset| offset.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Bytes that all have got together.
    pub fn total(&self) -> u64 {
        self.offsets.iter().map(|offset| offset.load(Ordering::Relaxed)).sum()
    }

    /// Starts or stops to note lines.
    pub fn measure(&self, on: bool) {
        self.measuring.store(on, Ordering::Relaxed);
    }

    /// Ends it.
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::new();
        for thread in self.threads {
            let seen = thread.join().expect("reads to the end");
            all.lines += seen.lines;
            all.delays.iter_mut().zip(seen.delays).for_each(|(sum, count)| *sum += count);
        }
        all
    }
}

fn read_all(
    mut viewers: Vec<Viewer>,
    kind: Kind,
    offsets: &[AtomicU64],
    stop: &AtomicBool,
    measuring: &AtomicBool,
) -> Seen {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (at, viewer) in viewers.iter().enumerate() {
        epoll::add(&epoll, &viewer.stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN).expect("adds");
    }
    let mut seen = Seen::new();
    let mut buffer = vec![0; READ];
    let mut events = Vec::with_capacity(256);
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).expect("waits");
        for event in &events {
            let viewer = &mut viewers[event.data.u64() as usize];
            if kind == Kind::Bulk {
                viewer.skipper.read(&viewer.stream);
                offsets[viewer.index].store(viewer.skipper.offset, Ordering::Relaxed);
                continue;
            }
            let read = match viewer.stream.read(&mut buffer) {
                Ok(0) => panic!("the server closed a connection at {}", viewer.parser.offset),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            };
            let came = now();
            let notes = measuring.load(Ordering::Relaxed);
            let stamp = &mut viewer.stamp;
            viewer.parser.feed(&buffer[..read], |offset, data| {
                stamps(offset, data, stamp, |written| {
                    if notes {
                        seen.note(written, came)
                    }
                });
            });
            offsets[viewer.index].store(viewer.parser.offset, Ordering::Relaxed);
        }
    }
    seen
}

/// Passes over the bulk source's frames, which hold whole records of one length.
struct Skipper {
    framing: Framing,
    head: Vec<u8>,
    skip: usize,
    /// Output in the frames that were passed over.
    offset: u64,
}

/// Bytes of the bulk source's record.
const RECORD: usize = HEADER_LEN + CHUNK;

impl Skipper {
    fn new(framing: Framing) -> Self {
        Self { framing, head: Vec::new(), skip: 0, offset: 0 }
    }

    /// Takes what is there, up to a frame's border.
    fn read(&mut self, stream: &TcpStream) {
        thread_local!(static DROPPED: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ]));
        loop {
            let took = if self.skip > 0 {
                let recv = |buffer: &mut Vec<u8>| recv(stream, &mut buffer[..self.skip.min(READ)], RecvFlags::TRUNC);
                DROPPED.with_borrow_mut(recv).map(|(_, took)| {
                    self.skip -= took;
                    took
                })
            } else {
                let mut some = [0; MAX_HEAD];
                let have = self.head.len();
                let took = recv(stream, &mut some[..MAX_HEAD - have], RecvFlags::empty());
                took.map(|(took, _)| {
                    self.head.extend_from_slice(&some[..took]);
                    self.frames();
                    took
                })
            };
            match took {
                Ok(0) => panic!("the server closed a connection at {}", self.offset),
                Ok(_) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads the headers that are here. Short frames may be here whole.
    fn frames(&mut self) {
        while self.skip == 0
            && let Some((len, frame)) = frame_head(self.framing, &self.head)
        {
            if frame > 0 && frame % RECORD == 0 {
                self.offset += (frame / RECORD * CHUNK) as u64;
            }
            let rest = self.head.split_off(len);
            self.skip = frame.saturating_sub(rest.len());
            self.head = rest.get(frame..).unwrap_or_default().to_vec();
        }
    }
}

/// Finds the times at the starts of lines, which are all of one length.
fn stamps(mut offset: u64, mut data: &[u8], stamp: &mut Vec<u8>, mut found: impl FnMut(u64)) {
    while !data.is_empty() {
        let column = (offset % LINE as u64) as usize;
        let take = if column < STAMP { STAMP - column } else { LINE - column }.min(data.len());
        if column < STAMP {
            stamp.extend_from_slice(&data[..take]);
            if stamp.len() == STAMP {
                found(stamp.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
                stamp.clear();
            }
        }
        offset += take as u64;
        data = &data[take..];
    }
}
