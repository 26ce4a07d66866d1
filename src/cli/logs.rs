//! `foghorn logs`: an app's log, or all output of one session.

use clap::Args;
use regex::bytes::Regex;

use super::failure::Failure;
use super::held::duration;
use super::{Context, Format};

mod app;
mod session;

/// How many lines of the past an app's log starts with.
const DEFAULT_LINES: usize = 100;

/// The arguments of `logs`.
#[derive(Args)]
pub struct LogsArgs {
    /// The app [default: FOGHORN_APP, else .foghorn.toml upwards, else the directory's name]
    #[arg(short, long, conflicts_with = "session")]
    pub app: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// So many lines of the past [default: 100 of an app, all of a session or with --since]
    #[arg(short = 'n', long)]
    pub lines: Option<usize>,
    /// Only what was written within so long, such as 5m
    #[arg(long, value_parser = duration)]
    pub since: Option<String>,
    /// Only of these processes, such as web or run.4821
    #[arg(long, value_name = "PROCESS", conflicts_with = "session")]
    pub ps: Option<String>,
    /// Only of containers with this name
    #[arg(short, long, value_name = "NAME", conflicts_with = "session")]
    pub container: Option<String>,
    /// All output of this session, as it was written
    #[arg(short, long, value_name = "ID")]
    pub session: Option<String>,
    /// Only lines that this regular expression matches
    #[arg(long, value_name = "RE", value_parser = expression)]
    pub grep: Option<Regex>,
    /// How; json is an object a line: time, app, process, stream, message
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

fn expression(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| error.to_string())
}

/// Shows it.
///
/// # Errors
/// Where the hub fails, or nobody reads.
pub async fn run(context: &Context, args: LogsArgs) -> Result<u8, Failure> {
    match args.session.clone() {
        Some(id) => session::run(context, args, &id).await,
        None => app::run(context, args).await,
    }
}
