//! `foghorn watch`: look at a session without typing.

use clap::Args;

use super::Context;
use super::attach::{TicketArgs, find};
use super::driver::{Seat, take};
use super::failure::Failure;
use super::keys::{DEFAULT, Keys};
use super::within;
use crate::protocol::Role;

/// The arguments of `watch`.
#[derive(Args)]
pub struct WatchArgs {
    /// The session's UUID or short name
    pub id: String,
    /// The keys that leave, besides q and ctrl-c
    #[arg(long, default_value = DEFAULT, value_name = "KEYS")]
    pub detach_keys: Keys,
    /// The ticket
    #[command(flatten)]
    pub ticket: TicketArgs,
}

/// Watches.
///
/// # Errors
/// Where there is no such session, and what [`take`] fails with.
pub async fn run(context: &Context, args: WatchArgs) -> Result<u8, Failure> {
    let session = find(context, &args.id).await?;
    within::refuse(&session)?;
    let seat = Seat {
        id: args.id,
        name: session.name,
        tty: session.tty,
        role: Role::Watch,
        started: false,
        stdin: true,
        keys: args.detach_keys,
    };
    take(context, seat).await
}
