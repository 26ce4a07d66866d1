//! Networks that stall, cut and heal, and hubs that die meanwhile: the real client loses no byte and repeats no key.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foghorn::record::{Payload, Stream};
use support::program::Program;
use support::proxy::{Cut, Proxy, Way};
use support::server::{Came, Hello, Server, signal, until};

/// Names the seed of a run that is to be repeated.
const SEED: &str = "FOGHORN_TEST_SEED";

const CUTS: u32 = 100;

/// How many of the cuts are the hub's death.
const KILLS: u32 = 10;

/// A peer that fell silent is given up after 45 s; what comes on top is a slow machine's. TCP alone would take minutes.
const SILENCE: Duration = Duration::from_secs(60);

/// Chance that can be repeated.
struct Chance(u64);

impl Chance {
    /// A new one, or the one that is named; it is printed, and shown when the test fails.
    fn new() -> Self {
        let named = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = named.unwrap_or(now.as_nanos() as u64 | 1);
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// A number below `limit` (xorshift, Marsaglia 2003).
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    async fn moment(&mut self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.below(most_ms))).await;
    }
}

/// Holds against a client that numbers printed in the background have a hole or come twice.
fn counted(stderr: &str) -> u64 {
    // What the client itself has to say may stand between two lines of the command.
    let lines = stderr.lines().filter(|line| !line.starts_with("foghorn: ") && !line.starts_with("Running "));
    let numbers: Vec<u64> = lines.map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}"))).collect();
    let last = numbers.len() - 1;
    numbers[..last].iter().enumerate().for_each(|(at, number)| assert_eq!(*number, at as u64));
    numbers.len() as u64
}

async fn cut(server: &mut Server, proxy: &Proxy, chance: &mut Chance, kill: bool) {
    if kill {
        server.kill();
        chance.moment(100).await;
        return server.again().await;
    }
    match chance.below(4) {
        0 => drop(proxy.cut(Cut::Fin)),
        1 => drop(proxy.cut(Cut::Reset)),
        2 => drop(proxy.cut(Cut::Within(chance.below(2000) as usize))),
        _ => {
            proxy.stall(true);
            chance.moment(200).await;
            if chance.below(2) == 0 {
                proxy.cut(Cut::Reset);
            }
            proxy.stall(false);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cuts_and_ten_deaths_lose_no_byte_and_repeat_no_key() {
    let mut chance = Chance::new();
    let mut server = Server::start("").await;
    let proxy = server.proxy();
    let numbers = "i=0; while :; do seq $i $((i+199)) >&3; i=$((i+200)); sleep 0.01; done";
    // What the shell itself says when the end of the session ends a process of its own is none of the numbers.
    let script = format!("({numbers}) 3>&2 2>/dev/null & exec cat");
    let mut driver = Program::start(&server, &proxy.url(), &["run", "--", "sh", "-c", &script]);
    driver.says("up, run.1").await;
    let watcher = Program::start(&server, &proxy.url(), &["watch", "run.1"]);
    let (mut stdin, done) = (driver.stdin(), Arc::new(AtomicBool::new(false)));
    let stop = done.clone();
    let typist = std::thread::spawn(move || {
        let mut typed = Vec::new();
        for key in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let line = format!("key {key}\n");
            stdin.write_all(line.as_bytes()).expect("types");
            typed.extend(line.into_bytes());
            std::thread::sleep(Duration::from_millis(2));
        }
        typed
    });
    let since = Instant::now();
    for n in 0..CUTS {
        // Mostly a connection that works is cut, and now and then one that is just being made.
        if chance.below(5) > 0 {
            let seen = (driver.stdout().len(), watcher.stdout().len());
            until("both go on", async || {
                (driver.stdout().len() > seen.0 && watcher.stdout().len() > seen.1).then_some(())
            })
            .await;
        }
        chance.moment(50).await;
        cut(&mut server, &proxy, &mut chance, n % (CUTS / KILLS) == 5).await;
    }
    println!("{CUTS} cuts in {:?}", since.elapsed());
    done.store(true, Ordering::Relaxed);
    let typed = typist.join().expect("types");
    let (status, stdout, stderr) = driver.ends().await;
    assert_eq!(status, Some(0), "{}", &stderr[stderr.len().saturating_sub(500)..]);
    assert!(stdout == typed, "the driver has {} bytes of {}", stdout.len(), typed.len());
    let lost = stderr.lines().filter(|line| line.contains("reconnecting")).count();
    println!("{} keys, {} lines beside them, {lost} times lost", typed.len(), counted(&stderr));
    assert!(lost as u32 > CUTS / 2, "the client was cut {lost} times");
    let (status, stdout, said) = watcher.ends().await;
    assert_eq!(status, Some(0));
    assert!(stdout == typed, "the watcher has {} bytes of {}", stdout.len(), typed.len());
    assert_eq!(counted(&said), counted(&stderr));
    assert!(journal(&server).await == typed, "the journal");
}

/// What the journal has of stdout.
async fn journal(server: &Server) -> Vec<u8> {
    let mut viewer = server.attach("run.1", Hello::watch()).await;
    let mut stdout = Vec::new();
    loop {
        match viewer.come().await {
            Came::Records(records) => records.into_iter().for_each(|record| {
                if let Payload::Output(Stream::Stdout, data) = record.payload {
                    stdout.extend_from_slice(&data);
                }
            }),
            Came::Closed(_) | Came::Lost => break,
            Came::Message(_) => {}
        }
    }
    assert_eq!(viewer.gaps, []);
    stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_half_open_is_noticed_by_both_sides() {
    let server = Server::start("").await;
    // One after the other at the start, so that their names are known.
    let both = half_open(&server, "run.1", &[Way::ToClient, Way::ToServer]).await;
    let one = half_open(&server, "run.2", &[Way::ToClient]).await;
    let other = half_open(&server, "run.3", &[Way::ToServer]).await;
    tokio::join!(noticed(&server, both), noticed(&server, one), noticed(&server, other));
}

/// A session whose client's connection has just gone silent.
struct HalfOpen {
    name: &'static str,
    proxy: Proxy,
    driver: Program,
    since: Instant,
}

async fn half_open(server: &Server, name: &'static str, ways: &[Way]) -> HalfOpen {
    let proxy = server.proxy();
    let mut driver = Program::start(server, &proxy.url(), &["run", "--", "cat"]);
    driver.types("before\n");
    driver.prints("before\n").await;
    // No way back yet, so that what the hub sees is the old connection alone.
    proxy.close(true);
    proxy.mute(ways);
    let since = Instant::now();
    driver.types("meanwhile\n");
    HalfOpen { name, proxy, driver, since }
}

async fn noticed(server: &Server, half: HalfOpen) {
    let HalfOpen { name, proxy, driver, since } = half;
    let hub = async {
        until("the hub notices", async || {
            let (_, session) = server.ask("GET", &format!("/v1/sessions/{name}"), None).await;
            (session["viewers"] == 0).then_some(())
        })
        .await;
        since.elapsed()
    };
    let client = async {
        driver.says("reconnecting").await;
        since.elapsed()
    };
    let (hub, client) = tokio::join!(hub, client);
    println!("{name}: the hub noticed after {hub:?}, the client after {client:?}");
    assert!(hub < SILENCE && client < SILENCE, "the hub after {hub:?}, the client after {client:?}");
    proxy.close(false);
    driver.prints("meanwhile\n").await;
    let (status, stdout, stderr) = driver.ends().await;
    assert_eq!((status, &stdout[..]), (Some(0), &b"before\nmeanwhile\n"[..]), "{stderr}");
}

/// Longer than a silence may be.
const FROZEN: Duration = Duration::from_secs(48);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_frozen_for_longer_than_a_silence_is_come_back_to() {
    let server = Server::start("").await;
    let mut driver = Program::start(&server, &server.url(), &["run", "--", "cat"]);
    driver.types("before\n");
    driver.prints("before\n").await;
    signal(server.pid(), "STOP");
    let since = Instant::now();
    driver.types("meanwhile\n");
    driver.says("reconnecting").await;
    println!("the client noticed after {:?}", since.elapsed());
    assert!(since.elapsed() < SILENCE);
    // The agent, too, has given its hub up by then.
    tokio::time::sleep(FROZEN.saturating_sub(since.elapsed())).await;
    signal(server.pid(), "CONT");
    driver.prints("meanwhile\n").await;
    driver.types("after\n");
    driver.prints("after\n").await;
    let (status, stdout, stderr) = driver.ends().await;
    assert_eq!((status, &stdout[..]), (Some(0), &b"before\nmeanwhile\nafter\n"[..]), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_frozen_for_longer_than_a_silence_is_come_back_to() {
    let mut server = Server::start("").await;
    let id = server.run_detached("seq 1 1000; sleep 1; seq 1001 2000; exit 3").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n1000\n").await;
    let watching = tokio::spawn(async move { (viewer.rest().await, viewer.output) });
    let agent = server.agent(&id).expect("an agent");
    signal(agent, "STOP");
    // Nothing is sent to it meanwhile but pings: the hub has to find out by itself.
    tokio::time::sleep(FROZEN).await;
    let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!(session["state"], "running", "who is silent is not dead");
    signal(agent, "CONT");
    let (closed, output) = watching.await.expect("watches");
    assert_eq!(closed, 1000);
    let expected: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output), expected);
    server.stored(&id).await;
    assert_eq!(server.ended(&id).await["exit_status"], 3);
}
