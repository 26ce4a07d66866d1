//! A key's way to a pseudo-terminal and back, through the hub beside a bare pseudo-terminal, in turns; and through the
//! least that a hub and an agent could be, which is what no hub of two processes can be faster than.
//!
//! ```text
//! cargo bench --bench echo
//! ```
//!
//! The command is `cat` without the terminal's own echo, so that each key goes to a process and comes back.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on fails"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use serde_json::json;

#[path = "echo/relay.rs"]
mod relay;
mod support;

use support::wire::{Framing, Parser, frame};
use support::{Hub, quantile};

/// Turns, and keys in each.
const ROUNDS: usize = 5;
const KEYS: usize = 400;

/// The pauses between two keys. A fast typist's are ten times longer than the first; after the second the machine's cores
/// are still awake, as they are where more goes on than one person's typing.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(1)];

/// What is run: a terminal that hands each key on at once.
const COMMAND: [&str; 3] = ["sh", "-c", "stty raw -echo; echo ready; exec cat"];

/// What is between the client and the command.
#[derive(Clone, Copy)]
enum Way {
    /// Nothing but a pseudo-terminal.
    Bare,
    /// The least that a hub and an agent could be.
    Relays,
    /// The hub, with so many watchers.
    Hub(usize),
}

const WAYS: [(&str, Way); 4] = [
    ("a bare pseudo-terminal", Way::Bare),
    ("two bare relays", Way::Relays),
    ("the hub", Way::Hub(0)),
    ("the hub, 1000 watchers", Way::Hub(1000)),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["relay", args @ ..] = words.as_slice() {
        return relay::run(args, &COMMAND);
    }
    for pause in PAUSES {
        compare(pause);
    }
}

fn compare(pause: Duration) {
    println!("\necho: milliseconds from key to echo, {ROUNDS} turns of {KEYS} keys, {pause:?} between two\n");
    println!("| way | p50 | p99 | adds p50 | adds p99 |\n| --- | ---: | ---: | ---: | ---: |");
    let mut delays: Vec<Vec<f64>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (at, (_, way)) in WAYS.iter().enumerate() {
            delays[at].extend(match *way {
                Way::Bare => bare(pause),
                Way::Relays => through_relays(pause),
                Way::Hub(watchers) => through_the_hub(watchers, pause),
            });
        }
    }
    let (bare_p50, bare_p99) = (quantile(&mut delays[0].clone(), 0.5), quantile(&mut delays[0].clone(), 0.99));
    for ((name, _), delays) in WAYS.iter().zip(&mut delays) {
        let (p50, p99) = (quantile(delays, 0.5), quantile(delays, 0.99));
        println!("| {name} | {p50:.3} | {p99:.3} | {:.3} | {:.3} |", p50 - bare_p50, p99 - bare_p99);
    }
}

/// Types keys, each when the one before it has come back and a pause is over.
fn type_keys(pause: Duration, mut key: impl FnMut(u8)) -> Vec<f64> {
    let mut delays = Vec::with_capacity(KEYS);
    for n in 0..KEYS {
        std::thread::sleep(pause);
        let since = Instant::now();
        key(b'a' + (n % 26) as u8);
        delays.push(since.elapsed().as_secs_f64() * 1e3);
    }
    delays
}

/// Types keys into something that gives back what it is given, once its command is ready.
fn type_into(mut stream: impl Read + Write, pause: Duration) -> Vec<f64> {
    let mut seen = Vec::new();
    let mut byte = [0; 64];
    while !String::from_utf8_lossy(&seen).contains("ready") {
        let read = stream.read(&mut byte).expect("reads");
        assert!(read > 0, "the way is closed");
        seen.extend_from_slice(&byte[..read]);
    }
    // The line's end.
    std::thread::sleep(Duration::from_millis(100));
    type_keys(pause, |key| {
        stream.write_all(&[key]).expect("writes");
        while stream.read(&mut byte).map(|read| byte[..read].contains(&key)).ok() != Some(true) {}
    })
}

fn bare(pause: Duration) -> Vec<f64> {
    let (pty, pts) = pty_process::blocking::open().expect("a terminal");
    let command = pty_process::blocking::Command::new(COMMAND[0]).args(&COMMAND[1..]);
    let mut child = command.spawn(pts).expect("a command");
    let delays = type_into(pty, pause);
    child.kill().expect("ends");
    child.wait().expect("ends");
    delays
}

fn through_relays(pause: Duration) -> Vec<f64> {
    let relays = relay::Relays::start();
    type_into(&relays.stream, pause)
}

fn through_the_hub(watchers: usize, pause: Duration) -> Vec<f64> {
    let hub = Hub::start("");
    let command: Vec<String> = COMMAND.map(str::to_owned).to_vec();
    let id = hub.run(&command, json!({ "tty": true, "stdin": true, "caller_env": { "PATH": "/usr/bin:/bin" } }));
    let hello = json!({ "type": "hello", "mode": "bytes", "role": "watch" });
    let crowd: Vec<TcpStream> = (0..watchers).map(|_| hub.attach(&id, &hello)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let reader = std::thread::spawn(move || drain(&crowd, &stopped));
    let writer = "0123456789abcdef0123456789abcdef";
    let hello = json!({ "type": "hello", "mode": "bytes", "role": "drive", "writer": writer });
    let mut driver = Driver::new(hub.attach(&id, &hello));
    driver.wait_for(b"ready\n");
    let mut typed = 0u64;
    let delays = type_keys(pause, |key| {
        let mut input = typed.to_be_bytes().to_vec();
        input.push(key);
        typed += 1;
        driver.stream.write_all(&frame(2, &input)).expect("writes");
        driver.wait_for(&[key]);
    });
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("reads");
    hub.stop(&id);
    delays
}

struct Driver {
    stream: TcpStream,
    parser: Parser,
}

impl Driver {
    fn new(stream: TcpStream) -> Self {
        Self { stream, parser: Parser::new(Framing::Websocket, false) }
    }

    /// Reads until the output ends with this.
    fn wait_for(&mut self, text: &[u8]) {
        let mut output = Vec::new();
        let mut buffer = [0; 4096];
        while !output.ends_with(text) {
            let read = self.stream.read(&mut buffer).expect("reads");
            assert!(read > 0, "the hub closed the connection");
            self.parser.feed(&buffer[..read], |_, data| output.extend_from_slice(data));
        }
    }
}

/// Watchers that read what comes.
fn drain(crowd: &[TcpStream], stop: &AtomicBool) {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (at, stream) in crowd.iter().enumerate() {
        epoll::add(&poll, stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN).expect("adds");
    }
    let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).expect("waits");
        for event in &events {
            let read = (&crowd[event.data.u64() as usize]).read(&mut buffer).expect("reads");
            assert!(read > 0, "the hub closed a watcher");
        }
    }
}
