//! How agents are made and reached. What a session is, is not known here.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use crate::record::Cause;
use crate::source::Source;

pub mod counted;
pub mod kubernetes;
pub mod link;
pub mod local;

/// Why an agent could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The agent could not be made.
    #[error("its agent could not be started: {0}")]
    Create(String),
    /// There can be no such session here.
    #[error("{0}")]
    Refused(String),
    /// What the session was made of has ended, and it is known how. It will not come back.
    #[error("it ended")]
    Ended(Cause),
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
    /// The hub itself may not do that where the session is to be.
    #[error("this hub may not do that: {0}")]
    Forbidden(String),
}

/// A session that is to be made, as far as a backend has to know it.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its id.
    pub session: Uuid,
    /// The app it belongs to.
    pub app: String,
    /// Who asked for it.
    pub owner: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is fed.
    pub stdin: bool,
    /// How long it may last at most, with all that belongs to its end.
    pub lifetime: Duration,
    /// What it is made of.
    pub what: What,
    /// Who it is, for a later hub whose store does not know it; null before it has its name.
    pub card: Value,
}

/// What a session is made of.
#[derive(Clone, Debug)]
pub enum What {
    /// A command in a place of its own.
    Run(Box<Run>),
    /// A command in a container of the app that runs already.
    Exec(Exec),
    /// A pod that somebody else has made.
    Pod(Handed),
}

/// A command in a container that runs already.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// The pod, as people name it: by its name, or as `web.1`.
    pub pod: String,
    /// The container; none: the pod's main one.
    pub container: Option<String>,
}

/// A pod that somebody else has made, and hands over.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The container; none: the pod's main one.
    pub container: Option<String>,
    /// The app that it is said to belong to.
    pub app: Option<String>,
    /// Whether it is to be deleted when the session has its end.
    pub delete: bool,
}

/// What is known of a pod that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The app that it belongs to; where it is not there yet, is said to belong to.
    pub app: String,
    /// Whether its container has a terminal, if it is there.
    pub tty: Option<bool>,
}

/// A command that gets a place of its own. Where there are pods, one is made as the app's own are.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Variables that are added to its environment.
    pub env: BTreeMap<String, String>,
    /// What it is made from, such as `deploy/web`.
    pub from: Option<String>,
    /// The container that it is made from.
    pub container: Option<String>,
    /// CPUs that it asks for.
    pub cpu: Option<String>,
    /// Memory that it asks for.
    pub memory: Option<String>,
    /// Whether it is started with what the image starts its programs with.
    pub launcher: bool,
}

/// Takes sentences of how far a start has come, for the people who wait for it.
pub type Tell<'a> = dyn Fn(String) + Send + Sync + 'a;

/// In a place: how many hubs have taken its session up from another one.
pub const TAKERS: &str = "takers";

/// Makes agents and connects to them.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Its name in settings and sessions, such as `local`.
    fn name(&self) -> &'static str;

    /// Whether commands get the environment and the directory of the place that they are brought to, and only what is
    /// set for them on top.
    fn has_environment(&self) -> bool;

    /// Where the agent of a session is going to be, for [`Backend::connect`] of this hub and of later ones. The same for
    /// the same order.
    ///
    /// # Errors
    /// [`BackendError::Refused`], and [`BackendError::Unreachable`] where it had to be asked for.
    async fn place(&self, order: &Order) -> Result<Value, BackendError>;

    /// Whether agents at this place are this hub's to connect to, and not those of a hub elsewhere that shares its
    /// database.
    fn reaches(&self, place: &Value) -> bool;

    /// Whether the hub itself numbers what comes from the source at this place. Then the place, as a later hub has it,
    /// says in [`TAKERS`] how many hubs have taken the session up.
    fn numbers(&self, place: &Value) -> bool;

    /// Whether agents can be made now.
    ///
    /// # Errors
    /// [`BackendError::Create`] with what keeps it from it.
    async fn ready(&self) -> Result<(), BackendError>;

    /// Which app a pod belongs to that is handed over. Where it is not there yet, what is said of it counts until it is.
    ///
    /// # Errors
    /// [`BackendError::Refused`] where it is none of an app's, and [`BackendError::Unreachable`].
    async fn whose(&self, handed: &Handed) -> Result<Whose, BackendError>;

    /// Makes an agent, at its place, for a session that has none.
    ///
    /// # Errors
    /// [`BackendError::Create`].
    async fn create(&self, order: &Order, place: &Value) -> Result<(), BackendError>;

    /// Connects to a session's agent, once it is there; its events start at offset `from`.
    ///
    /// # Errors
    /// All but [`BackendError::Create`] and [`BackendError::Refused`].
    async fn connect(&self, session: Uuid, place: &Value, from: u64, tell: &Tell<'_>) -> Result<Source, BackendError>;

    /// The sessions that have, or had, an agent here, whoever knows of them, and where.
    async fn agents(&self) -> Vec<(Uuid, Value)>;

    /// Lets go what a session was made of that has its end, and of which all is stored.
    /// Whether that is all: otherwise its agent waits to be told.
    async fn release(&self, session: Uuid, place: &Value) -> bool;

    /// Ends what is left of a session whose agent is gone, and returns when nothing is.
    async fn clean_up(&self, session: Uuid, place: &Value);
}
