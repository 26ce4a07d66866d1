//! What viewers that never read cost the others: 200 follow a session that prints 50 MB as fast as it can, in turns
//! without and with 20 more that never read. What the clock says is bounded by who reads here, on the same cores, and by
//! whatever else the machine does, so the hub's CPU time is told too, and the ratios are those of turns side by side.
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
use support::{Hub, cpu_seconds, median, memory};

/// Viewers that read, and that never do.
const READ: usize = 200;
const STALLED: usize = 20;

/// Bytes that the session prints.
const BYTES: u64 = 50_000_000;

/// Turns of each. An odd number, so that there is one in the middle.
const ROUNDS: usize = 7;

fn main() {
    // Nothing is as fast the first time: programs are read from the disk, memory is new. It is not counted.
    turn(0);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // Each of both comes first as often as second.
        if round % 2 == 0 {
            let alone = turn(0);
            rounds.push((alone, turn(STALLED)));
        } else {
            let beside = turn(STALLED);
            rounds.push((turn(0), beside));
        }
    }
    let of = |value: fn(&(Turn, Turn)) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    println!("\n| {READ} viewers of {} MB | MB/s to each | the hub's CPU s per GB |", BYTES / 1_000_000);
    println!("| --- | ---: | ---: |");
    println!("| alone | {:.2} | {:.3} |", of(|(alone, _)| alone.rate), of(|(alone, _)| alone.cpu));
    let beside = (of(|(_, beside)| beside.rate), of(|(_, beside)| beside.cpu));
    println!("| beside {STALLED} that never read | {:.2} | {:.3} |", beside.0, beside.1);
    let ratio = (of(|(alone, beside)| beside.rate / alone.rate), of(|(alone, beside)| beside.cpu / alone.cpu));
    println!("| ratio, median of {ROUNDS} pairs | {:.3} | {:.3} |", ratio.0, ratio.1);
}

/// What one turn took.
struct Turn {
    /// MB a second to the viewer in the middle.
    rate: f64,
    /// CPU seconds of the hub for each GB that the viewers got.
    cpu: f64,
}

fn turn(stalled: usize) -> Turn {
    let hub = Hub::start("");
    let script = format!("read -r go; seq 1 100000000 | head -c {BYTES}");
    let id = hub.run(&["sh", "-c", &script].map(str::to_owned), json!({ "stdin": true }));
    let watch = json!({ "type": "hello", "mode": "bytes", "role": "watch" });
    let never_read: Vec<TcpStream> = (0..stalled).map(|_| hub.attach(&id, &watch)).collect();
    let readers: Vec<TcpStream> = (0..READ).map(|_| hub.attach(&id, &watch)).collect();
    support::wait_for("all have joined", || hub.show(&id)["viewers"] == READ + stalled);
    let used = cpu_seconds(hub.pid());
    hub.type_line(&id);
    let since = Instant::now();
    let seen = read_all(&readers);
    let cpu = (cpu_seconds(hub.pid()) - used) / (BYTES * READ as u64) as f64 * 1e9;
    let hashes: Vec<_> = seen.iter().map(|(hash, _)| hash.clone()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "all see the same");
    assert_eq!(hub.agent_connections(), 1, "the source has one connection");
    let (_, most) = memory(hub.pid());
    let rates: Vec<_> = seen.iter().map(|(_, at)| BYTES as f64 / 1e6 / (*at - since).as_secs_f64()).collect();
    let rate = median(&rates);
    println!(
        "{stalled} stalled: {rate:.2} MB/s, {cpu:.3} CPU s per GB, the hub's memory at most {} MiB, {} reads of the journal",
        most >> 20,
        hub.journal_reads()
    );
    drop(never_read);
    Turn { rate, cpu }
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
