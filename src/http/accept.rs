//! The loop that accepts connections, and who may be connected at once.
//!
//! Who has shown a token takes one of the `connections` that the settings allow, for as long as its connection lives. Who
//! has not yet is a **stranger**. Strangers have [`strangers`] places of their own, and where there is none left for one
//! who comes, the one that has been here longest has to go. So nobody who has nothing to show can keep out those who
//! have, however many connections it opens: they are let in as soon as they say who they are.
//!
//! Invariant: of each listener at most `connections + strangers(connections)` connections are open. What a stranger can make the hub
//! hold is the head of a request, [`MAX_HEAD`]. Who does not take an answer that lies in memory has it for `unread`
//! ([`super::taken`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::stream::{Listener, Stream};
use super::taken::Taken;
use crate::session::lock;
use crate::tasks::Tasks;

/// The longest head of a request, in bytes.
pub const MAX_HEAD: usize = 64 << 10;

/// How long a client may take to send the head of a request, the first one or the next.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long answers that are under way may take when the hub stops.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// The fewest and the most places for strangers.
const STRANGERS: (usize, usize) = (16, 1024);

/// How many may be connected that have shown no token, where so many may that have.
#[must_use]
pub fn strangers(connections: usize) -> usize {
    connections.clamp(STRANGERS.0, STRANGERS.1)
}

/// A connection's place among those that may be open at once. What goes on after an upgrade keeps it.
#[derive(Clone, Debug)]
pub struct Place(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    number: u64,
    lobby: Arc<Lobby>,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Stranger(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    Known(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
}

/// Who is connected and has shown no token.
#[derive(Debug)]
struct Lobby {
    places: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// What ends their connections, by their number, which is the order in which they came.
    strangers: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl Place {
    /// The connection's client has shown a valid token: from now on nobody has to make room for strangers. Whether there
    /// is a place for it.
    #[must_use]
    pub fn settle(&self) -> bool {
        let mut held = lock(&self.0.held);
        if matches!(*held, Held::Known(_)) {
            return true;
        }
        let Ok(permit) = self.0.lobby.room.clone().try_acquire_owned() else { return false };
        lock(&self.0.lobby.strangers).remove(&self.0.number);
        *held = Held::Known(permit);
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.lobby.strangers).remove(&self.number);
    }
}

impl Lobby {
    fn new(connections: usize) -> Arc<Self> {
        let (places, room) = (strangers(connections), connections);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places)),
            room: Arc::new(Semaphore::new(room)),
            strangers: Mutex::default(),
        })
    }

    /// A place for the next who comes; the oldest stranger goes where there is none. `None` only without a lobby.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Some(permit);
        }
        self.send_away();
        self.places.clone().acquire_owned().await.ok()
    }

    /// Ends the connection of the oldest stranger.
    fn send_away(&self) {
        if let Some((_, leave)) = lock(&self.strangers).pop_first() {
            leave.cancel();
        }
    }

    fn seat(self: &Arc<Self>, number: u64, permit: OwnedSemaphorePermit) -> (Place, CancellationToken) {
        let leave = CancellationToken::new();
        lock(&self.strangers).insert(number, leave.clone());
        let held = Mutex::new(Held::Stranger(permit));
        (Place(Arc::new(Seat { number, lobby: self.clone(), held })), leave)
    }
}

/// Accepts connections until the tasks are told to stop; `connections` of those who show a token at once. An answer of
/// which nothing is taken for `unread` is dropped.
pub async fn serve(listener: Listener, router: Router, tasks: Tasks, connections: usize, unread: Duration) {
    let lobby = Lobby::new(connections);
    let stop = tasks.stopping();
    for number in 0.. {
        let next = async {
            let (stream, peer) = accept(&listener, &lobby).await;
            Some((stream, peer, lobby.place().await?))
        };
        let Some(Some((stream, peer, permit))) = stop.run_until_cancelled(next).await else { return };
        let (place, leave) = lobby.seat(number, permit);
        let (router, stop) = (router.clone(), stop.clone());
        tasks.spawn_to_end("connection", async move {
            let answered = answer(Taken::new(stream, unread, Stream::forget), peer, router, place, stop);
            leave.run_until_cancelled(answered).await.unwrap_or_default();
        });
    }
}

async fn accept(listener: &Listener, lobby: &Lobby) -> (Stream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(Some(accepted)) => return accepted,
            Ok(None) => {}
            Err(error) => {
                // Out of descriptors, mostly: some will be free again, one of a stranger's at once.
                tracing::warn!(%error, "cannot accept a connection");
                lobby.send_away();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers what is asked on one connection, until it ends or the hub stops.
async fn answer(stream: Taken<Stream>, peer: SocketAddr, router: Router, place: Place, stop: CancellationToken) {
    let whole = stream.whole();
    let service = router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
        request.extensions_mut().insert(place.clone());
        request
    });
    let service = TowerToHyperService::new(service.map_response(move |response| {
        whole.note(&response);
        response
    }));
    // Not hyper-util's builder: it waits for ever for the first byte, to see which version it is of.
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            // What was asked is answered, and nothing more is taken.
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_ANSWERS, serving).await {
                Ok(served) => served,
                // A client that does not read what it asked for.
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a connection failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_stranger_goes_and_nobody_else() {
        let lobby = Lobby::new(1);
        let mut here = Vec::new();
        for number in 0..STRANGERS.0 as u64 {
            here.push(lobby.seat(number, lobby.place().await.expect("a place")));
        }
        // The second one has shown who it is.
        assert!(here[1].0.settle() && here[1].0.settle());
        let (late, _) = lobby.seat(90, lobby.place().await.expect("the place that the second had"));
        assert!(!late.settle(), "one may be connected that has a token");
        lobby.send_away();
        lobby.send_away();
        let away: Vec<bool> = here.iter().map(|(_, leave)| leave.is_cancelled()).collect();
        assert_eq!(away[..4], [true, false, true, false]);
        drop(here.remove(1));
        assert!(late.settle(), "a place is free again");
    }
}
