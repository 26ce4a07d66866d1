//! What is silent for longer than any side waits for another goes on. A kubelet and a runtime that cut idle streams sooner
//! than that (after 30 s, say) make it harder.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Seen, get};
use crate::support::cluster::Cluster;
use crate::support::server::{Hello, Server, until};

/// Longer than either side is silent before it is given up.
const SILENT: Duration = Duration::from_secs(50);

const READS: [&str; 3] = ["sh", "-c", "read x; echo got $x; sleep 1"];

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_no_exec_no_run_no_attach_and_no_log() {
    let Some(cluster) = Cluster::start().await else { return };
    let prints = "trap 'exit 0' TERM; echo up; read x </tmp/fifo; echo after $x; sleep 1000 & wait $!";
    let script = format!("mkfifo /tmp/fifo; {prints}");
    cluster.deploy_with("blog", json!({}), json!({ "command": ["sh", "-c", script] }));
    cluster.kubectl(&["rollout", "status", "deploy/blog-web", "--timeout=60s"]);
    let backend = [("FOGHORN_BACKEND", "kubernetes")];
    let mut hub = Server::start_with(&cluster.settings_with_agent(), &backend).await;
    let mut attaches = Server::start_with(&cluster.settings(), &backend).await;
    let seen = Seen::default();
    seen.follow(get(&hub, "follow=true&tail=10&process=web"));

    let exec = json!({ "kind": "exec", "app": "blog", "pod": "web.1", "command": READS, "stdin": true });
    let (status, exec) = hub.ask("POST", "/v1/sessions", Some(json!({ "source": exec }))).await;
    assert_eq!(status, 201, "{exec}");
    let run = json!({ "app": "blog", "stdin": true });
    let (run, attached) = (hub.run(&READS, run.clone()).await, attaches.run(&READS, run).await);
    let id = |session: &Value| session["id"].as_str().expect("an id").to_owned();
    let sessions = [(&hub, &exec), (&hub, &run), (&attaches, &attached)];
    for (hub, session) in sessions {
        let is_running = async || {
            let (_, session) = hub.ask("GET", &format!("/v1/sessions/{}", id(session)), None).await;
            (session["state"] == "running").then_some(())
        };
        until("it runs", is_running).await;
    }
    until("the log is followed", async || seen.has_message("up").then_some(())).await;
    tokio::time::sleep(SILENT).await;
    cluster.kubectl(&["exec", "deploy/blog-web", "--", "sh", "-c", "echo it >/tmp/fifo"]);
    for (hub, session) in sessions {
        let mut driver = hub.attach(&id(session), Hello::drive(1)).await;
        driver.type_at(0, "it\n").await;
        driver.rest().await;
        assert_eq!(String::from_utf8_lossy(&driver.output), "got it\n", "{session} {:?}", driver.exit);
    }
    // A kubelet whose answer has stopped is asked anew after a minute and a quarter at most.
    let since = Instant::now();
    while !seen.has_message("after it") {
        assert!(since.elapsed() < Duration::from_secs(90), "the log goes on: {:?}", seen.messages());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(seen.messages().iter().filter(|message| message.starts_with("up")).count(), 1);
}
