//! `/readyz` tells the truth.

use std::fs;
use std::time::{Duration, Instant};

use foghorn::http::openapi::document;
use serde_json::{Value, json};

use super::schema::check;
use super::*;
use crate::support::disk::Disk;
use crate::support::postgres::Database;
use crate::support::server::{Server, signal, until};

/// What `/readyz` says: the status, and the codes of what is not ready.
async fn ready(url: &str) -> (u16, Vec<String>) {
    let answer = get(&format!("{url}/readyz")).await;
    let body: Value = serde_json::from_slice(answer.body()).expect("JSON");
    let codes =
        body["not_ready"].as_array().expect("a list").iter().map(|reason| reason["code"].as_str().expect("a code"));
    let codes: Vec<String> = codes.map(str::to_owned).collect();
    let status = answer.status().as_u16();
    assert_eq!(body["ready"], json!(status == 200));
    check(&document(), if status == 200 { "Ready" } else { "Unready" }, &body).expect("as it is described");
    if status != 200 {
        assert_eq!((status, &body["code"]), (503, &json!(codes[0])), "{body}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert!(answer.headers()["retry-after"].to_str().expect("text").parse::<u64>().is_ok());
    }
    (status, codes)
}

async fn is_ready(url: &str) {
    until("the hub is ready", async || (ready(url).await == (200, Vec::new())).then_some(())).await;
}

/// The processes of a PostgreSQL: the first one, and those that it made.
fn processes(database: &Database) -> Vec<u32> {
    let file = fs::read_to_string(database.folder().join("data/postmaster.pid")).expect("reads");
    let first: u32 = file.lines().next().and_then(|line| line.parse().ok()).expect("a process");
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let made = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&first.to_string())
    });
    [first].into_iter().chain(made).collect()
}

#[tokio::test]
async fn a_hub_is_not_ready_without_its_database_and_ready_again_with_it() {
    let Some(database) = Database::alone().await else { return };
    let server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &database.url())]).await;
    is_ready(&server.url()).await;
    database.stop();
    assert_eq!(ready(&server.url()).await, (503, vec!["store_unavailable".into()]));
    assert_eq!(get(&format!("{}/healthz", server.url())).await.status(), 200, "it lives all the same");
    database.start().await;
    is_ready(&server.url()).await;
    // One that takes what it is asked and says nothing is no better than none.
    let paused = processes(&database);
    paused.iter().for_each(|pid| signal(*pid, "STOP"));
    // With all of the pool's connections taken, and more who wait for one.
    let (url, token) = (server.url(), server.token());
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let request =
                http::Request::get(format!("{url}/v1/audit")).header("authorization", format!("Bearer {token}"));
            tokio::spawn(whole(request.body(Full::default()).expect("a request")))
        })
        .collect();
    let mut said = Vec::new();
    for _ in 0..2 {
        let since = Instant::now();
        said.push((ready(&url).await, since.elapsed()));
    }
    paused.iter().for_each(|pid| signal(*pid, "CONT"));
    for (said, took) in said {
        println!("not ready within {took:?}");
        assert_eq!(said, (503, vec!["store_unavailable".into()]));
        assert!(took < Duration::from_secs(7), "it took {took:?}");
    }
    for waiting in waiting {
        assert!(matches!(waiting.await.expect("an answer").status().as_u16(), 200 | 503));
    }
    is_ready(&url).await;
}

#[tokio::test]
async fn a_hub_whose_state_folder_cannot_be_written_is_not_ready() {
    let server = Server::start("").await;
    is_ready(&server.url()).await;
    let (agents, aside) = (server.home().join("agents"), server.home().join("aside"));
    fs::rename(&agents, &aside).expect("renames");
    fs::write(&agents, "in the way").expect("writes");
    assert_eq!(ready(&server.url()).await, (503, vec!["backend_unavailable".into()]));
    fs::remove_file(&agents).expect("removes");
    fs::rename(&aside, &agents).expect("renames");
    is_ready(&server.url()).await;
}

#[tokio::test]
async fn a_hub_that_was_told_to_stop_is_not_ready_and_serves_until_it_has_drained() {
    let mut server = Server::start("drain = \"15s\"\n").await;
    let (url, token) = (server.url(), server.token());
    is_ready(&url).await;
    let file = fs::read(server.home().join("hub.json")).expect("reads");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    signal(file["pid"].as_u64().expect("a process") as u32, "TERM");
    until("it is not ready", async || (ready(&url).await == (503, vec!["stopping".into()])).then_some(())).await;
    let request = http::Request::get(format!("{url}/v1/sessions")).header("authorization", format!("Bearer {token}"));
    let answer = whole(request.body(Full::default()).expect("a request")).await;
    assert_eq!(answer.status(), 200, "who is here is served");
    until("it ends", async || server.has_ended().then_some(())).await;
}

#[tokio::test]
async fn a_hub_whose_disk_is_full_is_not_ready() {
    let Some(disk) = Disk::new(16) else { return };
    let home = tempfile::tempdir_in(disk.path()).expect("a folder");
    let server = Server::start_at(home, "", &[]).await;
    is_ready(&server.url()).await;
    disk.fill();
    let (status, codes) = ready(&server.url()).await;
    assert_eq!(status, 503);
    assert!(codes.contains(&"backend_unavailable".into()), "{codes:?}");
    // The database says it, too, once it was asked to take something.
    let start = json!({"source": {"kind": "run", "app": "test", "command": ["true"], "detached": true}});
    until("the store is full", async || {
        server.ask("POST", "/v1/sessions", Some(start.clone())).await;
        ready(&server.url()).await.1.contains(&"store_full".into()).then_some(())
    })
    .await;
    disk.free();
    server.ask("POST", "/v1/sessions", Some(start)).await;
    is_ready(&server.url()).await;
}
