//! `foghorn sessions`: which there are and were.

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::failure::Failure;
use super::notice::note;
use super::output::{print, print_json};
use super::show::state;
use super::{Context, Format};
use crate::client::http::encode;
use crate::protocol::SessionInfo;
use crate::visible;

/// Which sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Those that have not ended.
    Live,
    /// Those that have.
    Ended,
    /// All.
    #[default]
    All,
}

/// The arguments of `sessions`.
#[derive(Args)]
pub struct SessionsArgs {
    /// Only of this app
    #[arg(short, long)]
    pub app: Option<String>,
    /// Which
    #[arg(long, value_enum, default_value_t)]
    pub state: Which,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// How; json is an array of sessions
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Deserialize)]
struct Page {
    sessions: Vec<SessionInfo>,
    #[serde(default)]
    unreadable: u64,
    next: Option<String>,
}

/// Lists them.
///
/// # Errors
/// Where the hub fails.
pub async fn run(context: &Context, args: SessionsArgs) -> Result<u8, Failure> {
    let mut sessions: Vec<SessionInfo> = Vec::new();
    let (mut before, mut unreadable) = (None, 0);
    while sessions.len() < args.limit as usize {
        let page: Page = context.api.get(&path(&args, sessions.len(), before.as_deref())).await?;
        sessions.extend(page.sessions);
        unreadable += page.unreadable;
        // A page may have nothing of what is asked for, and not be the last.
        if page.next.is_none() || page.next == before {
            break;
        }
        before = page.next;
    }
    sessions.truncate(args.limit as usize);
    match args.output {
        Format::Json => print_json(&sessions)?,
        Format::Text => print(&table(&sessions))?,
    }
    if unreadable > 0 {
        let sessions = if unreadable == 1 { "1 session is" } else { &format!("{unreadable} sessions are") };
        note(&format!("{sessions} left out, which the hub cannot read in its database; its log names them"));
    }
    Ok(0)
}

fn path(args: &SessionsArgs, have: usize, before: Option<&str>) -> String {
    let which = match args.state {
        Which::Live => "live",
        Which::Ended => "ended",
        Which::All => "all",
    };
    let left = (args.limit as usize).saturating_sub(have).min(200);
    let mut path = format!("/v1/sessions?state={which}&limit={left}");
    for (name, value) in [("app", args.app.as_deref()), ("before", before)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    path
}

fn table(sessions: &[SessionInfo]) -> String {
    let head = ["NAME", "APP", "STATE", "STATUS", "OWNER", "CREATED", "VIEWERS", "COMMAND"].map(ToOwned::to_owned);
    let rows = sessions.iter().map(|session| {
        [
            session.name.clone(),
            session.app.clone(),
            state(session.state).to_owned(),
            session.exit_status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            session.owner.clone(),
            session.created_at.chars().take(19).collect::<String>().replace('T', " "),
            session.viewers.map_or_else(|| "-".to_owned(), |viewers| viewers.to_string()),
            session.command.join(" "),
        ]
        .map(|cell| visible::line(&cell).into_owned())
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> =
        (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 8]| {
        let cells = row[..7].iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}{}\n", cells.collect::<String>(), row[7])
    };
    rows.iter().map(line).collect()
}
