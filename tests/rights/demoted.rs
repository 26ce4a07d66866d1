//! Who is a watcher now and was more when they started what they own.

use foghorn::protocol::{Close, HubMessage};
use serde_json::json;

use super::*;
use crate::support::server::Hello;

#[tokio::test]
async fn who_was_made_a_watcher_has_no_right_on_what_they_started() {
    let (server, dir) = server("", &[]).await;
    let source = json!({"kind": "run", "app": "blog", "command": ["cat"], "stdin": true, "keep": true,
        "idempotency_key": "k"});
    let again = async || server.ask_as(OTHER, "POST", "/v1/sessions", Some(json!({ "source": source }))).await;
    let (status, session) = again().await;
    assert_eq!(status, 201, "{session}");
    let (id, driver) = (text(&session["id"]), text(&session["ticket"]["secret"]));
    let door = |rest: &str| format!("/v1/sessions/{id}{rest}");
    let (_, given) = server.ask_as(OTHER, "POST", &door("/tickets"), Some(json!({"right": "read"}))).await;
    let given = text(&given["secret"]);
    let mut followers = Vec::new();
    for (token, hello) in [(OTHER, Hello::drive(1)), (&driver, Hello::watch()), (&given, Hello::watch())] {
        let mut viewer = server.attach_as(token, &id, hello).await.expect("follows");
        viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
        followers.push(viewer);
    }
    let output = server.open_as(OTHER, &door("/output?follow=true")).await;

    let file = dir.path().join("tokens.toml");
    let tokens = std::fs::read_to_string(&file).expect("reads");
    let (before, after) = tokens.split_once("name = \"bob\"").expect("is there");
    let after = after.replacen("role = \"user\"", "role = \"watcher\"", 1);
    std::fs::write(&file, format!("{before}name = \"bob\"{after}")).expect("writes");

    for token in [OTHER, &driver, &given] {
        for (method, rest, body) in [
            ("GET", "", None),
            ("GET", "/output", None),
            ("GET", "/recording.cast", None),
            ("GET", "/tickets", None),
            ("POST", "/signal", Some(json!({"signal": 15}))),
            ("DELETE", "", None),
            ("DELETE", "?purge=true", None),
        ] {
            let (status, problem) = server.ask_as(token, method, &door(rest), body).await;
            assert_eq!((status, &problem["code"]), (404, &json!("session_not_found")), "{method} {rest}");
        }
        let (status, list) = server.ask_as(token, "GET", "/v1/sessions", None).await;
        assert_eq!((status, &list["sessions"]), (200, &json!([])));
        assert!(server.attach_as(token, &id, Hello::watch()).await.is_err(), "follows still");
    }
    let (status, problem) = server.ask_as(OTHER, "POST", &door("/tickets"), Some(json!({"right": "read"}))).await;
    assert_eq!((status, &problem["code"]), (404, &json!("session_not_found")));
    // The same request as before is no way in either.
    let (status, problem) = again().await;
    assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
    // Those who follow are asked again, and have to go; the session is not theirs to end.
    for mut viewer in followers {
        assert_eq!(viewer.rest().await, Close::Unauthorized as u16);
    }
    assert!(!output.await, "was read to its end");
    assert_ne!(server.ask("GET", &door(""), None).await.1["state"], "ended");
    stop_all(&server).await;
}
