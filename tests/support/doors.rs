//! A request at every door, and what becomes of who comes.

use bytes::Bytes;
use foghorn::http::routes::{DOORS, Door, Rule};
use foghorn::protocol::Right;
use http_body_util::Full;
use serde_json::{Value, json};

use super::server::Server;
use super::whole::whole;

/// A request for a door as the table describes it.
pub(crate) fn request(server: &Server, door: &Door, path: &str, token: Option<&str>) -> http::Request<Full<Bytes>> {
    request_for(server, door, path, token, "blog")
}

fn request_for(server: &Server, door: &Door, path: &str, token: Option<&str>, app: &str) -> http::Request<Full<Bytes>> {
    let body = door.body.map_or("", |(_, example)| example).replace("blog", app);
    let mut request = http::Request::builder().method(door.method).uri(format!("{}{path}", server.url()));
    request = request.header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if door.path.ends_with("/attach") {
        request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "foghorn.v1");
        request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    }
    request.body(Full::new(Bytes::from(body))).expect("a request")
}

/// What became of a caller. All that is answered is among what the table says of the door.
pub(crate) fn outcome(door: &Door, answer: &http::Response<Bytes>) -> char {
    let status = answer.status().as_u16();
    let problem: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let code = problem["code"].as_str().unwrap_or_default();
    match (status, code) {
        (401, "unauthorized" | "ticket_used") => {
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            'u'
        }
        (403, "forbidden") => 'f',
        (404, "session_not_found") => 'n',
        _ => {
            let said =
                door.answers.iter().any(|answer| answer.status == status) || door.errors.contains(&(status, code));
            assert!(said, "{} {} does not say that it may answer {status} {code:?}", door.method, door.path);
            'i'
        }
    }
}

/// Those who come with a token that an authorizer vouches for, in the order of the table's columns.
pub(crate) const PEOPLE: [&str; 8] = [
    "a token that nobody vouches for",
    "one without any right",
    "one who may read the app's log",
    "the owner, who may run",
    "another who may run",
    "one who may exec",
    "an admin",
    "the holder of the owner's ticket to read",
];

/// What becomes of them, as in the table of static tokens: `i`, let in; `u`, not known; `f`, forbidden; `n`, finds
/// nothing there.
fn expected(rule: Rule) -> &'static str {
    match rule {
        Rule::Everyone => "iiiiiiii",
        Rule::Known => "uiiiiiii",
        Rule::Start => "uffiifif",
        Rule::See | Rule::Follow | Rule::Session(Right::Read) => "unninnii",
        Rule::Session(_) | Rule::Issue => "unninnif",
        Rule::Logs => "ufifffif",
        Rule::Admin => "ufffffif",
    }
}

/// Walks through all doors as each of these people; the tokens are in the order of [`PEOPLE`], without the last one.
pub(crate) async fn walk(server: &Server, app: &str, tokens: [&str; 7]) {
    for door in DOORS {
        // Its own session: some doors end it.
        let session = start(server, app, tokens[3]).await;
        let mut tickets = Vec::new();
        for _ in 0..2 {
            let path = format!("/v1/sessions/{session}/tickets");
            let (status, ticket) = server.ask_as(tokens[3], "POST", &path, Some(json!({"right": "read"}))).await;
            assert_eq!(status, 201, "{ticket}");
            tickets.push(ticket);
        }
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (spare, read) = (text(&tickets[0]["id"]), text(&tickets[1]["secret"]));
        let path = door.path.replace("{id}", &session).replace("{ticket}", &spare).replace("{app}", app);
        let everyone = tokens.into_iter().chain([&*read]);
        for ((who, token), expected) in PEOPLE.iter().zip(everyone).zip(expected(door.rule).chars()) {
            let answer = whole(request_for(server, door, &path, Some(token), app)).await;
            let body = String::from_utf8_lossy(answer.body());
            let outcome = outcome(door, &answer);
            assert_eq!(outcome, expected, "{} {} for {who}: {} {body}", door.method, door.path, answer.status());
        }
        server.ask("DELETE", &format!("/v1/sessions/{session}"), None).await;
        server.ended(&session).await;
    }
}

/// Starts a session that does nothing.
pub(crate) async fn start(server: &Server, app: &str, token: &str) -> String {
    let body = json!({"source": {"kind": "run", "app": app, "command": ["sleep", "600"], "detached": true}});
    let (status, session) = server.ask_as(token, "POST", "/v1/sessions", Some(body)).await;
    assert_eq!(status, 201, "{session}");
    session["id"].as_str().expect("an id").to_owned()
}
