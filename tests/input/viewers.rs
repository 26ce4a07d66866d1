//! What a viewer says that it must not, or not so: told with a stable code, or passed over where that is promised.

use std::time::Duration;

use foghorn::protocol::{INPUT_WINDOW, MAX_INPUT};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::{Bed, OTHER};
use crate::raw;
use crate::support::server::until;
use crate::wire::{BINARY, FIN, Got, PING, Wire, frame, input, text};

const WRITER: &str = r#""writer":"000000000000000000000000000000aa""#;

fn driving() -> String {
    format!(r#""role":"take",{WRITER}"#)
}

/// The hub tells this error and closes with this code.
async fn ends(wire: &mut Wire, error: &str, close: u16, what: &str) {
    let code = wire.rest().await;
    assert_eq!((wire.error.as_deref(), code), (Some(error), Some(close)), "{what}");
}

/// Asks for a websocket that is not given: the status and the code.
async fn refused(bed: &Bed, id: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let Err((status, problem)) = Wire::ask(&bed.server.url(), id, headers).await else { panic!("let in: {headers:?}") };
    assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 10), "{problem}");
    (status, problem["code"].as_str().expect("a code").to_owned())
}

#[tokio::test]
async fn a_hello_is_the_first_message_and_understood() {
    let bed = Bed::start().await;
    let long = format!(r#"{{"type":"hello","writer":"{}"}}"#, "a".repeat(60_000));
    let wrong: &[&str] = &[
        "",
        " ",
        "null",
        "[]",
        "\"hello\"",
        "{",
        "{}",
        r#"{"type":"hello""#,
        r#"{"type":"hello"} {}"#,
        r#"{"type":"Hello"}"#,
        r#"{"type":"stop"}"#,
        r#"{"type":"resize","cols":1,"rows":1}"#,
        r#"{"type":"hello","mode":"sound"}"#,
        r#"{"type":"hello","role":"admin"}"#,
        r#"{"type":"hello","from":-1}"#,
        r#"{"type":"hello","from":1.5}"#,
        r#"{"type":"hello","from":"0"}"#,
        r#"{"type":"hello","from":18446744073709551616}"#,
        r#"{"type":"hello","size":{"cols":80}}"#,
        r#"{"type":"hello","size":{"cols":65536,"rows":1}}"#,
        r#"{"type":"hello","size":{"cols":-1,"rows":1}}"#,
        r#"{"type":"hello","paces":1}"#,
        r#"{"type":"hello","writer":7}"#,
        r#"{"type":"hello","writer":""}"#,
        r#"{"type":"hello","writer":"0000000000000000000000000000000"}"#,
        r#"{"type":"hello","writer":"000000000000000000000000000000000"}"#,
        r#"{"type":"hello","writer":"0000000000000000000000000000000g"}"#,
        r#"{"type":"hello","writer":"-0000000000000000000000000000001"}"#,
        r#"{"type":"hello","role":"drive"}"#,
        r#"{"type":"hello","mode":"bytes","mode":"bytes"}"#,
        &long,
    ];
    for message in wrong {
        let mut wire = bed.wire().await;
        wire.send(&text(message)).await;
        ends(&mut wire, "bad_message", 4400, &message.chars().take(60).collect::<String>()).await;
    }
    // Nothing but binary is no hello either.
    let mut wire = bed.wire().await;
    wire.send(&input(0, "x")).await;
    ends(&mut wire, "bad_message", 4400, "binary").await;
    // Fields of a later version are passed over.
    let mut wire = bed.viewer(r#""later":{"a":[1,2,{"b":null}]},"mode":"bytes","x":1"#).await;
    wire.shows("tick").await;
    bed.finish().await;
}

#[tokio::test]
async fn who_says_nothing_is_closed_in_time() {
    let bed = Bed::start().await;
    let (mut silent, mut pinging) = (bed.wire().await, bed.wire().await);
    // To ping is to live, and not to say hello.
    let ping = async {
        loop {
            pinging.send(&frame(FIN | PING, b"")).await;
            if let Got::Message(_) | Got::End = pinging.next().await {
                break;
            }
        }
        ends(&mut pinging, "hello_timeout", 4408, "only pings").await;
    };
    tokio::join!(ends(&mut silent, "hello_timeout", 4408, "nothing"), ping);
    bed.finish().await;
}

#[tokio::test]
async fn a_message_that_is_none_is_told_and_one_of_a_later_version_is_passed_over() {
    let bed = Bed::start().await;
    let deep = format!(r#"{{"type":"later","x":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let wrong: &[&str] =
        &["", "null", "[]", "{}", "{\"type\":null}", "{\"type\":7}", "hello", "{\"type\":\"stop\"", "\u{0}"];
    for message in wrong {
        let mut wire = bed.viewer("").await;
        wire.send(&text(message)).await;
        ends(&mut wire, "bad_message", 4400, message).await;
    }
    let mut wire = bed.viewer("").await;
    wire.send(&text(r#"{"type":"hello"}"#)).await;
    ends(&mut wire, "bad_message", 4400, "a second hello").await;
    for len in 0..8 {
        let mut wire = bed.viewer(&driving()).await;
        wire.send(&frame(FIN | BINARY, &[0; 8][..len])).await;
        ends(&mut wire, "bad_message", 4400, "input without its offset").await;
    }
    let mut wire = bed.viewer("").await;
    let later: &[&str] = &[
        r#"{"type":"later"}"#,
        r#"{"type":"stop_it","now":true}"#,
        r#"{"x":{"type":"stop"},"type":"later"}"#,
        "{\"type\":\"\u{1f4ef}\"}",
        &deep,
    ];
    for message in later {
        wire.send(&text(message)).await;
    }
    wire.send(&frame(FIN | PING, b"still here")).await;
    wire.pong(b"still here").await;
    bed.finish().await;
}

#[tokio::test]
async fn a_size_that_is_no_terminals_is_made_one() {
    let bed = Bed::start().await;
    let mut driver = bed.viewer(&format!(r#"{},"size":{{"cols":65535,"rows":65535}}"#, driving())).await;
    bed.has_size(1000, 500).await;
    driver.send(&text(r#"{"type":"resize","cols":0,"rows":0}"#)).await;
    bed.has_size(80, 24).await;
    driver.send(&text(r#"{"type":"resize","cols":1,"rows":1}"#)).await;
    bed.has_size(1, 1).await;
    driver.send(&text(r#"{"type":"resize","cols":65535,"rows":1}"#)).await;
    bed.has_size(1000, 1).await;
    bed.finish().await;
}

#[tokio::test]
async fn who_may_only_watch_changes_nothing() {
    let bed = Bed::start().await;
    let (_, secret) = bed.ticket(json!({"right": "read"})).await;
    let mut wire = Wire::open(&bed.server.url(), &secret, &bed.id).await.expect("a websocket");
    wire.hello(&driving()).await;
    ends(&mut wire, "forbidden", 4403, "a watcher who asks to drive").await;
    for hello in [r#""size":{"cols":7,"rows":7}"#.to_owned(), format!(r#"{WRITER},"size":{{"cols":7,"rows":7}}"#)] {
        let mut wire = bed.viewer_as(&secret, &hello).await;
        wire.send(&text(r#"{"type":"resize","cols":9,"rows":9}"#)).await;
        wire.send(&input(0, "typed by a watcher\n")).await;
        assert_eq!(wire.refuses().await, "not_driving");
        wire.send(&text(r#"{"type":"input_end","offset":0}"#)).await;
        assert_eq!(wire.refuses().await, "not_driving");
        for (message, code) in [
            (r#"{"type":"take"}"#, "forbidden"),
            (r#"{"type":"signal","signal":9}"#, "forbidden"),
            (r#"{"type":"stop"}"#, "forbidden"),
        ] {
            wire.send(&text(message)).await;
            assert_eq!(wire.refuses().await, code, "{message}");
        }
        wire.send(&text(r#"{"type":"consumed","offset":99999999999}"#)).await;
        wire.send(&text(r#"{"type":"detach"}"#)).await;
        assert_eq!(wire.rest().await, Some(1000));
    }
    assert_eq!(bed.size().await, (80, 24), "a watcher's window is not the terminal's");
    // Who may type may not signal or stop.
    let (_, secret) = bed.ticket(json!({"right": "write"})).await;
    let mut wire = bed.viewer_as(&secret, &driving()).await;
    for message in [r#"{"type":"signal","signal":9}"#, r#"{"type":"stop"}"#] {
        wire.send(&text(message)).await;
        assert_eq!(wire.refuses().await, "forbidden", "{message}");
    }
    wire.send(&input(0, "typed by a driver\n")).await;
    wire.shows("got typed by a driver.").await;
    let seen = String::from_utf8_lossy(&wire.output).into_owned();
    assert!(!seen.contains("watcher"), "{seen}");
    bed.finish().await;
}

#[tokio::test]
async fn a_token_that_is_none_or_has_ended_opens_no_door() {
    let bed = Bed::start().await;
    let attach = async |secret: &str| {
        let bearer = format!("Bearer {secret}");
        refused(&bed, &bed.id, &[("authorization", &bearer), ("sec-websocket-protocol", "foghorn.v1")]).await
    };
    let told = |status: u16, code: &str| (status, code.to_owned());
    for wrong in ["wrong", "", "a b", "\u{fc}", &"x".repeat(10_000)] {
        assert_eq!(attach(wrong).await, told(401, "unauthorized"), "{wrong}");
    }
    let admin = format!("Bearer {}", bed.server.token());
    let (version, protocol) = (("sec-websocket-version", "13"), "sec-websocket-protocol");
    for (headers, status, code) in [
        (vec![(protocol, "foghorn.v1")], 401, "unauthorized"),
        (vec![(protocol, "foghorn.v1, foghorn.bearer.!!!")], 401, "unauthorized"),
        (vec![("authorization", "Basic YTpi"), (protocol, "foghorn.v1")], 401, "unauthorized"),
        (vec![("authorization", &admin), (protocol, "foghorn.v2")], 400, "unsupported_subprotocol"),
        (vec![("authorization", &admin), (protocol, "")], 400, "unsupported_subprotocol"),
        (vec![("authorization", &admin), version], 400, "unsupported_subprotocol"),
    ] {
        assert_eq!(refused(&bed, &bed.id, &headers).await, told(status, code), "{headers:?}");
    }
    // Expired, used, revoked.
    let (_, expired) = bed.ticket(json!({"right": "read", "expires": "1ms"})).await;
    until("the ticket expires", async || {
        let (status, _) = bed.server.ask_as(&expired, "GET", &format!("/v1/sessions/{}", bed.id), None).await;
        (status == 401).then_some(())
    })
    .await;
    assert_eq!(attach(&expired).await, told(401, "unauthorized"));
    let (_, once) = bed.ticket(json!({"right": "read", "one_use": true})).await;
    drop(bed.viewer_as(&once, "").await);
    assert_eq!(attach(&once).await, told(401, "ticket_used"));
    let (id, revoked) = bed.ticket(json!({"right": "read"})).await;
    let path = format!("/v1/sessions/{}/tickets/{id}", bed.id);
    assert_eq!(bed.server.ask("DELETE", &path, None).await.0, 204);
    assert_eq!(attach(&revoked).await, told(401, "unauthorized"));
    // Sessions that are not there, and one that is not this caller's.
    let (bearer, v1) = (("authorization", admin.as_str()), (protocol, "foghorn.v1"));
    for id in ["run.999", "nothing", "00000000-0000-0000-0000-000000000000", "%2e%2e"] {
        assert_eq!(refused(&bed, id, &[bearer, v1]).await, told(404, "session_not_found"), "{id}");
    }
    for id in ["%ff", "%00"] {
        assert_eq!(refused(&bed, id, &[bearer, v1]).await, told(400, "invalid_request"), "{id}");
    }
    let other = format!("Bearer {OTHER}");
    let headers = [("authorization", other.as_str()), v1];
    assert_eq!(refused(&bed, &bed.id, &headers).await, told(404, "session_not_found"));
    bed.finish().await;
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_waited_for_while_there_may_be_more() {
    let bed = Bed::start().await;
    let welcome = {
        let mut wire = bed.wire().await;
        wire.hello("").await;
        wire.hears("welcome").await
    };
    // A little further on: nothing before it, and then all.
    let from = welcome["head"].as_u64().expect("a head") + 300;
    let mut wire = bed.viewer(&format!(r#""from":{from}"#)).await;
    while wire.output.len() < 200 {
        assert!(!matches!(wire.next().await, Got::Close(_) | Got::End), "it goes on");
    }
    assert_eq!(wire.first, Some(from));
    let all = bed.server.output(&bed.id, false).await;
    assert_eq!(wire.output[..200], all[from as usize..][..200], "the bytes from there on");
    // Further than anything ever: it is kept waiting, and hears what there is to hear.
    let mut far = Vec::new();
    for from in [1 << 40, u64::MAX - 1, u64::MAX] {
        for mode in ["bytes", "screen"] {
            let hello = format!(r#""from":{from},"mode":"{mode}",{WRITER}"#);
            let mut wire = bed.viewer(&hello).await;
            wire.send(&frame(FIN | PING, b"here")).await;
            wire.pong(b"here").await;
            assert!(wire.output.is_empty());
            far.push(wire);
        }
    }
    // A driver who says that it has consumed what was never printed.
    let hello = format!(r#""role":"take","paces":true,"from":{},{WRITER}"#, u64::MAX);
    let mut driver = bed.viewer(&hello).await;
    driver.send(&text(&format!(r#"{{"type":"consumed","offset":{}}}"#, u64::MAX))).await;
    driver.send(&input(0, "typed\n")).await;
    driver.hears("input_ack").await;
    // So is who follows over plain HTTP, whose answer is then broken off: nothing is not all of the output.
    let mut plain = raw::connect(&bed.server).await;
    let head = format!(
        "GET /v1/sessions/{}/output?follow=true&from=1099511627776 HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n\r\n",
        bed.id,
        bed.server.token()
    );
    plain.write_all(head.as_bytes()).await.expect("sends");
    // Who does not follow does not wait: it is refused, as of a session that has ended.
    let beyond = format!("/v1/sessions/{}/output?from=1099511627776", bed.id);
    let (status, problem) = bed.server.ask("GET", &beyond, None).await;
    assert_eq!((status, &problem["code"]), (416, &"offset_beyond_end".into()), "{problem}");
    let (server, id) = bed.finish_but_keep().await;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.expect("the connection ends");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    for wire in &mut far {
        ends(wire, "offset_beyond_end", 4400, "the session ended before that offset").await;
        assert!(wire.output.is_empty());
    }
    let mut ended = Wire::open(&server.url(), &server.token(), &id).await.expect("a websocket");
    ended.hello(r#""from":1099511627776"#).await;
    ends(&mut ended, "offset_beyond_end", 4400, "one that has ended").await;
}

#[tokio::test]
async fn input_that_does_not_follow_is_refused_and_reaches_nobody() {
    let bed = Bed::start().await;
    let out = "input_out_of_window";
    // By a writer that nobody knows, at another place than its start.
    for (number, offset) in [1, 5, 1 << 40, u64::MAX - 1, u64::MAX].into_iter().enumerate() {
        let hello = format!(r#""role":"take","writer":"0000000000000000000000000000b{number:03x}""#);
        let mut wire = bed.viewer(&hello).await;
        wire.send(&input(offset, "nobody typed this\n")).await;
        ends(&mut wire, out, 4400, &format!("a first offset of {offset}")).await;
    }
    // Beyond what the writer sent, or than may be under way.
    let hello = |number: u8| format!(r#""role":"take","writer":"000000000000000000000000000000{number:02x}""#);
    for (number, offset) in [(1, 7), (2, 300_000), (3, u64::MAX), (4, u64::MAX - 3)] {
        let mut wire = bed.viewer(&hello(number)).await;
        wire.send(&input(0, "typed\n")).await;
        wire.send(&input(offset, "nobody typed this\n")).await;
        ends(&mut wire, out, 4400, &format!("a hole before {offset}")).await;
    }
    // What was sent before is passed over, and acknowledged again.
    let mut wire = bed.viewer(&hello(5)).await;
    wire.send(&input(0, "once\n")).await;
    wire.send(&input(0, "once\n")).await;
    wire.send(&input(2, "ce\n")).await;
    wire.send(&input(3, "e\nmore\n")).await;
    wire.shows("got more.").await;
    let seen = String::from_utf8_lossy(&wire.output).into_owned();
    assert_eq!(seen.matches("got once.").count(), 1, "{seen}");
    assert!(!seen.contains("nobody"), "{seen}");
    // An end in the middle of what was typed, or beyond it.
    for offset in [0, 9, 11, u64::MAX] {
        let mut wire = bed.viewer(&hello(5)).await;
        wire.send(&text(&format!(r#"{{"type":"input_end","offset":{offset}}}"#))).await;
        let told = wire.refuses().await;
        assert!([out, "not_driving"].contains(&told.as_str()), "an end at {offset} of 10: {told}");
    }
    let mut wire = bed.viewer(&hello(5)).await;
    wire.send(&input(10, "last\n")).await;
    wire.shows("got last.").await;
    bed.finish().await;
}

#[tokio::test]
async fn a_writer_that_many_others_came_after_goes_on_where_it_was() {
    let bed = Bed::start().await;
    let hello = |number: u8| format!(r#""role":"take","writer":"000000000000000000000000000001{number:02x}""#);
    let line = |number: u8| format!("w{number:03}\n");
    for number in 0..100 {
        let mut wire = bed.viewer(&hello(number)).await;
        wire.send(&input(0, &line(number))).await;
        let ack = wire.hears("input_ack").await;
        assert_eq!(ack["offset"], 5);
    }
    // One that missed its acknowledgement and says all again, one that missed a part of it, one that goes on.
    for (number, from) in [(0, 0), (1, 3), (2, 5)] {
        let mut wire = bed.viewer(&hello(number)).await;
        let all = format!("{}more of {number}\n", line(number));
        wire.send(&input(from, &all[from as usize..])).await;
        wire.shows(&format!("got more of {number}.")).await;
        let seen = String::from_utf8_lossy(&wire.output).into_owned();
        assert_eq!(seen.matches(&format!("got w{number:03}.")).count(), 1, "{seen}");
    }
    bed.finish().await;
}

#[tokio::test]
async fn a_window_full_of_input_that_nobody_reads_is_all_that_is_taken() {
    let bed = Bed::start().await;
    let session = bed.start_silent().await;
    let mut wire = Wire::open(&bed.server.url(), &bed.server.token(), &session).await.expect("a websocket");
    wire.hello(&driving()).await;
    let part = "z".repeat(MAX_INPUT);
    let fits = INPUT_WINDOW / MAX_INPUT as u64;
    for number in 0..fits {
        wire.send(&input(number * MAX_INPUT as u64, &part)).await;
    }
    wire.send(&frame(FIN | PING, b"full")).await;
    wire.pong(b"full").await;
    // What the pipe took is acknowledged, so this many more cannot all fit.
    for number in fits..fits * 2 {
        wire.send(&input(number * MAX_INPUT as u64, &part)).await;
    }
    ends(&mut wire, "input_out_of_window", 4400, "more than the window").await;
    bed.stop(&session).await;
    bed.finish().await;
}

#[tokio::test]
async fn a_signal_that_is_none_is_refused() {
    let bed = Bed::start().await;
    let path = format!("/v1/sessions/{}/signal", bed.id);
    let mut wire = bed.viewer(&driving()).await;
    for signal in [0, 65, 128, 255] {
        wire.send(&text(&format!(r#"{{"type":"signal","signal":{signal}}}"#))).await;
        wire.send(&frame(FIN | PING, b"told")).await;
        wire.pong(b"told").await;
        assert!(wire.error.as_deref().is_none_or(|code| code == "invalid_request"), "signal {signal}");
        let (status, problem) = bed.server.ask("POST", &path, Some(json!({"signal": signal}))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "signal {signal}");
    }
    for signal in ["256", "-1", "1.5", "\"TERM\"", "null"] {
        let mut wire = bed.viewer("").await;
        wire.send(&text(&format!(r#"{{"type":"signal","signal":{signal}}}"#))).await;
        wire.send(&frame(FIN | PING, b"passed over")).await;
        // A message of a known type that does not fit it: told, or passed over as of a later version.
        loop {
            match wire.next().await {
                Got::Pong(_) | Got::Close(4400) => break,
                got => assert!(!matches!(got, Got::Close(_) | Got::End), "{signal}: {got:?}"),
            }
        }
        let body = serde_json::from_str(&format!(r#"{{"signal":{signal}}}"#)).expect("JSON");
        let (status, problem) = bed.server.ask("POST", &path, Some(body)).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "signal {signal}");
    }
    // One that the foreground takes no notice of shows that signals are carried at all.
    wire.send(&text(r#"{"type":"signal","signal":28}"#)).await;
    wire.offer(&frame(FIN | PING, b"done"), Duration::from_secs(5)).await;
    wire.pong(b"done").await;
    bed.finish().await;
}
