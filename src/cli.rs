//! The `foghorn` command: one file a verb.
//!
//! Data goes to stdout, everything else to stderr. What a verb needs of the surroundings comes from
//! [`crate::config::client`]; what it needs of a hub from [`crate::client`].
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`driver`], [`piped`], [`interactive`] | a session on this side: which way, without and with a terminal |
//! | [`painter`], [`view`], [`filter`], [`modes`] | what a person sees of it, and what must not reach their terminal |
//! | [`keys`], [`input`], [`output`], [`terminal`], [`lines`], [`notice`] | this process's own ends |

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::client::api::Api;
use crate::client::hubs::Hubs;
use crate::config::client::{ClientSettings, Flags};
use crate::visible;
use failure::Failure;

pub mod apps;
pub mod attach;
pub mod completions;
pub mod driver;
pub mod exec;
pub mod export;
pub mod failure;
pub mod filter;
pub mod held;
pub mod input;
pub mod interactive;
pub mod keys;
pub mod lines;
pub mod login;
pub mod logs;
pub mod modes;
pub mod notice;
pub mod output;
pub mod painter;
pub mod piped;
pub mod replay;
pub mod rm;
pub mod run;
pub mod serve;
pub mod server;
pub mod sessions;
pub mod share;
pub mod show;
pub mod stop;
pub mod terminal;
pub mod view;
pub mod wait;
pub mod watch;
pub mod within;

const STATUSES: &str = "\
Exit status: the command's own; 128+N where signal N ended it; 124 time limit; 129 idle; 126 or 127 it could not be \
started; 143 it was stopped; 141 nobody read the output; 125 the hub failed, the session was evicted or lost, this \
client detached, or output is missing; 2 wrong usage. `run -d` and `watch` report their own success.

Without FOGHORN_URL a hub of your own is started in the background; its state is in FOGHORN_HOME.";

/// Shells, detached runs and logs that any number can watch, join late and find again.
#[derive(Parser)]
#[command(name = "foghorn", version, after_help = STATUSES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args)]
struct Global {
    /// The hub, or several separated by commas [env: FOGHORN_URL]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Send the token to another machine unencrypted
    #[arg(long, global = true)]
    insecure: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a command, and hold it
    Run(run::RunArgs),
    /// Run a command that nobody holds, and print its session's id
    #[command(name = "run:detached")]
    RunDetached(run::RunArgs),
    /// Run a command in a pod that runs already, and hold it
    Exec(exec::ExecArgs),
    /// Come back to a session, and type in it
    Attach(attach::AttachArgs),
    /// Look at a session without typing
    Watch(watch::WatchArgs),
    /// Show an app's log, or all output of one session
    Logs(logs::LogsArgs),
    /// List the apps that there are
    Apps(apps::AppsArgs),
    /// List sessions, the newest first
    #[command(visible_alias = "ps")]
    Sessions(sessions::SessionsArgs),
    /// Show one session
    Show(show::ShowArgs),
    /// Wait for a session's end, and exit as it did
    Wait(wait::WaitArgs),
    /// Stop sessions
    #[command(visible_alias = "ps:stop")]
    Stop(stop::StopArgs),
    /// Remove sessions that have ended, with all they wrote
    Rm(rm::RmArgs),
    /// Be known to a hub by the token of your kubeconfig's context
    Login(login::LoginArgs),
    /// Let somebody else in: print a ticket
    Share(share::ShareArgs),
    /// Show a session's output again, as it was in time
    Replay(replay::ReplayArgs),
    /// Write a session's output down
    Export(export::ExportArgs),
    /// Run a hub
    Serve(crate::config::server::ServeArgs),
    /// Look after your own hub
    #[command(subcommand)]
    Server(server::ServerVerb),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// How a list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; stable.
    Json,
}

/// What a verb works with.
pub struct Context {
    /// The settings.
    pub settings: ClientSettings,
    /// The hub's doors.
    pub api: Api,
}

impl Context {
    fn new(global: &Global, token: Option<String>) -> Result<Self, Failure> {
        let flags = Flags { url: global.url.clone(), insecure: global.insecure, token };
        let settings = ClientSettings::from_environment(&flags)?;
        let hubs = Arc::new(Hubs::new(settings.clone())?);
        Ok(Self { settings, api: Api::new(hubs) })
    }

    /// Returns the app that is meant, and says which files are not used for that.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn app(&self, given: Option<&str>) -> Result<String, Failure> {
        if given.is_none() {
            for file in self.settings.passed_over() {
                notice::note(&format!("{} is not used, since others can write to it or to its folder", file.display()));
            }
        }
        Ok(self.settings.app(given)?)
    }

    /// Where hubs come from.
    #[must_use]
    pub fn hubs(&self) -> Arc<Hubs> {
        self.api.hubs().clone()
    }
}

/// Runs the command with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, verb } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(error),
    };
    terminal::restore_on_panic();
    // A second provider cannot be installed, and the first one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match verb {
        Verb::Completions(args) => completions::run(&args),
        Verb::Serve(args) => serve::run(args),
        verb => on_runtime(run(&global, verb)),
    };
    let status = outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            notice::note(&failure.message);
            failure.details.iter().for_each(|line| notice::say(&format!("  {line}")));
        }
        failure.status
    });
    ExitCode::from(status)
}

/// Says why the arguments cannot be used: some of them may be text of others.
fn misused(mut error: clap::Error) -> ExitCode {
    use clap::error::{ContextValue, ErrorKind};
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let texts: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in texts {
        let shown = match value {
            ContextValue::String(text) => ContextValue::String(visible::line(&text).into_owned()),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| visible::line(text).into_owned()).collect())
            }
            other => other,
        };
        error.insert(kind, shown);
    }
    for line in error.render().to_string().lines() {
        notice::say(line);
    }
    ExitCode::from(failure::USAGE)
}

/// A client needs one thread; those that read and write for it block, and end with the process.
fn on_runtime(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(verb);
    runtime.shutdown_background();
    outcome
}

async fn run(global: &Global, verb: Verb) -> Result<u8, Failure> {
    let token = match &verb {
        Verb::Attach(args) => args.ticket.read()?,
        Verb::Watch(args) => args.ticket.read()?,
        _ => None,
    };
    let context = Context::new(global, token)?;
    match verb {
        Verb::Run(args) => run::run(&context, args).await,
        Verb::RunDetached(args) => run::run(&context, run::RunArgs { detach: true, ..args }).await,
        Verb::Exec(args) => exec::run(&context, args).await,
        Verb::Attach(args) => attach::run(&context, args).await,
        Verb::Watch(args) => watch::run(&context, args).await,
        Verb::Logs(args) => logs::run(&context, args).await,
        Verb::Apps(args) => apps::run(&context, args).await,
        Verb::Sessions(args) => sessions::run(&context, args).await,
        Verb::Show(args) => show::run(&context, args).await,
        Verb::Wait(args) => wait::run(&context, args).await,
        Verb::Stop(args) => stop::run(&context, args).await,
        Verb::Rm(args) => rm::run(&context, args).await,
        Verb::Login(args) => login::run(&context, args).await,
        Verb::Share(args) => share::run(&context, args).await,
        Verb::Replay(args) => replay::run(&context, args).await,
        Verb::Export(args) => export::run(&context, args).await,
        Verb::Server(verb) => server::run(&context, verb).await,
        Verb::Serve(_) | Verb::Completions(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_behind_the_command_are_the_commands() {
        let cli = Cli::parse_from(["foghorn", "run", "-a", "blog", "ls", "-a", "--url", "x"]);
        assert!(matches!(&cli.verb, Verb::Run(args) if args.command == ["ls", "-a", "--url", "x"]));
        assert!(matches!(&cli.verb, Verb::Run(args) if args.app.as_deref() == Some("blog")));
        assert_eq!(cli.global.url, None);
    }
}
