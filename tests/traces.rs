//! A hub that was built with `otlp` sends its spans to a collector: a real one's door, played by the test.
#![cfg(feature = "otlp")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::server::{Server, until};
use tokio::net::TcpListener;

/// What a collector was sent: the path, the content type, the body.
type Sent = Arc<Mutex<Vec<(String, String, Bytes)>>>;

/// Listens as a collector does, and keeps what comes.
async fn collector() -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let sent = Sent::default();
    let all = sent.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let all = all.clone();
            let take = service_fn(move |request: Request<Incoming>| {
                let all = all.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let kind = request.headers()["content-type"].to_str().expect("text").to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    all.lock().unwrap().push((path, kind, body));
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), take));
        }
    });
    (url, sent)
}

/// Whether some request had this text. Names and values are in clear within protobuf.
fn has(sent: &Sent, text: &str) -> bool {
    let sent = sent.lock().unwrap();
    sent.iter().any(|(_, _, body)| body.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[tokio::test]
async fn requests_starts_and_store_calls_are_sent_as_spans() {
    let (url, sent) = collector().await;
    let mut server = Server::start_with("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await;
    let id = server.run_detached("sleep 0.1; echo what-a-command-printed").await;
    server.stored(&id).await;
    until("spans come while the hub runs", async || has(&sent, "create_session").then_some(())).await;
    server.ask("GET", &format!("/v1/sessions/{id}/tickets"), None).await;
    server.terminate().await;
    // What was left at the stop was sent too.
    for text in ["foghorn", "request", "/v1/sessions/{id}/tickets", "start", "store", "add_audit", "append"] {
        assert!(has(&sent, text), "no span has {text}");
    }
    for text in ["what-a-command-printed", "tester", &server.token()] {
        assert!(!has(&sent, text), "a span has {text}");
    }
    for (path, kind, body) in sent.lock().unwrap().iter() {
        assert_eq!((path.as_str(), kind.as_str()), ("/v1/traces", "application/x-protobuf"));
        assert!(!body.is_empty());
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_hub_nothing() {
    let mut server = Server::start_with("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]).await;
    let id = server.run_detached("exit 3").await;
    assert_eq!(server.ended(&id).await["exit_status"], 3);
    server.stored(&id).await;
    server.terminate().await;
}
