//! A folder of log files, a hub that follows them, and those who write and read.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::server::Server;

pub(crate) const JSON: (&str, &str) = ("accept", "application/x-ndjson");

/// Prints numbered lines, about a hundred a second.
pub(crate) fn counting(name: &str, to: u32) -> String {
    format!("i=0; while [ $i -lt {to} ]; do i=$((i+1)); echo {name} $i; sleep 0.008; done")
}

/// A log folder, and a hub whose app `blog` has its files.
pub(crate) async fn bed() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&format!("[apps.blog]\nlogs = [\"{}/*.log\"]\n", folder.path().display())).await;
    (folder, server)
}

/// Starts a run of an app that nobody holds; its name.
pub(crate) async fn start(server: &mut Server, app: &str, script: &str) -> String {
    let answer = server.run(&["sh", "-c", script], json!({"app": app, "detached": true, "dir": "/"})).await;
    answer["name"].as_str().unwrap().to_owned()
}

/// The hub's process.
pub(crate) fn pid(server: &Server) -> u64 {
    let file = std::fs::read(server.home().join("hub.json")).unwrap();
    serde_json::from_slice::<Value>(&file).unwrap()["pid"].as_u64().unwrap()
}

pub(crate) fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

pub(crate) fn get(server: &Server, query: &str) -> Answer {
    Answer::get(server, &format!("/v1/apps/blog/logs?{query}"), &[JSON])
}

/// `process: message` of all lines of an answer that ends.
pub(crate) fn all(mut answer: Answer) -> Vec<String> {
    assert_eq!(answer.status, 200);
    let line = |line: Value| format!("{}: {}", line["process"].as_str().unwrap(), line["message"].as_str().unwrap());
    std::iter::from_fn(|| answer.object()).map(line).collect()
}

/// What a follower has seen so far, read in a thread of its own.
#[derive(Clone, Default)]
pub(crate) struct Seen(pub(crate) Arc<Mutex<Vec<Value>>>);

impl Seen {
    pub(crate) fn follow(&self, mut answer: Answer) -> JoinHandle<()> {
        assert_eq!(answer.status, 200);
        let seen = self.clone();
        std::thread::spawn(move || {
            while let Some(line) = answer.object() {
                seen.0.lock().unwrap().push(line);
            }
        })
    }

    /// What each name has counted, out of messages of a name and a number.
    pub(crate) fn counts(&self) -> BTreeMap<String, Vec<u32>> {
        let mut counts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for message in self.messages() {
            let counted = message.split_once(' ').and_then(|(name, number)| Some((name, number.parse().ok()?)));
            if let Some((name, number)) = counted {
                counts.entry(name.into()).or_default().push(number);
            }
        }
        counts
    }

    pub(crate) fn highest(&self, name: &str) -> u32 {
        self.counts().get(name).and_then(|counted| counted.last().copied()).unwrap_or(0)
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn has_message(&self, message: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line["message"].as_str().unwrap().starts_with(message))
    }

    pub(crate) fn resume(&self) -> String {
        self.0.lock().unwrap().last().unwrap()["resume"].as_str().unwrap().to_owned()
    }

    /// Each of these names has counted from 1 to its number, each number once and in order.
    pub(crate) fn assert_counted(&self, expected: &[(&str, u32)]) {
        let counts = self.counts();
        for (name, to) in expected {
            let counted = &counts[*name];
            let wrong = counted.iter().zip(1..).find(|(number, at)| *number != at);
            assert_eq!((wrong, counted.len() as u32), (None, *to), "{name}");
        }
    }
}

/// Writes numbered lines, about a hundred a second, until it is stopped.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Writer {
    pub(crate) fn start(path: PathBuf, first: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut number = first;
            while !stopped.load(Ordering::Relaxed) {
                append(&path, &format!("file {number}\n"));
                number += 1;
                std::thread::sleep(Duration::from_millis(9));
            }
            number - 1
        });
        Self { stop, thread: Some(thread) }
    }

    /// The last number that was written.
    pub(crate) fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}
