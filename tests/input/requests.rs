//! Requests that are malformed, oversized, or mean two things at once.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use tokio::time::timeout;

use crate::bed::{Bed, memory};
use crate::raw::{answer, connect, exchange};
use crate::support::postgres::Database;
use crate::support::server::{Server, until};

/// A request with the admin's token and a body, the last one on its connection.
fn post(server: &Server, path: &str, body: &[u8]) -> Vec<u8> {
    let head = head(server, "POST", path, &[("content-length", &body.len().to_string())]);
    [head.as_bytes(), body].concat()
}

/// The head of a request with the admin's token, the last one on its connection.
fn head(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        server.token()
    );
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head + "connection: close\r\n\r\n"
}

#[tokio::test]
async fn a_body_that_is_no_request_is_told_so() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let run = |source: &str| format!(r#"{{"source":{{"kind":"run",{source}}}}}"#).into_bytes();
    let deep = ["[", "{\"source\":", "{\"source\":{\"kind\":\"run\",\"env\":["].map(|part| part.repeat(20_000));
    let mut bodies: Vec<Vec<u8>> = vec![
        b"".into(),
        b"null".into(),
        b"[]".into(),
        b"7".into(),
        b"\"source\"".into(),
        b"{".into(),
        b"{}".into(),
        b"{\"source\":null}".into(),
        b"{\"source\":{}}".into(),
        b"{\"source\":{\"kind\":7}}".into(),
        b"\xff\xfe".into(),
        b"\xef\xbb\xbf{}".into(),
        b"{\"source\":{\"kind\":\"run\",\"app\":\"\xff\",\"command\":[\"true\"]}}".into(),
        run(r#""app":"a""#),
        run(r#""app":7,"command":["true"]"#),
        run(r#""app":"","command":["true"]"#),
        run(r#""app":"a b","command":["true"]"#),
        run(r#""app":"../a","command":["true"]"#),
        run(r#""app":"a\u0000","command":["true"]"#),
        run(r#""app":"\ud800","command":["true"]"#),
        run(r#""app":"\u00e9","command":["true"]"#),
        run(r#""app":"a","command":"true""#),
        run(r#""app":"a","command":[]"#),
        run(r#""app":"a","command":[""]"#),
        run(r#""app":"a","command":[null]"#),
        run(r#""app":"a","command":["true","\u0000"]"#),
        run(r#""app":"a","command":["true"],"env":{"":"x"}"#),
        run(r#""app":"a","command":["true"],"env":{"A=B":"x"}"#),
        run(r#""app":"a","command":["true"],"env":{"A\u0000":"x"}"#),
        run(r#""app":"a","command":["true"],"env":{"A":"\u0000"}"#),
        run(r#""app":"a","command":["true"],"env":{"A":7}"#),
        run(r#""app":"a","command":["true"],"env":[]"#),
        run(r#""app":"a","command":["true"],"caller_env":{"A\u0000":"x"}"#),
        run(r#""app":"a","command":["true"],"caller_env":{"A":"\u0000"}"#),
        run(r#""app":"a","command":["true"],"dir":"/\u0000""#),
        run(r#""app":"a","command":["true"],"tty":"yes""#),
        run(r#""app":"a","command":["true"],"size":{"cols":70000,"rows":1}"#),
        run(r#""app":"a","command":["true"],"size":{"cols":-1,"rows":1}"#),
        run(r#""app":"a","command":["true"],"timeout":"soon""#),
        run(r#""app":"a","command":["true"],"timeout":3600"#),
        run(r#""app":"a","command":["true"],"timeout":"-1h""#),
        run(r#""app":"a","command":["true"],"timeout":"99999999999999999999h""#),
        run(r#""app":"a","command":["true"],"idle":"9999999999999y""#),
        run(r#""app":"a","command":["true"],"idempotency_key":7"#),
        run(r#""app":"a","command":["true"],"idempotency_key":"\u0000""#),
        run(&format!(r#""app":"a","command":["true"],"idempotency_key":"{}""#, "k".repeat(10_000))),
        run(&format!(r#""app":"{}","command":["true"]"#, "a".repeat(64))),
    ];
    bodies.extend(deep.map(String::into_bytes));
    for body in bodies {
        let shown = String::from_utf8_lossy(&body).chars().take(100).collect::<String>();
        let answer = answer(server, &post(server, "/v1/sessions", &body)).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{shown}: {}", answer.body);
    }
    // A body of another kind, or none at all.
    for headers in [&[][..], &[("content-length", "0")], &[("content-type", "text/plain"), ("content-length", "2")]] {
        let request = head(server, "POST", "/v1/sessions", headers) + "{}";
        let answer = answer(server, request.as_bytes()).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{headers:?}: {}", answer.body);
    }
    for (path, body) in [
        ("tickets", r#"{"right":"own"}"#),
        ("tickets", r#"{"right":"read","expires":"never"}"#),
        ("tickets", r#"{"right":"read","one_use":"no"}"#),
        ("tickets", "{}"),
        ("signal", r#"{"signal":0}"#),
        ("signal", r#"{"signal":65}"#),
        ("signal", r#"{"signal":1e3}"#),
        ("signal", "{}"),
    ] {
        let path = format!("/v1/sessions/{}/{path}", bed.id);
        let answer = answer(server, &post(server, &path, body.as_bytes())).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{body}: {}", answer.body);
    }
    bed.finish().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_meant_is_told_so() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let id = &bed.id;
    let long = "x".repeat(40_000);
    for (path, status, code) in [
        ("/v1/sessions/%".to_owned(), 404, "session_not_found"),
        ("/v1/sessions/%zz".to_owned(), 404, "session_not_found"),
        ("/v1/sessions/%00".to_owned(), 400, "invalid_request"),
        ("/v1/sessions/%0d%0aset-cookie:x".to_owned(), 404, "session_not_found"),
        (format!("/v1/sessions/{long}"), 404, "session_not_found"),
        ("/v1/sessions/%ff".to_owned(), 400, "invalid_request"),
        ("/v1/sessions/%c3%28".to_owned(), 400, "invalid_request"),
        (format!("/v1/sessions/{id}/"), 404, "no_such_door"),
        (format!("/v1/sessions/{id}/../../audit"), 404, "no_such_door"),
        ("/v1//sessions".to_owned(), 404, "no_such_door"),
        ("//v1/sessions".to_owned(), 404, "no_such_door"),
        ("/".to_owned() + &long, 404, "no_such_door"),
        ("/v1/sessions?limit=-1".to_owned(), 400, "invalid_request"),
        ("/v1/sessions?limit=4294967296".to_owned(), 400, "invalid_request"),
        ("/v1/sessions?limit=1&limit=2".to_owned(), 400, "invalid_request"),
        ("/v1/sessions?state=".to_owned(), 400, "invalid_request"),
        ("/v1/sessions?before=now".to_owned(), 400, "invalid_request"),
        ("/v1/sessions?before=%00".to_owned(), 400, "invalid_request"),
        ("/v1/audit?before=2026-13-01T00:00:00Z".to_owned(), 400, "invalid_request"),
        ("/v1/audit?session=x".to_owned(), 400, "invalid_request"),
        (format!("/v1/sessions/{id}?wait=forever"), 400, "invalid_request"),
        (format!("/v1/sessions/{id}/output?from=-1"), 400, "invalid_request"),
        (format!("/v1/sessions/{id}/output?from=18446744073709551616"), 400, "invalid_request"),
        (format!("/v1/sessions/{id}/output?follow=maybe"), 400, "invalid_request"),
        (format!("/v1/sessions/{id}/tickets/x"), 405, "method_not_allowed"),
        ("/v1/apps/%2e%2e%2f/logs".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a%00/logs".to_owned(), 400, "invalid_request"),
        ("/v1/apps/%ff/logs".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a/logs?tail=-1".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a/logs?grep=(".to_owned(), 400, "invalid_request"),
        (format!("/v1/apps/a/logs?grep={}", "(a?)".repeat(300)), 400, "invalid_request"),
        ("/v1/apps/a/logs?grep=(x{1000}){1000}".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a/logs?since=-5m".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a/logs?since=99999999999999999999y".to_owned(), 400, "invalid_request"),
        ("/v1/apps/a/logs?from=AAAA".to_owned(), 400, "invalid_request"),
        (format!("/v1/apps/a/logs?from={long}"), 400, "invalid_request"),
    ] {
        let request = head(server, "GET", &path, &[]);
        let shown: String = path.chars().take(100).collect();
        let answer = answer(server, request.as_bytes()).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{shown}: {}", answer.body);
        assert!(!answer.head.contains("set-cookie"), "{shown}");
    }
    // An offset beyond the end: who does not wait for more is told so, whether there may be more or not.
    let beyond = head(server, "GET", &format!("/v1/sessions/{id}/output?from={}", u64::MAX), &[]);
    assert_eq!(answer(server, beyond.as_bytes()).await.expect("an answer").status, 416);
    let revoke = head(server, "DELETE", &format!("/v1/sessions/{id}/tickets/x"), &[]);
    let refused = answer(server, revoke.as_bytes()).await.expect("an answer");
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"), "{}", refused.body);
    for method in ["PUT", "PATCH", "POST", "TRACE", "OPTIONS", "BREW"] {
        let request = head(server, method, &format!("/v1/sessions/{id}"), &[]);
        let answer = answer(server, request.as_bytes()).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method}");
        assert!(answer.head.contains("allow: get,head,delete"), "{}", answer.head);
    }
    bed.finish().await;
}

#[tokio::test]
async fn what_a_database_cannot_hold_is_no_failure_of_the_database() {
    let Some(database) = Database::shared().await else { return };
    let server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &database.url())]).await;
    let ask = async |path: &str| {
        let answer = answer(&server, head(&server, "GET", path, &[]).as_bytes()).await.expect("an answer");
        (answer.status, answer.code())
    };
    for path in ["/v1/sessions/%00", "/v1/sessions/run.%00", "/v1/sessions?app=%00", "/v1/audit?actor=a%00b"] {
        assert_eq!(ask(path).await, (400, "invalid_request".into()), "{path}");
    }
    let long = format!("/v1/sessions/{}", "x".repeat(30_000));
    for path in ["/v1/sessions/run.99999999999999999999", "/v1/sessions/%f0%9f%93%af", &long] {
        assert_eq!(ask(path).await, (404, "session_not_found".into()));
    }
    for time in ["-009998-01-03T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-30T00:00:00Z"] {
        assert_eq!(ask(&format!("/v1/sessions?before={time}")).await.0, 200, "{time}");
    }
    let run = |fields: &str| format!(r#"{{"source":{{"kind":"run","app":"a","command":["true"],{fields}}}}}"#);
    let key = "k".repeat(10_000);
    for fields in [r#""idempotency_key":"\u0000""#.to_owned(), format!(r#""idempotency_key":"{key}""#)] {
        let answer = answer(&server, &post(&server, "/v1/sessions", run(&fields).as_bytes())).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{}", answer.body);
    }
    for fields in [
        r#""detached":true,"idempotency_key":"👻""#.to_owned(),
        r#""detached":true,"timeout":"500000000000y""#.to_owned(),
        format!(r#""detached":true,"idempotency_key":"{}""#, "k".repeat(200)),
    ] {
        let answer = answer(&server, &post(&server, "/v1/sessions", run(&fields).as_bytes())).await.expect("an answer");
        let session: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(answer.status, 201, "{fields}: {session}");
        server.ended(session["id"].as_str().expect("an id")).await;
    }
    assert!(!server.log().contains("the store failed"), "{}", server.log());
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_takes_no_memory() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let before = bed.memory();
    let body = format!(r#"{{"source":{{"kind":"run","app":"a","command":["{}"]}}}}"#, "x".repeat(2 << 20));
    let whole = post(server, "/v1/sessions", body.as_bytes());
    let mut chunked = head(server, "POST", "/v1/sessions", &[("transfer-encoding", "chunked")]).into_bytes();
    for part in body.as_bytes().chunks(1000) {
        chunked.extend(format!("{:x}\r\n", part.len()).bytes());
        chunked.extend(part);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    // Announced and never sent: it is refused by its length alone.
    let announced = head(server, "POST", "/v1/sessions", &[("content-length", "1000000000000000000")]).into_bytes();
    for request in [whole, chunked, announced] {
        let answer = answer(server, &request).await.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"), "{}", answer.body);
    }
    // Heads: one long field, many fields, a long address, one that never ends.
    let long = head(server, "GET", "/healthz", &[("x", &"y".repeat(200 << 10))]);
    let many = head(server, "GET", "/healthz", &vec![("x", "y"); 5000]);
    let address = head(server, "GET", &format!("/{}", "z".repeat(100_000)), &[]);
    let endless = head(server, "GET", "/healthz", &[]).trim_end().to_owned() + "\r\n" + &"a: b\r\n".repeat(1 << 20);
    for (what, request) in [("long", long), ("many", many), ("address", address), ("endless", endless)] {
        let answer = answer(server, request.as_bytes()).await;
        // The hub may hang up before the whole request is written, and its answer is then lost with the connection.
        assert!(answer.as_ref().is_none_or(|answer| matches!(answer.status, 400 | 414 | 431)), "{what}: {answer:?}");
    }
    assert!(bed.memory() < before + (24 << 20), "{} KiB more", (bed.memory() - before) >> 10);
    bed.finish().await;
}

#[tokio::test]
async fn a_request_that_means_two_things_is_never_two_requests() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let auth = format!("authorization: Bearer {}", server.token());
    let hidden = format!("DELETE /v1/sessions/{} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n{auth}\r\n\r\n", bed.id);
    let len = hidden.len();
    let smuggled = [
        // Both lengths: what a proxy takes for the body must not be a request.
        (format!("content-length: {}\r\ntransfer-encoding: chunked", len + 5), format!("0\r\n\r\n{hidden}")),
        (format!("transfer-encoding: chunked\r\ncontent-length: {}", len + 5), format!("0\r\n\r\n{hidden}")),
        // Two lengths, or one that is none.
        (format!("content-length: 0\r\ncontent-length: {len}"), hidden.clone()),
        (format!("content-length: {len}\r\ncontent-length: 0"), hidden.clone()),
        (format!("content-length: 0, {len}"), hidden.clone()),
        (format!("content-length: +{len}"), hidden.clone()),
        (format!("content-length: 0x{len:x}"), hidden.clone()),
        ("content-length: -1".into(), hidden.clone()),
        ("content-length: 99999999999999999999999".into(), hidden.clone()),
        ("content-length:".into(), hidden.clone()),
        // Encodings that are none, or more than one.
        ("transfer-encoding: chunked, identity".into(), format!("0\r\n\r\n{hidden}")),
        ("transfer-encoding: xchunked".into(), format!("0\r\n\r\n{hidden}")),
        ("transfer-encoding: identity".into(), hidden.clone()),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity".into(), format!("0\r\n\r\n{hidden}")),
        ("transfer-encoding : chunked".into(), format!("0\r\n\r\n{hidden}")),
        ("transfer-encoding:\u{b}chunked".into(), format!("0\r\n\r\n{hidden}")),
        ("x: y\r\n folded: z".into(), hidden.clone()),
        ("x: y\0z".into(), hidden.clone()),
        ("x y: z".into(), hidden.clone()),
        (": z".into(), hidden.clone()),
        ("x: y\rz".into(), hidden.clone()),
    ];
    // At a door that looks at the body, and at one that does not.
    for (headers, body) in smuggled {
        for door in ["/v1/sessions", "/healthz"] {
            let usual = format!("host: hub\r\n{auth}\r\ncontent-type: application/json");
            let request = format!("POST {door} HTTP/1.1\r\n{usual}\r\n{headers}\r\n\r\n{body}");
            let answers = exchange(server, request.as_bytes()).await;
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert!(statuses.len() <= 1, "{headers:?} was {} requests: {statuses:?}", statuses.len());
            assert!(statuses.iter().all(|status| (400..500).contains(status)), "{headers:?}: {statuses:?}");
            assert_eq!(bed.state().await, "running", "{headers:?} has stopped the session");
        }
    }
    // An old version knows no chunks.
    let old = format!("POST /healthz HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}");
    assert!(exchange(server, old.as_bytes()).await.len() <= 1);
    assert_eq!(bed.state().await, "running");
    bed.finish().await;
}

#[tokio::test]
async fn chunks_that_are_none_end_the_request() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let start = head(server, "POST", "/v1/sessions", &[("transfer-encoding", "chunked")]);
    let (long, many) = ("x".repeat(100_000), "a: b\r\n".repeat(10_000));
    let cases = [
        "g\r\n{}\r\n0\r\n\r\n".to_owned(),
        "-1\r\n{}\r\n0\r\n\r\n".to_owned(),
        "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n".to_owned(),
        "ffffffffffffffff\r\n{}\r\n0\r\n\r\n".to_owned(),
        "2\r\n{}xx\r\n0\r\n\r\n".to_owned(),
        "2\n{}\n0\n\n".to_owned(),
        format!("2;{long}\r\n{{}}\r\n0\r\n\r\n"),
        format!("2\r\n{{}}\r\n0\r\na: {long}\r\n\r\n"),
        format!("2\r\n{{}}\r\n0\r\n{many}\r\n"),
        "2\r\n{}".to_owned(),
        String::new(),
    ];
    // At once: some of them are waited for, for as long as a body may take.
    let refused = cases.iter().map(async |chunks| {
        let answers = exchange(server, format!("{start}{chunks}").as_bytes()).await;
        let shown: String = chunks.chars().take(40).collect();
        assert!(answers.len() <= 1, "{shown}: {answers:?}");
        assert!(answers.iter().all(|answer| answer.status == 400 || answer.status == 413), "{shown}: {answers:?}");
    });
    join_all(refused).await;
    bed.finish().await;
}

#[tokio::test]
async fn requests_that_follow_one_another_are_answered_in_order() {
    let bed = Bed::start().await;
    let server = &bed.server;
    let good = "GET /healthz HTTP/1.1\r\nhost: hub\r\n\r\n";
    let missing = "GET /nothing HTTP/1.1\r\nhost: hub\r\n\r\n";
    let statuses =
        async |bytes: &[u8]| -> Vec<u16> { exchange(server, bytes).await.iter().map(|answer| answer.status).collect() };
    let many = [good, missing].concat().repeat(50) + &head(server, "GET", "/nothing/more", &[]);
    assert_eq!(statuses(many.as_bytes()).await, [[200, 404].repeat(50), vec![404]].concat());
    // Garbage behind a request takes nothing from it.
    for garbage in
        ["\0\0\0\0", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}", "GET / HTTP/9.9\r\n\r\n"]
    {
        let statuses = statuses(format!("{good}{garbage}").as_bytes()).await;
        assert_eq!(statuses[0], 200, "{garbage:?}");
        assert!(statuses[1..].iter().all(|status| (400..506).contains(status)), "{garbage:?}: {statuses:?}");
    }
    // Versions: the one before is spoken, all else refused.
    let old = format!("GET /v1/sessions HTTP/1.0\r\nauthorization: Bearer {}\r\n\r\n", server.token());
    assert_eq!(statuses(old.as_bytes()).await, [200]);
    for line in
        ["GET /healthz", "GET  /healthz HTTP/1.1", "GET /healthz HTTP/2.0", "GET /healthz http/1.1", "/healthz", "\0"]
    {
        let statuses = statuses(format!("{line}\r\nhost: hub\r\n\r\n").as_bytes()).await;
        assert!(statuses.iter().all(|status| (400..506).contains(status)), "{line:?}: {statuses:?}");
    }
    for (form, status) in [("http://elsewhere/healthz", 200), ("http://user:secret@hub/healthz", 400)] {
        assert_eq!(statuses(head(server, "GET", form, &[]).as_bytes()).await, [status], "{form}");
    }
    for (method, form) in [("CONNECT", "elsewhere:443"), ("OPTIONS", "*"), ("GET", "*")] {
        let statuses = statuses(head(server, method, form, &[]).as_bytes()).await;
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{method} {form}: {statuses:?}");
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let bed = Bed::start().await;
    let mut stream = connect(&bed.server).await;
    let start = head(&bed.server, "POST", "/v1/sessions", &[("content-length", "100")]);
    stream.write_all(format!("{start}{{").as_bytes()).await.expect("writes");
    let mut answer = String::new();
    let _reset_is_an_end_too = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 408"), "{answer}");
    bed.finish().await;
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_holds_up_nobody() {
    let bed = Bed::start().await;
    let before = memory(&bed.server);
    let auth = format!("authorization: Bearer {}", bed.server.token());
    let ask = format!("GET /v1/sessions/{} HTTP/1.1\r\nhost: hub\r\n{auth}\r\n\r\n", bed.id).repeat(1000);
    let mut stream = connect(&bed.server).await;
    let (mut read, mut write) = stream.split();
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), write.write(ask.as_bytes())).await {
        taken += written.expect("writes");
        assert!(taken < 100 << 20, "a hub takes no requests without end from one who reads no answers");
    }
    assert!(memory(&bed.server) < before + (16 << 20));
    // Once it reads, it has its answers.
    let mut part = [0; 4096];
    assert_eq!(bed.server.ask("GET", "/v1/sessions", None).await.0, 200);
    until("it is answered", async || (read.read(&mut part).await.expect("reads") > 0).then_some(())).await;
    drop(stream);
    bed.finish().await;
}

#[tokio::test]
async fn an_error_does_not_repeat_all_that_was_sent() {
    let bed = Bed::start().await;
    let kind = "x".repeat(900_000);
    let body = format!(r#"{{"source":{{"kind":"{kind}"}}}}"#);
    let answers = exchange(&bed.server, &post(&bed.server, "/v1/sessions", body.as_bytes())).await;
    assert_eq!((answers.len(), answers[0].status), (1, 400));
    assert!(answers[0].body.len() < 4096, "{} bytes", answers[0].body.len());
    bed.finish().await;
}
