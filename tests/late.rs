//! Who joins a full-screen program late, through a real hub, has the screen of one who was there from the start: judged
//! by a terminal that the hub does not use itself. Also when the hub was killed in between.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "screen/oracle.rs"]
#[allow(dead_code, reason = "the screens' own test uses more of it")]
mod oracle;

use foghorn::protocol::{ClientMessage, HubMessage, Mode};
use foghorn::record::{Payload, Record, Size};
use oracle::{Comparison, Oracle, Step, has};
use serde_json::json;
use support::server::{Came, Hello, Server, Viewer};

const SIZE: Size = Size { cols: 100, rows: 30 };

/// One who follows, and what its terminal was given.
struct Follower {
    viewer: Viewer,
    steps: Vec<Step>,
    snapshots: usize,
}

impl Follower {
    fn new(viewer: Viewer) -> Self {
        Self { viewer, steps: Vec::new(), snapshots: 0 }
    }

    fn take(&mut self, records: Vec<Record>) {
        for record in records {
            match record.payload {
                Payload::Output(_, data) => self.steps.push(Step::Write(data.to_vec())),
                Payload::Resize(size) => self.steps.push(Step::Resize(size)),
                Payload::Snapshot(size, screen) => {
                    self.snapshots += 1;
                    self.steps.extend([Step::Resize(size), Step::Write(screen.to_vec())]);
                }
                _ => {}
            }
        }
    }

    /// Reads until all up to an offset is here.
    async fn reach(&mut self, offset: u64) {
        while self.viewer.next < offset || self.steps.is_empty() {
            match self.viewer.come().await {
                Came::Records(records) => self.take(records),
                Came::Closed(code) => panic!("closed with {code}"),
                Came::Lost => panic!("lost"),
                Came::Message(_) => {}
            }
        }
    }
}

/// Types, and waits until the program has answered with something and then with nothing more for a moment. What comes
/// later than that is in the rest, which is compared too.
async fn press(first: &mut Follower, typed: &mut u64, keys: &str) {
    first.viewer.type_at(*typed, keys).await;
    *typed += keys.len() as u64;
    let mut quiet = false;
    while !quiet {
        let next = tokio::time::timeout(std::time::Duration::from_millis(700), first.viewer.come()).await;
        match next {
            Ok(Came::Records(records)) => first.take(records),
            Ok(Came::Message(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => quiet = true,
        }
    }
}

/// Runs a program, joins in its middle, goes on, kills the hub, joins again, goes on to its end.
async fn hold(command: &[&str], before: &[&str], after: &[&str]) {
    let Some(mut oracle) = Oracle::start() else { return };
    if !has(command[0]) {
        return;
    }
    let mut server = Server::start("").await;
    let env = json!({"LC_ALL": "C.UTF-8", "HOME": std::env::temp_dir(), "LESSHISTFILE": "-"});
    let started = json!({"tty": true, "stdin": true, "keep": true, "size": SIZE, "env": env});
    let session = server.run(command, started).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut first = Follower::new(server.attach(&id, Hello { size: Some(SIZE), ..Hello::drive(1) }).await);
    let mut typed = 0;
    for keys in before {
        press(&mut first, &mut typed, keys).await;
    }
    let mut kill = false;
    for keys in after {
        if kill {
            server.kill();
            while !matches!(first.viewer.come().await, Came::Lost) {}
            server.again().await;
            let hello = Hello { size: Some(SIZE), from: Some(first.viewer.next), ..Hello::drive(1) };
            first.viewer = server.attach(&id, hello).await;
        }
        kill = true;
        let mut late = Follower::new(server.attach(&id, Hello { mode: Mode::Screen, ..Hello::watch() }).await);
        // What the program printed only now is in both.
        late.reach(first.viewer.next).await;
        while late.viewer.next != first.viewer.next {
            first.reach(late.viewer.next).await;
            late.reach(first.viewer.next).await;
        }
        let (at, joined) = (first.steps.len(), late.steps.len());
        press(&mut first, &mut typed, keys).await;
        late.reach(first.viewer.next).await;
        let (a, rest) = first.steps.split_at(at);
        // The same now, and again after what both got since.
        assert!(late.snapshots > 0, "a snapshot brought it up");
        let comparison = Comparison { size: SIZE, a, b: &late.steps[..joined], rest };
        let found = oracle.compare(&comparison);
        assert!(found.is_empty(), "{command:?} before {keys:?}:\n{}", found.join("\n"));
    }
    first.viewer.say(&ClientMessage::Stop).await;
    server.ended(&id).await;
}

/// A text with wide and combining characters, in a file of its own.
fn text() -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".txt").tempfile().expect("a file");
    let line = |n: usize| format!("{n} 日本語 e\u{301}a\u{308} 👩‍👩‍👧 ✌️ plain\ttab {}\n", "x".repeat(n % 130));
    std::fs::write(file.path(), (1..200).map(line).collect::<String>()).expect("writes");
    file
}

#[tokio::test]
async fn vim_through_the_hub() {
    let file = text();
    let path = file.path().to_str().expect("a path");
    let before = [":set number mouse=a termguicolors | syntax on\r", "Gzzo", "insert\u{3042}"];
    hold(&["vim", "-u", "NONE", "-i", "NONE", "-n", path], &before, &["\x1bggdd", ":split\r", "jjjxp"]).await;
}

#[tokio::test]
async fn less_through_the_hub() {
    let file = text();
    let path = file.path().to_str().expect("a path");
    hold(&["less", path], &[" ", "/x3\r", "/plain\r"], &["G", "b", "g"]).await;
}

#[tokio::test]
async fn tmux_through_the_hub() {
    let socket = tempfile::tempdir().expect("a directory");
    let path = socket.path().join("s");
    let path = path.to_str().expect("a path");
    let command = ["tmux", "-u", "-S", path, "-f", "/dev/null", "new-session", "sh"];
    hold(&command, &["\x02%", "ls /\r", "\x02\""], &["echo \u{65e5}\r", "\x02o", "\x02c"]).await;
    let _ended = std::process::Command::new("tmux").args(["-S", path, "kill-server"]).status();
}

#[tokio::test]
async fn a_driver_hears_of_itself() {
    let mut server = Server::start("").await;
    let session = server.run(&["cat"], json!({"tty": true, "stdin": true, "keep": true})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut viewer = server.attach(&id, Hello::drive(1)).await;
    viewer.hears(|message| matches!(message, HubMessage::Welcome { driving: true, .. })).await;
    viewer.say(&ClientMessage::Stop).await;
    assert_eq!(viewer.rest().await, 1000);
}
