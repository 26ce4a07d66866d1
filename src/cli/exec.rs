//! `foghorn exec`: run a command in a pod that runs already, and hold it.

use clap::Args;

use super::driver::{Seat, take};
use super::failure::Failure;
use super::keys::{DEFAULT, Keys};
use super::notice::Starting;
use super::run::duration;
use super::{Context, terminal};
use crate::protocol::{NewExec, NewSession, NewSource, Role};

/// The arguments of `exec`.
#[derive(Args)]
pub struct ExecArgs {
    /// The app that the pod belongs to [default: FOGHORN_APP, else .foghorn.toml upwards, else the directory's name]
    #[arg(short, long)]
    pub app: Option<String>,
    /// The container [default: the pod's main one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
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
    /// Close it after so long, such as 1h
    #[arg(long, value_parser = duration)]
    pub timeout: Option<String>,
    /// Close it after so long without input and output, such as 1h; terminals only
    #[arg(long, value_parser = duration)]
    pub idle: Option<String>,
    /// Make a repeated call the same start
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// The keys that leave it running, or none
    #[arg(long, default_value = DEFAULT, value_name = "KEYS")]
    pub detach_keys: Keys,
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
    let both = terminal::is_stdin() && terminal::is_stdout();
    let tty = args.tty || (both && !args.no_tty && !args.no_stdin);
    let stdin = !args.no_stdin;
    let app = context.settings.app(args.app.as_deref())?;
    let starting = Starting::new(format!("Running {} in {} of ⬢ {app}...", args.command.join(" "), args.pod));
    let new = NewExec {
        app,
        pod: args.pod,
        container: args.container,
        command: args.command,
        tty,
        size: terminal::window().filter(|_| tty),
        stdin,
        timeout: args.timeout,
        idle: args.idle,
        record: !args.no_record,
        // A start whose answer was lost is asked for again, and must not start a second one.
        idempotency_key: Some(args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string())),
    };
    let new = NewSession { id: None, source: NewSource::Exec(Box::new(new)) };
    let started = context.api.start(&new).await.map_err(|error| Failure::from(error).as_hub_failure())?;
    let recorded = if started.session.record { "recorded" } else { "not recorded" };
    starting.done(&format!("up, {} ({recorded})", started.session.name));
    let seat = Seat {
        id: started.session.id.to_string(),
        name: started.session.name,
        tty,
        role: Role::Drive,
        started: true,
        stdin,
        keys: args.detach_keys,
    };
    take(context, seat).await
}
