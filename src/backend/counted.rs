//! A backend whose connections to agents, and what comes over them, are counted.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use uuid::Uuid;

use super::{Backend, BackendError};
use crate::metrics::Metrics;
use crate::source::{Event, Source};

/// See the module's documentation.
pub struct Counted {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
}

impl Counted {
    /// Counts the connections of a backend.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, metrics: Arc<Metrics>) -> Self {
        Self { backend, metrics }
    }
}

#[async_trait]
impl Backend for Counted {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn place(&self) -> serde_json::Value {
        self.backend.place()
    }

    fn reaches(&self, place: &serde_json::Value) -> bool {
        self.backend.reaches(place)
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.backend.ready().await
    }

    async fn create(&self, session: Uuid) -> Result<(), BackendError> {
        self.backend.create(session).await
    }

    async fn connect(&self, session: Uuid, place: &serde_json::Value, from: u64) -> Result<Source, BackendError> {
        let connected = self.backend.connect(session, place, from).await;
        self.metrics.agent(match &connected {
            Ok(source) if source.started => "again",
            Ok(_) => "first",
            Err(BackendError::Gone | BackendError::NoTrace) => "gone",
            Err(BackendError::Taken(_)) => "taken",
            Err(_) => "unreachable",
        });
        let metrics = self.metrics.clone();
        connected.map(|source| Source {
            events: Box::pin(source.events.inspect(move |event| {
                if let Event::Records(batch) = event {
                    metrics.source_bytes.inc_by(batch.bytes.len() as u64);
                    metrics.source_messages.inc();
                }
            })),
            ..source
        })
    }

    async fn agents(&self) -> Vec<Uuid> {
        self.backend.agents().await
    }

    async fn clean_up(&self, session: Uuid, place: &serde_json::Value) {
        self.backend.clean_up(session, place).await;
    }
}
