//! How sessions end, and what their clients exit with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[cfg_attr(feature = "hub", derive(utoipa::ToSchema))]
pub enum Cause {
    /// The command ended by itself.
    Exited {
        /// Its exit status, 0 to 255.
        status: u8,
    },
    /// A signal that nobody of ours sent ended the command.
    Signalled {
        /// The signal's number.
        signal: u8,
    },
    /// The command could not be started.
    StartFailed {
        /// What the client exits with: 127 not found, 126 not executable, 125 anything else.
        status: u8,
        /// What the system said.
        reason: String,
    },
    /// A person, or a client that vanished for longer than its grace, stopped it.
    Stopped {
        /// Who did.
        by: String,
    },
    /// Nothing was typed or printed on its terminal for the idle limit.
    Idle,
    /// It ran for its time limit.
    TimeLimit,
    /// The platform took its place away.
    Evicted {
        /// What the platform said.
        reason: String,
    },
    /// Its agent died, or no hub spoke to the agent for the orphan limit.
    Lost {
        /// What is known of it.
        reason: String,
    },
}

/// A session's end: the cause, and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "hub", derive(utoipa::ToSchema))]
pub struct Exit {
    /// What ended it.
    #[serde(flatten)]
    pub cause: Cause,
}

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Self {
        Self { cause }
    }
}

/// Exit status of a client whose hub failed, whose session was evicted or lost, or that detached.
pub const STATUS_HUB_FAILED: u8 = 125;

impl Exit {
    /// All that [`Exit::name`] may be.
    pub const NAMES: [&str; 8] =
        ["exited", "signalled", "start_failed", "stopped", "idle", "time_limit", "evicted", "lost"];

    /// What a client that saw this end exits with, 0 to 255.
    #[must_use]
    pub fn status(&self) -> u8 {
        match &self.cause {
            Cause::Exited { status } | Cause::StartFailed { status, .. } => *status,
            Cause::Signalled { signal } => 128u8.saturating_add(*signal),
            Cause::Stopped { .. } => 143,
            Cause::Idle => 129,
            Cause::TimeLimit => 124,
            Cause::Evicted { .. } | Cause::Lost { .. } => STATUS_HUB_FAILED,
        }
    }

    /// The name of the cause as it stands in JSON and in the store, such as `time_limit`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.cause {
            Cause::Exited { .. } => "exited",
            Cause::Signalled { .. } => "signalled",
            Cause::StartFailed { .. } => "start_failed",
            Cause::Stopped { .. } => "stopped",
            Cause::Idle => "idle",
            Cause::TimeLimit => "time_limit",
            Cause::Evicted { .. } => "evicted",
            Cause::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Exited { status } => write!(f, "exited with status {status}"),
            Cause::Signalled { signal } => write!(f, "killed by signal {signal}"),
            Cause::StartFailed { reason, .. } => write!(f, "could not be started: {reason}"),
            Cause::Stopped { by } => write!(f, "stopped by {by}"),
            Cause::Idle => f.write_str("ended: idle for too long"),
            Cause::TimeLimit => f.write_str("ended: reached its time limit"),
            Cause::Evicted { reason } => write!(f, "evicted: {reason}"),
            Cause::Lost { reason } => write!(f, "lost: {reason}"),
        }
    }
}
