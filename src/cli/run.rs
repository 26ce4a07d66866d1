//! `foghorn run`: start a command, and hold it or not.

use std::collections::BTreeMap;

use clap::Args;

use super::driver::take;
use super::failure::Failure;
use super::held::HeldArgs;
use super::notice::{Starting, note};
use super::output::print;
use super::within::enclosing;
use super::{Context, terminal};
use crate::agent::descendants::{EXEMPT, MARK, WITHIN};
use crate::config::client::{caller_env, variable};
use crate::protocol::{NewRun, NewSession, NewSource, Started, State};

/// The arguments of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// The app it belongs to [default: FOGHORN_APP, else .foghorn.toml upwards, else the directory's name]
    #[arg(short, long)]
    pub app: Option<String>,
    /// Do not hold it: print the session's id and return at once
    #[arg(short = 'd', long = "detach")]
    pub detach: bool,
    /// How it is held.
    #[command(flatten)]
    pub held: HeldArgs,
    /// Set a variable for it; K alone takes the value from here
    #[arg(short, long, value_name = "K=V")]
    pub env: Vec<String>,
    /// Let it go on when this client vanishes
    #[arg(long)]
    pub keep: bool,
    /// On Kubernetes: make its pod from this Deployment
    #[arg(long, value_name = "deploy/NAME")]
    pub from: Option<String>,
    /// On Kubernetes: make it from this container
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// On Kubernetes: the CPUs it gets, such as 500m
    #[arg(long, value_name = "QUANTITY")]
    pub cpu: Option<String>,
    /// On Kubernetes: the memory it gets, such as 512Mi
    #[arg(long, value_name = "QUANTITY")]
    pub memory: Option<String>,
    /// On Kubernetes: start it as it is, not through the image's launcher
    #[arg(long)]
    pub no_launcher: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Starts the command.
///
/// # Errors
/// Where it cannot be started, and what [`take`] fails with.
pub async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let new = new_run(context, &args)?;
    let starting = Starting::new(format!("Running {} on ⬢ {}...", args.command.join(" "), new.app));
    let new = NewSession { id: None, source: NewSource::Run(Box::new(new)) };
    let started = context.api.start(&new).await.map_err(|error| Failure::from(error).as_hub_failure())?;
    let recorded = if started.session.record { "recorded" } else { "not recorded" };
    let state = match (args.detach, started.session.state) {
        (true, _) => "done",
        (false, State::Starting) => "starting",
        (false, _) => "up",
    };
    starting.done(&format!("{state}, {} ({recorded})", started.session.name));
    if args.detach {
        return detached(&started);
    }
    take(context, args.held.seat(started)).await
}

fn detached(started: &Started) -> Result<u8, Failure> {
    let name = &started.session.name;
    print(&format!("{}\n", started.session.id))?;
    note(&format!("`foghorn logs -f -s {name}` follows it, `foghorn wait {name}` waits for its end"));
    Ok(0)
}

fn new_run(context: &Context, args: &RunArgs) -> Result<NewRun, Failure> {
    let held = &args.held;
    // With `-t` also where nobody holds it.
    let tty = held.tty() && (held.tty || !args.detach);
    let embedded = context.hubs().is_embedded();
    let mut env = variables(&args.env)?;
    if let Some(kind) = variable("TERM").filter(|_| tty && !embedded) {
        env.entry("TERM".to_owned()).or_insert(kind);
    }
    let around = enclosing();
    if !around.is_empty() {
        env.insert(WITHIN.to_owned(), around.join(" "));
    }
    let dir = context.settings.directory.as_ref().filter(|_| embedded).and_then(|dir| dir.to_str());
    Ok(NewRun {
        app: context.app(args.app.as_deref())?,
        command: args.command.clone(),
        tty,
        size: terminal::window().filter(|_| tty),
        env,
        caller_env: if embedded { caller_env(&[MARK, EXEMPT]) } else { BTreeMap::new() },
        dir: dir.map(ToOwned::to_owned),
        from: args.from.clone(),
        container: args.container.clone(),
        cpu: args.cpu.clone(),
        memory: args.memory.clone(),
        launcher: !args.no_launcher,
        stdin: !args.detach && !held.no_stdin,
        detached: args.detach,
        keep: args.keep,
        timeout: held.timeout.clone(),
        idle: held.idle.clone(),
        record: !held.no_record,
        idempotency_key: Some(held.key()),
    })
}

fn variables(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |pair: &String| match pair.split_once('=') {
        Some(("", _)) => Err(Failure::usage(format!("`-e {pair}` names no variable; give -e NAME=VALUE"))),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => variable(pair)
            .map(|value| (pair.clone(), value))
            .ok_or_else(|| Failure::usage(format!("`-e {pair}`: that variable is not set here; give -e {pair}=VALUE"))),
    };
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        let read = |pairs: &[&str]| variables(&pairs.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            read(&["A=b=c", "B="]).ok().map(|env| (env["A"].clone(), env["B"].clone())),
            Some(("b=c".into(), String::new()))
        );
        assert_eq!(read(&["=x"]).err().map(|failure| failure.status), Some(2));
        assert_eq!(read(&["SURELY_NOT_SET_ANYWHERE"]).err().map(|failure| failure.status), Some(2));
    }
}
