//! What was said before, for those who come later: asked for again, told of where it cannot be read, and refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_refused_is_asked_for_again_and_told_of_where_it_never_comes() {
    let api = Api::start().await;
    for name in ["web-1", "web-2"] {
        api.pod(name);
        api.print(name, &numbered(1, 20), false);
    }
    let server = hub(&api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("both are followed", async || (api.following() == 2).then_some(())).await;
    for query in ["tail=40", "since=2026-11-22T10:00:00Z"] {
        api.past_turns(&[Turn::Refused(429), Turn::Breaks(3), Turn::Refused(500)]);
        let lines = all(get(&server, query));
        assert_eq!(lines.len(), 40, "{query}: {lines:?}");
        api.past_turns(&[Turn::Refused(500); 200]);
        let lines = all(get(&server, query));
        for name in ["web.1", "web.2"] {
            let told = format!("{name}: what it said before cannot be read: try again");
            assert!(lines.iter().any(|line| line.contains(&told)), "{query}: {lines:?}");
        }
        assert_eq!(lines.len(), 2, "{query}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_a_pod_said_that_came_and_crashed_meanwhile() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 1), true);
    let server = hub(&api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true&tail=1"));
    until("it is followed", async || (seen.highest("n") == 1).then_some(())).await;
    let token = seen.resume();
    api.pod("web-2");
    let lines = |numbers: [u32; 2]| numbers.map(|number| format!("m {number}"));
    api.print("web-2", &lines([1, 2]), true);
    until("its first run came", async || (seen.highest("m") == 2).then_some(())).await;
    api.exit("web-2", 5, true);
    api.print("web-2", &lines([3, 4]), true);
    api.exit("web-2", 6, false);
    until("its end came", async || seen.has_message("Process exited with status 6").then_some(())).await;
    let expected = ["m 1", "m 2", "Process exited with status 5", "m 3", "m 4", "Process exited with status 6"];
    let mut expected = expected.map(|line| format!("web.2: {line}"));
    let mut got = all(get(&server, &format!("from={token}")));
    // A run's end may be told of by another clock.
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_pods_cannot_be_listed_is_refused_with_the_reason() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 2), true);
    let server = hub(&api, "").await;
    api.forbid(true);
    let (status, answer) = server.ask("GET", "/v1/apps/blog/logs", None).await;
    assert_eq!((status, &answer["code"]), (500, &json!("backend_refused")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("pods is forbidden"), "{answer}");
    // Who asks by the command line is told at once.
    let since = Instant::now();
    let mut logs = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    logs.args(["logs", "-a", "blog", "-f"]).env("FOGHORN_URL", server.url()).env("FOGHORN_TOKEN", server.token());
    let logs = logs.env("HOME", server.home()).output().unwrap();
    let said = String::from_utf8_lossy(&logs.stderr);
    assert!(!logs.status.success() && said.contains("pods is forbidden"), "{said}");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let (status, answer) = server.ask("GET", "/v1/apps/Blog/logs", None).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_request")), "{answer}");
    api.forbid(false);
    assert_eq!(all(get(&server, "")), ["web.1: n 1", "web.1: n 2"]);
    // All since a time, or so many of the last.
    api.print("web-1", &numbered(3, 150), true);
    for (args, count) in [(&["--since", "9999d"][..], 150), (&[], 100), (&["--since", "9999d", "-n", "20"], 20)] {
        let mut logs = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        logs.args(["logs", "-a", "blog"]).args(args).env("FOGHORN_URL", server.url());
        let logs = logs.env("FOGHORN_TOKEN", server.token()).env("HOME", server.home()).output().unwrap();
        let printed = String::from_utf8_lossy(&logs.stdout);
        assert_eq!(printed.lines().count(), count, "{args:?}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_keeps_nobody_from_the_log() {
    let api = Api::start().await;
    for name in ["web-1", "web-2", "web-3"] {
        api.pod(name);
        api.print(name, &numbered(1, 20), false);
    }
    let server = hub(&api, "").await;
    for query in ["tail=40&container=web", "since=2026-11-22T10:00:00Z", "follow=true&tail=5"] {
        api.past_turns(&[Turn::Hangs; 200]);
        let (seen, since) = (Seen::default(), Instant::now());
        seen.follow(get(&server, query));
        for name in ["web.1", "web.2", "web.3"] {
            let is_told = || {
                let lines = seen.0.lock().unwrap();
                lines.iter().any(|line| {
                    line["process"] == name
                        && line["message"].as_str().unwrap().starts_with("what it said before cannot be read")
                })
            };
            until("it is told", async || is_told().then_some(())).await;
        }
        // A client waits for half a minute.
        assert!(since.elapsed() < Duration::from_secs(25), "{query}: {:?}", since.elapsed());
        if query.contains("follow") {
            until("what comes is followed", async || (api.following() == 3).then_some(())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_hide_no_older_ones_from_who_looks_for_the_last() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &["first".into()], true);
    api.print("web-1", &numbered(1, 300), true);
    api.print("web-1", &["x".repeat(20_000)], true);
    api.print("web-1", &numbered(301, 320), true);
    let server = hub(&api, "").await;
    assert_eq!(all(get(&server, "tail=1&grep=first")), ["web.1: first"]);
    assert_eq!(all(get(&server, "tail=400")).len(), 322);
    api.pod("web-2");
    api.print("web-2", &vec!["y".repeat(40_000); 150], true);
    assert_eq!(all(get(&server, "tail=100&process=web.2")).len(), 100);
}
