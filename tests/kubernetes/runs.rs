//! Runs: each is a pod that is made as the app's own are.

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::server::{Hello, until};

#[tokio::test]
async fn a_run_has_the_apps_environment_streams_apart_and_its_status() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    let script = "echo $GREETING; echo e >&2; exit 7";
    let started = hub.run(&["sh", "-c", script], json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id");
    let mut viewer = hub.attach(id, Hello::watch()).await;
    viewer.rest().await;
    assert_eq!(String::from_utf8_lossy(&viewer.output), "hello\ne\n");
    assert_eq!(hub.ended(id).await["exit_status"], 7);
    until("the pod is gone", async || cluster.runs().is_empty().then_some(())).await;
}
