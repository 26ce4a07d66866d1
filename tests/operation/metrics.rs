//! `/metrics`: who may read it, that it counts, and what it never says.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::support::postgres::Database;
use crate::support::server::{Hello, Server, tokens, until};

/// The samples of a hub's metrics, by name and labels as they are written.
pub(crate) async fn samples(server: &Server) -> BTreeMap<String, f64> {
    let (status, text) = server.bytes_as(&server.token(), "GET", "/metrics", None).await;
    assert_eq!(status, 200);
    let text = String::from_utf8(text.to_vec()).expect("text");
    assert!(text.ends_with("# EOF\n"), "it is whole");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(parse).collect()
}

#[tokio::test]
async fn what_happens_is_counted() {
    let mut server = Server::start("").await;
    let printing = server.run_detached("seq 1 20000; sleep 600").await;
    let failing = server.run_detached("exit 3").await;
    server.ended(&failing).await;
    let mut viewer = server.attach(&printing, Hello::watch()).await;
    viewer.shows("\n20000\n").await;
    server.ask("GET", &format!("/v1/sessions/{printing}"), None).await;
    server.ask("GET", "/v1/sessions/no-such-session", None).await;
    server.ask("GET", "/no/such/door", None).await;
    let samples = until("all is counted", async || {
        let samples = samples(&server).await;
        let stored =
            samples.contains_key("foghorn_store_seconds_bucket{le=\"+Inf\",operation=\"append\",outcome=\"ok\"}");
        (stored && samples["foghorn_ends_total{cause=\"exited\"}"] == 1.0).then_some(samples)
    })
    .await;
    let least = |name: &str, least: f64| {
        let value = samples.get(name).unwrap_or_else(|| panic!("{name} is missing: {samples:#?}"));
        assert!(*value >= least, "{name} is {value}");
    };
    assert_eq!(samples["foghorn_sessions{state=\"running\",kind=\"run\"}"], 1.0);
    assert_eq!(samples["foghorn_starts_total{outcome=\"ok\"}"], 2.0);
    assert_eq!(samples["foghorn_agent_connections_total{outcome=\"first\"}"], 2.0);
    assert_eq!(samples["foghorn_build_info{version=\"0.1.0\"}"], 1.0);
    let printed = (1..=20000).map(|n: u32| n.to_string().len() + 1).sum::<usize>();
    least("foghorn_source_bytes_total", printed as f64);
    assert!(samples["foghorn_source_bytes_total"] < 1.5 * printed as f64, "what came is counted once");
    least("foghorn_source_messages_total", 1.0);
    least("foghorn_http_requests_total{route=\"/v1/sessions\",status=\"2xx\"}", 2.0);
    least("foghorn_http_requests_total{route=\"/v1/sessions/{id}\",status=\"2xx\"}", 1.0);
    least("foghorn_http_requests_total{route=\"/v1/sessions/{id}\",status=\"4xx\"}", 1.0);
    least("foghorn_http_requests_total{route=\"/v1/sessions/{id}/attach\",status=\"1xx\"}", 1.0);
    least("foghorn_http_requests_total{route=\"none\",status=\"4xx\"}", 1.0);
    least("foghorn_store_seconds_count{operation=\"create_session\",outcome=\"ok\"}", 2.0);
    least("foghorn_store_seconds_bucket{le=\"+Inf\",operation=\"append\",outcome=\"ok\"}", 1.0);
    assert!(samples.contains_key("foghorn_audit_waiting"));
    // A later hub takes the session up over a connection of its own. It may have to let the other's agent go as well.
    server.kill();
    server.again().await;
    until("the agent is reached again", async || {
        (self::samples(&server).await["foghorn_agent_connections_total{outcome=\"again\"}"] >= 1.0).then_some(())
    })
    .await;
    server.ask("DELETE", &format!("/v1/sessions/{printing}"), None).await;
    server.ended(&printing).await;
}

#[tokio::test]
async fn a_store_that_fails_is_seen_in_its_outcomes() {
    let Some(database) = Database::alone().await else { return };
    let server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &database.url())]).await;
    database.stop();
    get(&format!("{}/readyz", server.url())).await;
    let name = "foghorn_store_seconds_count{operation=\"ping\",outcome=\"database\"}";
    assert!(samples(&server).await[name] >= 1.0);
}

#[tokio::test]
async fn nothing_in_them_names_a_person_an_app_a_command_or_a_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let token = "token-of-someone-0123456789";
    let file = tokens(dir.path(), &[("wilhelmina", "user", token)]);
    let server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().expect("a path"))]).await;
    let source = json!({"kind": "run", "app": "secretproject", "command": ["sleep", "87654321"], "detached": true});
    let (status, session) = server.ask_as(token, "POST", "/v1/sessions", Some(json!({ "source": source }))).await;
    assert_eq!(status, 201);
    let (id, name) = (session["id"].as_str().expect("an id"), session["name"].as_str().expect("a name"));
    server.ask_as(token, "GET", "/v1/apps/secretproject/logs", None).await;
    server.ask_as(token, "GET", &format!("/v1/sessions/{name}/output"), None).await;
    server.ask_as(token, "GET", "/strange/path-of-somebody", None).await;
    let (_, text) = server.bytes_as(&server.token(), "GET", "/metrics", None).await;
    let text = String::from_utf8_lossy(&text);
    for word in ["wilhelmina", "tester", "secretproject", "87654321", "sleep", id, name, "strange"] {
        assert!(!text.contains(word), "{word} is in the metrics");
    }
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(id).await;
}

#[tokio::test]
async fn a_listener_of_their_own_needs_no_token_and_has_nothing_else() {
    let server = Server::start_with("", &[("FOGHORN_METRICS_LISTEN", "127.0.0.1:0")]).await;
    let lines = server.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let told = lines.into_iter().find(|line| line["message"] == "metrics are at").expect("where they are");
    let url = format!("http://{}", told["address"].as_str().expect("an address"));
    let answer = get(&format!("{url}/metrics")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("application/openmetrics-text"));
    assert!(String::from_utf8_lossy(answer.body()).contains("foghorn_sessions{"));
    for path in ["/v1/sessions", "/readyz", "/"] {
        assert_eq!(get(&format!("{url}{path}")).await.status(), 404, "{path}");
    }
    assert_eq!(get(&format!("{}/metrics", server.url())).await.status(), 401, "the other one still asks who comes");
}
