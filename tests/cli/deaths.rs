//! Hubs die; nobody notices more than a line.

use std::io::{BufRead, BufReader, Read, Write};

use crate::home::{Home, eventually, finish, status};
use crate::proxy::{Cut, Proxy, Target};
use crate::terminal::Terminal;

fn counted(to: usize) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

#[test]
fn every_line_comes_once_across_a_death() {
    let home = Home::new();
    let mut child = home.spawn(&["run", "--", "seq", "1", "200000"]);
    let mut stdout = child.stdout.take().expect("piped");
    let mut bytes = vec![0; 100_000];
    stdout.read_exact(&mut bytes).expect("reads");
    let mut watch = home.spawn(&["watch", "run.1"]);
    let mut seen = vec![0; 1000];
    let mut sees = watch.stdout.take().expect("piped");
    sees.read_exact(&mut seen).expect("reads");
    home.kill_hub();
    let watcher = std::thread::spawn(move || sees.read_to_end(&mut seen).map(|_| seen));
    stdout.read_to_end(&mut bytes).expect("reads");
    let ended = finish(child);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("reconnecting"), "{}", ended.stderr);
    let expected = counted(200_000);
    assert!(bytes == expected.as_bytes(), "{} bytes of {}", bytes.len(), expected.len());
    assert_eq!(status(&mut watch), 0);
    assert!(watcher.join().expect("joins").expect("reads") == expected.as_bytes());
    assert!(home.run(&["logs", "-s", "run.1"]).text() == expected);
}

#[test]
fn every_key_arrives_once_across_ten_deaths() {
    let home = Home::new();
    let mut child = home.spawn(&["run", "--", "cat"]);
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut got = String::new();
    for round in 0..10 {
        for line in 0..20 {
            writeln!(stdin, "round {round} line {line}").expect("writes");
        }
        stdout.read_line(&mut got).expect("reads");
        home.kill_hub();
        writeln!(stdin, "round {round} while away").expect("writes");
    }
    drop(stdin);
    stdout.read_to_string(&mut got).expect("reads");
    let ended = finish(child);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let round = |round| {
        let lines: String = (0..20).map(|line| format!("round {round} line {line}\n")).collect();
        format!("{lines}round {round} while away\n")
    };
    let expected: String = (0..10).map(round).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_terminal_goes_on_across_deaths() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &["run", "bash", "--norc", "--noprofile"], (100, 30));
    shell.sees("$ ");
    for round in 0..3 {
        let pid = home.kill_hub();
        shell.sees("reconnecting");
        shell.press(&format!("echo round''{round}\r"));
        shell.sees(&format!("round{round}\r\n"));
        let now = eventually("another hub", || home.hub().filter(|hub| hub.pid != pid));
        assert_ne!(now.pid, pid);
    }
    shell.press("stty size\r");
    shell.sees("30 100\r\n");
    shell.press("exit 8\r");
    assert_eq!(shell.ends(), 8);
    assert_eq!(shell.shown().matches("round1\r\n").count(), 1, "{:?}", shell.shown());
}

#[test]
fn a_full_screen_is_drawn_again_after_a_death() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &["run", "bash", "--norc", "--noprofile"], (60, 12));
    shell.sees("$ ");
    shell.press("printf '\\033[?1049h\\033[2J\\033[5;5Hfu%s' ll; read x; printf '\\033[?1049l'\r");
    shell.sees("\x1b[5;5Hfull");
    home.kill_hub();
    shell.sees("reconnecting");
    shell.sees("\x1b[2J");
    shell.sees("full");
    shell.press("\r");
    shell.press("exit 2\r");
    assert_eq!(shell.ends(), 2);
}

#[test]
fn a_terminal_goes_on_over_a_network_that_is_cut() {
    // The hub is this user's own, and reached through the proxy as one elsewhere, by a token that outlives it.
    let tokens = tempfile::NamedTempFile::new().expect("a file");
    let token = "a-token-of-anns-0123456789";
    let entry = format!("[[token]]\nname = \"ann\"\nrole = \"user\"\ntoken = \"{token}\"\n");
    std::fs::write(tokens.path(), entry).expect("writes");
    let home = Home::with_settings(&format!("tokens = \"{}\"\n", tokens.path().display()));
    assert_eq!(home.run(&["run", "true"]).status, 0);
    let file = home.path().join("hub.json");
    let proxy = Proxy::start(move || {
        let hub: foghorn::protocol::HubFile = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        Some(Target::Tcp(hub.url.strip_prefix("http://")?.parse().ok()?))
    });
    let env = [("FOGHORN_URL", &proxy.url()[..]), ("FOGHORN_TOKEN", token)];
    let args = ["run", "-e", "PS1=$ ", "-e", "PATH=/usr/bin:/bin", "--", "bash", "--norc", "--noprofile"];
    let mut shell = Terminal::start_with(&home, &args, (100, 30), &env);
    shell.sees("up, run.2");
    shell.press("PS1='$ '\r");
    shell.sees("$ ");
    let cuts = [Cut::Reset, Cut::Fin, Cut::Within(3)];
    for round in 0..24 {
        shell.press(&format!("echo k''{round}\r"));
        match round % 8 {
            7 => {
                home.kill_hub();
                // With a hub elsewhere the client starts none; another command does.
                assert_eq!(home.run(&["sessions"]).status, 0);
            }
            _ => drop(proxy.cut(cuts[round % 3])),
        }
        shell.press(&format!("echo l''{round}\r"));
        shell.sees(&format!("k{round}\r\n"));
        shell.sees(&format!("l{round}\r\n"));
    }
    shell.press("exit 8\r");
    assert_eq!(shell.ends(), 8);
    let shown = shell.shown();
    // What is typed stands there with quotes, and before what the line before it prints, where bash is not back yet.
    for line in (0..24).flat_map(|round| [format!("k{round}\r\n"), format!("l{round}\r\n")]) {
        assert_eq!(shown.matches(&line).count(), 1, "{line:?} in {shown:?}");
    }
}
