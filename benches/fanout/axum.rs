//! System (b), what most people would write: axum's websocket, a broadcast channel, a task a viewer.

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use foghorn::agent::protocol::{RECORDS, Reader};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Messages that a viewer may be behind.
const CAPACITY: usize = 1024;

/// Serves until it is killed.
pub fn run(address: &str, socket: &str, viewers: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(serve(address, socket, viewers));
}

async fn serve(address: &str, socket: &str, viewers: usize) {
    let (sender, _) = broadcast::channel::<Bytes>(CAPACITY);
    let listener = tokio::net::TcpListener::bind(address).await.expect("listens");
    let router = Router::new().route("/attach", get(attach)).with_state(sender.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    while sender.receiver_count() < viewers {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let source = super::source::greet(socket);
    source.set_nonblocking(true).expect("a socket");
    let mut reader = Reader::new(tokio::net::UnixStream::from_std(source).expect("a socket"));
    while let Ok(Some((kind, rest))) = reader.next().await {
        if kind == RECORDS {
            let _nobody_is_here = sender.send(rest);
        }
    }
}

async fn attach(upgrade: WebSocketUpgrade, State(sender): State<broadcast::Sender<Bytes>>) -> Response {
    let receiver = sender.subscribe();
    upgrade.on_upgrade(|socket| view(socket, receiver))
}

async fn view(mut socket: WebSocket, mut receiver: broadcast::Receiver<Bytes>) {
    loop {
        match receiver.recv().await {
            Ok(bytes) => {
                if socket.send(Message::Binary(bytes)).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
