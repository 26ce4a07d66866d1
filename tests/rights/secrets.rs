//! Where tokens, tickets' secrets, resume secrets and the environment's values must not be found.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use foghorn::protocol::HubMessage;
use serde_json::json;

use super::*;
use crate::support::server::Hello;

/// The value of a variable that a command is given.
const VALUE: &str = "value-of-a-variable-0123456789";

/// Everything that could have kept a secret, by name.
struct Places(Vec<(String, Vec<u8>)>);

impl Places {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    fn have_none_of(&self, secrets: &[(&str, &str)]) {
        for (what, secret) in secrets {
            for (name, bytes) in &self.0 {
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "{what} is in {name}");
            }
        }
    }
}

/// The argument lists of all processes, and the environments of a hub's agents.
fn processes(places: &mut Places, home: &str) {
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        // One that has ended meanwhile has no arguments.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.contains("agent serve") && words.contains(home) {
            places
                .add(format!("the environment of agent {pid}"), fs::read(entry.path().join("environ")).expect("reads"));
        }
        places.add(format!("the arguments of {pid}"), line);
    }
}

#[tokio::test]
async fn secrets_are_in_no_log_error_metric_description_trail_process_or_database() {
    let (mut server, _dir) = server("", &[("FOGHORN_LOG", "trace")]).await;
    let body = json!({"source": {"kind": "run", "app": "blog", "command": ["cat"], "stdin": true, "keep": true,
        "env": {"KEY": VALUE}, "idempotency_key": "k"}});
    let (status, session) = server.ask_as(OWNER, "POST", "/v1/sessions", Some(body)).await;
    assert_eq!(status, 201, "{session}");
    let id = text(&session["id"]);
    let driver = text(&session["ticket"]["secret"]);
    let (_, used) = ticket(&server, &id, json!({"right": "control", "one_use": true})).await;
    let (revoked_id, revoked) = ticket(&server, &id, json!({"right": "control"})).await;
    let mut viewer = server.attach_as(&used, &id, Hello::watch()).await.expect("its one use");
    let welcome = viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
    let HubMessage::Welcome { resume: Some(resume), .. } = welcome else { panic!("no resume secret") };
    let mut again = server.attach_as(&resume, &id, Hello::watch()).await.expect("comes back");
    again.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
    let mut drives = server.attach_as(&driver, &id, Hello::drive(1)).await.expect("drives");
    drives.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    server.ask_as(OWNER, "DELETE", &format!("/v1/sessions/{id}/tickets/{revoked_id}"), None).await;

    let mut places = Places(Vec::new());
    let own = server.token();
    let unknown = "an-unknown-token-0123456789";
    for token in [OWNER, OTHER, &own, &driver, &used, &revoked, &resume, unknown] {
        for (method, path) in [
            ("GET", format!("/v1/sessions/{id}")),
            ("GET", format!("/v1/sessions/{id}/tickets")),
            ("GET", "/v1/sessions".into()),
            ("GET", "/v1/sessions/no-such-session".into()),
            ("POST", "/v1/sessions".into()),
            ("POST", format!("/v1/sessions/{id}/signal")),
            ("GET", format!("/v1/sessions/{id}/attach")),
            ("GET", "/v1/audit".into()),
            ("GET", "/v1/apps/blog/logs".into()),
            ("GET", "/metrics".into()),
            ("GET", "/openapi.json".into()),
            ("GET", "/readyz".into()),
            ("GET", "/no/such/door".into()),
        ] {
            let (status, answer) = server.bytes_as(token, method, &path, None).await;
            places.add(format!("the answer {status} of {method} {path}"), answer);
        }
    }
    processes(&mut places, server.home().to_str().expect("a path"));
    assert!(places.0.iter().any(|(name, _)| name.contains("agent")), "no agent was looked at");
    stop_all(&server).await;
    server.terminate().await;
    places.add("the log", server.log());
    for entry in fs::read_dir(server.home()).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("foghorn.db") || name == "hub.json" {
            places.add(format!("the file {name}"), fs::read(entry.path()).expect("reads"));
        }
    }
    assert!(places.0.iter().any(|(name, bytes)| name == "the file foghorn.db" && bytes.len() > 4096));
    assert!(server.log().contains("\"level\":\"DEBUG\""), "the log tells little");
    for name in ["token", "foghorn.db"] {
        let mode = fs::metadata(server.home().join(name)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name} is for its user alone");
    }
    places.have_none_of(&[
        ("a user's token", OWNER),
        ("another user's token", OTHER),
        ("the admin's token", &own),
        ("an unknown token", unknown),
        ("a driver's ticket", &driver),
        ("a used ticket", &used),
        ("a revoked ticket", &revoked),
        ("a resume secret", &resume),
        ("a variable's value", VALUE),
    ]);
}
