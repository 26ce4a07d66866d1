//! `foghorn serve`: run a hub.

use super::failure::{Failure, OTHER};
use crate::client::hubs::HUB_BUSY;
use crate::config::server::{ServeArgs, Server};
use crate::server::ServerError;

/// Serves until it is told to stop.
///
/// # Errors
/// Where the settings cannot be used, or it cannot start.
pub fn run(args: ServeArgs) -> Result<u8, Failure> {
    if args.embedded {
        // Its starter's terminal is not its own. One that leads a process group was started by hand, and stays there.
        let _ = rustix::process::setsid();
    }
    let settings = Server::read(args).map_err(|error| Failure::usage(format!("{error} [settings_invalid]")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = crate::telemetry::start(&settings.log, settings.traces.as_deref(), runtime.handle());
    let outcome = runtime.block_on(crate::server::run(settings));
    traces.finish();
    runtime.shutdown_background();
    outcome.map(|()| 0).map_err(|error| {
        let status = if matches!(error, ServerError::Locked(_)) { HUB_BUSY } else { OTHER };
        Failure::new(status, format!("{error} [{}]", error.code()))
    })
}
