//! The log: what a session's tasks say names the session, whoever in them says it.

use serde_json::Value;

use crate::support::postgres::Database;
use crate::support::server::{Server, until};

/// Whether a span that a line is in names this session.
fn is_within(line: &Value, id: &str) -> bool {
    line["spans"].as_array().into_iter().flatten().any(|span| span["session"] == id)
}

#[tokio::test]
async fn lines_of_a_sessions_tasks_name_the_session() {
    let Some(database) = Database::alone().await else { return };
    let mut server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &database.url())]).await;
    let ids = [
        server.run_detached("echo up; while :; do echo more; sleep 0.1; done").await,
        server.run_detached("echo up; while :; do echo more; sleep 0.1; done").await,
    ];
    database.stop();
    let lines = until("both recorders say that the store failed", async || {
        let log = server.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["target"] == "foghorn::recorder").collect();
        ids.iter().all(|id| lines.iter().any(|line| is_within(line, id))).then_some(lines)
    })
    .await;
    for line in &lines {
        assert_eq!(ids.iter().filter(|id| is_within(line, id)).count(), 1, "{line}");
        assert!(line["spans"].as_array().is_some_and(|spans| spans.iter().any(|span| span["task"] == "recorder")));
    }
    database.start().await;
    for id in &ids {
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.ended(id).await;
    }
}
