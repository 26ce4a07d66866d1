//! What can go wrong between a client and a hub.

use super::login::LoginError;
use crate::config::client::SettingsError;
use crate::folder::Unusable;
use crate::protocol::Problem;

/// Why a client did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state folder cannot be used.
    #[error("{0} [state_folder_unusable]")]
    Folder(#[from] Unusable),
    /// A token would travel unencrypted to another machine.
    #[error("the token would go to {0} unencrypted; use https, or --insecure if that network is yours alone")]
    Insecure(String),
    /// There is no token where `foghorn login` found one.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The running hub is not the one that was asked for.
    #[error("{0}")]
    Mismatch(String),
    /// The hub said no.
    #[error("{detail} [{code}]")]
    Refused {
        /// The HTTP status, or the code that closed the websocket.
        status: u16,
        /// Its stable code.
        code: String,
        /// Its sentence.
        detail: String,
    },
    /// No answer.
    #[error("the hub at {url} cannot be reached: {reason}; is it running?")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The answer broke off, or the connection ended.
    #[error("the connection to the hub broke: {0}")]
    Broken(String),
    /// This user's own hub could not be started.
    #[error("no hub could be started: {reason}; its log is {log}")]
    NotStarted {
        /// What happened.
        reason: String,
        /// The log's path.
        log: String,
        /// The log's last lines.
        tail: Vec<String>,
    },
    /// A hub that speaks differently.
    #[error("the hub's answer could not be understood: {0}; are client and hub of the same version?")]
    Answer(String),
    /// The hub was away for too long.
    #[error("the hub did not come back within {limit}: {reason}")]
    GaveUp {
        /// How long it was tried, for a person.
        limit: String,
        /// The last failure.
        reason: String,
    },
}

impl ClientError {
    /// An error that the hub answered with; `body` should be a problem.
    #[must_use]
    pub fn refused(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Self::Refused { status, code: problem.code, detail: problem.detail },
            Err(_) => Self::Refused {
                status,
                code: format!("http_{status}"),
                detail: format!("the hub answered with HTTP status {status}"),
            },
        }
    }

    /// Whether the same thing may succeed a little later, or at another replica.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) | Self::Login(LoginError::Failed { .. }) => true,
            Self::Refused { status, .. } => matches!(status, 502..=504),
            _ => false,
        }
    }

    /// Whether the person, not the hub, has to change something.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Folder(_) | Self::Insecure(_) | Self::Mismatch(_) | Self::Login(_))
    }

    /// The stable code that the hub gave.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}
