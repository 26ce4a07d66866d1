//! The log of an app, against a real hub, with real runs and real files.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[path = "logs/bed.rs"]
mod bed;
#[path = "logs/files.rs"]
mod files;
mod support;

use std::thread::JoinHandle;
use std::time::Duration;

use bed::{JSON, Seen, Writer, all, append, bed, counting, get, pid, start};
use serde_json::{Value, json};
use support::answer::Answer;
use support::server::{Server, tokens, until};

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_a_rotated_file_are_merged_each_line_once_and_in_order() {
    let (folder, mut server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "before\n");
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let one = start(&mut server, "blog", &counting("one", 300)).await;
    let two = start(&mut server, "blog", &format!("{} >&2", counting("two", 300))).await;
    let runs = [one, two];

    let writer = Writer::start(path.clone(), 1);
    until("some lines came", async || (seen.highest("file") > 60).then_some(())).await;
    std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
    until("more lines came", async || (seen.highest("file") > 130).then_some(())).await;
    std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
    until("more lines came", async || (seen.highest("file") > 200).then_some(())).await;
    // What was not read before a file is emptied is lost by its nature: the writer waits for that moment.
    let last = writer.stop();
    until("all lines came", async || (seen.highest("file") == last).then_some(())).await;
    std::fs::copy(&path, folder.path().join("web.log.2")).unwrap();
    std::fs::write(&path, "").unwrap();
    let writer = Writer::start(path.clone(), last + 1);
    until("lines behind the truncation came", async || (seen.highest("file") > last + 60).then_some(())).await;
    let last = writer.stop();

    for run in &runs {
        server.ended(run).await;
    }
    until("all came", async || (seen.highest("file") == last).then_some(())).await;
    for run in &runs {
        let ends = |line: &Value| line["process"] == **run && line["message"] == "Process exited with status 0";
        until("the end came", async || seen.0.lock().unwrap().iter().any(ends).then_some(())).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn followers_share_one_reader_a_file_and_end_with_the_hub() {
    let (folder, mut server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "file 1\n");
    let followers: Vec<(Seen, JoinHandle<()>)> = (0..5)
        .map(|_| {
            let seen = Seen::default();
            let thread = seen.follow(get(&server, "follow=true&tail=10"));
            (seen, thread)
        })
        .collect();
    append(&path, "file 2\n");
    for (seen, _) in &followers {
        until("both lines came", async || (seen.highest("file") == 2).then_some(())).await;
        seen.assert_counted(&[("file", 2)]);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid(&server))).unwrap().flatten();
    let ours = open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path));
    assert_eq!(ours.count(), 1);
    server.terminate().await;
    followers.into_iter().for_each(|(_, thread)| thread.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_with_another_hub() {
    let (folder, mut server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "an old line\n");
    let seen = Seen::default();
    let thread = seen.follow(get(&server, "follow=true"));
    let run = start(&mut server, "blog", &counting("one", 700)).await;
    let short = start(&mut server, "blog", "echo short 1").await;
    let writer = Writer::start(path.clone(), 1);
    until("lines of all came", async || {
        (seen.highest("file") > 50 && seen.highest("one") > 50 && seen.highest("short") == 1).then_some(())
    })
    .await;
    server.ended(&short).await;
    until("the end came", async || seen.has_message("Process exited").then_some(())).await;

    for round in 0..2 {
        server.kill();
        // Rotated while no hub is there; the writer goes on in a new file.
        if round == 0 {
            std::fs::rename(&path, folder.path().join("web.log.1")).unwrap();
        }
        let (from, at) = (seen.resume(), seen.highest("file"));
        std::thread::sleep(Duration::from_millis(200));
        server.again().await;
        seen.follow(get(&server, &format!("follow=true&from={from}")));
        until("lines of both came", async || (seen.highest("file") > at + 60).then_some(())).await;
    }
    thread.join().unwrap();
    let last = writer.stop();
    server.ended(&run).await;
    until("all came", async || (seen.highest("file") == last && seen.highest("one") == 700).then_some(())).await;
    until("the end came", async || {
        let ends = |line: &&Value| line["process"] == *run && line["message"] == "Process exited with status 0";
        (seen.0.lock().unwrap().iter().filter(ends).count() == 1).then_some(())
    })
    .await;
    seen.assert_counted(&[("one", 700), ("file", last), ("short", 1)]);
    let lines = seen.0.lock().unwrap();
    let count =
        |message: &str| lines.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)).count();
    assert_eq!((count("Starting process"), count("Process exited"), count("an old line")), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_are_chosen_by_number_time_process_and_pattern() {
    let (folder, mut server) = bed().await;
    append(&folder.path().join("web.log"), "2026-01-01T00:00:01Z first\n2026-01-01T00:00:03Z third\nits detail\n");
    append(&folder.path().join("worker.log"), "2026-01-01T00:00:02Z second\n2026-01-01T00:00:04Z fourth\n");
    let numbers: String = (1..=50_000).map(|number| format!("2026-01-01T00:00:05Z number {number}\n")).collect();
    append(&folder.path().join("many.log"), &numbers);
    let run = start(&mut server, "blog", "for i in 1 2 3; do echo out $i; done; printf 'no end' >&2; exit 4").await;
    server.ended(&run).await;
    let hub_lines = [format!("{run}: out 3"), format!("{run}: no end"), format!("{run}: Process exited with status 4")];

    assert_eq!(all(get(&server, "tail=3")), hub_lines);
    assert_eq!(all(get(&server, "")).len(), 100);
    assert_eq!(all(get(&server, "tail=0")), [""; 0]);
    let process: Vec<_> =
        all(get(&server, "process=web")).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(process, ["first", "third", "detail"]);
    assert_eq!(all(get(&server, "process=run&grep=^out")).len(), 3);
    assert_eq!(all(get(&server, &format!("process={run}&tail=1"))), [hub_lines[2].clone()]);
    let merged = all(get(&server, "since=2026-01-01T00:00:02Z&grep=(first|second|third|fourth|detail)"));
    let words: Vec<_> = merged.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["second", "third", "detail", "fourth"]);
    assert_eq!(all(get(&server, "since=1h")).len(), 6);
    let found = all(get(&server, "tail=2&grep=number.[1-3]$"));
    assert_eq!(found, ["many: 2026-01-01T00:00:05Z number 2", "many: 2026-01-01T00:00:05Z number 3"]);
    assert_eq!(all(get(&server, "process=many&since=2026-01-01T00:00:05Z")).len(), 50_000);

    for query in ["grep=(", "since=soon", "from=AAAA", "tail=many"] {
        let answer = get(&server, query);
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("invalid_request"));
    }
    let text = Answer::get(&server, "/v1/apps/blog/logs?tail=2", &[]).text();
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines, [format!("app[{run}]: no end"), format!("foghorn[{run}]: Process exited with status 4")]);
    let events = Answer::get(&server, "/v1/apps/blog/logs?tail=1", &[("accept", "text/event-stream")]).text();
    assert!(
        events.starts_with("id: ") && events.contains("\ndata: {\"time\":") && events.ends_with("\n\n"),
        "{events}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_a_backfill_can_be_resumed_behind() {
    let (folder, mut server) = bed().await;
    append(&folder.path().join("web.log"), "file 1\nfile 2\nfile 3\n");
    for name in ["one", "two"] {
        let run = start(&mut server, "blog", &format!("for i in 1 2 3; do echo {name} $i; done")).await;
        server.ended(&run).await;
    }
    // A log hears of a run's end a moment after the run's own session.
    until("all is there", async || (all(get(&server, "tail=100")).len() == 13).then_some(())).await;
    let mut answer = get(&server, "tail=100");
    let lines: Vec<Value> = std::iter::from_fn(|| answer.object()).collect();
    assert_eq!(lines.len(), 13, "{lines:#?}");
    let message =
        |line: &Value| format!("{}: {}", line["process"].as_str().unwrap(), line["message"].as_str().unwrap());
    for (at, line) in lines.iter().enumerate() {
        let rest = all(get(&server, &format!("from={}", line["resume"].as_str().unwrap())));
        assert_eq!(rest, lines[at + 1..].iter().map(message).collect::<Vec<_>>(), "behind {}", message(line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_starts_later_is_followed_and_a_prompt_does_not_wait_for_its_end() {
    let (_folder, mut server) = bed().await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let other = start(&mut server, "shop", "echo not of this app").await;
    let run = start(&mut server, "blog", "printf 'Password: '; sleep 3; echo; echo done").await;
    until("the prompt came", async || seen.has_message("Password: ").then_some(())).await;
    assert!(!seen.has_message("done"));
    server.ended(&run).await;
    server.ended(&other).await;
    until("the end came", async || seen.has_message("Process exited").then_some(())).await;
    let messages: Vec<_> =
        seen.0.lock().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert!(messages[0].starts_with("nothing of that name yet; waiting"));
    assert!(messages[1].starts_with("Starting process with command `sh -c printf"));
    assert_eq!(messages[2..], ["Password: ", "done", "Process exited with status 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stalls_holds_up_nobody_and_is_told_what_it_missed() {
    let (folder, mut server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "");
    let mut stalled = get(&server, "follow=true");
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let filler = "x".repeat(200);
    let total = 100_000;
    for from in (0..total).step_by(1000) {
        let lines: String = (from + 1..=from + 1000).map(|number| format!("file {number} {filler}\n")).collect();
        append(&path, &lines);
        // As fast as the one goes who reads; the other one reads nothing.
        let last = format!("file {} ", from + 1000);
        until("the reader came after", async || {
            let lines = seen.0.lock().unwrap();
            lines.last().filter(|line| line["message"].as_str().unwrap().starts_with(&last)).map(|_| ())
        })
        .await;
    }
    assert_eq!(seen.0.lock().unwrap().len(), total);
    assert!(seen.0.lock().unwrap().iter().all(|line| line["stream"] == "stdout"));

    let number = |line: &Value| line["message"].as_str().unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap();
    let (mut next, mut holes) = (1, 0);
    while next <= total {
        let line = stalled.object().unwrap();
        if line["stream"] == "hub" {
            let message = line["message"].as_str().unwrap();
            let lost: usize = message.split(' ').next().unwrap().parse().unwrap();
            assert!(message.ends_with("lines were left out: this reader was slower than the log"), "{message}");
            // Who goes on behind the line before gets them.
            let missed = get(&server, &format!("from={}", line["resume"].as_str().unwrap())).object().unwrap();
            assert_eq!(number(&missed), next);
            (next, holes) = (next + lost, holes + 1);
            continue;
        }
        assert_eq!(number(&line), next);
        next += 1;
    }
    assert!(holes > 0);

    // Nor does one who never reads hold up the hub's end.
    let _never_reads = get(&server, "follow=true&since=1h");
    server.terminate().await;
    assert!(!server.log().contains("did not stop in time"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_while_lines_come_has_each_line_once() {
    let (folder, mut server) = bed().await;
    let run = start(&mut server, "blog", &counting("one", 250)).await;
    let writer = Writer::start(folder.path().join("web.log"), 1);
    let mut followers = Vec::new();
    for joins in 1..=12 {
        let seen = Seen::default();
        seen.follow(get(&server, "follow=true&tail=10000"));
        until("some lines came", async || (seen.highest("file") > 15 * joins).then_some(())).await;
        followers.push(seen);
    }
    let last = writer.stop();
    server.ended(&run).await;
    for seen in &followers {
        until("all came", async || (seen.highest("file") == last && seen.highest("one") == 250).then_some(())).await;
        seen.assert_counted(&[("one", 250), ("file", last)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_log_may_and_it_is_audited() {
    let folder = tempfile::tempdir().unwrap();
    let (watcher, controller) = ("watcher-0123456789", "controller-0123456789");
    let file = tokens(folder.path(), &[("wanda", "watcher", watcher), ("carl", "controller", controller)]);
    let server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().unwrap())]).await;
    let path = "/v1/apps/blog/logs?tail=1";
    assert_eq!(server.ask_as(watcher, "GET", path, None).await.0, 200);
    let (status, problem) = server.ask_as(controller, "GET", path, None).await;
    assert_eq!((status, &problem["code"]), (403, &Value::from("forbidden")));
    assert_eq!(server.ask_as("nobody", "GET", path, None).await.0, 401);
    let audit = until("the trail is written", async || {
        let (_, audit) = server.ask("GET", "/v1/audit", None).await;
        (audit["lines"].as_array().unwrap().len() >= 2).then_some(audit)
    })
    .await;
    let lines = audit["lines"].as_array().unwrap().iter().filter(|line| line["action"] == "logs");
    let lines: Vec<_> = lines.map(|line| (&line["actor"], &line["outcome"], &line["detail"])).collect();
    let text = |text: &str| Value::from(text);
    assert_eq!(
        lines,
        [(&text("carl"), &text("forbidden"), &text("blog")), (&text("wanda"), &text("ok"), &text("blog")),]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_terminals_output_text_and_colours_are_shown() {
    let (_folder, mut server) = bed().await;
    let script = r"printf '\033[?2004h\033[31mred\033[0m\033[K text\r\n10%%\r100%%\r\n'";
    let run = json!({"app": "blog", "tty": true, "detached": true, "dir": "/"});
    let run = server.run(&["sh", "-c", script], run).await;
    let name = run["name"].as_str().unwrap();
    server.ended(name).await;
    let lines = all(get(&server, "tail=3"));
    let expected = ["\u{1b}[31mred\u{1b}[0m text", "100%", "Process exited with status 0"];
    assert_eq!(lines, expected.map(|line| format!("{name}: {line}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_was_started_with_is_for_those_who_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, other) = ("owner-0123456789", "watcher-0123456789");
    let file = tokens(folder.path(), &[("olga", "user", owner), ("wanda", "watcher", other)]);
    let server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().unwrap())]).await;
    let followed = |token: &str, query: &str| {
        let seen = Seen::default();
        seen.follow(Answer::get_as(&server, token, &format!("/v1/apps/blog/logs?follow=true{query}"), &[JSON]));
        seen
    };
    let (whole, part) = (followed(owner, ""), followed(other, ""));
    let guess = followed(other, "&grep=s3cret|last%20one");
    let long = format!("/{}", "x".repeat(100));
    let commands = [vec!["true", "--password=s3cret"], vec![&long], vec!["sh /s3cret"], vec!["echo", "the last one"]];
    for (command, lines) in commands.into_iter().zip([3, 5, 7, 10]) {
        let run = json!({"kind": "run", "app": "blog", "command": command, "detached": true});
        let (status, run) = server.ask_as(owner, "POST", "/v1/sessions", Some(json!({"source": run}))).await;
        assert_eq!(status, 201, "{run}");
        server.ended(run["id"].as_str().unwrap()).await;
        // Lines of several sessions come in the order in which they are read.
        until("its lines came", async || (whole.messages().len() >= lines).then_some(())).await;
    }
    let all = [
        "Starting process with command `true --password=s3cret`".to_owned(),
        "Process exited with status 0".to_owned(),
        format!("Starting process with command `{long}`"),
        format!("Process could not be started: {long}: command not found"),
        "Starting process with command `sh /s3cret`".to_owned(),
        "Process could not be started: sh /s3cret: command not found".to_owned(),
        "Starting process with command `echo the last one`".to_owned(),
        "the last one".to_owned(),
        "Process exited with status 0".to_owned(),
    ];
    let mut others = all.clone();
    others[0] = "Starting process with command `true …`".to_owned();
    others[2] = format!("Starting process with command `{} …`", &long[..64]);
    others[3] = "Process could not be started".to_owned();
    others[4] = "Starting process with command `sh …`".to_owned();
    others[5] = "Process could not be started".to_owned();
    others[6] = "Starting process with command `echo …`".to_owned();
    for (seen, expected) in [(whole, &all), (part, &others)] {
        // The first one says that there was nothing yet.
        until("all came", async || (seen.messages().len() == expected.len() + 1).then_some(())).await;
        assert_eq!(&seen.messages()[1..], expected);
    }
    // What may not be seen cannot be guessed.
    until("its output came", async || guess.has_message("the last one").then_some(())).await;
    assert_eq!(guess.messages()[1..], ["the last one"]);
    for (token, expected) in [(owner, &all), (other, &others), (&*server.token(), &all)] {
        for query in ["tail=100", "since=1h"] {
            let path = format!("/v1/apps/blog/logs?{query}");
            let mut answer = Answer::get_as(&server, token, &path, &[JSON]);
            let told = std::iter::from_fn(|| answer.object()).map(|line| line["message"].as_str().unwrap().to_owned());
            assert_eq!(&told.collect::<Vec<_>>(), expected, "{query}");
        }
    }
    let path = "/v1/apps/blog/logs?grep=s3cret";
    assert!(server.bytes_as(other, "GET", path, None).await.1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_terminal_showed_is_for_those_who_see_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, other) = ("owner-0123456789", "watcher-0123456789");
    let file = tokens(folder.path(), &[("olga", "user", owner), ("wanda", "watcher", other)]);
    let server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().unwrap())]).await;
    let followed = |token: &str| {
        let path = "/v1/apps/blog/logs?follow=true";
        let seen = Seen::default();
        seen.follow(Answer::get_as(&server, token, path, &[JSON]));
        seen
    };
    let live = [owner, other, &*server.token()].map(followed);
    for (tty, script) in [(true, "echo of a terminal; exit 3"), (false, "echo of none; exit 4")] {
        let run = json!({"kind": "run", "app": "blog", "command": ["sh", "-c", script], "tty": tty, "detached": true});
        let (status, run) = server.ask_as(owner, "POST", "/v1/sessions", Some(json!({"source": run}))).await;
        assert_eq!(status, 201, "{run}");
        server.ended(run["id"].as_str().unwrap()).await;
    }
    let terminals = [true, false, true];
    for (seen, sees) in live.iter().zip(terminals) {
        until("both came", async || seen.has_message("Process exited with status 4").then_some(())).await;
        assert!(seen.has_message("of none") && seen.has_message("Process exited with status 3"));
        assert_eq!(seen.has_message("of a terminal"), sees);
    }
    for (token, sees) in [owner, other, &*server.token()].into_iter().zip(terminals) {
        for query in ["tail=100", "since=1h"] {
            let path = format!("/v1/apps/blog/logs?{query}");
            let (status, log) = server.bytes_as(token, "GET", &path, None).await;
            let log = String::from_utf8_lossy(&log).into_owned();
            assert!(status == 200 && log.contains(": of none"), "{log}");
            assert_eq!(log.contains(": of a terminal"), sees, "{log}");
        }
    }
}
