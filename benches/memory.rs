//! What the hub's memory holds: for each idle viewer, for each one that never reads, and of a long journal; and how soon
//! the start of a long journal comes.
//!
//! ```text
//! cargo bench --bench memory
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on fails"
)]

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

mod support;

use support::wire::{Framing, Parser};
use support::{Hub, memory, quantile, wait_for};

/// Idle viewers.
const IDLE: usize = 5000;

/// Viewers that never read.
const STALLED: usize = 100;

/// Bytes of output that they do not read: less than an agent keeps, since nothing paces it.
const SOME: u64 = 50_000_000;

/// Bytes of output of the long session. Random, so that its journal is as long; no faster than it can be stored.
const LONG: u64 = 256 << 20;

/// How often the long session is read from its start.
const ATTACHES: usize = 21;

fn main() {
    let _raised = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) },
    );
    println!("\n| memory of the hub | |\n| --- | ---: |");
    idle();
    stalled();
    long_journal();
}

fn watch() -> serde_json::Value {
    json!({ "type": "hello", "mode": "bytes", "role": "watch" })
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

/// Waits until all viewers have their welcome.
fn joined(hub: &Hub, id: &str, viewers: usize) {
    wait_for("all have joined", || hub.show(id)["viewers"] == viewers);
    // And until the news of each other has been told.
    std::thread::sleep(Duration::from_secs(3));
}

fn idle() {
    let hub = Hub::start("");
    let id = hub.run(&shell("echo hello; sleep 600"), json!({}));
    let few: Vec<TcpStream> = (0..10).map(|_| hub.attach(&id, &watch())).collect();
    joined(&hub, &id, few.len());
    let (before, _) = memory(hub.pid());
    let many: Vec<TcpStream> = (0..IDLE).map(|_| hub.attach(&id, &watch())).collect();
    joined(&hub, &id, few.len() + many.len());
    let (after, _) = memory(hub.pid());
    println!("| idle viewer, of {IDLE} | {:.2} KiB |", (after - before) as f64 / 1024.0 / IDLE as f64);
    drop((few, many));
}

fn stalled() {
    let hub = Hub::start("");
    let id = hub.run(&shell(&format!("sleep 4; seq 1 100000000 | head -c {SOME}; sleep 600")), json!({}));
    let (before, _) = memory(hub.pid());
    let none_reads: Vec<TcpStream> = (0..STALLED).map(|_| hub.attach(&id, &watch())).collect();
    joined(&hub, &id, STALLED);
    let mut reads = hub.attach(&id, &watch());
    let (bytes, _) = read_until(&mut reads, SOME);
    let (after, most) = memory(hub.pid());
    assert_eq!(bytes, SOME);
    let each = |memory: u64| memory.saturating_sub(before) as f64 / 1024.0 / STALLED as f64;
    println!(
        "| viewer that never reads, of {STALLED}, after {} MB | {:.0} KiB, at most {:.0} KiB |",
        SOME / 1_000_000,
        each(after),
        each(most)
    );
    drop(none_reads);
}

/// Reads output until there is so much of it: how much, and when the first came.
fn read_until(stream: &mut TcpStream, enough: u64) -> (u64, Option<Instant>) {
    let mut parser = Parser::new(Framing::Websocket, false);
    let mut buffer = vec![0; 256 << 10];
    let mut first = None;
    while parser.offset < enough {
        let read = stream.read(&mut buffer).expect("reads");
        assert!(read > 0, "the hub closed the connection at {}", parser.offset);
        parser.feed(&buffer[..read], |_, _| {
            first.get_or_insert_with(Instant::now);
        });
    }
    (parser.offset, first)
}

fn long_journal() {
    let mut hub = Hub::start("[limits]\njournal = \"1 GiB\"\n");
    let script =
        format!("for i in $(seq {}); do head -c 1048576 /dev/urandom; sleep 0.05; done; sleep 600", LONG >> 20);
    let id = hub.run(&shell(&script), json!({}));
    let mut all = hub.attach(&id, &watch());
    read_until(&mut all, LONG);
    drop(all);
    // Another hub, which has nothing of it in memory.
    hub.again();
    wait_for("the session is taken up", || hub.show(&id)["state"] == "running");
    let (before, _) = memory(hub.pid());
    let mut delays = Vec::new();
    for _ in 0..ATTACHES {
        let since = Instant::now();
        let mut stream = hub.attach(&id, &watch());
        let (_, first) = read_until(&mut stream, 1);
        delays.push((first.expect("output") - since).as_secs_f64() * 1e3);
    }
    let (p50, most) = (quantile(&mut delays, 0.5), quantile(&mut delays, 1.0));
    println!("| first byte of a journal of {} MiB | {p50:.1} ms, at most {most:.1} ms |", LONG >> 20);
    let mut stream = hub.attach(&id, &watch());
    read_until(&mut stream, LONG);
    let (_, peak) = memory(hub.pid());
    println!("| read to its end | {:.1} MiB more |", (peak - before) as f64 / f64::from(1 << 20));
    hub.stop(&id);
}
