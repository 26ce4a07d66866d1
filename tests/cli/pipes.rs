//! Without a terminal: streams, statuses, signals, and what is found again afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use rustix::process::Signal;

use crate::home::{Home, eventually, finish, signal, status};

#[test]
fn streams_stay_apart_and_the_status_is_the_commands() {
    let home = Home::new();
    let ended = home.run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ended.status, ended.text().as_str()), (7, "out\n"), "{ended:?}");
    assert_eq!(ended.command_stderr(), ["err"]);
    let start = "Running sh -c echo out; echo err >&2; exit 7 on ⬢ blog... up, run.1";
    assert!(ended.stderr.starts_with(start), "{ended:?}");
    assert_eq!(home.run(&["run", "--", "sh", "-c", "kill -9 $$"]).status, 137);
    assert_eq!(home.run(&["run", "--", "no-such-command"]).status, 127);
    assert_eq!(home.run(&["run", "--", "/etc/passwd"]).status, 126);
    assert_eq!(home.run(&["run", "--timeout", "200ms", "--", "sleep", "600"]).status, 124);
    assert_eq!(home.run_with(&["run", "--", "wc", "-l"], b"a\nb\n").text().trim(), "2");
    assert_eq!(home.run_with(&["run", "-n", "--", "cat"], b"not read").text(), "");
}

#[test]
fn the_callers_surroundings_reach_the_command_but_not_its_secrets() {
    let home = Home::new();
    let mut command = home.command(&["run", "-e", "GIVEN=a b", "--", "sh", "-c", "pwd; echo $GIVEN $MINE; env"]);
    command.env("MINE", "mine").stdout(Stdio::piped()).stdin(Stdio::null());
    let ended = finish(command.spawn().expect("starts"));
    let folder = home.path().canonicalize().expect("a folder").display().to_string();
    assert!(ended.text().starts_with(&format!("{folder}\na b mine\n")), "{}", ended.text());
    assert!(!ended.text().contains("FOGHORN_TOKEN") && !ended.text().contains("FOGHORN_KEEP"), "{}", ended.text());
}

#[test]
fn many_bytes_pass_unchanged() {
    let home = Home::new();
    let bytes: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ended = home.run_with(&["run", "--", "cat"], &bytes);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stdout == bytes, "{} bytes came back", ended.stdout.len());
    // Nothing that the command prints makes the client look for more to send.
    let ended = home.run_with(&["run", "--", "wc", "-c"], &bytes);
    assert_eq!((ended.status, ended.text().trim()), (0, "20000000"), "{}", ended.stderr);
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let home = Home::new();
    let mut child = home.spawn(&["run", "--", "sh", "-c", "seq 1 100000000; sleep 600"]);
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut first).expect("reads");
    drop(stdout);
    assert_eq!((first.as_str(), status(&mut child)), ("1\n", 141));
    let end = eventually("the end", || home.session("run.1").exit_text);
    assert!(end.starts_with("stopped by"), "{end}");
}

#[test]
fn a_slow_reader_slows_the_command_down() {
    let home = Home::with_settings("[limits]\nspool = \"1 MiB\"\n");
    let mut child = home.spawn(&["run", "--", "sh", "-c", "seq 1 1000000; echo done > finished"]);
    let mut stdout = child.stdout.take().expect("piped");
    let mut bytes = vec![0; 100_000];
    stdout.read_exact(&mut bytes).expect("reads");
    // Nobody reads: the command must stop far from its end, and lose nothing of what its agent cannot keep.
    eventually("a paced command", || (home.session("run.1").viewers == Some(1)).then_some(()));
    assert!(!home.path().join("finished").exists());
    stdout.read_to_end(&mut bytes).expect("reads");
    let expected: String = (1..=1_000_000).map(|n| format!("{n}\n")).collect();
    assert!(bytes == expected.as_bytes(), "{} bytes", bytes.len());
    assert_eq!(status(&mut child), 0);
}

#[test]
fn a_detached_run_is_found_again_without_its_hub() {
    let home = Home::new();
    // The pipe of $(…) must not be held open by the hub or the command.
    let script = format!("x=$({} run -d -- sh -c 'seq 1 100000; sleep 1; exit 3'); echo $x", crate::home::FOGHORN);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).envs(home.env()).stdin(Stdio::null()).stdout(Stdio::piped());
    let id = finish(shell.spawn().expect("starts")).text().trim().to_owned();
    assert_eq!(id.len(), 36, "{id}");
    home.kill_hub();
    assert_eq!(home.run(&["wait", &id]).status, 3);
    assert_eq!(home.run(&["wait", &id]).status, 3);
    home.kill_hub();
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(home.run(&["logs", "-s", &id]).text() == expected);
    assert_eq!(home.run(&["logs", "-s", &id, "-n", "2"]).text(), "99999\n100000\n");
    let lines = home.run(&["logs", "-s", &id, "--grep", "^7777.$", "-o", "json"]).text();
    assert_eq!(lines.lines().count(), 10, "{lines}");
    let raw = home.path().join("raw");
    assert_eq!(home.run(&["export", &id, "--format", "raw", "-O", raw.to_str().expect("a path")]).status, 0);
    assert!(std::fs::read_to_string(raw).expect("reads") == expected);
    let cast = home.run(&["export", &id, "--format", "cast"]).text();
    let head: serde_json::Value = serde_json::from_str(cast.lines().next().expect("a head")).expect("json");
    assert_eq!(head["version"], 2);
    assert!(home.run(&["replay", &id, "--speed", "100"]).text() == expected);
    assert_eq!(home.run(&["rm", &id]).status, 0);
    assert_eq!(home.run(&["show", &id]).status, 1);
}

#[test]
fn signals_go_to_the_command_and_twice_stops_it() {
    let home = Home::new();
    for (script, signals, expected) in [
        ("trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done", 1, 5),
        ("trap 'echo got' INT; echo ready; while :; do sleep 0.05; done", 2, 143),
    ] {
        let mut child = home.spawn(&["run", "--", "sh", "-c", script]);
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        for _ in 0..signals {
            // It is ready, or has got the one before: two of a kind that come at once are one.
            let mut line = String::new();
            stdout.read_line(&mut line).expect("reads");
            signal(child.id(), Signal::INT);
        }
        assert_eq!(status(&mut child), expected, "{script}");
    }
}

#[test]
fn a_hub_inherits_nothing_of_its_starter() {
    let home = Home::new();
    let script = format!("exec 7>leak 12>leak2; exec {} run -- true", crate::home::FOGHORN);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).envs(home.env()).current_dir(home.path()).stdin(Stdio::null());
    assert_eq!(finish(shell.spawn().expect("starts")).status, 0);
    let pid = home.hub().expect("a hub").pid;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
    let open: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    assert!(!open.iter().any(|path| path.to_string_lossy().contains("leak")), "{open:?}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<_> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a folder").to_str(), Some("/"));
}

#[test]
fn a_ticket_lets_in_and_only_for_what_it_says() {
    let home = Home::new();
    let id = home.run(&["run", "-d", "--", "sh", "-c", "echo hello; sleep 600"]).text().trim().to_owned();
    let shared: serde_json::Value =
        serde_json::from_slice(&home.run(&["share", &id, "-o", "json"]).stdout).expect("json");
    let secret = shared["secret"].as_str().expect("a secret").to_owned();
    let with = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("FOGHORN_TOKEN", &secret).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().expect("starts"))
    };
    eventually("what it printed", || (with(&["logs", "-s", &id]).text() == "hello\n").then_some(()));
    let refused = with(&["stop", &id]);
    assert!(refused.status == 1 && refused.stderr.contains("[forbidden]"), "{refused:?}");
    let mut watch = home.spawn(&["watch", &id, "--ticket-file", "-"]);
    watch.stdin.take().expect("piped").write_all(format!("{secret}\n").as_bytes()).expect("writes");
    let mut stdout = BufReader::new(watch.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("reads");
    assert_eq!(line, "hello\n");
    assert_eq!(home.run(&["stop", "--wait", &id]).status, 0);
    assert_eq!(status(&mut watch), 0);
    assert_eq!(home.run(&["wait", &id]).status, 143);
}

#[test]
fn wrong_usage_is_told() {
    let home = Home::new();
    assert_eq!(home.run(&["run"]).status, 2);
    assert_eq!(home.run(&["run", "--timeout", "soon", "--", "true"]).status, 2);
    let mut open = home.command(&["sessions"]);
    open.env("FOGHORN_URL", "http://192.0.2.1").env("FOGHORN_TOKEN", "t").stderr(Stdio::piped());
    let open = finish(open.spawn().expect("starts"));
    assert!(open.status == 2 && open.stderr.contains("unencrypted"), "{open:?}");
    assert_eq!(home.run(&["server", "status"]).status, 1);
    assert_eq!(home.run(&["wait", "run.99"]).status, 125);
    assert_eq!(home.run(&["server", "status"]).status, 0);
    let mut other = home.command(&["sessions"]);
    other.env("FOGHORN_BACKEND", "kubernetes").stderr(Stdio::piped());
    let other = finish(other.spawn().expect("starts"));
    assert!(other.status == 2 && other.stderr.contains("backend"), "{other:?}");
}
