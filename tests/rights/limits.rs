//! How many sessions may live at once.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use super::*;
use crate::support::whole::whole;

/// Asks for a session of an app: the status, when to come again, and the body.
async fn try_start(server: &Server, token: &str, app: &str) -> (u16, Option<String>, Value) {
    let body = json!({"source": {"kind": "run", "app": app, "command": ["sleep", "600"], "detached": true}});
    let request = http::Request::post(format!("{}/v1/sessions", server.url()))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request");
    let answer = whole(request).await;
    let again = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
    (answer.status().as_u16(), again, serde_json::from_slice(answer.body()).expect("JSON"))
}

fn is_refused((status, again, problem): &(u16, Option<String>, Value), who: &str) {
    assert_eq!((*status, &problem["code"]), (429, &json!("too_many_sessions")), "{problem}");
    let seconds: u64 = again.as_deref().expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&seconds));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(who)), "{problem}");
}

#[tokio::test]
async fn a_person_has_so_many_live_sessions_and_is_told_when_to_come_again() {
    let (server, _dir) = server("live_per_owner = 2\n", &[]).await;
    for app in ["blog", "shop"] {
        assert_eq!(try_start(&server, OWNER, app).await.0, 201);
    }
    is_refused(&try_start(&server, OWNER, "wiki").await, "ann");
    assert_eq!(try_start(&server, OTHER, "wiki").await.0, 201, "another person has a limit of their own");
    let (_, list) = server.ask_as(OWNER, "GET", "/v1/sessions?state=live", None).await;
    assert_eq!(list["sessions"].as_array().expect("a list").len(), 2, "a refused start leaves nothing");
    // One that has ended makes room.
    let first = text(&list["sessions"][0]["id"]);
    server.ask("DELETE", &format!("/v1/sessions/{first}"), None).await;
    server.stored(&first).await;
    assert_eq!(try_start(&server, OWNER, "wiki").await.0, 201);
    stop_all(&server).await;
}

#[tokio::test]
async fn an_app_has_so_many_live_sessions_whoever_starts_them() {
    let (server, _dir) = server("live_per_app = 2\n", &[]).await;
    assert_eq!(try_start(&server, OWNER, "blog").await.0, 201);
    assert_eq!(try_start(&server, OTHER, "blog").await.0, 201);
    is_refused(&try_start(&server, CONTROLLER, "blog").await, "blog");
    is_refused(&try_start(&server, OWNER, "blog").await, "blog");
    assert_eq!(try_start(&server, OWNER, "shop").await.0, 201, "another app has room");
    stop_all(&server).await;
}
