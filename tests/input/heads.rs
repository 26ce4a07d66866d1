//! Heads of requests: for which host, from which page, how long; and of answers: what may be kept.

use crate::bed::Bed;
use crate::raw::{Answer, answer};

/// Sends a head as it is, with the admin's token.
async fn ask(bed: &Bed, line: &str, fields: &[&[u8]]) -> Answer {
    let auth = format!("authorization: Bearer {}\r\n", bed.server.token());
    let mut head = format!("{line}\r\n{auth}").into_bytes();
    fields.iter().for_each(|field| head.extend([field, &b"\r\n"[..]].concat()));
    head.extend(b"connection: close\r\n\r\n");
    answer(&bed.server, &head).await.expect("an answer")
}

#[tokio::test]
async fn a_request_is_for_one_host_that_can_be_read() {
    let bed = Bed::start().await;
    let list = "GET /v1/sessions HTTP/1.1";
    for fields in [
        &[][..],
        &[&b"host: hub"[..], b"host: hub"],
        &[b"host: hub", b"host: evil.example"],
        &[b"host:"],
        &[b"host: h\xc3\xbcb"],
        &[b"host: \xff"],
        &[b"host: user@hub"],
        &[b"host: user:secret@hub"],
        &[b"host: hub/v1"],
        &[b"host: hub evil"],
        &[b"host: hub#x"],
        &[b"host: http://hub"],
    ] {
        for line in [list, "GET /healthz HTTP/1.1", "GET /nothing HTTP/1.1"] {
            let answer = ask(&bed, line, fields).await;
            let shown = fields.iter().map(|field| String::from_utf8_lossy(field)).collect::<Vec<_>>();
            let told = (answer.status, answer.code());
            assert_eq!(told, (400, "invalid_request".to_owned()), "{line} {shown:?}: {}", answer.body);
        }
    }
    for host in ["hub", "HUB:7300", "127.0.0.1:1", "[::1]:7300", "my_hub.example"] {
        assert_eq!(ask(&bed, list, &[format!("host: {host}").as_bytes()]).await.status, 200, "{host}");
    }
    // Where the target is a whole URL, that is what counts; but two hosts are two.
    for (line, fields, status) in [
        ("GET http://hub/v1/sessions HTTP/1.1", &[&b"host: hub"[..]][..], 200),
        ("GET http://hub/v1/sessions HTTP/1.1", &[b"host: hub", b"host: hub"], 400),
        ("GET http://hub/v1/sessions HTTP/1.1", &[b"host: user@hub"], 400),
        ("GET http://user@hub/v1/sessions HTTP/1.1", &[b"host: hub"], 400),
        ("GET /v1/sessions HTTP/1.0", &[], 200),
        ("GET /v1/sessions HTTP/1.0", &[b"host: hub", b"host: hub"], 400),
    ] {
        assert_eq!(ask(&bed, line, fields).await.status, status, "{line} {fields:?}");
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_request_comes_from_one_page_that_can_be_read_or_from_none() {
    let bed = Bed::start().await;
    let list = "GET /v1/sessions HTTP/1.1";
    for (fields, status) in [
        (&[&b"origin: http://hub"[..]][..], 200),
        (&[b"origin: https://hub"], 200),
        (&[b"origin: http://evil.example"], 403),
        (&[b"origin: http://hub.evil.example"], 403),
        (&[b"origin: http://hub", b"origin: http://hub"], 403),
        (&[b"origin: http://hub", b"origin: http://evil.example"], 403),
        (&[b"origin: http://h\xc3\xbcb"], 403),
        (&[b"origin: \xff\xfe"], 403),
        (&[b"origin: http://user@hub"], 403),
        (&[b"origin: null"], 403),
        (&[b"origin:"], 403),
    ] {
        let fields: Vec<&[u8]> = [&b"host: hub"[..]].into_iter().chain(fields.iter().copied()).collect();
        let answer = ask(&bed, list, &fields).await;
        assert_eq!(answer.status, status, "{fields:?}: {}", answer.body);
        assert_eq!(answer.code(), if status == 403 { "origin_not_allowed" } else { "" }, "{fields:?}");
    }
    // The target's host is the one that the page has to be of.
    let line = "GET http://elsewhere/v1/sessions HTTP/1.1";
    assert_eq!(ask(&bed, line, &[b"host: hub", b"origin: http://hub"]).await.status, 403);
    assert_eq!(ask(&bed, line, &[b"host: hub", b"origin: http://elsewhere"]).await.status, 200);
    bed.finish().await;
}

#[tokio::test]
async fn a_head_is_not_longer_than_is_said() {
    let bed = Bed::start().await;
    let long = |letters: usize| "a".repeat(letters);
    for (letters, status) in [(60_000, 200), (66_000, 431), (90_000, 431), (120_000, 431), (131_000, 431)] {
        let field = format!("x: {}", long(letters));
        let answer = ask(&bed, "GET /healthz HTTP/1.1", &[b"host: hub", field.as_bytes()]).await;
        assert_eq!(answer.status, status, "{letters}: {}", answer.body);
        let line = format!("GET /healthz?{} HTTP/1.1", long(letters));
        let answer = ask(&bed, &line, &[b"host: hub"]).await;
        // The HTTP library has a limit of its own for addresses.
        assert!(answer.status == status || status == 431 && answer.status == 414, "{letters}: {}", answer.status);
    }
    let many: Vec<String> = (0..90).map(|number| format!("x{number}: {}", long(800))).collect();
    let many: Vec<&[u8]> = [&b"host: hub"[..]].into_iter().chain(many.iter().map(String::as_bytes)).collect();
    let answer = ask(&bed, "GET /healthz HTTP/1.1", &many).await;
    assert_eq!((answer.status, answer.code().as_str()), (431, "too_large"), "{}", answer.body);
    bed.finish().await;
}

#[tokio::test]
async fn what_has_a_secret_or_a_sessions_bytes_is_not_kept() {
    let bed = Bed::start().await;
    let websocket: [&[u8]; 5] = [
        b"upgrade: websocket",
        b"sec-websocket-version: 13",
        b"sec-websocket-protocol: foghorn.v1",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        b"x: y",
    ];
    let session = format!("/v1/sessions/{}", bed.id);
    let body = r#"{"right": "read"}"#;
    let length = format!("content-length: {}", body.len());
    for (line, fields, status, kept) in [
        ("GET /healthz".to_owned(), &[][..], 200, true),
        ("GET /openapi.json".to_owned(), &[], 200, true),
        ("GET /readyz".to_owned(), &[], 200, false),
        ("GET /metrics".to_owned(), &[], 200, false),
        ("GET /nothing".to_owned(), &[], 404, false),
        ("GET /v1/sessions".to_owned(), &[], 200, false),
        ("PUT /v1/sessions".to_owned(), &[], 405, false),
        ("GET /v1/audit".to_owned(), &[], 200, false),
        ("GET /v1/apps".to_owned(), &[], 200, false),
        (format!("GET {session}"), &[], 200, false),
        (format!("GET {session}/output"), &[], 200, false),
        (format!("GET {session}/recording.cast"), &[], 200, false),
        (format!("GET {session}/tickets"), &[], 200, false),
        ("GET /v1/sessions/none".to_owned(), &[], 404, false),
        ("GET /v1/apps/a/logs".to_owned(), &[], 200, false),
        (format!("POST {session}/tickets"), &[b"content-type: application/json", length.as_bytes()], 201, false),
        (format!("GET {session}/attach"), &websocket, 400, false),
    ] {
        let fields: Vec<&[u8]> = [&b"host: hub"[..]].into_iter().chain(fields.iter().copied()).collect();
        let body = if status == 201 { body } else { "" };
        let auth = format!("authorization: Bearer {}", bed.server.token());
        let mut request = format!("{line} HTTP/1.1\r\n{auth}\r\n").into_bytes();
        fields.iter().for_each(|field| request.extend([field, &b"\r\n"[..]].concat()));
        request.extend(format!("connection: close\r\n\r\n{body}").bytes());
        let answer = answer(&bed.server, &request).await.expect("an answer");
        assert_eq!(answer.status, status, "{line}: {}", answer.body);
        let stored = !answer.head.contains("cache-control: no-store");
        assert_eq!(stored, kept, "{line}: {}", answer.head);
    }
    bed.finish().await;
}
