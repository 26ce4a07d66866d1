//! At a terminal: prompts, sizes, keys, watchers, and the terminal as it was afterwards.

use rustix::process::Signal;

use crate::home::{Home, eventually, signal};
use crate::terminal::Terminal;

const SHELL: [&str; 4] = ["run", "bash", "--norc", "--noprofile"];

#[test]
fn a_shell_is_as_one_knows_it() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &SHELL, (100, 30));
    shell.sees("up, run.1");
    shell.sees("$ ");
    shell.press("stty size\r");
    shell.sees("30 100\r\n");
    shell.resize(120, 40);
    shell.press("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo re''sized\r");
    shell.sees("resized");
    shell.press("echo start''ed; sleep 600\r");
    shell.sees("started");
    shell.press("\x03");
    shell.press("echo st=$?\r");
    shell.sees("st=130");
    shell.press("echo $TERM\r");
    shell.sees("xterm-256color");
    // What says so is in the foreground then.
    shell.press("sh -c 'echo sl\"\"ow; exec sleep 600'\r");
    shell.sees("slow");
    shell.press("\x1a");
    shell.sees("Stopped");
    shell.sees("$ ");
    // What it leaves stopped ends with the session.
    shell.press("exec sh -c 'exit 9'\r");
    assert_eq!(shell.ends(), 9);
}

#[test]
fn a_session_that_was_left_is_come_back_to() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &SHELL, (100, 30));
    shell.sees("$ ");
    shell.press("echo be''fore\r");
    shell.sees("before");
    shell.press("\x10\x11");
    assert_eq!(shell.ends(), 125);
    shell.sees("left run.1, which goes on");
    let mut back = Terminal::start(&home, &["attach", "run.1", "--detach-keys", "none"], (90, 20));
    back.sees("before");
    back.press("\x15");
    back.press("until [ \"$(stty size)\" = '20 90' ]; do :; done; echo af''ter\r");
    back.sees("after");
    back.press("exit 4\r");
    assert_eq!(back.ends(), 4);
}

#[test]
fn all_see_the_same_and_one_types() {
    let home = Home::new();
    let mut driver = Terminal::start(&home, &SHELL, (100, 30));
    driver.sees("$ ");
    let mut same = Terminal::start(&home, &["watch", "run.1"], (100, 30));
    let mut small = Terminal::start(&home, &["watch", "run.1"], (60, 10));
    same.sees("$ ");
    small.sees("$ ");
    driver.press("printf 'wo%s\\033]0;ti%s\\007\\033[6n\\n' rd tle\r");
    driver.sees("word\x1b]0;title\x07\x1b[6n");
    same.sees("word\r\n");
    small.sees("word");
    same.press("echo no\r");
    driver.press("stty size; echo st''ill\r");
    driver.sees("30 100");
    driver.sees("still");
    same.sees("still");
    assert!(!same.shown().contains("title") && !same.shown().contains("\x1b[6n"), "{:?}", same.shown());
    assert!(!driver.shown().contains("echo no"));
    small.press("q");
    assert_eq!(small.ends(), 0);
    let mut taker = Terminal::start(&home, &["attach", "--take", "run.1"], (90, 20));
    taker.sees("still");
    driver.sees("has taken over");
    taker.press("\x15echo tak''en; stty size\r");
    taker.sees("taken\r\n20 90");
    driver.sees("taken");
    driver.press("echo no\r");
    taker.press("exit 6\r");
    assert_eq!(taker.ends(), 6);
    assert_eq!(driver.ends(), 6);
    assert!(!taker.shown().contains("echo no"));
    assert_eq!(same.ends(), 0);
}

#[test]
fn the_terminal_is_restored_when_the_client_is_told_to_end() {
    let home = Home::with_settings("[limits]\ngrace = \"3s\"\nhup_wait = \"200ms\"\nterm_wait = \"200ms\"\n");
    let mut shell = Terminal::start(&home, &SHELL, (100, 30));
    shell.sees("$ ");
    shell.press("printf '\\033[?1049h\\033[?25lfull'; (trap '' HUP TERM; setsid sleep 600) & read x\r");
    shell.sees("\x1b[?1049h");
    assert!(!shell.is_as_before());
    signal(shell.child.id(), Signal::TERM);
    assert_eq!(shell.ends(), 143);
    shell.sees("\x1b[?25h");
    shell.sees("\x1b[?1049l");
    // Its client vanished: after the grace it is ended, with all that it started.
    let end = eventually("the end", || home.session("run.1").exit_text);
    assert!(end.starts_with("stopped by"), "{end}");
}

#[test]
fn a_kept_session_outlives_its_client() {
    let home = Home::with_settings("[limits]\ngrace = \"3s\"\nhup_wait = \"200ms\"\nterm_wait = \"200ms\"\n");
    let mut kept = Terminal::start(&home, &["run", "--keep", "bash", "--norc", "--noprofile"], (100, 30));
    kept.sees("$ ");
    signal(kept.child.id(), Signal::KILL);
    let mut lost = Terminal::start(&home, &SHELL, (100, 30));
    lost.sees("$ ");
    signal(lost.child.id(), Signal::KILL);
    eventually("the end of the one that is not kept", || home.session("run.2").exit_text);
    assert_eq!(home.session("run.1").exit_text, None);
    let mut back = Terminal::start(&home, &["attach", "run.1"], (100, 30));
    back.sees("$ ");
    back.press("exit 3\r");
    assert_eq!(back.ends(), 3);
}

#[test]
fn an_editor_and_a_pager_are_usable() {
    let home = Home::new();
    let file = home.path().join("text");
    std::fs::write(&file, (1..=200).map(|n| format!("line {n}\n")).collect::<String>()).expect("writes");
    let args = ["run", "-e", "LC_ALL=C.UTF-8", "--", "vim", "-u", "NONE", "-i", "NONE", "-n", "text"];
    let mut vim = Terminal::start(&home, &args, (80, 24));
    vim.sees("line 23");
    vim.resize(100, 30);
    // The rows that the larger window has more.
    vim.sees("line 28");
    vim.press("Goadd\u{e9}d\x1b:2d\r:wq\r");
    assert_eq!(vim.ends(), 0);
    let text = std::fs::read_to_string(&file).expect("reads");
    assert!(text.starts_with("line 1\nline 3\n") && text.ends_with("line 200\nadd\u{e9}d\n"), "{text}");
    let mut less = Terminal::start(&home, &["run", "-e", "LESSHISTFILE=-", "--", "less", "text"], (80, 24));
    less.sees("line 23");
    less.press("/line 150\r");
    less.sees("line 150");
    less.press("q");
    assert_eq!(less.ends(), 0);
}

#[test]
fn the_terminal_is_restored_when_the_hub_is_lost_for_good() {
    let home = Home::new();
    let mut shell = Terminal::start_with(&home, &SHELL, (100, 30), &[("FOGHORN_RECONNECT_LIMIT", "500ms")]);
    shell.sees("$ ");
    shell.press("printf '\\033[?2004hraw'\r");
    shell.sees("\x1b[?2004h");
    // No other hub can be started either.
    std::fs::write(home.path().join("foghorn.toml"), "nonsense = 1\n").expect("writes");
    home.kill_hub();
    assert_eq!(shell.ends(), 125);
    assert!(shell.shown().contains("foghorn: "), "{:?}", shell.shown());
    std::fs::write(home.path().join("foghorn.toml"), "").expect("writes");
    assert_eq!(home.run(&["stop", "--wait", "run.1"]).status, 0);
}

#[test]
fn who_is_idle_is_warned_and_a_key_goes_on() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &["run", "--idle", "12s", "--", "cat"], (100, 30));
    shell.sees("up, run.1");
    shell.sees("foghorn: run.1 is idle and ends in ");
    shell.sees("press a key to go on");
    shell.press("here\r");
    shell.sees("here\r\nhere\r\n");
    // And where a program has the whole screen, until a key is pressed.
    shell.press("\x1b[?1049h\r");
    shell.sees("\x1b[?1049h");
    shell.sees("foghorn: run.1 is idle and ends in ");
    shell.press("\r");
    shell.sees("\x1b[2J");
    shell.sees("foghorn: run.1 is idle and ends in ");
    assert_eq!(shell.ends(), 129);
    shell.sees("run.1 ended: idle for too long");
    let shown = home.run(&["logs", "-s", "run.1"]).text();
    assert!(shown.contains("here") && !shown.contains("idle"), "the warning is not the command's: {shown:?}");
}
