//! `foghorn serve`: run a hub.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;

/// The arguments of `serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Started by a client for its user
    #[arg(long, hide = true)]
    pub embedded: bool,
    /// The state folder
    #[arg(long)]
    pub home: Option<PathBuf>,
}

/// Serves until it is told to stop.
///
/// # Errors
/// Where it cannot.
pub fn run(_args: ServeArgs) -> Result<u8, Failure> {
    Err(Failure::new(1, "there is no hub yet"))
}
