//! `foghorn rm`: forget sessions that have ended.

use clap::Args;

use super::Context;
use super::failure::{Failure, OTHER};
use super::notice::note;

/// The arguments of `rm`.
#[derive(Args)]
pub struct RmArgs {
    /// The sessions' UUIDs or short names
    #[arg(required = true)]
    pub ids: Vec<String>,
}

/// Removes them; all are tried.
///
/// # Errors
/// Where one of them could not be removed.
pub async fn run(context: &Context, args: RmArgs) -> Result<u8, Failure> {
    let mut failed = false;
    for id in &args.ids {
        if let Err(error) = context.api.remove(id).await {
            note(&format!("{id}: {error}"));
            failed = true;
        }
    }
    Ok(if failed { OTHER } else { 0 })
}
