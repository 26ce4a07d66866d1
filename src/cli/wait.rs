//! `foghorn wait`: a session's end, as often as asked.

use clap::Args;

use super::Context;
use super::failure::Failure;
use crate::record::STATUS_HUB_FAILED;

/// The arguments of `wait`.
#[derive(Args)]
pub struct WaitArgs {
    /// The session's UUID or short name
    pub id: String,
}

/// Waits, and exits as the session did.
///
/// # Errors
/// With 125 where the end cannot be found out.
pub async fn run(context: &Context, args: WaitArgs) -> Result<u8, Failure> {
    let session = context.api.wait(&args.id).await.map_err(|error| Failure::from(error).as_hub_failure())?;
    let status = session.exit.as_ref().map(crate::record::Exit::status);
    Ok(session.exit_status.or(status).unwrap_or(STATUS_HUB_FAILED))
}
