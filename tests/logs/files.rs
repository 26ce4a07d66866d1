//! The files of an app's log: what is told of them, and how late.

use std::time::{Duration, Instant};

use crate::bed::{Seen, all, append, bed, get};
use crate::support::server::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_last_line_without_its_end_is_told_once() {
    let (folder, server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "one\npanic: last words");
    assert_eq!(all(get(&server, "tail=10")), ["web: one", "web: panic: last words"]);
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true&tail=10"));
    until("the last line came", async || seen.has_message("panic: last words").then_some(())).await;
    append(&path, "\nnext\n");
    until("the next came", async || seen.has_message("next").then_some(())).await;
    assert_eq!(seen.messages(), ["one", "panic: last words", "next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_told_of() {
    let (folder, server) = bed().await;
    let path = folder.path().join("loop.log");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let said = all(get(&server, "tail=10"));
    let told = format!("log: {} cannot be read", path.display());
    assert_eq!(said.iter().filter(|line| line.starts_with(&told)).count(), 1, "{said:?}");
    // Who stays is told of what becomes unreadable.
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let other = folder.path().join("other.log");
    std::os::unix::fs::symlink(&other, &other).unwrap();
    let told = format!("{} cannot be read", other.display());
    let is_told = || seen.messages().iter().any(|message| message.starts_with(&told));
    until("it is told", async || is_told().then_some(())).await;
}

/// Prints how late the lines of a file come. Run it alone, with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn lateness_of_a_files_lines() {
    const LINES: usize = 300;
    let (folder, server) = bed().await;
    let path = folder.path().join("web.log");
    append(&path, "before\n");
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true&tail=10"));
    until("it follows", async || seen.has_message("before").then_some(())).await;
    let mut late = Vec::new();
    for number in 0..LINES {
        std::thread::sleep(Duration::from_millis(15 + number as u64 % 17));
        let count = seen.0.lock().unwrap().len();
        let at = Instant::now();
        append(&path, &format!("line {number}\n"));
        while seen.0.lock().unwrap().len() == count {
            assert!(at.elapsed() < Duration::from_secs(60), "line {number} does not come");
            std::thread::sleep(Duration::from_micros(100));
        }
        late.push(at.elapsed());
    }
    late.sort();
    println!("median {:?}, 99th percentile {:?}", late[LINES / 2], late[LINES * 99 / 100]);
}
