//! Where a log would be silent: what is not there, what waits, and what may not be read is said, and is no success.

use serde_json::Value;

use super::*;

/// The lines of an answer that ends.
fn lines(mut answer: support::answer::Answer) -> Vec<Value> {
    std::iter::from_fn(|| answer.object()).collect()
}

/// `foghorn logs` against a hub: its status, and what it printed.
fn client(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    command.arg("logs").args(args).env("FOGHORN_URL", server.url()).env("FOGHORN_TOKEN", server.token());
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_and_is_no_success() {
    let api = Api::start().await;
    api.pod("web-1");
    api.print("web-1", &numbered(1, 2), true);
    let server = hub(&api, "").await;
    for (args, told) in [
        (&["-a", "blog", "--ps", "nosuch"][..], "the app blog has no process nosuch; it has web.1"),
        (&["-a", "blog", "-c", "nosuch"], "the app blog has no container nosuch; it has web"),
        (&["-a", "blog", "--ps", "web", "-c", "nosuch"], "web of blog has no container nosuch; it has web"),
        (&["-a", "blog", "--ps", "nosuch", "-n", "0"], "the app blog has no process nosuch"),
    ] {
        let (status, printed) = client(&server, args);
        assert_eq!(status, Some(1), "{args:?}: {printed}");
        let told = format!(" foghorn[log]: nothing of that name: {told}");
        assert!(printed.lines().count() == 1 && printed.contains(&told), "{printed}");
    }
    let (status, printed) = client(&server, &["-a", "blog"]);
    assert_eq!((status, printed.lines().count()), (Some(0), 2), "{printed}");
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true&process=nosuch"));
    until("it is said", async || seen.has_message("nothing of that name yet; waiting").then_some(())).await;
    api.delete("web-1");
    until("it is gone", async || client(&server, &["-a", "blog"]).1.contains("the app blog has no").then_some(()))
        .await;
    let (status, printed) = client(&server, &["-a", "blog", "-o", "json"]);
    let line: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((status, &line["stream"], &line["unread"]), (Some(1), &"hub".into(), &true.into()), "{line}");
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("no pod with app.kubernetes.io/instance=blog in the namespace apps"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_may_not_be_read_is_said_at_once() {
    let api = Api::start().await;
    api.pod("web-1");
    let refused = [Turn::Refused(403); 500];
    api.turns(&refused);
    api.past_turns(&refused);
    let server = hub(&api, "").await;
    let (status, printed) = client(&server, &["-a", "blog"]);
    assert_eq!(status, Some(1), "{printed}");
    assert!(printed.contains("foghorn[web.1]: what it said before cannot be read: try again"), "{printed}");
    // Once when the log was opened, and once for the last lines.
    assert_eq!(api.asked().iter().filter(|asked| !asked.contains_key("follow")).count(), 2);
    // Whoever comes, whether it was said before or not.
    for _ in 0..2 {
        let seen = Seen::default();
        seen.follow(get(&server, "follow=true"));
        until("it is said", async || seen.has_message("its log cannot be read: try again").then_some(())).await;
    }
    api.past_turns(&refused);
    let told = lines(get(&server, "since=1h"));
    assert!(told.len() == 1 && told[0]["unread"] == true, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_waits_for_is_said_when_its_log_is_opened() {
    let api = Api::start().await;
    api.pod("web-1");
    let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
    let waits = "Waiting to start: CreateContainerConfigError: configmap \"nope\" not found";
    api.tell("web-1", waiting("CreateContainerConfigError", "configmap \"nope\" not found"), json!({}));
    let server = hub(&api, "").await;
    let (status, printed) = client(&server, &["-a", "blog"]);
    assert!(status == Some(1) && printed.contains(&format!(" foghorn[web.1]: {waits}")), "{status:?} {printed}");
    for query in ["follow=true", "follow=true&tail=10", "follow=true&grep=x"] {
        let seen = Seen::default();
        seen.follow(get(&server, query));
        until("it is said", async || seen.has_message(waits).then_some(())).await;
    }
    // Nothing is known of a pod that has just been made.
    api.tell("web-1", json!({}), json!({}));
    until("it waits", async || {
        let (status, printed) = client(&server, &["-a", "blog"]);
        (status == Some(1) && printed.ends_with("foghorn[web.1]: Waiting to start\n")).then_some(())
    })
    .await;
    // One that waits beside one that runs is said, and is no failure.
    api.tell("web-1", waiting("ImagePullBackOff", ""), json!({}));
    api.pod("web-2");
    until("the other one runs", async || {
        let (status, printed) = client(&server, &["-a", "blog"]);
        (status == Some(0) && printed.ends_with("foghorn[web.1]: Waiting to start: ImagePullBackOff\n")).then_some(())
    })
    .await;
}
