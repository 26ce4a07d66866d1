//! How much a fan-out costs, three systems in turns on one stream: a raw TCP fan-out (a), what most people would write
//! (b), and the hub as shipped (c), without and with recording.
//!
//! ```text
//! cargo bench --bench fanout                    everything, and the tables of the README
//! cargo bench --bench fanout -- bulk 100        one source and one number of viewers
//! cargo bench --bench fanout -- --rounds 9      more turns than five
//! ```
//!
//! All read an agent's Unix socket. Each server is a process of its own whose CPU time the kernel counts; what the
//! viewers, the agent and its command use is not in the figures. The bulk source gives as much as the slowest viewer has
//! taken and a bit more, for every system alike, so none may drop anything.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on fails"
)]

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

#[path = "fanout/axum.rs"]
mod axum_ws;
#[path = "fanout/crowd.rs"]
mod crowd;
#[path = "fanout/source.rs"]
mod source;
mod support;
#[path = "fanout/tcp.rs"]
mod tcp;

use crowd::Crowd;
use source::{Kind, LINE, LINES, Source};
use support::wire::{Framing, upgrade};
use support::{Hub, cpu_seconds, free_address, median, wait_for};

/// How far ahead of the slowest viewer the bulk source may be, in bytes: less than the hub has in memory.
const AHEAD: u64 = 640 << 10;

/// How long a turn lasts before and while it is measured.
const WARM: Duration = Duration::from_millis(700);
const TURN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum System {
    Tcp,
    Axum,
    Hub,
    Recording,
}

const SYSTEMS: [System; 4] = [System::Tcp, System::Axum, System::Hub, System::Recording];

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "(a) raw TCP",
            Self::Axum => "(b) axum, broadcast",
            Self::Hub => "(c) the hub",
            Self::Recording => "(c) recording",
        }
    }
}

/// What one turn gave.
struct Turn {
    /// MB delivered for each CPU second of the server.
    mb_per_cpu: f64,
    /// CPU seconds for each million lines delivered.
    cpu_per_million: f64,
    /// Delays in milliseconds.
    p50: f64,
    p99: f64,
    /// The part of the lines that was delivered.
    delivered: f64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tcp", address, socket, viewers] => {
            return tcp::run(address, socket, viewers.parse().expect("a number"));
        }
        ["axum", address, socket, viewers] => {
            return axum_ws::run(address, socket, viewers.parse().expect("a number"));
        }
        _ => {}
    }
    let rounds = words.iter().position(|word| *word == "--rounds").and_then(|at| words.get(at + 1)?.parse().ok());
    let rounds = rounds.unwrap_or(5);
    let kinds = [Kind::Bulk, Kind::Lines].into_iter().filter(|kind| {
        let named = words.iter().any(|word| ["bulk", "lines"].contains(word));
        !named || words.contains(&kind.name())
    });
    let counts: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).filter(|n| *n != rounds).collect();
    let counts = if counts.is_empty() { vec![1, 10, 100, 1000] } else { counts };
    for kind in kinds {
        heading(kind, rounds);
        for viewers in &counts {
            compare(kind, *viewers, rounds);
        }
    }
}

fn heading(kind: Kind, rounds: usize) {
    println!("\n{}: medians of {rounds} turns\n", kind.name());
    match kind {
        Kind::Bulk => {
            println!("| viewers | system | MB per CPU second | of (a) | of (b) |\n| ---: | --- | ---: | ---: | ---: |");
        }
        Kind::Lines => {
            println!("| viewers | system | CPU s per million lines | of (b) | p50 ms | p99 ms | delivered |");
            println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: |");
        }
    }
}

fn compare(kind: Kind, viewers: usize, rounds: usize) {
    let mut turns: Vec<Vec<Turn>> = SYSTEMS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (at, system) in SYSTEMS.into_iter().enumerate() {
            turns[at].push(turn(system, kind, viewers));
        }
    }
    let figures = |at: usize, figure: fn(&Turn) -> f64| turns[at].iter().map(figure).collect::<Vec<f64>>();
    // Of each round, since the machine's speed drifts.
    let ratio = |at: usize, of: usize, figure: fn(&Turn) -> f64| {
        let pairs = figures(at, figure).into_iter().zip(figures(of, figure));
        median(&pairs.map(|(one, other)| one / other).collect::<Vec<f64>>())
    };
    for (at, system) in SYSTEMS.into_iter().enumerate() {
        let mid = |figure: fn(&Turn) -> f64| median(&figures(at, figure));
        let name = system.name();
        match kind {
            Kind::Bulk => println!(
                "| {viewers} | {name} | {:.0} | {:.2} | {:.2} |",
                mid(|turn| turn.mb_per_cpu),
                ratio(at, 0, |turn| turn.mb_per_cpu),
                ratio(at, 1, |turn| turn.mb_per_cpu)
            ),
            Kind::Lines => println!(
                "| {viewers} | {name} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} % |",
                mid(|turn| turn.cpu_per_million),
                ratio(at, 1, |turn| turn.cpu_per_million),
                mid(|turn| turn.p50),
                mid(|turn| turn.p99),
                mid(|turn| turn.delivered) * 100.0
            ),
        }
    }
}

/// A server and its viewers, and what keeps them there.
struct Stage {
    pid: u32,
    streams: Vec<TcpStream>,
    framing: Framing,
    // Dropped in this order: the server goes, then its source ends.
    _server: Server,
    source: Source,
    _dir: tempfile::TempDir,
}

enum Server {
    Process(#[expect(dead_code, reason = "held, not read")] Killed),
    Hub(#[expect(dead_code, reason = "held, not read")] Hub),
}

/// A child that does not outlive its turn.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn stage(system: System, kind: Kind, viewers: usize) -> Stage {
    match system {
        System::Tcp => {
            process("tcp", kind, viewers, Framing::Agent, |address| TcpStream::connect(address).expect("connects"))
        }
        System::Axum => process("axum", kind, viewers, Framing::Websocket, |address| upgrade(address, "/attach", "")),
        System::Hub | System::Recording => hub(kind, viewers, system == System::Recording),
    }
}

fn process(
    name: &str,
    kind: Kind,
    viewers: usize,
    framing: Framing,
    connect: impl Fn(SocketAddr) -> TcpStream,
) -> Stage {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("sock");
    let (source, address) = (Source::start(&socket, "bench", kind), free_address());
    let mut command = Command::new(support::own_program());
    command.args([name, &address.to_string()]).arg(&socket).arg(viewers.to_string()).stdin(Stdio::null());
    let child = Killed(command.spawn().expect("a server"));
    let pid = child.0.id();
    // The raw one counts connections.
    wait_for("the server listens", || listens(address));
    let streams = (0..viewers).map(|_| connect(address)).collect();
    Stage { pid, streams, framing, source, _server: Server::Process(child), _dir: dir }
}

/// Whether somebody listens there, without a connection.
fn listens(address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    table.contains(&format!(":{:04X} 00000000:0000 0A", address.port()))
}

/// A hub that was given a session whose agent the benchmark then takes the place of, as after a restart of the hub.
fn hub(kind: Kind, viewers: usize, record: bool) -> Stage {
    let mut hub = Hub::start("");
    let id = hub.run(&["sleep".into(), "600".into()], json!({ "record": record }));
    hub.kill();
    hub.kill_agents();
    let source = Source::start(&hub.agent_socket(&id), &id, kind);
    hub.again();
    let hello = json!({ "type": "hello", "mode": "bytes", "role": "watch" });
    let streams = (0..viewers).map(|_| hub.attach(&id, &hello)).collect();
    let dir = tempfile::tempdir().expect("a directory");
    Stage { pid: hub.pid(), streams, framing: Framing::Websocket, source, _server: Server::Hub(hub), _dir: dir }
}

fn turn(system: System, kind: Kind, viewers: usize) -> Turn {
    let mut stage = stage(system, kind, viewers);
    let lossy = system == System::Axum;
    let crowd = Crowd::new(std::mem::take(&mut stage.streams), stage.framing, kind, lossy);
    let give = |time: Duration| {
        let since = Instant::now();
        while since.elapsed() < time {
            stage.source.allow(crowd.slowest() + AHEAD);
            std::thread::sleep(Duration::from_micros(300));
        }
    };
    give(WARM);
    crowd.measure(true);
    let (cpu, bytes, since) = (cpu_seconds(stage.pid), crowd.total(), Instant::now());
    give(TURN);
    let (cpu, bytes, time) = (cpu_seconds(stage.pid) - cpu, crowd.total() - bytes, since.elapsed());
    crowd.measure(false);
    let seen = crowd.end();
    let lines = bytes as f64 / LINE as f64;
    let (p50, p99) = if kind == Kind::Lines { (seen.delay(0.5), seen.delay(0.99)) } else { (0.0, 0.0) };
    Turn {
        mb_per_cpu: bytes as f64 / 1e6 / cpu.max(0.01),
        cpu_per_million: cpu / (lossless(kind, &seen, lines) / 1e6),
        p50,
        p99,
        delivered: seen.lines as f64 / (f64::from(LINES) * time.as_secs_f64() * viewers as f64),
    }
}

/// The lines that came: of a lossy system the offsets tell more than that.
fn lossless(kind: Kind, seen: &crowd::Seen, lines: f64) -> f64 {
    if kind == Kind::Lines { seen.lines.max(1) as f64 } else { lines }
}
