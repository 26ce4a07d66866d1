//! The log of an app's pods, when the API server truncates, hangs, is silent, or answers 429 or 500: against a small
//! server that speaks the protocol, since a real one does so when it likes.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[path = "upstreams/api.rs"]
mod api;
#[allow(dead_code, reason = "it has more than these tests use")]
#[path = "logs/bed.rs"]
mod bed;
#[path = "upstreams/past.rs"]
mod past;
#[path = "upstreams/silence.rs"]
mod silence;
mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use api::{Api, Turn, ended};
use bed::{Seen, all, get};
use serde_json::json;
use support::server::{Server, until};

/// A hub whose cluster is a server of ours, with more lines of `[kubernetes]`.
async fn hub(api: &Api, more: &str) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "x", "cluster": { "server": api.url } }],
        "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
        "users": [{ "name": "x", "user": {} }],
    });
    std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let path = folder.path().join("kubeconfig").display().to_string();
    let settings = format!("[kubernetes]\nkubeconfig = \"{path}\"\nnamespace = \"apps\"\n{more}");
    Server::start_at(folder, &settings, &[("FOGHORN_BACKEND", "kubernetes")]).await
}

fn numbered(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|number| format!("n {number}")).collect()
}

/// Prints the next lines, and waits until they came.
async fn prints(api: &Api, seen: &Seen, from: u32, to: u32) {
    api.print("web-1", &numbered(from, to), true);
    until("the lines came", async || (seen.highest("n") == to).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_are_resumed_with_no_line_lost_and_none_twice() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 3), false);
    let server = hub(&api, "").await;
    let seen = Seen::default();
    api.turns(&[
        Turn::Breaks(2),
        Turn::Refused(429),
        Turn::Ends(1),
        Turn::Refused(500),
        Turn::Hangs,
        Turn::Says(5),
        Turn::Silent(8),
        Turn::Ends(0),
        Turn::Breaks(11),
    ]);
    seen.follow(get(&server, "follow=true&tail=100"));
    until("the first lines came", async || (seen.highest("n") == 3).then_some(())).await;
    let mut last = 3;
    while api.turns_left() > 0 {
        // All of these have one time: they are told apart by their number.
        api.print("web-1", &numbered(last + 1, last + 4), false);
        last += 4;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    prints(&api, &seen, last + 1, last + 9).await;
    seen.assert_counted(&[("n", last + 9)]);
    let asked = api.asked();
    assert!(asked.iter().all(|asked| !(asked.contains_key("sinceTime") && asked.contains_key("tailLines"))));
    assert!(asked.iter().all(|asked| asked.contains_key("timestamps")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_older_than_the_last_one_is_told_where_an_answer_ended_in_between() {
    let api = Api::start().await;
    api.pod("web-1");
    let server = hub(&api, "").await;
    let seen = Seen::default();
    api.turns(&[Turn::Ends(1)]);
    seen.follow(get(&server, "follow=true"));
    until("it is followed", async || (api.following() == 1).then_some(())).await;
    api.print_at("web-1", 1000, "n 1");
    until("the first came", async || (seen.highest("n") == 1).then_some(())).await;
    // Another output's, whose time is of the second before.
    api.print_at("web-1", 999, "late 1");
    api.print_at("web-1", 1001, "n 2");
    until("the others came", async || (seen.highest("n") == 2).then_some(())).await;
    seen.assert_counted(&[("n", 2), ("late", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_log_goes_silent_and_is_found_again() {
    let api = Api::start().await;
    api.pod("web-1");
    let server = hub(&api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is followed", async || (api.following() == 1).then_some(())).await;
    let mut last = 0;
    for _ in 0..4 {
        for _ in 0..20 {
            api.print("web-1", &numbered(last + 1, last + 5), true);
            last += 5;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        api.rotate("web-1");
        prints(&api, &seen, last + 1, last + 50).await;
        last += 50;
    }
    seen.assert_counted(&[("n", last)]);
    // The old answer may be let go a moment after the new one has begun.
    assert!(api.followed().0 <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_share_an_upstream_and_resume_by_their_tokens() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 20), false);
    let mut server = hub(&api, "").await;
    assert_eq!(all(get(&server, "tail=2")), ["web.1: n 19", "web.1: n 20"]);
    assert_eq!(all(get(&server, "since=2026-11-22T10:00:00Z&process=web&container=web")).len(), 20);
    let none = "log: nothing of that name: the app blog has no container proxy; it has web";
    assert_eq!(all(get(&server, "tail=9&container=proxy")), [none]);
    let (one, others) = (Seen::default(), [(); 4].map(|()| Seen::default()));
    one.follow(get(&server, "follow=true&tail=100"));
    others.iter().for_each(|other| drop(other.follow(get(&server, "follow=true&tail=100"))));
    prints(&api, &one, 21, 40).await;
    for other in &others {
        until("the other has them", async || (other.highest("n") == 40).then_some(())).await;
    }
    // One that was silent may be let go a moment after the next one has begun.
    assert!(api.followed().0 <= 2);

    // One that comes back, to the same hub and to another one, also after a restart of the container.
    let token = |number: u32| {
        let lines = one.0.lock().unwrap();
        let line = lines.iter().find(|line| line["message"] == format!("n {number}")).unwrap();
        line["resume"].as_str().unwrap().to_owned()
    };
    for number in [1, 7, 20, 33] {
        let rest = Seen::default();
        rest.follow(get(&server, &format!("from={}", token(number)))).join().unwrap();
        let expected: Vec<u32> = (number + 1..=40).collect();
        assert_eq!(rest.counts()["n"], expected);
    }
    let (middle, last) = (token(33), token(40));
    server.kill();
    api.print("web-1", &numbered(41, 45), false);
    api.exit("web-1", 3, true);
    api.print("web-1", &numbered(46, 50), true);
    server.again().await;
    for (from, number) in [(middle, 34), (last, 41)] {
        let rest = Seen::default();
        rest.follow(get(&server, &format!("from={from}"))).join().unwrap();
        let expected: Vec<u32> = (number..=50).collect();
        assert_eq!(rest.counts()["n"], expected);
        assert!(rest.has_message("Process exited with status 3"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_end_are_read_to_their_ends_and_pods_that_go_leave() {
    let api = Api::start().await;
    api.pod("web-1");
    let server = hub(&api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is followed", async || (api.following() == 1).then_some(())).await;
    prints(&api, &seen, 1, 5).await;
    // The answer ends before the container does, and the container restarts before the rest was read.
    api.turns(&[Turn::Refused(500), Turn::Hangs]);
    api.print("web-1", &numbered(6, 9), false);
    api.exit("web-1", 1, true);
    prints(&api, &seen, 10, 12).await;
    until("the exit came", async || seen.has_message("Process exited with status 1").then_some(())).await;
    // Who saw that does not see it again, nor who asks for what came since.
    let exit = {
        let lines = seen.0.lock().unwrap();
        lines.iter().find(|line| line["message"] == "Process exited with status 1").unwrap()["resume"].clone()
    };
    for (query, exits, lines) in [
        (format!("from={}", exit.as_str().unwrap()), 0, 3),
        ("since=2027-01-01T00:00:00Z".into(), 0, 0),
        ("since=2026-01-01T00:00:00Z".into(), 1, 12),
        ("since=2026-01-01T00:00:00Z&grep=n".into(), 0, 12),
        // A sentence says that there is none.
        ("since=2026-01-01T00:00:00Z&process=other".into(), 0, 1),
    ] {
        let got = all(get(&server, &query));
        let ended = got.iter().filter(|line| line.contains("Process exited with status 1")).count();
        assert_eq!((ended, got.len() - ended), (exits, lines), "{query}: {got:?}");
    }
    api.print("web-1", &numbered(13, 14), false);
    api.exit("web-1", 0, false);
    until("the end came", async || seen.has_message("Process exited with status 0").then_some(())).await;
    // What only a last look gives is there, although its times are from behind the end.
    api.turns(&[Turn::Hangs]);
    api.pod("web-3");
    until("it is followed", async || (api.turns_left() == 0).then_some(())).await;
    api.print("web-3", &["late 1".into(), "late 2".into()], true);
    api.exit("web-3", 2, false);
    until("its end came", async || seen.has_message("Process exited with status 2").then_some(())).await;
    api.pod("web-2");
    api.print("web-2", &["other 1".into()], true);
    until("a new pod's lines came", async || (seen.highest("other") == 1).then_some(())).await;
    api.print("web-2", &["other 2".into()], true);
    api.delete("web-2");
    until("it left", async || seen.has_message("Pod web-2 is gone").then_some(())).await;
    api.delete("web-1");
    until("it left", async || seen.has_message("Pod web-1 is gone").then_some(())).await;
    assert!(seen.has_message("Pod web-2 joins") && !seen.has_message("Pod web-1 joins"));
    seen.assert_counted(&[("n", 14), ("late", 2), ("other", 2)]);
}

/// A pod that is followed to its third line, and then has a fourth without an end.
async fn open_line(api: &Api) -> (Server, Seen) {
    api.pod("web-1");
    let server = hub(api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is followed", async || (api.following() == 1).then_some(())).await;
    prints(api, &seen, 1, 3).await;
    api.leave_open("web-1");
    api.print("web-1", &numbered(4, 4), true);
    (server, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_log_is_replaced_by_the_next_ones_is_told_as_far_as_it_was_read() {
    let api = Api::start().await;
    let (server, seen) = open_line(&api).await;
    // By the time that the pod tells of it, the next run has ended as well.
    api.end("web-1", true);
    api.print("web-1", &numbered(5, 7), true);
    api.end("web-1", false);
    api.back_off("web-1", 4);
    until("the exit came", async || seen.has_message("Process exited with status 4").then_some(())).await;
    let messages = seen.messages();
    let at = |message: &str| messages.iter().position(|line| line == message).unwrap_or_else(|| panic!("{messages:?}"));
    let first = at("Process exited; with what status is not known");
    assert!(at("n 4") < first && first < at("n 5"), "{messages:?}");
    seen.assert_counted(&[("n", 7)]);
    let past = all(get(&server, "tail=20"));
    assert_eq!(past.iter().filter(|line| line.ends_with(": n 6")).count(), 1, "{past:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_is_ahead_of_its_pods_status_costs_no_line() {
    let api = Api::start().await;
    let (_server, seen) = open_line(&api).await;
    api.end("web-1", true);
    api.print("web-1", &numbered(5, 7), true);
    // It is asked again meanwhile, and gives the next run's log.
    until("it is followed anew", async || (api.asked().len() >= 3).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    api.tell("web-1", json!({ "running": {} }), ended(3));
    until("the next run came", async || (seen.highest("n") == 7).then_some(())).await;
    let messages = seen.messages();
    let exit = messages.iter().position(|line| line == "Process exited with status 3");
    assert_eq!(exit, messages.iter().position(|line| line == "n 4").map(|at| at + 1), "{messages:?}");
    seen.assert_counted(&[("n", 7)]);
    // The same of one whose first run said nothing.
    api.pod("web-2");
    until("both are followed", async || (api.following() == 2).then_some(())).await;
    let asked = api.asked().len();
    api.end("web-2", true);
    api.print("web-2", &["m 1".into(), "m 2".into()], true);
    until("it is followed anew", async || (api.asked().len() > asked).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    api.tell("web-2", json!({ "running": {} }), ended(5));
    until("the next run came", async || (seen.highest("m") == 2).then_some(())).await;
    let messages = seen.messages();
    let exit = messages.iter().position(|line| line == "Process exited with status 5");
    assert_eq!(exit.map(|at| at + 1), messages.iter().position(|line| line == "m 1"), "{messages:?}");
    seen.assert_counted(&[("m", 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_while_nothing_could_be_read_comes_at_once_and_whole() {
    let api = Api::start().await;
    api.pod("web-1");
    let server = hub(&api, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is followed", async || (api.following() == 1).then_some(())).await;
    prints(&api, &seen, 1, 10).await;
    api.turns(&[Turn::Refused(503), Turn::Refused(429), Turn::Refused(500)]);
    // Silent from here on, and refused when it is asked anew.
    api.rotate("web-1");
    api.print("web-1", &numbered(11, 60_000), false);
    until("all came", async || (seen.highest("n") == 60_000).then_some(())).await;
    seen.assert_counted(&[("n", 60_000)]);
    assert!(!seen.has_message("1 lines were left out") && seen.0.lock().unwrap().len() == 60_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_containers_than_allowed_are_followed_and_that_is_said() {
    let api = Api::start().await;
    for name in ["web-1", "web-2", "web-3"] {
        api.pod(name);
    }
    let server = hub(&api, "log_upstreams = 2\n").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is said", async || seen.has_message("1 container is not followed").then_some(())).await;
    for name in ["web-1", "web-2", "web-3"] {
        api.print(name, &[format!("{name} 1")], true);
    }
    // Who looks without following has what is there, whoever is followed, and resumes behind it.
    let lines = |seen: &Seen| {
        let lines = seen.0.lock().unwrap();
        let said = lines.iter().filter(|line| line["container"] == "web" && line["stream"] == "stdout");
        let said: Vec<_> = said.map(|line| line["message"].as_str().unwrap().to_owned()).collect();
        (said, lines.last().unwrap()["resume"].as_str().unwrap().to_owned())
    };
    let look = |query: &str| {
        let seen = Seen::default();
        seen.follow(get(&server, query)).join().unwrap();
        lines(&seen)
    };
    let (said, resume) = look("tail=100");
    assert_eq!(said.into_iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(look("tail=1").0.len(), 1);
    for name in ["web-1", "web-2", "web-3"] {
        api.print(name, &[format!("{name} 2")], true);
    }
    let all_again = ["web-1 2", "web-2 2", "web-3 2"].map(str::to_owned).into();
    assert_eq!(look(&format!("from={resume}")).0.into_iter().collect::<BTreeSet<_>>(), all_again);
    let of = |seen: &Seen| ["web-1", "web-2", "web-3"].iter().filter(|name| seen.highest(name) >= 1).count();
    until("those that are followed are told", async || (of(&seen) == 2).then_some(())).await;
    let late = Seen::default();
    late.follow(get(&server, "follow=true"));
    until("who joins is told", async || late.has_message("1 container is not followed").then_some(())).await;
    let followed = ["web-1", "web-2", "web-3"].into_iter().find(|name| seen.highest(name) >= 1).unwrap();
    api.delete(followed);
    until("the next one takes its place", async || (of(&seen) == 3).then_some(())).await;
    assert_eq!(api.followed().1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_opened_by_the_first_and_kept_for_a_while_after_the_last() {
    let api = Api::start().await;
    api.pod("web-1");
    let server = hub(&api, "").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(api.following(), 0, "nobody asked");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    follower.args(["logs", "-a", "blog", "-f"]).env("FOGHORN_URL", server.url()).env("HOME", server.home());
    follower.env("FOGHORN_TOKEN", server.token()).stdout(Stdio::null());
    // It says something all the time, or it would be taken for one that has gone silent.
    let goes_on_for = async |seconds| {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            api.print("web-1", &numbered(1, 1), true);
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(api.following() > 0);
        }
    };
    let mut gone = Instant::now();
    for kept in [20, 28] {
        let mut follower = follower.spawn().unwrap();
        until("it is followed", async || (api.following() > 0).then_some(())).await;
        goes_on_for(1).await;
        follower.kill().unwrap();
        follower.wait().unwrap();
        gone = Instant::now();
        goes_on_for(kept).await;
    }
    assert_eq!(api.asked().iter().filter(|asked| asked.contains_key("follow")).count(), 1);
    until("it is let go", async || (api.following() == 0).then_some(())).await;
    assert!(gone.elapsed() < Duration::from_secs(40), "{:?}", gone.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_the_same_server() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 3), false);
    api.exit("web-1", 1, true);
    api.print("web-1", &numbered(4, 5), true);
    let kubectl = |args: &[&str]| {
        let fixed = ["--kubeconfig", "/dev/null", "--server", &api.url, "-n", "apps", "logs", "web-1"];
        let output = Command::new("kubectl").args(fixed).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(kubectl(&[]), "n 4\nn 5\n");
    assert_eq!(kubectl(&["--previous", "--tail", "1"]), "n 3\n");
    assert!(kubectl(&["--previous", "--timestamps"]).starts_with("2026-11-22T10:00:00Z n 1\n"));
    assert_eq!(kubectl(&["--since-time", "2026-11-22T10:00:01Z"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_beyond_what_a_log_can_know_are_told_of() {
    let api = Api::start().await;
    for number in 0..=512 {
        api.pod(&format!("web-{number}"));
    }
    let server = hub(&api, "log_upstreams = 1\n").await;
    let lines = all(get(&server, "tail=1"));
    let said = "the app has more than 512 containers; those beyond are not followed";
    assert!(
        lines.iter().any(|line| line.contains(said) && line.contains("511 containers are not followed")),
        "{lines:?}"
    );
}
