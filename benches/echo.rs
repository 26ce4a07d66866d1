//! A key's way to a pseudo-terminal and back, through the hub beside a bare pseudo-terminal, in turns.
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

mod support;

use support::wire::{Framing, Parser, frame};
use support::{Hub, quantile};

/// Turns, and keys in each.
const ROUNDS: usize = 5;
const KEYS: usize = 400;

/// The pause between two keys: a fast typist's is ten times longer.
const PAUSE: Duration = Duration::from_millis(10);

/// What is run: a terminal that hands each key on at once.
const COMMAND: [&str; 3] = ["sh", "-c", "stty raw -echo; echo ready; exec cat"];

fn main() {
    println!("\necho: milliseconds from key to echo, {ROUNDS} turns of {KEYS} keys\n");
    println!("| way | p50 | p99 | adds p50 | adds p99 |\n| --- | ---: | ---: | ---: | ---: |");
    let ways: [(&str, Option<usize>); 3] =
        [("a bare pseudo-terminal", None), ("the hub", Some(0)), ("the hub, 1000 watchers", Some(1000))];
    let mut delays: Vec<Vec<f64>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (at, (_, watchers)) in ways.iter().enumerate() {
            delays[at].extend(match watchers {
                None => bare(),
                Some(watchers) => through_the_hub(*watchers),
            });
        }
    }
    let (bare_p50, bare_p99) = (quantile(&mut delays[0].clone(), 0.5), quantile(&mut delays[0].clone(), 0.99));
    for ((name, _), delays) in ways.iter().zip(&mut delays) {
        let (p50, p99) = (quantile(delays, 0.5), quantile(delays, 0.99));
        println!("| {name} | {p50:.3} | {p99:.3} | {:.3} | {:.3} |", p50 - bare_p50, p99 - bare_p99);
    }
}

/// Types keys, each when the one before it has come back and a pause is over.
fn type_keys(mut key: impl FnMut(u8)) -> Vec<f64> {
    let mut delays = Vec::with_capacity(KEYS);
    for n in 0..KEYS {
        std::thread::sleep(PAUSE);
        let since = Instant::now();
        key(b'a' + (n % 26) as u8);
        delays.push(since.elapsed().as_secs_f64() * 1e3);
    }
    delays
}

fn bare() -> Vec<f64> {
    let (pty, pts) = pty_process::blocking::open().expect("a terminal");
    let command = pty_process::blocking::Command::new(COMMAND[0]).args(&COMMAND[1..]);
    let mut child = command.spawn(pts).expect("a command");
    let mut pty = pty;
    let mut seen = Vec::new();
    let mut byte = [0; 64];
    while !String::from_utf8_lossy(&seen).contains("ready") {
        let read = pty.read(&mut byte).expect("reads");
        seen.extend_from_slice(&byte[..read]);
    }
    // The line's end.
    std::thread::sleep(Duration::from_millis(100));
    let delays = type_keys(|key| {
        pty.write_all(&[key]).expect("writes");
        while pty.read(&mut byte).map(|read| byte[..read].contains(&key)).ok() != Some(true) {}
    });
    child.kill().expect("ends");
    child.wait().expect("ends");
    delays
}

fn through_the_hub(watchers: usize) -> Vec<f64> {
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
    let delays = type_keys(|key| {
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
