//! How agents are made and reached. What a session is, is not known here.

use async_trait::async_trait;
use uuid::Uuid;

use crate::source::Source;

pub mod counted;
pub mod link;
pub mod local;

/// Why an agent could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The agent could not be made.
    #[error("its agent could not be started: {0}")]
    Create(String),
    /// The agent was killed: what it left is there. It will not come back.
    #[error("its agent was killed")]
    Gone,
    /// The agent was never made, or it ended in order, when a hub had all of it.
    #[error("there is no trace of its agent")]
    NoTrace,
    /// Another hub, that came later, has the agent.
    #[error("another hub has taken its agent: {0}")]
    Taken(String),
    /// The agent could not be reached now.
    #[error("its agent cannot be reached: {0}")]
    Unreachable(String),
}

/// Makes agents and connects to them.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Its name in settings and sessions, such as `local`.
    fn name(&self) -> &'static str;

    /// Where the agents that this hub makes are, for [`Backend::connect`] of this hub and of later ones.
    fn place(&self) -> serde_json::Value;

    /// Whether agents at this place are this hub's to connect to, and not those of a hub elsewhere that shares its
    /// database.
    fn reaches(&self, place: &serde_json::Value) -> bool;

    /// Whether agents can be made now.
    ///
    /// # Errors
    /// [`BackendError::Create`] with what keeps it from it.
    async fn ready(&self) -> Result<(), BackendError>;

    /// Makes an agent for a session that has none.
    ///
    /// # Errors
    /// [`BackendError::Create`].
    async fn create(&self, session: Uuid) -> Result<(), BackendError>;

    /// Connects to a session's agent; its events start at offset `from`.
    ///
    /// # Errors
    /// All but [`BackendError::Create`].
    async fn connect(&self, session: Uuid, place: &serde_json::Value, from: u64) -> Result<Source, BackendError>;

    /// The sessions that have, or had, an agent here, whoever knows of them.
    async fn agents(&self) -> Vec<Uuid>;

    /// Ends what is left of a session whose agent is gone, and returns when nothing is.
    async fn clean_up(&self, session: Uuid, place: &serde_json::Value);
}
