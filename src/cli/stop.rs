//! `foghorn stop`: end sessions.

use clap::Args;

use super::Context;
use super::failure::{Failure, OTHER};
use super::notice::{note, say};

/// The arguments of `stop`.
#[derive(Args)]
pub struct StopArgs {
    /// The sessions' UUIDs or short names
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Return only when they have ended
    #[arg(long)]
    pub wait: bool,
}

/// Stops them; all are tried.
///
/// # Errors
/// Where one of them could not be stopped.
pub async fn run(context: &Context, args: StopArgs) -> Result<u8, Failure> {
    let mut failed = false;
    for id in &args.ids {
        let stopped = async {
            context.api.stop(id).await?;
            if args.wait { context.api.wait(id).await.map(drop) } else { Ok(()) }
        };
        match stopped.await {
            Ok(()) => say(&format!("Stopping {id}... done")),
            Err(error) => {
                note(&format!("{id}: {error}"));
                failed = true;
            }
        }
    }
    Ok(if failed { OTHER } else { 0 })
}
