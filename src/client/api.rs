//! Requests that are tried again when a hub is replaced.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Response;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::error::ClientError;
use super::http::{Ask, encode, read};
use super::hubs::{Hub, Hubs};
use crate::protocol::{NewSession, NewTicket, SessionInfo, Started, Ticket};

/// How long a single request is tried.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// How long one request waits for a session's end, in seconds.
const POLL_SECONDS: u64 = 30;

/// The hub's HTTP doors. Every request that is made here can be repeated without harm.
#[derive(Clone)]
pub struct Api {
    hubs: Arc<Hubs>,
}

impl Api {
    /// The doors of the hub that `hubs` finds.
    #[must_use]
    pub fn new(hubs: Arc<Hubs>) -> Self {
        Self { hubs }
    }

    /// Where hubs come from.
    #[must_use]
    pub fn hubs(&self) -> &Arc<Hubs> {
        &self.hubs
    }

    /// Sends a request, again where the connection fails, for at most `limit`.
    ///
    /// # Errors
    /// The last failure.
    pub async fn send(&self, ask: &Ask, limit: Duration) -> Result<Response<Incoming>, ClientError> {
        self.retry(limit, async |hub| self.hubs.http().send(&hub, ask).await).await
    }

    async fn retry<T>(
        &self,
        limit: Duration,
        attempt: impl AsyncFn(Hub) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::default();
        loop {
            let hub = self.hubs.find().await?;
            let url = hub.url.clone();
            match attempt(hub).await {
                // Its token may have ended since it was found.
                Err(ClientError::Refused { status: 401, .. }) if self.hubs.refused(&url).await => {}
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    self.hubs.pass_over();
                    tokio::time::sleep(backoff.wait()).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn json<T: DeserializeOwned>(&self, ask: &Ask, limit: Duration) -> Result<T, ClientError> {
        let body =
            self.retry(limit, async |hub| read(self.hubs.http().send(&hub, ask).await?.into_body()).await).await?;
        parse(&body)
    }

    /// Reads what a door has.
    ///
    /// # Errors
    /// What [`Self::send`] fails with, and an answer that cannot be understood.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(&Ask::get(path), TRY_LIMIT).await
    }

    /// Starts a session; its idempotency key makes a repeated request harmless.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn start(&self, new: &NewSession) -> Result<Started, ClientError> {
        self.json(&post("/v1/sessions".to_owned(), new), TRY_LIMIT).await
    }

    /// One session.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn session(&self, id: &str) -> Result<SessionInfo, ClientError> {
        self.get(&session_path(id, "")).await
    }

    /// Waits for a session's end, through the deaths of hubs, each for at most the reconnect limit.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn wait(&self, id: &str) -> Result<SessionInfo, ClientError> {
        let path = session_path(id, &format!("?wait={POLL_SECONDS}"));
        let ask = Ask { limit: Duration::from_secs(POLL_SECONDS + 15), ..Ask::get(path) };
        loop {
            let info: SessionInfo = self.json(&ask, self.hubs.settings().reconnect_limit).await?;
            if info.exit.is_some() {
                return Ok(info);
            }
        }
    }

    /// Stops a session.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn stop(&self, id: &str) -> Result<(), ClientError> {
        self.send(&Ask::new(Method::DELETE, session_path(id, "")), TRY_LIMIT).await.map(drop)
    }

    /// Removes an ended session with its journal.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn remove(&self, id: &str) -> Result<(), ClientError> {
        self.send(&Ask::new(Method::DELETE, session_path(id, "?purge=true")), TRY_LIMIT).await.map(drop)
    }

    /// Makes a ticket. A repeated request may leave a second one, whose secret nobody knows.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn ticket(&self, id: &str, new: &NewTicket) -> Result<Ticket, ClientError> {
        self.json(&post(session_path(id, "/tickets"), new), TRY_LIMIT).await
    }

    /// Revokes a ticket.
    ///
    /// # Errors
    /// What [`Self::send`] fails with.
    pub async fn revoke(&self, id: &str, ticket: &str) -> Result<(), ClientError> {
        let path = session_path(id, &format!("/tickets/{}", encode(ticket)));
        self.send(&Ask::new(Method::DELETE, path), TRY_LIMIT).await.map(drop)
    }
}

/// The path of a session's door.
#[must_use]
pub fn session_path(id: &str, rest: &str) -> String {
    format!("/v1/sessions/{}{rest}", encode(id))
}

fn post(path: String, body: &impl Serialize) -> Ask {
    let body = serde_json::to_vec(body).unwrap_or_default();
    Ask { body: Some(Bytes::from(body)), ..Ask::new(Method::POST, path) }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Answer(error.to_string()))
}
