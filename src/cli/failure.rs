//! How a verb ends when it does not succeed: an exit status, and what happened.

use std::io;

use crate::client::error::ClientError;
use crate::config::client::SettingsError;
use crate::record::STATUS_HUB_FAILED;

/// Wrong usage.
pub const USAGE: u8 = 2;

/// Anything that is not of the exit statuses that have a meaning.
pub const OTHER: u8 = 1;

/// The exit status of a program that wrote to nobody.
pub const BROKEN_PIPE: u8 = 141;

/// Why a verb failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub status: u8,
    /// What happened and what to do; empty: there is nothing to say.
    pub message: String,
    /// What belongs to it, a line each.
    pub details: Vec<String>,
}

impl Failure {
    /// With any status.
    #[must_use]
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), details: Vec::new() }
    }

    /// The person has to call it in another way.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Without a word.
    #[must_use]
    pub fn silent(status: u8) -> Self {
        Self::new(status, "")
    }

    /// The same for a verb whose exit status is a session's: its own failures must not look like one.
    #[must_use]
    pub fn as_hub_failure(mut self) -> Self {
        if self.status == OTHER {
            self.status = STATUS_HUB_FAILED;
        }
        self
    }

    /// The same for a client that holds a session: whatever it fails of then, the command line was not wrong.
    #[must_use]
    pub fn as_lost_session(mut self) -> Self {
        if self.status == USAGE {
            self.status = STATUS_HUB_FAILED;
        }
        self.as_hub_failure()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let status = match &error {
            usage if usage.is_usage() => USAGE,
            ClientError::Refused { .. } => OTHER,
            _ => STATUS_HUB_FAILED,
        };
        let message = error.to_string();
        let details = if let ClientError::NotStarted { tail, .. } = error { tail } else { Vec::new() };
        Self { details, ..Self::new(status, message) }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error.to_string())
    }
}

/// Of this machine's own input and output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(BROKEN_PIPE);
        }
        Self::new(OTHER, error.to_string())
    }
}
