//! `foghorn exec`: run a command in a pod that runs already, and hold it.

use clap::Args;

use super::driver::take;
use super::failure::Failure;
use super::held::HeldArgs;
use super::notice::Starting;
use super::{Context, terminal};
use crate::protocol::{NewExec, NewSession, NewSource};

/// The arguments of `exec`.
#[derive(Args)]
pub struct ExecArgs {
    /// The app that the pod belongs to [default: FOGHORN_APP, else .foghorn.toml upwards, else the directory's name]
    #[arg(short, long)]
    pub app: Option<String>,
    /// The container [default: the pod's main one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// How it is held.
    #[command(flatten)]
    pub held: HeldArgs,
    /// The pod: its name, or web.1 for the oldest one of the process web
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The command and its arguments, behind `--`
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Where it cannot be started, and what [`take`] fails with.
pub async fn run(context: &Context, args: ExecArgs) -> Result<u8, Failure> {
    let held = args.held;
    let tty = held.tty();
    let app = context.app(args.app.as_deref())?;
    let starting = Starting::new(format!("Running {} in {} of ⬢ {app}...", args.command.join(" "), args.pod));
    let new = NewExec {
        app,
        pod: args.pod,
        container: args.container,
        command: args.command,
        tty,
        size: terminal::window().filter(|_| tty),
        stdin: !held.no_stdin,
        timeout: held.timeout.clone(),
        idle: held.idle.clone(),
        record: !held.no_record,
        idempotency_key: Some(held.key()),
    };
    let new = NewSession { id: None, source: NewSource::Exec(Box::new(new)) };
    let started = context.api.start(&new).await.map_err(|error| Failure::from(error).as_hub_failure())?;
    let recorded = if started.session.record { "recorded" } else { "not recorded" };
    starting.done(&format!("up, {} ({recorded})", started.session.name));
    take(context, held.seat(started)).await
}
