//! The log of an app, against a real hub, with real runs and real files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use support::hub::{Answer, Hub, until};

const JSON: (&str, &str) = ("accept", "application/x-ndjson");

/// Prints numbered lines, about a hundred a second.
fn counting(name: &str, to: u32) -> String {
    format!("i=0; while [ $i -lt {to} ]; do i=$((i+1)); echo {name} $i; sleep 0.008; done")
}

/// A log folder, and a hub whose app `blog` has its files.
fn bed() -> (tempfile::TempDir, Hub) {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&format!("[apps.blog]\nlogs = [\"{}/*.log\"]\n", folder.path().display()));
    (folder, hub)
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn get(hub: &Hub, query: &str) -> Answer {
    hub.request("GET", &format!("/v1/apps/blog/logs?{query}"), &[JSON], "")
}

/// `process: message` of all lines of an answer that ends.
fn all(mut answer: Answer) -> Vec<String> {
    assert_eq!(answer.status, 200);
    let line = |line: Value| format!("{}: {}", line["process"].as_str().unwrap(), line["message"].as_str().unwrap());
    std::iter::from_fn(|| answer.object()).map(line).collect()
}

/// What a follower has seen so far, read in a thread of its own.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Value>>>);

impl Seen {
    fn follow(&self, mut answer: Answer) -> JoinHandle<()> {
        assert_eq!(answer.status, 200);
        let seen = self.clone();
        std::thread::spawn(move || {
            while let Some(line) = answer.object() {
                seen.0.lock().unwrap().push(line);
            }
        })
    }

    /// What each name has counted, out of messages of a name and a number.
    fn counts(&self) -> BTreeMap<String, Vec<u32>> {
        let mut counts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for line in self.0.lock().unwrap().iter() {
            let message = line["message"].as_str().unwrap();
            let counted = message.split_once(' ').and_then(|(name, number)| Some((name, number.parse().ok()?)));
            if let Some((name, number)) = counted {
                counts.entry(name.into()).or_default().push(number);
            }
        }
        counts
    }

    fn highest(&self, name: &str) -> u32 {
        self.counts().get(name).and_then(|counted| counted.last().copied()).unwrap_or(0)
    }

    fn has_message(&self, message: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line["message"].as_str().unwrap().starts_with(message))
    }

    fn resume(&self) -> String {
        self.0.lock().unwrap().last().unwrap()["resume"].as_str().unwrap().to_owned()
    }

    /// Each of these names has counted from 1 to its number, each number once and in order.
    fn assert_counted(&self, expected: &[(&str, u32)]) {
        let counts = self.counts();
        for (name, to) in expected {
            let counted = &counts[*name];
            let wrong = counted.iter().zip(1..).find(|(number, at)| *number != at);
            assert_eq!((wrong, counted.len() as u32), (None, *to), "{name}");
        }
    }
}

/// Writes numbered lines, about a hundred a second, until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Writer {
    fn start(path: PathBuf, first: u32) -> Self {
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
    fn stop(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn runs_and_a_rotated_file_are_merged_each_line_once_and_in_order() {
    let (folder, hub) = bed();
    let path = folder.path().join("web.log");
    append(&path, "before\n");
    let seen = Seen::default();
    seen.follow(get(&hub, "follow=true"));
    let runs = [hub.run("blog", &counting("one", 300)), hub.run("blog", &format!("{} >&2", counting("two", 300)))];

    let writer = Writer::start(path.clone(), 1);
    until("some lines came", || (seen.highest("file") > 60).then_some(()));
    std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
    until("more lines came", || (seen.highest("file") > 130).then_some(()));
    std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
    until("more lines came", || (seen.highest("file") > 200).then_some(()));
    // What was not read before a file is emptied is lost by its nature: the writer waits for that moment.
    let last = writer.stop();
    until("all lines came", || (seen.highest("file") == last).then_some(()));
    std::fs::copy(&path, folder.path().join("web.log.2")).unwrap();
    std::fs::write(&path, "").unwrap();
    let writer = Writer::start(path.clone(), last + 1);
    until("lines behind the truncation came", || (seen.highest("file") > last + 60).then_some(()));
    let last = writer.stop();

    runs.iter().for_each(|run| hub.wait(run));
    until("all came", || (seen.highest("file") == last).then_some(()));
    for run in &runs {
        until("the end came", || {
            let lines = seen.0.lock().unwrap();
            lines
                .iter()
                .any(|line| line["process"] == **run && line["message"] == "Process exited with status 0")
                .then_some(())
        });
    }
    seen.assert_counted(&[("one", 300), ("two", 300), ("file", last)]);
    let lines = seen.0.lock().unwrap();
    for line in lines.iter() {
        let (message, process) = (line["message"].as_str().unwrap(), line["process"].as_str().unwrap());
        match message.split(' ').next().unwrap() {
            "one" => assert_eq!((process, &line["stream"]), (&*runs[0], &Value::from("stdout"))),
            "two" => assert_eq!((process, &line["stream"]), (&*runs[1], &Value::from("stderr"))),
            "file" => assert_eq!((process, &line["stream"]), ("web", &Value::from("stdout"))),
            _ => assert_eq!(line["stream"], "hub", "{line}"),
        }
    }
}

#[test]
fn followers_share_one_reader_a_file_and_end_with_the_hub() {
    let (folder, mut hub) = bed();
    let path = folder.path().join("web.log");
    append(&path, "file 1\n");
    let followers: Vec<(Seen, JoinHandle<()>)> = (0..5)
        .map(|_| {
            let seen = Seen::default();
            let thread = seen.follow(get(&hub, "follow=true&tail=10"));
            (seen, thread)
        })
        .collect();
    append(&path, "file 2\n");
    for (seen, _) in &followers {
        until("both lines came", || (seen.highest("file") == 2).then_some(()));
        seen.assert_counted(&[("file", 2)]);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", hub.pid())).unwrap().flatten();
    let ours = open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path));
    assert_eq!(ours.count(), 1);
    hub.stop();
    followers.into_iter().for_each(|(_, thread)| thread.join().unwrap());
}

#[test]
fn a_follower_goes_on_with_another_hub() {
    let (folder, mut hub) = bed();
    let path = folder.path().join("web.log");
    append(&path, "an old line\n");
    let seen = Seen::default();
    let thread = seen.follow(get(&hub, "follow=true"));
    let run = hub.run("blog", &counting("one", 700));
    let short = hub.run("blog", "echo short 1");
    let writer = Writer::start(path.clone(), 1);
    until("lines of all came", || {
        (seen.highest("file") > 50 && seen.highest("one") > 50 && seen.highest("short") == 1).then_some(())
    });
    hub.wait(&short);
    until("the end came", || seen.has_message("Process exited").then_some(()));

    for round in 0..2 {
        hub.kill();
        // Rotated while no hub is there; the writer goes on in a new file.
        if round == 0 {
            std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
        }
        let (from, at) = (seen.resume(), seen.highest("file"));
        std::thread::sleep(Duration::from_millis(200));
        hub.replace();
        seen.follow(get(&hub, &format!("follow=true&from={from}")));
        until("lines of both came", || (seen.highest("file") > at + 60).then_some(()));
    }
    thread.join().unwrap();
    let last = writer.stop();
    hub.wait(&run);
    until("all came", || (seen.highest("file") == last && seen.highest("one") == 700).then_some(()));
    until("the end came", || {
        let ends = |line: &&Value| line["process"] == *run && line["message"] == "Process exited with status 0";
        (seen.0.lock().unwrap().iter().filter(ends).count() == 1).then_some(())
    });
    seen.assert_counted(&[("one", 700), ("file", last), ("short", 1)]);
    let lines = seen.0.lock().unwrap();
    let count =
        |message: &str| lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)).count();
    assert_eq!((count("Starting process"), count("Process exited"), count("an old line")), (2, 2, 0));
}

#[test]
fn the_last_lines_are_chosen_by_number_time_process_and_pattern() {
    let (folder, hub) = bed();
    append(&folder.path().join("web.log"), "2026-01-01T00:00:01Z first\n2026-01-01T00:00:03Z third\nits detail\n");
    append(&folder.path().join("worker.log"), "2026-01-01T00:00:02Z second\n2026-01-01T00:00:04Z fourth\n");
    let numbers: String = (1..=50_000).map(|number| format!("2026-01-01T00:00:05Z number {number}\n")).collect();
    append(&folder.path().join("many.log"), &numbers);
    let run = hub.run("blog", "for i in 1 2 3; do echo out $i; done; printf 'no end' >&2; exit 4");
    hub.wait(&run);
    let hub_lines = [format!("{run}: out 3"), format!("{run}: no end"), format!("{run}: Process exited with status 4")];

    assert_eq!(all(get(&hub, "tail=3")), hub_lines);
    assert_eq!(all(get(&hub, "")).len(), 100);
    assert_eq!(all(get(&hub, "tail=0")), [""; 0]);
    let process: Vec<_> =
        all(get(&hub, "process=web")).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(process, ["first", "third", "detail"]);
    assert_eq!(all(get(&hub, "process=run&grep=^out")).len(), 3);
    assert_eq!(all(get(&hub, &format!("process={run}&tail=1"))), [hub_lines[2].clone()]);
    let merged = all(get(&hub, "since=2026-01-01T00:00:02Z&grep=(first|second|third|fourth|detail)"));
    let words: Vec<_> = merged.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["second", "third", "detail", "fourth"]);
    assert_eq!(all(get(&hub, "since=1h")).len(), 6);
    let found = all(get(&hub, "tail=2&grep=number.[1-3]$"));
    assert_eq!(found, ["many: 2026-01-01T00:00:05Z number 2", "many: 2026-01-01T00:00:05Z number 3"]);
    assert_eq!(all(get(&hub, "process=many&since=2026-01-01T00:00:05Z")).len(), 50_000);

    for query in ["grep=(", "since=soon", "from=AAAA", "tail=many"] {
        let answer = get(&hub, query);
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("invalid_request"));
    }
    let text = hub.request("GET", "/v1/apps/blog/logs?tail=2", &[], "").text();
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines, [format!("app[{run}]: no end"), format!("foghorn[{run}]: Process exited with status 4")]);
    let events = hub.request("GET", "/v1/apps/blog/logs?tail=1", &[("accept", "text/event-stream")], "").text();
    assert!(
        events.starts_with("id: ") && events.contains("\ndata: {\"time\":") && events.ends_with("\n\n"),
        "{events}"
    );
}

#[test]
fn each_line_of_a_backfill_can_be_resumed_behind() {
    let (folder, hub) = bed();
    append(&folder.path().join("web.log"), "file 1\nfile 2\nfile 3\n");
    let runs: Vec<_> =
        (0..2).map(|run| hub.run("blog", &format!("for i in 1 2 3; do echo run{run} $i; done"))).collect();
    runs.iter().for_each(|run| hub.wait(run));
    let mut answer = get(&hub, "tail=100");
    let lines: Vec<Value> = std::iter::from_fn(|| answer.object()).collect();
    assert_eq!(lines.len(), 13, "{lines:#?}");
    let message =
        |line: &Value| format!("{}: {}", line["process"].as_str().unwrap(), line["message"].as_str().unwrap());
    for (at, line) in lines.iter().enumerate() {
        let rest = all(get(&hub, &format!("from={}", line["resume"].as_str().unwrap())));
        assert_eq!(rest, lines[at + 1..].iter().map(message).collect::<Vec<_>>(), "behind {}", message(line));
    }
}

#[test]
fn a_session_that_starts_later_is_followed_and_a_prompt_does_not_wait_for_its_end() {
    let (_folder, hub) = bed();
    let seen = Seen::default();
    seen.follow(get(&hub, "follow=true"));
    let other = hub.run("shop", "echo not of this app");
    let run = hub.run("blog", "printf 'Password: '; sleep 3; echo; echo done");
    until("the prompt came", || seen.has_message("Password: ").then_some(()));
    assert!(!seen.has_message("done"));
    hub.wait(&run);
    hub.wait(&other);
    until("the end came", || seen.has_message("Process exited").then_some(()));
    let messages: Vec<_> =
        seen.0.lock().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert!(messages[0].starts_with("Starting process with command `sh -c printf"));
    assert_eq!(messages[1..], ["Password: ", "done", "Process exited with status 0"]);
}
