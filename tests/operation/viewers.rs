//! Viewers are counted by what they do.

use foghorn::protocol::{HubMessage, Mode};
use foghorn::record::Reason;
use serde_json::json;

use super::metrics::samples;
use crate::support::server::{Hello, Server, until};

#[tokio::test]
async fn viewers_are_counted_by_what_they_do() {
    let mut server = Server::start("").await;
    let id = server.run(&["cat"], json!({"tty": true, "stdin": true, "keep": true})).await["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    let mut driver = server.attach(&id, Hello::drive(1)).await;
    driver.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    let mut watcher = server.attach(&id, Hello { from: Some(0), ..Hello::watch() }).await;
    driver.type_at(0, "hello\n").await;
    watcher.shows("hello").await;
    until("both are counted", async || {
        let samples = samples(&server).await;
        let count = |role: &str| samples[&format!("foghorn_viewers{{role=\"{role}\",mode=\"bytes\"}}")];
        let joined = samples["foghorn_viewer_joins_total"] == 2.0 && samples["foghorn_viewer_reconnects_total"] == 1.0;
        let sent = samples["foghorn_viewer_bytes_total"] >= 14.0 && samples["foghorn_viewer_deliveries_total"] >= 2.0;
        (count("driver") == 1.0 && count("watcher") == 1.0 && joined && sent).then_some(())
    })
    .await;
    let screen = Hello { mode: Mode::Screen, ..Hello::watch() };
    let mut late = server.attach(&id, screen).await;
    late.come().await;
    until("its snapshot is counted", async || {
        let samples = samples(&server).await;
        let here = samples["foghorn_viewers{role=\"watcher\",mode=\"screen\"}"] == 1.0;
        (here && samples["foghorn_snapshots_total"] == 1.0).then_some(())
    })
    .await;
    drop((driver, watcher, late));
    until("both are gone", async || {
        let samples = samples(&server).await;
        let here: f64 = samples.iter().filter(|(name, _)| name.starts_with("foghorn_viewers{")).map(|(_, n)| n).sum();
        (here == 0.0).then_some(())
    })
    .await;
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(&id).await;
}

#[tokio::test]
async fn a_gap_that_a_viewer_is_told_of_is_counted_by_its_reason() {
    let mut server = Server::start("ring = \"64 KiB\"\n").await;
    let with = json!({"detached": true, "record": false});
    let session = server.run(&["sh", "-c", "seq 1 100000"], with).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    server.stored(&id).await;
    server.kill();
    server.again().await;
    let mut viewer = server.attach(&id, Hello { from: Some(0), ..Hello::watch() }).await;
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(viewer.gaps.len(), 1, "{:?}", viewer.gaps);
    assert_eq!(samples(&server).await["foghorn_gaps_total{reason=\"not_recorded\"}"], 1.0);
}

#[tokio::test]
async fn a_gap_that_comes_from_a_source_is_counted_once_however_many_follow() {
    let mut server = Server::start("spool = \"4 MiB\"\n").await;
    let go = server.home().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().expect("runs").success());
    let id = server.run_detached(&format!("echo up; read x < {}; seq 1 1000000", go.display())).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("up\n").await;
    // No hub takes what the spool has no room for.
    server.kill();
    std::fs::write(&go, "\n").expect("writes");
    until("the command ends", async || server.processes(&id).is_empty().then_some(())).await;
    server.again().await;
    for _ in 0..3 {
        let mut viewer = server.attach(&id, Hello::watch()).await;
        assert_eq!(viewer.rest().await, 1000);
        let [(_, _, Reason::SpoolFull)] = viewer.gaps[..] else { panic!("gaps: {:?}", viewer.gaps) };
    }
    assert_eq!(samples(&server).await["foghorn_source_gaps_total{reason=\"spool_full\"}"], 1.0);
}
