//! `foghorn attach`: come back to a session, and type in it.

use std::io::{self, BufRead};

use clap::Args;

use super::Context;
use super::driver::{Seat, take};
use super::failure::Failure;
use super::keys::{DEFAULT, Keys};
use super::within;
use crate::protocol::{Role, SessionInfo};

/// Where a ticket comes from, if not from FOGHORN_TOKEN.
#[derive(Args)]
pub struct TicketArgs {
    /// Read a ticket's secret from a file; - is stdin
    #[arg(long, value_name = "FILE")]
    ticket_file: Option<String>,
}

impl TicketArgs {
    /// The secret: the first line. It is never an argument, since every process may see those.
    ///
    /// # Errors
    /// Where the file cannot be read or is empty.
    pub fn read(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.ticket_file else { return Ok(None) };
        let mut line = String::new();
        let read = match path.as_str() {
            "-" => io::stdin().lock().read_line(&mut line),
            path => std::fs::File::open(path).and_then(|file| io::BufReader::new(file).read_line(&mut line)),
        };
        read.map_err(|error| Failure::usage(format!("the ticket in {path} cannot be read: {error}")))?;
        let secret = line.trim();
        if secret.is_empty() {
            return Err(Failure::usage(format!("there is no ticket in {path}")));
        }
        Ok(Some(secret.to_owned()))
    }
}

/// The arguments of `attach`.
#[derive(Args)]
pub struct AttachArgs {
    /// The session's UUID or short name
    pub id: String,
    /// Take over from whoever types there
    #[arg(long)]
    pub take: bool,
    /// The keys that leave it running, or none
    #[arg(long, default_value = DEFAULT, value_name = "KEYS")]
    pub detach_keys: Keys,
    /// Leave stdin alone
    #[arg(short, long)]
    pub no_stdin: bool,
    /// The ticket
    #[command(flatten)]
    pub ticket: TicketArgs,
}

/// Attaches.
///
/// # Errors
/// Where there is no such session, and what [`take`] fails with.
pub async fn run(context: &Context, args: AttachArgs) -> Result<u8, Failure> {
    let session = find(context, &args.id).await?;
    within::refuse(&session)?;
    let seat = Seat {
        id: args.id,
        name: session.name,
        tty: session.tty,
        role: if args.take { Role::Take } else { Role::Drive },
        started: false,
        stdin: !args.no_stdin && args.ticket.ticket_file.as_deref() != Some("-"),
        keys: args.detach_keys,
    };
    take(context, seat).await
}

/// The session, which says how it is to be followed.
pub(super) async fn find(context: &Context, id: &str) -> Result<SessionInfo, Failure> {
    context.api.session(id).await.map_err(|error| Failure::from(error).as_hub_failure())
}
