//! How a command is held that somebody starts: what the verbs share that start one.

use clap::Args;

use super::driver::Seat;
use super::keys::{DEFAULT, Keys};
use super::terminal;
use crate::protocol::{Role, Started};

/// The arguments of each verb that starts a command.
#[derive(Args)]
pub struct HeldArgs {
    /// Give it a terminal
    #[arg(short, long, conflicts_with = "no_tty")]
    pub tty: bool,
    /// Give it no terminal [default: a terminal where stdin and stdout are terminals]
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Leave stdin alone
    #[arg(short, long)]
    pub no_stdin: bool,
    /// Do not record its output
    #[arg(long)]
    pub no_record: bool,
    /// End it after so long, such as 1h
    #[arg(long, value_parser = duration)]
    pub timeout: Option<String>,
    /// End it after so long without input and output, such as 1h; terminals only
    #[arg(long, value_parser = duration)]
    pub idle: Option<String>,
    /// Make a repeated call the same start
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// The keys that leave it running, or none
    #[arg(long, default_value = DEFAULT, value_name = "KEYS")]
    pub detach_keys: Keys,
}

impl HeldArgs {
    /// Whether it gets a terminal.
    #[must_use]
    pub fn tty(&self) -> bool {
        let both = terminal::is_stdin() && terminal::is_stdout();
        self.tty || (both && !self.no_tty && !self.no_stdin)
    }

    /// The key of this start. One whose answer was lost is asked for again, and must not start a second one.
    #[must_use]
    pub fn key(&self) -> String {
        self.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
    }

    /// The place of who holds it.
    #[must_use]
    pub fn seat(self, started: Started) -> Seat {
        Seat {
            id: started.session.id.to_string(),
            name: started.session.name,
            tty: started.session.tty,
            role: Role::Drive,
            started: true,
            stdin: !self.no_stdin,
            keys: self.detach_keys,
        }
    }
}

/// A length of time, as the hub will read it.
pub(super) fn duration(text: &str) -> Result<String, String> {
    humantime::parse_duration(text).map(|_| text.to_owned()).map_err(|_| "give a time such as 90s, 5m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_checked_here() {
        assert_eq!(duration("90s"), Ok("90s".to_owned()));
        assert!(duration("soon").is_err());
    }
}
