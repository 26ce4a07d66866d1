//! Where tokens, tickets' secrets, resume secrets and the environment's values must not be found.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use foghorn::protocol::{ClientMessage, HubMessage, Secret};
use serde_json::json;

use super::*;
use crate::support::authorizer::Mood;
use crate::support::doors;
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

#[tokio::test]
async fn a_persons_token_is_where_it_is_shown_and_nowhere_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, shown) = (dir.path().join("token"), "what-the-hub-shows-its-webhook-0123456789");
    fs::write(&file, shown).expect("writes");
    let token_file = format!("token_file = \"{}\"\n", file.display());
    let (mut server, authorizer) = webhook::hub_with("blog", "", &token_file, &[("FOGHORN_LOG", "trace")]).await;
    let [_, _, _, ria, rob, ..] = webhook::TOKENS;
    let later = "header.of-ria-another-one.signature";
    authorizer.knows(later, "ria");
    let id = doors::start(&server, "blog", ria).await;
    let path = format!("/v1/sessions/{id}");
    let (status, _) = server.ask_as(ria, "POST", &format!("{path}/tickets"), Some(json!({"right": "read"}))).await;
    assert_eq!(status, 201);
    let mut viewer = server.attach_as(ria, &id, Hello::watch()).await.expect("watches");
    viewer.say(&ClientMessage::Renew { token: Secret::new(later) }).await;
    viewer.hears(|message| matches!(message, HubMessage::Renewed)).await;
    let mut places = Places(Vec::new());
    let unknown = "header.nobody-knows-this-one.signature";
    for mood in [Mood::Answers, Mood::Fails, Mood::Babbles, Mood::Hangs] {
        authorizer.mind().mood = mood;
        for (token, door) in [
            (ria, path.clone()),
            (rob, path.clone()),
            (unknown, path.clone()),
            (ria, format!("{path}/tickets")),
            (rob, "/v1/apps/blog/logs".into()),
            (ria, "/metrics".into()),
            (later, "/v1/apps".into()),
        ] {
            let (status, answer) = server.bytes_as(token, "GET", &door, None).await;
            places.add(format!("the answer {status} of {door} while it {mood:?}"), answer);
        }
    }
    authorizer.mind().mood = Mood::Answers;
    for door in ["/metrics", "/v1/audit"] {
        let (status, answer) = server.bytes_as(&server.token(), "GET", door, None).await;
        assert_eq!(status, 200);
        places.add(door, answer);
    }
    processes(&mut places, server.home().to_str().expect("a path"));
    stop_all(&server).await;
    server.terminate().await;
    assert!(server.log().contains("\"level\":\"DEBUG\""), "the log tells little");
    places.add("the log", server.log());
    for entry in fs::read_dir(server.home()).expect("a folder").flatten().filter(|entry| entry.path().is_file()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        places.add(format!("the file {name}"), fs::read(entry.path()).expect("reads"));
    }
    let stored = |(name, bytes): &(String, Vec<u8>)| {
        name.starts_with("the file foghorn.db") && bytes.windows(10).any(|part| part == b"developers")
    };
    assert!(places.0.iter().any(stored), "the ticket keeps its issuer's groups");
    places.have_none_of(&[
        ("a person's token", ria),
        ("another person's token", rob),
        ("a token that came later", later),
        ("an unknown token", unknown),
        ("what the webhook is shown", shown),
    ]);
}
