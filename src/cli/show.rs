//! `foghorn show`: one session.

use std::fmt::Write;

use clap::Args;

use super::failure::Failure;
use super::output::{print, print_json};
use super::{Context, Format};
use crate::protocol::{SessionInfo, State};
use crate::visible;

/// The arguments of `show`.
#[derive(Args)]
pub struct ShowArgs {
    /// The session's UUID or short name
    pub id: String,
    /// How
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Shows it.
///
/// # Errors
/// Where there is no such session.
pub async fn run(context: &Context, args: ShowArgs) -> Result<u8, Failure> {
    let session = context.api.session(&args.id).await?;
    match args.output {
        Format::Json => print_json(&session)?,
        Format::Text => print(&describe(&session))?,
    }
    Ok(0)
}

/// A state, for people.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Ended => "ended",
    }
}

fn describe(session: &SessionInfo) -> String {
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let lines = [
        ("name", session.name.clone()),
        ("id", session.id.to_string()),
        ("app", session.app.clone()),
        ("state", state(session.state).to_owned()),
        ("end", session.exit_text.clone().unwrap_or_else(|| "-".to_owned())),
        ("exit status", session.exit_status.map_or_else(|| "-".to_owned(), |status| status.to_string())),
        ("owner", session.owner.clone()),
        ("command", session.command.join(" ")),
        ("terminal", yes(session.tty)),
        ("recorded", yes(session.record)),
        ("detached", yes(session.detached)),
        ("backend", session.backend.clone()),
        ("created", session.created_at.clone()),
        ("started", time(&session.started_at)),
        ("ended", time(&session.ended_at)),
        ("viewers", session.viewers.map_or_else(|| "-".to_owned(), |viewers| viewers.to_string())),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12} {}", visible::line(value));
        text
    })
}
