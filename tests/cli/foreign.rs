//! Text of others on a terminal: whatever they put into it, nothing of it is carried out there.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use foghorn::protocol::{Driver, HubMessage, SessionInfo};
use foghorn::record::{Payload, Record};
use foghorn::visible::acts;
use regex::bytes::Regex;
use serde_json::{Value, json};

use crate::home::Home;
use crate::payloads::{PAYLOADS, all};
use crate::terminal::Terminal;

/// What the program itself writes at a terminal: the spinner's, the screen's, and what leaves both as they were.
static OWN: LazyLock<Regex> = LazyLock::new(|| {
    let parts = [
        r"\x18\x1b7\x1b\[999;1H\x1b\[0;7m foghorn: [^\x1b]*\x1b\[m\x1b\[K\x1b8",
        r"\x1b\[\?(25|1049)[hl]|\x1b\[!p\x1b\[\?7h\x1b\[r\x1b\[m\x1b\(B\x0f\x1b\[H\x1b\[2J|\x1b\[m(\x1b\[2J)?",
        // The hub's own drawing of a screen on which nothing was written.
        r"\x18?\x1b\[\?1049l\x1b\[!p[^f]*?\x1b7\x1b\[1;1H",
        r"\x1b\[[0-9]+;[0-9]+H|\x1b\[K|\r\x1b\[2K|\x1b\[[0-9]+[AB]|\x1b\[0m|\r|\n",
    ];
    Regex::new(&format!("(?-u){}", parts.join("|"))).expect("an expression")
});

/// Nothing acts on this terminal but what the program itself writes.
fn is_calm(what: &str, shown: &[u8]) {
    let rest = OWN.replace_all(shown, &b""[..]);
    let rest = std::str::from_utf8(&rest).unwrap_or_else(|_| panic!("{what}: {}", shown.escape_ascii()));
    let acting = rest.char_indices().find(|(_, c)| acts(*c));
    let place = acting.map(|(at, _)| rest[at..].chars().take(20).collect::<String>());
    assert!(place.is_none(), "{what}: {place:?} in {}", shown.escape_ascii());
    for (tries, payload) in PAYLOADS {
        assert!(!shown.windows(payload.len()).any(|part| part == payload.as_bytes()), "{what}: {tries}");
    }
    assert!(!shown.windows(18).any(|part| part == b"\r\nfoghorn: forged\r"), "{what}: a line is forged");
}

/// Runs it to its end at a terminal; all that was shown.
fn shown(home: &Home, env: &[(&str, &str)], args: &[&str]) -> Vec<u8> {
    let mut terminal = Terminal::start_with(home, args, (200, 50), env);
    terminal.ends();
    terminal.sees_all()
}

#[test]
fn a_reason_that_holds_a_command_is_not_carried_out() {
    let home = Home::new();
    let script = home.path().join("payload");
    let all = all();
    for (argument, name) in [(all.as_str(), "run.1"), ("./x\x1b]52;c;Y3Vyb\x07\x1b[6n\u{202e}", "run.2")] {
        let run = shown(&home, &[], &["run", "--", argument]);
        is_calm("run", &run);
        assert!(String::from_utf8_lossy(&run).contains(r"\u{1b}]52;c;Y3Vyb"), "{}", run.escape_ascii());
        let wait = ["wait", name];
        let verbs: [&[&str]; 9] = [
            &wait,
            &["watch", name],
            &["attach", name],
            &["show", name],
            &["show", name, "-o", "json"],
            &["logs", "-s", name],
            &["logs", "-n", "50"],
            &["logs", "-n", "50", "-o", "json"],
            &["replay", name],
        ];
        for args in verbs {
            is_calm(&args.join(" "), &shown(&home, &[], args));
        }
    }
    for args in [&["sessions"][..], &["sessions", "-o", "json"], &["apps"], &["server", "status"]] {
        is_calm(&args.join(" "), &shown(&home, &[], args));
    }
    // What the caller was made to paste is somebody else's too.
    let path = script.display().to_string() + &all.replace('/', "");
    let usages: [&[&str]; 12] = [
        &["show", &all],
        &["stop", &all],
        &["rm", &all],
        &["share", &all],
        &["logs", "-s", &all],
        &["logs", "--app", &all],
        &["run", "--app", &all, "true"],
        &["run", "-e", &all, "true"],
        &["run", "--timeout", &all, "true"],
        &["run", &format!("--{all}")],
        &["watch", "run.1", "--ticket-file", &path],
        &["export", "run.1", "--format", "raw", "-O", &path],
    ];
    for args in usages {
        is_calm(args[0], &shown(&home, &[], args));
    }
    is_calm("a url", &shown(&home, &[("FOGHORN_URL", &all)], &["sessions"]));
    is_calm("login", &shown(&home, &[("FOGHORN_URL", "http://127.0.0.1:1"), ("KUBECONFIG", &path)], &["login"]));
    is_calm("login", &shown(&home, &[("FOGHORN_URL", "http://127.0.0.1:1")], &["login", "--context", &all]));
    is_calm("serve", &shown(&home, &[], &["serve", "--home", &path, "--listen", &all]));
}

#[test]
fn stderr_in_a_pipe_is_as_calm() {
    let home = Home::new();
    let ended = home.run(&["run", "--", &all()]);
    is_calm("run", ended.stderr.as_bytes());
    assert!(ended.stderr.contains(r"\u{1b}[6n"), "{}", ended.stderr);
    is_calm("stop", home.run(&["stop", &all()]).stderr.as_bytes());
}

#[test]
fn a_command_without_a_terminal_asks_no_watchers() {
    let home = Home::new();
    let script = r"printf 'a\033[6nb\n'; printf 'c\033]52;c;x\007d\n' >&2; printf 'e\233\220f\302\2336ng\n'";
    assert_eq!(home.run(&["run", "--", "sh", "-c", script]).status, 0);
    for args in [
        &["watch", "run.1"][..],
        &["replay", "run.1"],
        &["logs", "-s", "run.1"],
        &["logs"],
        &["export", "run.1", "--format", "text"],
        &["export", "run.1", "--format", "raw"],
        &["export", "run.1", "--format", "cast"],
    ] {
        let seen = shown(&home, &[], args);
        is_calm(&args.join(" "), &seen);
        let text = String::from_utf8(seen).expect("text");
        assert!(
            args.contains(&"cast") || ["ab", "cd", "fg"].iter().all(|part| text.contains(part)),
            "{args:?}: {text}"
        );
    }
    // Elsewhere it is what was written.
    let watched = home.run(&["watch", "run.1"]);
    assert_eq!(watched.stdout, b"a\x1b[6nb\ne\x9b\x90f\xc2\x9b6ng\n");
    assert!(watched.stderr.contains("c\x1b]52;c;x\x07d\n"), "{watched:?}");
}

#[test]
fn a_hub_that_lies_reaches_no_terminal() {
    let home = Home::new();
    let (_runtime, url) = lying_hub();
    let env = [("FOGHORN_URL", url.as_str()), ("FOGHORN_TOKEN", "x"), ("FOGHORN_RECONNECT_LIMIT", "1s")];
    let verbs: [&[&str]; 24] = [
        &["sessions"],
        &["sessions", "-o", "json"],
        &["apps"],
        &["apps", "-o", "json"],
        &["show", "tty"],
        &["show", "tty", "-o", "json"],
        &["watch", "tty"],
        &["watch", "pipe"],
        &["attach", "tty"],
        &["attach", "--take", "pipe"],
        &["replay", "tty"],
        &["logs"],
        &["logs", "-o", "json"],
        &["logs", "-s", "tty"],
        &["logs", "-s", "pipe", "-o", "json"],
        &["export", "tty", "--format", "text"],
        &["export", "tty", "--format", "cast"],
        &["share", "tty"],
        &["share", "tty", "-o", "json"],
        &["wait", "tty"],
        &["run", "-d", "true"],
        &["run", "-t", "true"],
        &["exec", "web.1", "--", "true"],
        &["server", "status"],
    ];
    // They say nothing of what was put in, or leave it out as session output.
    let silent = ["replay", "export", "wait", "server", "-s"];
    for args in verbs {
        let seen = shown(&home, &env, args);
        is_calm(&args.join(" "), &seen);
        let says = ["\\u{1b}]52;c;Y3Vyb", "\\u001b]52;c;Y3Vyb"]
            .iter()
            .any(|text| seen.windows(text.len()).any(|part| part == text.as_bytes()));
        assert!(says || args.iter().any(|arg| silent.contains(arg)), "{args:?}: {}", seen.escape_ascii());
    }
    // It refuses, and says why.
    for args in [&["stop", "refused"][..], &["rm", "refused"], &["show", "refused"], &["watch", "refused"]] {
        let seen = shown(&home, &env, args);
        is_calm(&args.join(" "), &seen);
        assert!(String::from_utf8_lossy(&seen).contains(r"\u{1b}]52;c;Y3Vyb"), "{}", seen.escape_ascii());
    }
    let login = r#"{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":
        {"server":"http://127.0.0.1:1"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
        "users":[{"name":"u","user":{"token":"t"}}]}"#;
    std::fs::write(home.path().join("kubeconfig"), login).expect("writes");
    let kubeconfig = home.path().join("kubeconfig").display().to_string();
    let env = [("FOGHORN_URL", url.as_str()), ("KUBECONFIG", kubeconfig.as_str())];
    is_calm("login", &shown(&home, &env, &["login"]));
}

fn session(id: &str) -> Value {
    let text = all();
    let id = uuid::Uuid::from_u128(if id == "pipe" { 1 } else { 0 }).to_string();
    json!({
        "id": id, "name": text, "kind": "run", "state": "ended", "app": text, "owner": text, "command": [text, text],
        "tty": !id.ends_with('1'), "record": true, "detached": false, "backend": text, "created_at": text,
        "started_at": text, "ended_at": text, "exit": exit(), "exit_status": 3, "exit_text": text, "viewers": 1,
    })
}

fn exit() -> Value {
    json!({"cause": "stopped", "by": all()})
}

/// A hub that puts all of it wherever a hub says something.
fn lying_hub() -> (tokio::runtime::Runtime, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("listens");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let app = Router::new().fallback(answer);
    runtime.spawn(async move { axum::serve(listener, app).await });
    (runtime, url)
}

async fn answer(method: Method, uri: Uri, upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>) -> Response {
    let parts: Vec<&str> = uri.path().trim_start_matches("/v1/").split('/').collect();
    let text = all();
    if let Ok(upgrade) = upgrade {
        let session = session(if parts[1].ends_with('1') { "pipe" } else { parts[1] });
        return upgrade.protocols(["foghorn.v1"]).on_upgrade(move |socket| attached(socket, session));
    }
    let ticket = json!({"id": uuid::Uuid::nil(), "secret": text, "right": "read", "expires_at": text});
    let line = json!({"time": text, "app": text, "process": text, "stream": "hub", "message": text, "resume": "x"});
    match (method.as_str(), &parts[..]) {
        ("GET", ["sessions"]) if uri.query().is_some_and(|query| query == "limit=1") => refused(),
        ("GET", ["sessions"]) => json_of(&json!({"sessions": [session("tty"), session("pipe")], "next": null})),
        ("POST", ["sessions"]) => json_of(&session("tty")),
        ("GET", ["apps"]) => json_of(&json!({"apps": [{"app": text, "namespace": text, "processes": {text: 1}}]})),
        ("GET", ["apps", _, "logs"]) => Response::new(Body::from(format!("{line}\n"))),
        ("GET", ["sessions", _, "recording.cast"]) => Response::new(Body::from(format!("{}\n", json!([0, "o", text])))),
        ("POST", ["sessions", _, "tickets"]) => json_of(&ticket),
        ("GET", ["sessions", id]) if *id != "refused" => json_of(&session(id)),
        _ => refused(),
    }
}

fn json_of(value: &Value) -> Response {
    Response::new(Body::from(value.to_string()))
}

fn refused() -> Response {
    let problem = json!({"type": "about:blank", "title": all(), "status": 409, "code": all(), "detail": all()});
    (StatusCode::CONFLICT, problem.to_string()).into_response()
}

/// Says all that a hub can say, and then the session's end.
async fn attached(mut socket: WebSocket, session: Value) {
    let session: SessionInfo = serde_json::from_value(session).expect("a session");
    let text = all();
    let driver = |viewer| Some(Driver { viewer, name: text.clone() });
    let size = session.tty.then_some(foghorn::record::Size { cols: 200, rows: 50 });
    let presence = |viewer| HubMessage::Presence { driver: driver(viewer), watchers: 1, driving: false };
    let messages = [
        HubMessage::Welcome { session: Box::new(session), viewer: 1, driving: false, size, head: 1, resume: None },
        presence(2),
        presence(3),
        HubMessage::Notice { code: text.clone(), text: text.clone() },
        HubMessage::Error { code: text.clone(), detail: text.clone() },
    ];
    // The hello.
    let _ = socket.recv().await;
    for message in messages {
        let message = serde_json::to_string(&message).expect("JSON");
        let _ = socket.send(Message::Text(message.into())).await;
    }
    let exit = serde_json::from_value(exit()).expect("an end");
    for payload in [Payload::Output(foghorn::record::Stream::Stdout, "x".into()), Payload::Exit(exit)] {
        let offset = u64::from(matches!(payload, Payload::Exit(_)));
        let record = Record { offset, time: 1, payload }.to_bytes();
        let _ = socket.send(Message::Binary(record)).await;
    }
    // The client leaves.
    while let Some(Ok(_)) = socket.recv().await {}
}
