//! Who comes with a ticket is shown as a guest, by the label that the ticket has, and is nobody else by it.

use foghorn::protocol::{HubMessage, Role};
use serde_json::json;

use super::*;
use crate::support::server::{Hello, Viewer};

/// Who drives, as this viewer is told once it is somebody else than before.
async fn driver(viewer: &mut Viewer, name: &str) {
    viewer
        .hears(|message| matches!(message, HubMessage::Presence { driver: Some(driver), .. } if driver.name == name))
        .await;
}

#[tokio::test]
async fn a_guest_is_shown_as_one_wherever_people_are_named() {
    let (server, _dir) = server("", &[]).await;
    let body = json!({"source": {"kind": "run", "app": "blog", "command": ["cat"], "stdin": true, "keep": true}});
    let (status, session) = server.ask_as(OWNER, "POST", "/v1/sessions", Some(body)).await;
    assert_eq!(status, 201, "{session}");
    let id = text(&session["id"]);
    let (write_id, write) = ticket(&server, &id, json!({"right": "write", "label": "  bob "})).await;
    let (plain_id, plain) = ticket(&server, &id, json!({"right": "write", "label": " "})).await;
    let (control_id, control) = ticket(&server, &id, json!({"right": "control", "label": "d\u{f6}rte"})).await;
    let mut owner = server.attach_as(OWNER, &id, Hello::drive(1)).await.expect("drives");
    driver(&mut owner, "ann").await;
    let mut guests = Vec::new();
    for (number, token, name) in [(2, &write, "bob (guest of ann)"), (3, &plain, "guest of ann")] {
        let take = Hello { role: Role::Take, ..Hello::drive(number) };
        let mut guest = server.attach_as(token, &id, take).await.expect("takes over");
        driver(&mut guest, name).await;
        driver(&mut owner, name).await;
        guests.push(guest);
    }
    let door = |rest: &str| format!("/v1/sessions/{id}{rest}");
    assert_eq!(server.ask_as(&write, "POST", &door("/signal"), Some(json!({"signal": 28}))).await.0, 403);
    assert_eq!(server.ask_as(&control, "DELETE", &door(""), None).await.0, 202);
    let ended = server.ended(&id).await;
    assert_eq!(ended["exit_text"], "stopped by d\u{f6}rte (guest of ann)", "{ended}");

    let (_, list) = server.ask_as(OWNER, "GET", &door("/tickets"), None).await;
    let label = |id: &str| {
        let ticket = list["tickets"].as_array().expect("a list").iter().find(|ticket| ticket["id"] == id);
        ticket.expect("is listed")["label"].clone()
    };
    assert_eq!((label(&write_id), label(&plain_id)), (json!("bob"), json!(null)));
    // The trail has the ticket, who made it and for whom.
    let told = until("the trail has it", async || {
        let (_, audit) = server.ask("GET", &format!("/v1/audit?session={id}&limit=100"), None).await;
        let lines = audit["lines"].as_array().expect("lines").clone();
        let has = |actor: &str, action: &str, detail: &str| {
            lines.iter().any(|l| l["actor"] == actor && l["action"] == action && l["detail"] == detail)
        };
        let all = has("ann", "ticket", &format!("write {write_id} for bob"))
            && has(&format!("ticket:{write_id}"), "join", "bob (guest of ann)")
            && has(&format!("ticket:{write_id}"), "driver", "bob (guest of ann)")
            && has(&format!("ticket:{plain_id}"), "driver", "guest of ann")
            && has(&format!("ticket:{control_id}"), "stop", "d\u{f6}rte (guest of ann)");
        all.then_some(())
    });
    told.await;
}

#[tokio::test]
async fn a_label_gives_no_right() {
    let (server, _dir) = server("", &[]).await;
    let (id, _) = start(&server, OWNER).await;
    let (other, _) = start(&server, OTHER).await;
    let tickets = format!("/v1/sessions/{id}/tickets");
    // The names of the owner, of another user and of the hub's own admin.
    for label in ["ann", "bob", "tester"] {
        let (_, secret) = ticket(&server, &id, json!({"right": "control", "label": label})).await;
        let (_, list) = server.ask_as(&secret, "GET", "/v1/sessions", None).await;
        let seen: Vec<_> = list["sessions"].as_array().expect("a list").iter().map(|session| &session["id"]).collect();
        assert_eq!(seen, [&json!(id)], "{label}");
        let body = json!({"source": {"kind": "run", "app": "blog", "command": ["true"], "detached": true}});
        for (method, path, body, status) in [
            ("POST", "/v1/sessions", Some(body), 403),
            ("POST", &*tickets, Some(json!({"right": "read"})), 403),
            ("GET", &format!("/v1/sessions/{other}"), None, 404),
            ("GET", "/v1/apps/blog/logs", None, 403),
            ("GET", "/v1/audit", None, 403),
        ] {
            assert_eq!(server.ask_as(&secret, method, path, body).await.0, status, "{label}: {method} {path}");
        }
    }
    let long = "x".repeat(65);
    for label in [&long, "a\nb", "a\u{0}", "a\u{1b}[31m", "a\u{9b}", "a\u{202e}b", "a\u{2066}b", "a\u{200f}b"] {
        let (status, problem) =
            server.ask_as(OWNER, "POST", &tickets, Some(json!({"right": "read", "label": label}))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{label:?}");
    }
    ticket(&server, &id, json!({"right": "read", "label": "x".repeat(64)})).await;
    stop_all(&server).await;
}
