//! Answers that nobody reads: those that lie in memory are dropped, and streams wait.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::connect;
use crate::support::server::{DEADLINE, Server, until};

/// More than the buffers of two sockets hold, in bytes.
const MUCH: usize = 24_000_000;

/// A connection on which these were asked for, and nothing is read.
async fn asks(server: &Server, path: &str, times: usize) -> TcpStream {
    let ask = format!("GET {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n\r\n", server.token());
    let mut stream = connect(server).await;
    stream.write_all(ask.repeat(times).as_bytes()).await.expect("asks");
    stream
}

/// Reads up to so many bytes: how many there were before the connection's end.
async fn reads(mut stream: TcpStream, most: usize) -> usize {
    let (mut part, mut count) = (vec![0; 1 << 16], 0);
    while count < most {
        match timeout(DEADLINE, stream.read(&mut part)).await.expect("something comes, or the end") {
            Ok(0) | Err(_) => break,
            Ok(read) => count += read,
        }
    }
    count
}

#[tokio::test]
async fn an_answer_in_memory_that_nobody_takes_is_dropped_and_a_stream_is_not() {
    let mut server = Server::start("unread = \"1s\"\n").await;
    let long = "x".repeat(900_000);
    let session = server.run(&["sleep", "600", &long], json!({"detached": true})).await;
    let (id, each) = (session["id"].as_str().expect("an id").to_owned(), long.len());
    let script = format!("head -c {MUCH} /dev/zero | tr '\\0' x; sleep 600");
    let printing = server.run_detached(&script).await;
    let stream = asks(&server, &format!("/v1/sessions/{printing}/output?follow=true"), 1).await;
    let times = MUCH / each;
    let address = async |stream: &TcpStream| stream.local_addr().expect("an address").port();
    let whole = asks(&server, &format!("/v1/sessions/{id}"), times).await;
    let (near, far) = (address(&whole).await, server.url());
    let far: u16 = far.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    // The hub's end of the connection, as the system lists it, is not there any more.
    until("the connection is dropped", async || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
        let hubs_end = format!("0100007F:{far:04X} 0100007F:{near:04X}");
        (!sockets.contains(&hubs_end)).then_some(())
    })
    .await;
    assert!(reads(whole, usize::MAX).await < times * each, "it came whole");
    // A stream has waited as long, and goes on.
    assert!(reads(stream, MUCH).await >= MUCH, "the stream has ended");
    for id in [id, printing] {
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.ended(&id).await;
    }
}
