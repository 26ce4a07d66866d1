//! A client that runs in a session, and would be shown what it prints.

use crate::home::{FOGHORN, Home, eventually};
use crate::terminal::Terminal;

const SHELL: [&str; 4] = ["run", "bash", "--norc", "--noprofile"];

/// Another session's line is shown once: what it prints itself does not come back to it.
#[test]
fn a_log_that_is_followed_in_a_session_leaves_the_session_out() {
    let home = Home::new();
    let args = ["run", "-d", "--", FOGHORN, "logs", "-f"];
    let started = home.run(&args);
    let id = started.text().trim().to_owned();
    let shown = || home.run(&["logs", "-s", &id]).text();
    for word in ["one", "two", "three"] {
        let print = format!("echo mark''ed-{word}");
        assert!(home.run(&["run", "--", "sh", "-c", &print]).text().contains(&format!("marked-{word}")));
        let text = || Some(shown()).filter(|text| text.contains(&format!("marked-{word}")));
        eventually("another session's line", text);
    }
    let text = shown();
    for word in ["one", "two"] {
        assert_eq!(text.matches(&format!("marked-{word}")).count(), 1, "{text}");
    }
    home.run(&["stop", &id]);
}

#[test]
fn a_session_is_not_shown_to_who_runs_in_it() {
    let home = Home::new();
    let mut shell = Terminal::start(&home, &SHELL, (100, 30));
    shell.sees("up, run.1");
    shell.sees("$ ");
    for verb in ["watch", "attach", "attach --take", "logs -f -s"] {
        shell.press(&format!("{FOGHORN} {verb} run.1; echo st=$?\r"));
        shell.sees("this runs in run.1");
        shell.sees("st=2");
    }
    // Neither is one around it; what was printed so far has an end, and is shown.
    shell.press(&format!("{FOGHORN} run bash --norc --noprofile\r"));
    shell.sees("up, run.2");
    shell.press(&format!("{FOGHORN} watch run.1; echo st=$?\r"));
    shell.sees("this runs in run.1");
    shell.sees("st=2");
    shell.press(&format!("{FOGHORN} logs -s run.1 | head -c 1 | wc -c; echo st=$?\r"));
    shell.sees("st=0");
    shell.press("exit\r");
    shell.sees("exit\r\n");
    shell.sees("exit\r\n");
    shell.sees("$ ");
    shell.press("exit 3\r");
    assert_eq!(shell.ends(), 3);
}
