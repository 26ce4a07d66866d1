//! A backend whose connections to agents are counted. What comes over them is counted where it is read.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use super::{Backend, BackendError, Handed, Order, Tell, Whose};
use crate::metrics::Metrics;
use crate::source::Source;

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

    fn has_environment(&self) -> bool {
        self.backend.has_environment()
    }

    async fn place(&self, order: &Order) -> Result<Value, BackendError> {
        self.backend.place(order).await
    }

    fn numbers(&self, place: &Value) -> bool {
        self.backend.numbers(place)
    }

    fn reaches(&self, place: &Value) -> bool {
        self.backend.reaches(place)
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.backend.ready().await
    }

    async fn whose(&self, handed: &Handed) -> Result<Whose, BackendError> {
        self.backend.whose(handed).await
    }

    async fn create(&self, order: &Order, place: &Value) -> Result<(), BackendError> {
        self.backend.create(order, place).await
    }

    async fn connect(&self, session: Uuid, place: &Value, from: u64, tell: &Tell<'_>) -> Result<Source, BackendError> {
        let connected = self.backend.connect(session, place, from, tell).await;
        self.metrics.agent(match &connected {
            Ok(source) if source.started => "again",
            Ok(_) => "first",
            Err(BackendError::Gone | BackendError::NoTrace | BackendError::Ended(_)) => "gone",
            Err(BackendError::Taken(_)) => "taken",
            Err(_) => "unreachable",
        });
        connected
    }

    async fn agents(&self) -> Vec<(Uuid, Value)> {
        self.backend.agents().await
    }

    async fn release(&self, session: Uuid, place: &Value) -> bool {
        self.backend.release(session, place).await
    }

    async fn clean_up(&self, session: Uuid, place: &Value) {
        self.backend.clean_up(session, place).await;
    }
}
