//! `foghorn share`: let somebody else in.

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::held::duration;
use super::notice::say;
use super::output::{print, print_json};
use super::{Context, Format};
use crate::protocol::{NewTicket, Right};
use crate::visible;

/// The arguments of `share`.
#[derive(Args)]
pub struct ShareArgs {
    /// The session's UUID or short name
    pub id: String,
    /// Let them type
    #[arg(long)]
    pub write: bool,
    /// Let them signal and stop it too
    #[arg(long)]
    pub control: bool,
    /// How long the ticket is valid, such as 1h
    #[arg(long, value_parser = duration)]
    pub expires: Option<String>,
    /// Valid for one use
    #[arg(long)]
    pub one_use: bool,
    /// Who it is for, as others are to see them
    #[arg(long = "for", value_name = "NAME")]
    pub label: Option<String>,
    /// Revoke this ticket instead
    #[arg(long, value_name = "TICKET", conflicts_with_all = ["write", "control", "expires", "one_use", "label"])]
    pub revoke: Option<String>,
    /// How
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Prints a ticket's secret, and on stderr what to do with it.
///
/// # Errors
/// Where the hub refuses.
pub async fn run(context: &Context, args: ShareArgs) -> Result<u8, Failure> {
    if let Some(ticket) = &args.revoke {
        context.api.revoke(&args.id, ticket).await?;
        say(&format!("Revoking {ticket}... done"));
        return Ok(0);
    }
    let right = match (args.control, args.write) {
        (true, _) => Right::Control,
        (false, true) => Right::Write,
        (false, false) => Right::Read,
    };
    let session = context.api.session(&args.id).await?;
    let new = NewTicket { right, expires: args.expires, one_use: args.one_use, label: args.label };
    let ticket = context.api.ticket(&args.id, &new).await?;
    let url = context.hubs().find().await?.url;
    let verb = if right == Right::Read { "watch" } else { "attach" };
    let command = format!("FOGHORN_URL={url} FOGHORN_TOKEN={} foghorn {verb} {}", ticket.secret, session.id);
    match args.output {
        Format::Json => {
            let mut value = serde_json::to_value(&ticket).unwrap_or_default();
            value["session"] = json!(session.id);
            value["url"] = json!(url);
            value["command"] = json!(command);
            print_json(&value)?;
        }
        Format::Text => {
            print(&format!("{}\n", visible::line(&ticket.secret)))?;
            say(&format!("The ticket {} is valid until {}. Whoever has it can run:", ticket.id, ticket.expires_at));
            say(&format!("  {command}"));
        }
    }
    Ok(0)
}
