//! System (a), the limit: a raw TCP fan-out of the same bytes. One shared buffer, large writes, a thread a core, no
//! framing, nobody checked.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};

/// Bytes of a block of the buffer, and of a write.
const BLOCK: usize = 256 << 10;

/// Bytes that are kept. The bulk source is never that far ahead of the slowest viewer.
const KEPT: usize = 16 << 20;

/// How long a block may be filled.
const FILL: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Buffer {
    blocks: VecDeque<Arc<[u8]>>,
    bytes: usize,
    first: usize,
}

struct Shard {
    wake: OwnedFd,
    joined: std::sync::mpsc::Sender<TcpStream>,
}

/// Serves until it is killed.
pub fn run(address: &str, socket: &str, viewers: usize) {
    let listener = TcpListener::bind(address).expect("listens");
    let buffer = Arc::new(RwLock::new(Buffer::default()));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let shards: Vec<Shard> = (0..cores).map(|_| shard(&buffer)).collect();
    for n in 0..viewers {
        let (stream, _) = listener.accept().expect("a viewer");
        stream.set_nonblocking(true).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        shards[n % cores].joined.send(stream).expect("a shard");
        wake(&shards[n % cores]);
    }
    let mut source = super::source::greet(socket);
    let mut block = vec![0; BLOCK];
    loop {
        let len = fill(&mut source, &mut block);
        let mut buffer = buffer.write().expect("a buffer");
        buffer.blocks.push_back(block[..len].into());
        buffer.bytes += len;
        while buffer.bytes > KEPT {
            buffer.bytes -= buffer.blocks.pop_front().map_or(0, |oldest| oldest.len());
            buffer.first += 1;
        }
        drop(buffer);
        shards.iter().for_each(wake);
    }
}

/// Fills a block, or as much of it as comes within a moment.
fn fill(source: &mut std::os::unix::net::UnixStream, block: &mut [u8]) -> usize {
    source.set_read_timeout(None).expect("a socket");
    let mut len = source.read(block).expect("a source");
    assert!(len > 0, "the source ended");
    let since = Instant::now();
    // Lines are passed on as they come.
    while len > 4096 && len < block.len() {
        let Some(left) = FILL.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else { break };
        source.set_read_timeout(Some(left)).expect("a socket");
        match source.read(&mut block[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(_) => break,
        }
    }
    len
}

fn wake(shard: &Shard) {
    rustix::io::write(&shard.wake, &1u64.to_ne_bytes()).expect("wakes");
}

struct Viewer {
    stream: TcpStream,
    block: usize,
    at: usize,
    writable: bool,
}

/// The blocks that a thread knows of, so that it takes no lock for each viewer.
#[derive(Default)]
struct Known {
    blocks: VecDeque<Arc<[u8]>>,
    first: usize,
}

impl Known {
    fn update(&mut self, buffer: &RwLock<Buffer>) {
        let buffer = buffer.read().expect("a buffer");
        while self.first < buffer.first {
            self.blocks.pop_front();
            self.first += 1;
        }
        self.blocks.extend(buffer.blocks.iter().skip(self.first + self.blocks.len() - buffer.first).cloned());
    }
}

fn shard(buffer: &Arc<RwLock<Buffer>>) -> Shard {
    let (joined, joins) = std::sync::mpsc::channel::<TcpStream>();
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
    let (buffer, own_wake) = (buffer.clone(), wake.try_clone().expect("a descriptor"));
    std::thread::spawn(move || {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(&poll, &own_wake, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN).expect("adds");
        let mut viewers: Vec<Viewer> = Vec::new();
        let mut known = Known::default();
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).expect("waits");
            for event in &events {
                match event.data.u64() {
                    u64::MAX => drop(rustix::io::read(&own_wake, &mut [0; 8])),
                    at => viewers[at as usize].writable = true,
                }
            }
            while let Ok(stream) = joins.try_recv() {
                let flags = epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&poll, &stream, epoll::EventData::new_u64(viewers.len() as u64), flags).expect("adds");
                viewers.push(Viewer { stream, block: 0, at: 0, writable: true });
            }
            known.update(&buffer);
            for viewer in viewers.iter_mut().filter(|viewer| viewer.writable) {
                send(viewer, &known);
            }
        }
    });
    Shard { wake, joined }
}

/// Writes what the viewer lacks, until it has all or takes no more.
fn send(viewer: &mut Viewer, known: &Known) {
    assert!(viewer.block >= known.first, "a viewer fell behind");
    while let Some(block) = known.blocks.get(viewer.block - known.first) {
        match viewer.stream.write(&block[viewer.at..]) {
            Ok(written) => viewer.at += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                viewer.writable = false;
                return;
            }
            // Who left is written to no more.
            Err(_) => return,
        }
        if viewer.at == block.len() {
            (viewer.block, viewer.at) = (viewer.block + 1, 0);
        }
    }
}
