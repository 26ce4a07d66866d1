//! Who may do what: every door with every kind of caller, from the table that the router is made of; and what must not
//! be found anywhere, what must be found in the audit trail, and how many sessions may live.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "rights/advice.rs"]
mod advice;
#[path = "rights/audit.rs"]
mod audit;
#[path = "rights/demoted.rs"]
mod demoted;
#[path = "rights/files.rs"]
mod files;
#[path = "rights/guests.rs"]
mod guests;
#[path = "rights/limits.rs"]
mod limits;
#[path = "rights/login.rs"]
mod login;
#[path = "rights/secrets.rs"]
mod secrets;
#[path = "rights/socket.rs"]
mod socket;
#[path = "rights/table.rs"]
mod table;
#[path = "rights/webhook.rs"]
mod webhook;

use serde_json::{Value, json};
use support::server::{Server, tokens, until};

const OWNER: &str = "token-of-the-owner-0123456789";
const OTHER: &str = "token-of-another-0123456789";
const BOUND: &str = "token-of-one-who-is-bound-0123456789";
const DEMOTED: &str = "token-of-the-owner-as-a-watcher-0123456789";
const WATCHER: &str = "token-of-a-watcher-0123456789";
const CONTROLLER: &str = "token-of-a-controller-0123456789";

/// A hub that knows one of each kind, with settings and variables of its environment. `ann` has three tokens; one of
/// them is bound to another app, and one is a watcher's.
async fn server(settings: &str, env: &[(&str, &str)]) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = tokens(
        dir.path(),
        &[
            ("ann", "user", OWNER),
            ("bob", "user", OTHER),
            ("ann", "watcher", DEMOTED),
            ("eve", "watcher", WATCHER),
            ("platform", "controller", CONTROLLER),
        ],
    );
    let bound = format!("[[token]]\nname = \"ann\"\nrole = \"user\"\napps = [\"shop\"]\ntoken = \"{BOUND}\"\n");
    let all = std::fs::read_to_string(&file).expect("reads") + &bound;
    std::fs::write(&file, all).expect("writes");
    let env: Vec<_> = [("FOGHORN_TOKENS", file.to_str().expect("a path"))].into_iter().chain(env.to_vec()).collect();
    (Server::start_with(settings, &env).await, dir)
}

/// Starts a session that does nothing, and says its id and its driver's ticket.
async fn start(server: &Server, token: &str) -> (String, String) {
    let body = json!({"source": {"kind": "run", "app": "blog", "command": ["sleep", "600"], "detached": true}});
    let (status, session) = server.ask_as(token, "POST", "/v1/sessions", Some(body)).await;
    assert_eq!(status, 201, "{session}");
    (text(&session["id"]), text(&session["ticket"]["secret"]))
}

/// Makes a ticket for the owner's session: its id and its secret.
async fn ticket(server: &Server, session: &str, body: Value) -> (String, String) {
    let path = format!("/v1/sessions/{session}/tickets");
    let (status, ticket) = server.ask_as(OWNER, "POST", &path, Some(body)).await;
    assert_eq!(status, 201, "{ticket}");
    (text(&ticket["id"]), text(&ticket["secret"]))
}

/// Stops all sessions, and waits for their ends.
async fn stop_all(server: &Server) {
    let (_, list) = server.ask("GET", "/v1/sessions?state=live&limit=1000", None).await;
    for session in list["sessions"].as_array().expect("a list") {
        let id = text(&session["id"]);
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.ended(&id).await;
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
