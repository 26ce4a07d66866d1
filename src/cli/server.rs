//! `foghorn server`: this user's own hub.

use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::failure::{Failure, OTHER};
use super::notice::say;
use super::output::{print, print_json};
use super::{Context, Format};
use crate::client::hubs::{Hubs, Running, is_alive, silent};
use crate::protocol::HubFile;
use crate::visible;

/// How long a hub may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What to do with the hub.
#[derive(Subcommand)]
pub enum ServerVerb {
    /// Show where it is; 1 where none runs
    Status(StatusArgs),
    /// Stop it; its sessions go on, and the next hub finds them
    Stop,
}

/// The arguments of `server status`.
#[derive(Args)]
pub struct StatusArgs {
    /// How; json has url, pid, home, token_file, socket, version, backend and protocol
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Does it.
///
/// # Errors
/// Where no hub of this user's own is meant, or it does not stop.
pub async fn run(context: &Context, verb: ServerVerb) -> Result<u8, Failure> {
    let hubs = context.hubs();
    if !hubs.is_embedded() {
        return Err(Failure::usage("FOGHORN_URL names a hub that is not your own; unset it to look after yours"));
    }
    match verb {
        ServerVerb::Status(args) => status(hubs.running().await?, args.output),
        ServerVerb::Stop => match hubs.holder()? {
            Some(pid) => stop(&hubs, pid).await,
            None => {
                say("No hub runs.");
                Ok(0)
            }
        },
    }
}

fn status(running: Running, format: Format) -> Result<u8, Failure> {
    let file = match running {
        Running::Hub(file) => file,
        Running::Silent(pid) => return Err(Failure::new(OTHER, silent(pid))),
        Running::Nobody => return Err(Failure::new(OTHER, "no hub runs; the next `foghorn run` starts one")),
    };
    match format {
        Format::Json => print_json(&file)?,
        Format::Text => print(&describe(&file))?,
    }
    Ok(0)
}

fn describe(file: &HubFile) -> String {
    let pid = file.pid.to_string();
    let lines = [
        ("url", &file.url),
        ("pid", &pid),
        ("home", &file.home),
        ("token file", &file.token_file),
        ("version", &file.version),
        ("backend", &file.backend),
    ];
    lines.iter().map(|(name, value)| format!("{name:<11} {}\n", visible::line(value))).collect()
}

/// Stops the hub that holds the state folder, and waits until it has let go.
async fn stop(hubs: &Hubs, holder: u32) -> Result<u8, Failure> {
    let pid = i32::try_from(holder).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new(OTHER, format!("{holder} is no process")))?;
    kill_process(pid, Signal::TERM).map_err(|error| Failure::new(OTHER, format!("process {holder}: {error}")))?;
    let deadline = Instant::now() + STOP_LIMIT;
    while is_alive(holder) && hubs.holder()? == Some(holder) {
        if Instant::now() > deadline {
            return Err(Failure::new(
                OTHER,
                format!("process {holder} has not stopped within {} s", STOP_LIMIT.as_secs()),
            ));
        }
        sleep(LOOK).await;
    }
    say("Stopping the hub... done");
    Ok(0)
}
