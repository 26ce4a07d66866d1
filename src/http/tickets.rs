//! The doors that make, list and revoke a session's tickets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::Hub;
use super::auth::{Caller, hash, secret};
use super::error::ApiError;
use super::sessions::{audited, find, line, time, with_detail};
use crate::protocol::{NewTicket, Ticket, TicketInfo, TicketList};
use crate::session::{Session, now};
use crate::store::{Micros, Right, TicketRow};
use crate::visible::acts;

/// How long a ticket is valid, at most and without a wish.
const TICKET: (Duration, Duration) = (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(24 * 3600));

/// The longest label of a ticket, in bytes.
const MAX_LABEL: usize = 64;

/// `POST /v1/sessions/{id}/tickets`.
pub async fn add(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(id): Path<String>,
    body: Result<Json<NewTicket>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(new) = body?;
    // A ticket makes no tickets: who was let in cannot let others in.
    let session = match &caller {
        Caller::Ticket(_) => Err(ApiError::forbidden("make tickets")),
        Caller::Token(_) | Caller::User(_) => {
            find(&hub, &caller, &id, Right::Control, "make tickets for this session").await
        }
    };
    let session = match session {
        Ok(session) => session,
        Err(error) => return audited(&hub, line(&caller, "ticket", None, peer), Err(error)),
    };
    Ok((StatusCode::CREATED, Json(make(&hub, &session, &caller, &new, peer).await?)).into_response())
}

/// Makes a ticket, and notes it in the audit trail with what names it.
pub(super) async fn make(
    hub: &Hub,
    session: &Session,
    caller: &Caller,
    new: &NewTicket,
    peer: SocketAddr,
) -> Result<Ticket, ApiError> {
    let ticket = create(hub, session, caller, new).await;
    let right = new.right.name();
    let detail = match &ticket {
        Ok((ticket, Some(label))) => format!("{right} {} for {label}", ticket.id),
        Ok((ticket, None)) => format!("{right} {}", ticket.id),
        Err(_) => right.to_owned(),
    };
    let line = with_detail(line(caller, "ticket", Some(session.id()), peer), &detail);
    Ok(audited(hub, line, ticket)?.0)
}

/// Who a ticket is for, as others are to see them.
fn label(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.len() > MAX_LABEL || text.chars().any(acts) {
        return Err(ApiError::invalid(
            "a label has at most 64 bytes, and no characters that control a terminal or a line",
        ));
    }
    Ok(text.to_owned())
}

/// Makes a ticket: itself, and who it is for.
async fn create(
    hub: &Hub,
    session: &Session,
    caller: &Caller,
    new: &NewTicket,
) -> Result<(Ticket, Option<String>), ApiError> {
    let wish = new.expires.as_deref().map(humantime::parse_duration).transpose();
    let wish = wish.map_err(|_| ApiError::invalid("expires is not a duration such as 1h"))?;
    let expires_at = now() + wish.unwrap_or(TICKET.1).min(TICKET.0).as_micros() as Micros;
    let no_secret = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the system has no randomness");
    let secret = secret().map_err(no_secret)?;
    let issuer = caller.owner().ok_or_else(|| ApiError::forbidden("make tickets"))?;
    let row = TicketRow {
        id: Uuid::new_v4(),
        hash: hash(&secret),
        session: session.id(),
        right: new.right,
        issuer: issuer.to_owned(),
        issuer_identity: caller.identity().and_then(|identity| serde_json::to_value(identity).ok()),
        label: new.label.as_deref().map(label).transpose()?.filter(|label| !label.is_empty()),
        one_use: new.one_use,
        expires_at,
        used_at: None,
        revoked_at: None,
        resume_hash: None,
    };
    hub.store().create_ticket(&row).await?;
    Ok((Ticket { id: row.id, secret, right: new.right, expires_at: time(expires_at) }, row.label))
}

/// `GET /v1/sessions/{id}/tickets`: all of them, without their secrets.
pub async fn list(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TicketList>, ApiError> {
    let session = find(&hub, &caller, &id, Right::Control, "see the tickets of this session").await?;
    let found = hub.store().tickets(session.id()).await?;
    let tickets = found.rows.into_iter().map(shown).collect();
    Ok(Json(TicketList { tickets, unreadable: found.unreadable }))
}

fn shown(ticket: TicketRow) -> TicketInfo {
    TicketInfo {
        id: ticket.id,
        right: ticket.right,
        issuer: ticket.issuer,
        label: ticket.label,
        one_use: ticket.one_use,
        expires_at: time(ticket.expires_at),
        used_at: ticket.used_at.map(time),
        revoked_at: ticket.revoked_at.map(time),
    }
}

/// `DELETE /v1/sessions/{id}/tickets/{ticket}`.
pub async fn remove(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path((id, ticket)): Path<(String, Uuid)>,
) -> Result<StatusCode, ApiError> {
    let session = find(&hub, &caller, &id, Right::Control, "revoke tickets of this session").await;
    let id = session.as_ref().ok().map(|session| session.id());
    let line = with_detail(line(&caller, "revoke", id, peer), &ticket.to_string());
    let outcome = match session {
        Ok(session) => revoke(&hub, &session, ticket).await,
        Err(error) => Err(error),
    };
    audited(&hub, line, outcome)
}

async fn revoke(hub: &Hub, session: &Session, ticket: Uuid) -> Result<StatusCode, ApiError> {
    if !hub.store().revoke_ticket(session.id(), ticket, now()).await? {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "ticket_not_found", "there is no such ticket to revoke"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What the one who starts a session gets.
pub(super) fn for_driver() -> NewTicket {
    NewTicket { right: Right::Control, expires: None, one_use: false, label: None }
}
