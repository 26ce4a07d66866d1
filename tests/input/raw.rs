//! HTTP by hand, over a plain socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::server::{DEADLINE, Server};

/// An answer: its status, its head in lower case, its body.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The code of the problem that it is; empty where it is none.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let told = problem["detail"].as_str().is_some_and(|detail| detail.len() > 10);
        let kind = self.head.contains("content-type: application/problem+json");
        let code = problem["code"].as_str().filter(|_| told && kind && problem["status"] == self.status);
        code.unwrap_or_default().to_owned()
    }
}

/// Connects to a hub.
pub(crate) async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url().trim_start_matches("http://")).await.expect("connects")
}

/// Sends bytes as they are; the answers up to the connection's end, which is the hub's to make.
pub(crate) async fn exchange(server: &Server, bytes: &[u8]) -> Vec<Answer> {
    let mut stream = connect(server).await;
    let (mut read, mut write) = stream.split();
    let send = async {
        // A hub that has heard enough hangs up.
        let _ = write.write_all(bytes).await;
    };
    let mut all = Vec::new();
    let receive = async {
        let _reset_is_an_end_too = read.read_to_end(&mut all).await;
    };
    timeout(DEADLINE, async { tokio::join!(send, receive) }).await.expect("the hub answers or hangs up");
    answers(&all)
}

/// One answer, where there is one.
pub(crate) async fn answer(server: &Server, bytes: &[u8]) -> Option<Answer> {
    exchange(server, bytes).await.into_iter().next()
}

fn answers(mut rest: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(end) = rest.windows(4).position(|part| part == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        rest = &rest[end + 4..];
        // One in chunks is the last one here.
        let length = if head.contains("transfer-encoding: chunked") { rest.len() } else { length.unwrap_or(0) };
        let (body, after) = rest.split_at(length.min(rest.len()));
        answers.push(Answer { status, head, body: String::from_utf8_lossy(body).into_owned() });
        rest = after;
    }
    answers
}
