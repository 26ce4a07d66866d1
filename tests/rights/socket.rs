//! What a ticket to read does not allow on an open websocket.

use foghorn::protocol::{ClientMessage, HubMessage};
use foghorn::record::Size;
use serde_json::json;

use super::*;
use crate::support::server::Hello;

#[tokio::test]
async fn who_may_only_read_neither_types_nor_resizes_nor_ends_input_nor_signals_nor_stops() {
    let (server, _dir) = server("", &[]).await;
    let size = Size { cols: 90, rows: 30 };
    let body = json!({"source": {"kind": "run", "app": "blog", "command": ["cat"], "tty": true, "stdin": true,
        "keep": true, "size": size}});
    let (_, session) = server.ask_as(OWNER, "POST", "/v1/sessions", Some(body)).await;
    let id = text(&session["id"]);
    let mut driver = server.attach_as(OWNER, &id, Hello { size: Some(size), ..Hello::drive(1) }).await.expect("drives");
    driver.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    let (_, read) = ticket(&server, &id, json!({"right": "read"})).await;
    let mut watcher = server.attach_as(&read, &id, Hello { writer: Some(2), ..Hello::watch() }).await.expect("watches");
    watcher.say(&ClientMessage::Resize { size: Size { cols: 33, rows: 11 } }).await;
    let is = |code: &'static str| move |message: &HubMessage| matches!(message, HubMessage::Error { code: told, .. } if told == code);
    watcher.type_at(0, "intruder\n").await;
    watcher.hears(is("not_driving")).await;
    watcher.say(&ClientMessage::InputEnd { offset: 0 }).await;
    watcher.hears(is("not_driving")).await;
    for message in [ClientMessage::Take, ClientMessage::Signal { signal: 9 }, ClientMessage::Stop] {
        watcher.say(&message).await;
        watcher.hears(is("forbidden")).await;
    }
    // It goes on, with the size that the driver gave it, and nothing else was typed.
    driver.type_at(0, "still here\n").await;
    driver.shows("still here").await;
    assert!(!driver.has("intruder"), "typed by a watcher");
    driver.type_at(11, "\u{4}").await;
    assert_eq!(server.ended(&id).await["exit_status"], 0);
    let (_, cast) = server.bytes_as(OWNER, "GET", &format!("/v1/sessions/{id}/recording.cast"), None).await;
    assert!(!String::from_utf8_lossy(&cast).contains("33x11"), "resized by a watcher");
}
