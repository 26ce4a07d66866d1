//! What viewers that never read cost the others: 200 follow a session that prints 50 MB as fast as it can, in turns
//! without and with 20 more that never read.
//!
//! ```text
//! cargo bench --bench stalled
//! ```
//!
//! Each of the 200 has to get all of it, with the same SHA-256, over one connection between hub and source.
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

use rustix::event::epoll;
use serde_json::json;
use sha2::{Digest, Sha256};

mod support;

use support::wire::{Framing, Parser};
use support::{Hub, median, memory};

/// Viewers that read, and that never do.
const READ: usize = 200;
const STALLED: usize = 20;

/// Bytes that the session prints.
const BYTES: u64 = 50_000_000;

/// Turns of each.
const ROUNDS: usize = 4;

fn main() {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (at, stalled) in [0, STALLED].into_iter().enumerate() {
            all[at].push(turn(stalled));
        }
    }
    let [alone, beside] = all.map(|turns| median(&turns));
    println!("\n| {READ} viewers of {} MB | MB/s to each |\n| --- | ---: |", BYTES / 1_000_000);
    println!("| alone | {alone:.2} |\n| beside {STALLED} that never read | {beside:.2} |");
    println!("| ratio | {:.3} |", beside / alone);
}

/// MB a second to the viewer in the middle.
fn turn(stalled: usize) -> f64 {
    let hub = Hub::start("");
    let script = format!("read -r go; seq 1 100000000 | head -c {BYTES}");
    let id = hub.run(&["sh", "-c", &script].map(str::to_owned), json!({ "stdin": true }));
    let watch = json!({ "type": "hello", "mode": "bytes", "role": "watch" });
    let never_read: Vec<TcpStream> = (0..stalled).map(|_| hub.attach(&id, &watch)).collect();
    let readers: Vec<TcpStream> = (0..READ).map(|_| hub.attach(&id, &watch)).collect();
    support::wait_for("all have joined", || hub.show(&id)["viewers"] == READ + stalled);
    hub.type_line(&id);
    let since = Instant::now();
    let seen = read_all(&readers);
    let hashes: Vec<_> = seen.iter().map(|(hash, _)| hash.clone()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "all see the same");
    assert_eq!(hub.agent_connections(), 1, "the source has one connection");
    let (_, most) = memory(hub.pid());
    println!("{stalled} stalled: the hub's memory was {} MiB at most", most >> 20);
    drop(never_read);
    median(&seen.iter().map(|(_, at)| BYTES as f64 / 1e6 / (*at - since).as_secs_f64()).collect::<Vec<_>>())
}

/// What each got, and when it had all.
fn read_all(streams: &[TcpStream]) -> Vec<(Vec<u8>, Instant)> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (at, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).expect("a socket");
        epoll::add(&poll, stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN).expect("adds");
    }
    let mut viewers: Vec<_> =
        streams.iter().map(|_| (Parser::new(Framing::Websocket, false), Sha256::new(), None)).collect();
    let (mut left, mut events, mut buffer) = (streams.len(), Vec::with_capacity(256), vec![0; 256 << 10]);
    let since = Instant::now();
    while left > 0 {
        assert!(since.elapsed() < Duration::from_secs(300), "{left} viewers have not got all");
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).expect("waits");
        for event in &events {
            let at = event.data.u64() as usize;
            let (parser, hash, done) = &mut viewers[at];
            match (&streams[at]).read(&mut buffer) {
                Ok(0) => drop(epoll::delete(&poll, &streams[at])),
                Ok(read) => parser.feed(&buffer[..read], |_, data| hash.update(data)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            if parser.offset == BYTES && done.is_none() {
                *done = Some(Instant::now());
                left -= 1;
            }
        }
    }
    viewers.into_iter().map(|(_, hash, done)| (hash.finalize().to_vec(), done.expect("all"))).collect()
}
