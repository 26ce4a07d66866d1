//! What is found again: replays with their timing, recordings that other players take, and long outputs.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::home::{Home, processes, status};
use crate::terminal::Terminal;

#[test]
fn a_replay_takes_as_long_as_it_took() {
    let home = Home::new();
    assert_eq!(home.run(&["run", "--", "sh", "-c", "echo one; sleep 2; echo two >&2; sleep 1; echo three"]).status, 0);
    for (speed, least, most) in [("1", 2900, 6000), ("3", 900, 2500)] {
        let mut times = Vec::new();
        // It is never faster; a machine that stalls makes one slower, not each.
        while times.last().is_none_or(|took| *took >= Duration::from_millis(most)) {
            assert!(times.len() < 5, "{speed}: {times:?}");
            let since = Instant::now();
            let replay = home.run(&["replay", "run.1", "--speed", speed]);
            times.push(since.elapsed());
            assert_eq!(replay.status, 0, "{replay:?}");
            let text = replay.text() + &replay.stderr;
            assert!(["one", "two", "three"].iter().all(|word| text.contains(word)), "{text}");
            assert!(since.elapsed() >= Duration::from_millis(least), "{speed}: {times:?}");
        }
    }
}

#[test]
fn asciinema_takes_the_recording() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &["run", "bash", "--norc", "--noprofile"], (90, 25));
    shell.sees("$ ");
    shell.press("printf '\\e[31mr\u{e9}d \u{65e5}\u{672c}\\e[m\\n'\r");
    shell.sees("\u{672c}\x1b[m\r\n");
    shell.press("exit\r");
    assert_eq!(shell.ends(), 0);
    let file = home.path().join("run.cast");
    let path = file.to_str().expect("a path");
    assert_eq!(home.run(&["export", "run.1", "--format", "cast", "-O", path]).status, 0);
    let raw = home.run(&["export", "run.1", "--format", "raw"]).stdout;
    let text = home.run(&["export", "run.1", "--format", "text"]).text();
    assert!(text.contains("r\u{e9}d \u{65e5}\u{672c}\n") && !text.contains('\x1b'), "{text:?}");
    let cast = std::fs::read_to_string(&file).expect("reads");
    let head: serde_json::Value = serde_json::from_str(cast.lines().next().expect("a header")).expect("JSON");
    assert_eq!((&head["width"], &head["height"]), (&90.into(), &25.into()));
    if Command::new("asciinema").arg("--version").output().is_err() {
        let required = std::env::var("FOGHORN_TEST_REQUIRE_PROGRAMS").as_deref() == Ok("1");
        assert!(!required, "there is no asciinema");
        eprintln!("SKIPPED: there is no asciinema");
        return;
    }
    // The player wants a terminal; a session has one.
    let player = home.run(&["run", "-t", "-e", "LC_ALL=C.UTF-8", "--", "sh", "-c", "asciinema cat run.cast > played"]);
    assert_eq!(player.status, 0, "{player:?}");
    assert!(std::fs::read(home.path().join("played")).expect("reads") == raw, "it plays the session's output");
}

/// The memory of a process that is resident, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

#[test]
fn a_long_output_into_a_slow_reader_takes_little_memory() {
    const BYTES: usize = 400_000_000;
    const RATE: usize = 20_000_000;
    const MOST: u64 = 150 << 20;
    let home = Home::new();
    let script = format!("seq 1 100000000 | head -c {BYTES}");
    let mut child = home.spawn(&["run", "--", "sh", "-c", &script]);
    let mut stdout = child.stdout.take().expect("piped");
    let (mut hash, mut read, mut most) = (Sha256::new(), 0, 0);
    let mut piece = vec![0; 256 << 10];
    let since = Instant::now();
    loop {
        let len = stdout.read(&mut piece).expect("reads");
        if len == 0 {
            break;
        }
        hash.update(&piece[..len]);
        read += len;
        if read % (RATE / 2) < len {
            let agents = processes(&format!("{}/agents", home.path().display()));
            let hub = home.hub().expect("a hub").pid;
            most = agents.iter().chain([&hub, &child.id()]).map(|pid| resident(*pid)).fold(most, u64::max);
        }
        // This reader's speed is what the test is about.
        let due = Duration::from_secs_f64(read as f64 / RATE as f64);
        std::thread::sleep(due.saturating_sub(since.elapsed()));
    }
    assert_eq!(read, BYTES);
    assert_eq!(status(&mut child), 0);
    let mut expected = Sha256::new();
    let mut seq = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdout = seq.stdout.take().expect("piped");
    while let Ok(len @ 1..) = stdout.read(&mut piece) {
        expected.update(&piece[..len]);
    }
    assert!(seq.wait().expect("waits").success());
    assert!(hash.finalize() == expected.finalize(), "the same bytes");
    assert!(most < MOST, "{most} bytes resident in one process");
}

#[test]
fn an_apps_log_has_its_sessions_and_its_files() {
    let home = Home::new();
    let file = home.path().join("web.1.log");
    let settings = format!("[apps.blog]\nlogs = [\"{}/*.log\"]\n", home.path().display());
    std::fs::write(home.path().join("foghorn.toml"), settings).expect("writes");
    std::fs::write(&file, "2026-11-22T10:00:00.5Z from a file\n").expect("writes");
    assert_eq!(home.run(&["run", "--", "sh", "-c", "echo from a run; echo apart >&2"]).status, 0);
    let log = home.run(&["logs", "-n", "20"]).text();
    assert!(log.starts_with("2026-11-22T10:00:00.500000+00:00 app[web.1]: "), "{log}");
    for line in ["app[run.1]: from a run\n", "app[run.1]: apart\n", "foghorn[run.1]: Process exited with status 0\n"] {
        assert!(log.contains(line), "{line} in {log}");
    }
    assert_eq!(home.run(&["logs", "--ps", "web"]).text().lines().count(), 1);
    let found = home.run(&["logs", "--grep", "^apart$", "-o", "json"]).text();
    let line: serde_json::Value = serde_json::from_str(&found).expect("one line of JSON");
    assert_eq!(
        (&line["process"], &line["stream"], &line["message"]),
        (&"run.1".into(), &"stderr".into(), &"apart".into())
    );
    // Followed, it has what is written and started from now on.
    let mut follow = home.spawn(&["logs", "-f", "-n", "1"]);
    let mut lines = std::io::BufReader::new(follow.stdout.take().expect("piped"));
    let mut text = String::new();
    std::io::BufRead::read_line(&mut lines, &mut text).expect("reads");
    std::fs::write(&file, "2026-11-22T10:00:00.5Z from a file\nlater\n").expect("writes");
    assert_eq!(home.run(&["run", "--", "echo", "another"]).status, 0);
    while !(text.contains("app[web.1]: later\n") && text.contains("app[run.2]: another\n")) {
        assert_ne!(std::io::BufRead::read_line(&mut lines, &mut text).expect("reads"), 0, "{text}");
    }
    follow.kill().expect("kills");
    follow.wait().expect("waits");
}
