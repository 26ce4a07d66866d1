//! Every door with every kind of caller.

use foghorn::http::routes::{DOORS, Rule};
use foghorn::protocol::{HubMessage, Right};
use serde_json::json;

use super::*;
use crate::support::doors::{outcome, request};
use crate::support::server::Hello;
use crate::support::whole::whole;

/// Who comes, in the order of the table's columns.
const WHO: [&str; 17] = [
    "nobody",
    "an unknown token",
    "an expired ticket",
    "a revoked ticket",
    "a ticket for one use, used",
    "a ticket for one use, unused",
    "a ticket to read",
    "a ticket to write",
    "a ticket to control",
    "a ticket to control another session",
    "a watcher",
    "the owner",
    "another user",
    "the owner, by a token for another app",
    "the owner, by a watcher's token",
    "a controller",
    "an admin",
];

/// What becomes of them, in the order of [`WHO`]: `i`, let in; `u`, not known (401); `f`, forbidden (403); `n`, finds
/// nothing there (404).
fn expected(rule: Rule) -> &'static str {
    match rule {
        Rule::Everyone => "iiiii i iii i i i i i i i i",
        Rule::Known => "uuuuu i iii i i i i i i i i",
        Rule::Start => "uuuuu f fff f f i i f f i i",
        Rule::See => "uuuuu i iii n n i n n n n i",
        Rule::Follow => "uuuuu i iii n n i n n n n i",
        Rule::Session(Right::Read) => "uuuuu f iii n n i n n n n i",
        Rule::Session(Right::Write) => "uuuuu f fii n n i n n n n i",
        Rule::Session(Right::Control) => "uuuuu f ffi n n i n n n n i",
        Rule::Issue => "uuuuu f fff f n i n n n n i",
        Rule::Logs => "uuuuu f fff f i i i f i f i",
        Rule::Admin => "uuuuu f fff f f f f f f f i",
    }
}

/// The tokens of those who come, in the order of [`WHO`], and a ticket that can be revoked.
async fn callers(server: &Server, session: &str, elsewhere: &str) -> ([Option<String>; 17], String) {
    let make = async |right: &str, expires: &str, one_use: bool| {
        ticket(server, session, json!({"right": right, "expires": expires, "one_use": one_use})).await
    };
    let (_, expired) = make("control", "0s", false).await;
    let (revoked_id, revoked) = make("control", "1h", false).await;
    let path = format!("/v1/sessions/{session}/tickets/{revoked_id}");
    assert_eq!(server.ask_as(OWNER, "DELETE", &path, None).await.0, 204);
    let (_, used) = make("control", "1h", true).await;
    let mut viewer = server.attach_as(&used, session, Hello::watch()).await.expect("its one use");
    viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
    let (_, unused) = make("control", "1h", true).await;
    let (spare, read) = make("read", "1h", false).await;
    let (_, write) = make("write", "1h", false).await;
    let (_, control) = make("control", "1h", false).await;
    let tokens = [
        None,
        Some("a-token-that-nobody-knows".into()),
        Some(expired),
        Some(revoked),
        Some(used),
        Some(unused),
        Some(read),
        Some(write),
        Some(control),
        Some(elsewhere.into()),
        Some(WATCHER.into()),
        Some(OWNER.into()),
        Some(OTHER.into()),
        Some(BOUND.into()),
        Some(DEMOTED.into()),
        Some(CONTROLLER.into()),
        Some(server.token()),
    ];
    (tokens, spare)
}

#[tokio::test]
async fn every_door_lets_in_whom_its_rule_says_and_nobody_else() {
    let (server, _dir) = server("", &[]).await;
    let (other, elsewhere) = start(&server, OWNER).await;
    for door in DOORS {
        // Its own session: some doors end it.
        let (session, _) = start(&server, OWNER).await;
        let (callers, spare) = callers(&server, &session, &elsewhere).await;
        let path = door.path.replace("{id}", &session).replace("{ticket}", &spare).replace("{app}", "blog");
        assert!(!path.contains('{'), "{path}: a test for this placeholder is missing");
        let expected = expected(door.rule).replace(' ', "");
        for ((who, token), expected) in WHO.iter().zip(callers).zip(expected.chars()) {
            let answer = whole(request(&server, door, &path, token.as_deref())).await;
            let body = String::from_utf8_lossy(answer.body());
            let outcome = outcome(door, &answer);
            assert_eq!(outcome, expected, "{} {} for {who}: {} {body}", door.method, door.path, answer.status());
            if outcome != 'i' {
                assert_eq!(answer.headers()["content-type"], "application/problem+json");
            }
        }
        server.ask("DELETE", &format!("/v1/sessions/{session}"), None).await;
    }
    server.ask("DELETE", &format!("/v1/sessions/{other}"), None).await;
    stop_all(&server).await;
}

#[tokio::test]
async fn what_is_no_door_is_told_with_a_code() {
    let (server, _dir) = server("", &[]).await;
    for (method, path, status, code) in [
        ("GET", "/v1/nothing", 404, "no_such_door"),
        ("PUT", "/v1/sessions", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/v1/sessions/run.1/tickets/not-an-id", 400, "invalid_request"),
    ] {
        let (got, problem) = server.ask(method, path, None).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{method} {path}");
    }
}

/// The router is made from the table, and from nothing else.
#[test]
fn there_is_no_door_beside_the_table() {
    let mut made = Vec::new();
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).expect("reads");
            let calls =
                [".route(", ".nest(", ".route_service(", ".nest_service("].map(|call| text.matches(call).count());
            if calls.iter().sum::<usize>() > 0 {
                made.push((entry.file_name().to_string_lossy().into_owned(), calls.iter().sum::<usize>()));
            }
        }
    }
    made.sort();
    // The listener for metrics alone has one door, without a token.
    assert_eq!(made, [("metrics.rs".to_owned(), 1), ("routes.rs".to_owned(), 1)]);
}
