//! What must be in the audit trail: who did what, on which session, from where, and what came of it.

use foghorn::protocol::{ClientMessage, HubMessage, Role};
use serde_json::{Value, json};

use super::*;
use crate::support::server::Hello;

/// A line of the trail: actor, action, outcome.
type Line = (String, String, String);

/// The trail, oldest first, once its last line is this one: lines are written in their order.
async fn trail(server: &Server, last: &Line) -> Vec<Value> {
    until("the trail is written", async || {
        let (_, audit) = server.ask("GET", "/v1/audit?limit=1000", None).await;
        let mut trail = audit["lines"].as_array().expect("lines").clone();
        trail.reverse();
        trail.last().is_some_and(|line| self::line(line) == *last).then_some(trail)
    })
    .await
}

fn line(value: &Value) -> Line {
    (text(&value["actor"]), text(&value["action"]), text(&value["outcome"]))
}

#[tokio::test]
async fn the_trail_has_who_did_what_from_where_and_with_which_outcome() {
    let (server, _dir) = server("live_per_app = 1\n", &[]).await;
    let mut expected: Vec<(String, &str, &str)> = Vec::new();
    let mut then = |actor: &str, action: &'static str, outcome: &'static str| {
        expected.push((actor.to_owned(), action, outcome));
    };

    let (id, _) = start(&server, OWNER).await;
    then("ann", "start", "ok");
    then("ann", "ticket", "ok");
    let body =
        |app: &str| json!({"source": {"kind": "run", "app": app, "command": ["sleep", "600"], "detached": true}});
    assert_eq!(server.ask_as(OTHER, "POST", "/v1/sessions", Some(body("blog"))).await.0, 429);
    then("bob", "start", "too_many_sessions");
    assert_eq!(server.ask_as(WATCHER, "POST", "/v1/sessions", Some(body("shop"))).await.0, 403);
    then("eve", "start", "forbidden");

    let (read_id, read) = ticket(&server, &id, json!({"right": "read"})).await;
    then("ann", "ticket", "ok");
    let (once_id, once) = ticket(&server, &id, json!({"right": "read", "one_use": true})).await;
    then("ann", "ticket", "ok");
    let (control_id, control) = ticket(&server, &id, json!({"right": "control"})).await;
    then("ann", "ticket", "ok");
    let path = |door: &str| format!("/v1/sessions/{id}{door}");
    let bad = json!({"right": "read", "expires": "never"});
    assert_eq!(server.ask_as(OWNER, "POST", &path("/tickets"), Some(bad)).await.0, 400);
    then("ann", "ticket", "invalid_request");
    assert_eq!(server.ask_as(&read, "POST", &path("/tickets"), Some(json!({"right": "read"}))).await.0, 403);
    let (reader, user, controller) =
        (format!("ticket:{read_id}"), format!("ticket:{once_id}"), format!("ticket:{control_id}"));
    then(&reader, "ticket", "forbidden");

    let mut first = server.attach_as(&once, &id, Hello::watch()).await.expect("its one use");
    first.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    then(&user, "join", "ok");
    assert!(server.attach_as(&once, &id, Hello::watch()).await.is_err(), "it is used");
    then(&user, "refused", "ticket_used");
    let mut driver = server.attach_as(OWNER, &id, Hello::drive(1)).await.expect("drives");
    driver.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    then("ann", "join", "ok");
    then("ann", "driver", "ok");
    let take = Hello { role: Role::Take, ..Hello::drive(2) };
    let mut taker = server.attach_as(&control, &id, take).await.expect("takes over");
    taker.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    then(&controller, "join", "ok");
    then(&controller, "driver", "ok");
    let mut refused = server.attach_as(&read, &id, Hello::drive(3)).await.expect("connects");
    assert_eq!(refused.rest().await, 4403);
    then(&reader, "join", "ok");
    then(&reader, "driver", "forbidden");
    let mut watcher = server.attach_as(&read, &id, Hello { writer: Some(4), ..Hello::watch() }).await.expect("watches");
    watcher.say(&ClientMessage::Take).await;
    watcher.hears(|message| matches!(message, HubMessage::Error { .. })).await;
    then(&reader, "join", "ok");
    then(&reader, "driver", "forbidden");
    assert!(server.attach_as(OTHER, &id, Hello::watch()).await.is_err());
    then("bob", "join", "session_not_found");

    server.ask_as(OWNER, "GET", &path("/output"), None).await;
    then("ann", "read", "ok");
    server.ask_as(&read, "GET", &path("/recording.cast"), None).await;
    then(&reader, "read", "ok");
    server.ask_as(OTHER, "GET", &path("/output"), None).await;
    then("bob", "read", "session_not_found");
    server.ask_as(WATCHER, "GET", "/v1/apps/blog/logs", None).await;
    then("eve", "logs", "ok");
    server.ask_as(CONTROLLER, "GET", "/v1/apps/blog/logs", None).await;
    then("platform", "logs", "forbidden");

    server.ask_as(&read, "POST", &path("/signal"), Some(json!({"signal": 28}))).await;
    then(&reader, "signal", "forbidden");
    server.ask_as(OWNER, "POST", &path("/signal"), Some(json!({"signal": 28}))).await;
    then("ann", "signal", "ok");
    server.ask_as(OWNER, "POST", &path("/signal"), Some(json!({"signal": 99}))).await;
    then("ann", "signal", "invalid_request");
    server.ask_as(&read, "DELETE", &path(&format!("/tickets/{once_id}")), None).await;
    then(&reader, "revoke", "forbidden");
    server.ask_as(OWNER, "DELETE", &path(&format!("/tickets/{read_id}")), None).await;
    then("ann", "revoke", "ok");
    server.ask_as(OWNER, "DELETE", &path(&format!("/tickets/{read_id}")), None).await;
    then("ann", "revoke", "ticket_not_found");
    server.ask_as(&read, "GET", &path("/output"), None).await;
    then(&reader, "refused", "unauthorized");

    server.ask_as(OWNER, "DELETE", &path("?purge=true"), None).await;
    then("ann", "remove", "session_live");
    server.ask_as(OTHER, "DELETE", &path(""), None).await;
    then("bob", "stop", "session_not_found");
    server.ask_as(&control, "DELETE", &path(""), None).await;
    then(&controller, "stop", "ok");
    server.stored(&id).await;
    server.ask_as(OWNER, "POST", &path("/signal"), Some(json!({"signal": 15}))).await;
    then("ann", "signal", "session_ended");
    assert_eq!(server.ask_as(OWNER, "DELETE", &path("?purge=true"), None).await.0, 204);
    then("ann", "remove", "ok");

    let expected: Vec<Line> =
        expected.into_iter().map(|(actor, action, outcome)| (actor, action.into(), outcome.into())).collect();
    let trail = trail(&server, expected.last().expect("a line")).await;
    let lines: Vec<Line> = trail.iter().map(line).collect();
    assert_eq!(lines, expected);
    for entry in &trail {
        assert_eq!(entry["address"], "127.0.0.1", "{entry}");
        let sessionless = ["session_not_found", "too_many_sessions"]
            .contains(&entry["outcome"].as_str().expect("text"))
            || entry["action"] == "logs"
            || entry["outcome"] == "forbidden";
        assert!(sessionless || entry["session"] == json!(id), "{entry}");
    }
    // Which ticket was made is said, so that what its holder did can be traced to who let them in.
    for ticket in [&read_id, &once_id, &control_id] {
        let made =
            |line: &&Value| line["action"] == "ticket" && line["detail"].as_str().is_some_and(|d| d.contains(ticket));
        assert_eq!(trail.iter().filter(made).count(), 1, "{ticket}");
    }
    // The log has the same lines.
    let log = server.log();
    let logged = log.lines().filter(|line| line.contains(r#""target":"audit""#)).count();
    assert_eq!(logged, trail.len());
}
