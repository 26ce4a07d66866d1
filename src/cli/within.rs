//! The sessions that this client runs in: what it prints is their output, and must not come back to it.

use super::Context;
use super::failure::Failure;
use crate::agent::descendants::{MARK, WITHIN};
use crate::config::client::variable;
use crate::protocol::SessionInfo;

/// The ids of the sessions around this client, the outermost first.
#[must_use]
pub fn enclosing() -> Vec<String> {
    let outer = variable(WITHIN).unwrap_or_default();
    let mut all: Vec<String> = outer.split_whitespace().map(ToOwned::to_owned).collect();
    all.extend(variable(MARK).filter(|id| !id.is_empty() && !all.contains(id)));
    all
}

/// Refuses to show a session to a client within it.
///
/// # Errors
/// The place of this client in it.
pub fn refuse(session: &SessionInfo) -> Result<(), Failure> {
    if !enclosing().contains(&session.id.to_string()) {
        return Ok(());
    }
    let name = &session.name;
    Err(Failure::usage(format!(
        "this runs in {name}, and would be shown its own output without end; use another terminal"
    )))
}

/// The names of an app's sessions around this client. One that the hub does not know, or does not show, has no line there.
pub async fn names(context: &Context, app: &str) -> Vec<String> {
    let mut names = Vec::new();
    for id in enclosing() {
        if let Ok(session) = context.api.session(&id).await
            && session.app == app
        {
            names.push(session.name);
        }
    }
    names
}
