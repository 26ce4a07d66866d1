//! The doors that start, list, show and end sessions, make tickets, and show the audit trail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Hub;
use super::auth::{Caller, hash, secret};
use super::error::ApiError;
use crate::protocol::{NewSession, NewSignal, NewSource, NewTicket, SessionInfo, Started, Ticket};
use crate::session::{Session, now};
use crate::source::Command;
use crate::store::{AuditFilter, AuditRow, Micros, Right, SessionFilter, SessionRow, TicketRow};

/// The longest that [`show`] waits for an end.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many rows a listing has at most, and without a wish.
const ROWS: (u32, u32) = (1000, 100);

/// How long a ticket is valid, at most and without a wish.
const TICKET: (Duration, Duration) = (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(24 * 3600));

/// A time as the doors show it: RFC 3339 in UTC, with microseconds.
#[must_use]
pub fn time(at: Micros) -> String {
    let at = jiff::Timestamp::from_microsecond(at).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// A time as a door takes it.
fn micros(text: &str) -> Result<Micros, ApiError> {
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(jiff::Timestamp::as_microsecond).map_err(|_| ApiError::invalid("a time is not RFC 3339"))
}

/// A session as the doors show it.
#[must_use]
pub fn info(row: &SessionRow, session: Option<&Session>) -> SessionInfo {
    let status = session.map(Session::status_now);
    let exit = status.as_ref().map_or_else(|| row.exit.clone(), |status| status.exit.as_deref().cloned());
    let started = status.as_ref().map_or(row.started_at, |status| status.started_at);
    let ended = status.as_ref().map_or(row.ended_at, |status| status.ended_at);
    SessionInfo {
        id: row.id,
        name: row.name.clone(),
        kind: row.kind,
        state: status.map_or(row.state, |status| status.state),
        app: row.app.clone(),
        owner: row.owner.clone(),
        command: row.command.clone(),
        tty: row.tty,
        record: row.record,
        detached: row.detached,
        backend: row.backend.clone(),
        created_at: time(row.created_at),
        started_at: started.map(time),
        ended_at: ended.map(time),
        exit_status: exit.as_ref().map(crate::record::Exit::status),
        exit_text: exit.as_ref().map(ToString::to_string),
        exit,
        viewers: session.map(|session| session.presence.now().viewers),
    }
}

/// The session that `id` names, where the caller has at least this right on it. One that the caller may not even see
/// is not there.
pub(super) async fn find(
    hub: &Hub,
    caller: &Caller,
    id: &str,
    right: Right,
    what: &str,
) -> Result<Arc<Session>, ApiError> {
    let session = hub.registry.find(id).await?.ok_or_else(|| ApiError::no_session(id))?;
    let has = caller.right(&session.row).ok_or_else(|| ApiError::no_session(id))?;
    if has < right {
        return Err(ApiError::forbidden(what));
    }
    Ok(session)
}

/// A line for the audit trail.
pub(super) fn line(caller: &Caller, action: &str, session: Option<Uuid>, peer: SocketAddr) -> AuditRow {
    AuditRow {
        time: now(),
        actor: caller.actor(),
        action: action.into(),
        session,
        address: peer.ip().to_string(),
        outcome: "ok".into(),
        detail: String::new(),
    }
}

/// Writes the outcome of an act into the audit trail, and passes it on.
pub(super) fn audited<T>(hub: &Hub, line: AuditRow, outcome: Result<T, ApiError>) -> Result<T, ApiError> {
    let code = outcome.as_ref().map_or_else(|error| error.code, |_| "ok");
    hub.audit(AuditRow { outcome: code.into(), ..line });
    outcome
}

/// `GET /readyz`.
pub async fn ready(Shared(hub): Shared<Arc<Hub>>) -> Result<&'static str, ApiError> {
    if hub.tasks.stopping().is_cancelled() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this hub is about to stop"));
    }
    hub.store().ping().await?;
    Ok("ready\n")
}

/// `POST /v1/sessions`.
pub async fn start(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    body: Result<Json<NewSession>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(NewSession { source: NewSource::Run(run) }) = body?;
    if !caller.may_start(&run.app) {
        let denied = Err(ApiError::forbidden(&format!("start sessions of {}", run.app)));
        return audited(&hub, line(&caller, "start", None, peer), denied);
    }
    let command = run.command.join(" ");
    let started = hub.registry.start(*run, caller.name()).await.map_err(ApiError::from);
    let id = started.as_ref().ok().map(|(session, _)| session.id());
    let line = AuditRow { detail: command, ..line(&caller, "start", id, peer) };
    let (session, new) = audited(&hub, line, started)?;
    let ticket = match new {
        true => Some(ticket(&hub, &session, &caller, &driver_ticket()).await?),
        false => None,
    };
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Started { session: info(&session.row, Some(&session)), ticket })).into_response())
}

fn driver_ticket() -> NewTicket {
    NewTicket { right: Right::Control, expires: None, one_use: false }
}

/// What [`list`] can be asked for.
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    app: Option<String>,
    state: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
}

/// `GET /v1/sessions`.
pub async fn list(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let live = match query.state.as_deref() {
        None | Some("all") => None,
        Some("live") => Some(true),
        Some("ended") => Some(false),
        Some(_) => return Err(ApiError::invalid("state is one of live, ended and all")),
    };
    if let Caller::Ticket(bearer) = &caller {
        let session = hub.registry.find(&bearer.ticket.session.to_string()).await?;
        let seen = session.iter().filter(|session| caller.right(&session.row).is_some());
        let sessions: Vec<_> = seen.map(|session| info(&session.row, Some(session))).collect();
        return Ok(Json(json!({ "sessions": sessions, "next": null })).into_response());
    }
    let filter = SessionFilter {
        app: query.app,
        owner: (!caller.is_admin()).then(|| caller.name().to_owned()),
        live,
        before: query.before.as_deref().map(micros).transpose()?,
        limit: query.limit.unwrap_or(ROWS.1).clamp(1, ROWS.0),
    };
    let rows = hub.store().sessions(&filter).await?;
    let next = (rows.len() == filter.limit as usize).then(|| rows.last().map(|row| time(row.created_at))).flatten();
    let live = hub.registry.live();
    let sessions: Vec<_> = rows
        .iter()
        .filter(|row| caller.right(row).is_some())
        .map(|row| info(row, live.iter().find(|session| session.id() == row.id).map(|session| &**session)))
        .collect();
    Ok(Json(json!({ "sessions": sessions, "next": next })).into_response())
}

/// What [`show`] can be asked for.
#[derive(Debug, Deserialize)]
pub struct ShowQuery {
    wait: Option<u64>,
}

/// `GET /v1/sessions/{id}`, at once or when the session has ended.
pub async fn show(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Result<Json<SessionInfo>, ApiError> {
    let Query(query) = query?;
    let session = find(&hub, &caller, &id, Right::Read, "see this session").await?;
    if let Some(seconds) = query.wait {
        let limit = Duration::from_secs(seconds).min(MAX_WAIT);
        let mut status = session.status();
        let ended = tokio::time::timeout(limit, status.wait_for(|status| status.exit.is_some()));
        // Whether it ended in time is in the answer.
        let _ = hub.tasks.stopping().run_until_cancelled(ended).await;
    }
    Ok(Json(info(&session.row, Some(&session))))
}

/// What [`stop`] can be asked for.
#[derive(Debug, Deserialize)]
pub struct StopQuery {
    #[serde(default)]
    purge: bool,
}

/// `DELETE /v1/sessions/{id}`: stops one that lives, or with `purge` removes one that has ended.
pub async fn stop(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(id): Path<String>,
    query: Result<Query<StopQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Query(query) = query?;
    let (action, what) = if query.purge { ("remove", "remove this session") } else { ("stop", "stop this session") };
    let session = match find(&hub, &caller, &id, Right::Control, what).await {
        Ok(session) => session,
        Err(error) => return audited(&hub, line(&caller, action, None, peer), Err(error)),
    };
    let line = line(&caller, action, Some(session.id()), peer);
    let outcome = if query.purge { remove(&hub, &session).await } else { Ok(end(&hub, &session, &caller)) };
    audited(&hub, line, outcome)
}

/// Asks for the end, now or as soon as the source can be reached.
fn end(hub: &Hub, session: &Arc<Session>, caller: &Caller) -> StatusCode {
    let (session, by) = (session.clone(), caller.name().to_owned());
    hub.tasks.spawn("stop", async move {
        session.tell_surely(|| Command::Stop(by.clone())).await;
    });
    StatusCode::ACCEPTED
}

async fn remove(hub: &Hub, session: &Session) -> Result<StatusCode, ApiError> {
    if !session.status_now().safe {
        let detail = "this session has not ended; stop it first";
        return Err(ApiError::new(StatusCode::CONFLICT, "session_live", detail));
    }
    hub.store().delete_session(session.id()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/sessions/{id}/signal`.
pub async fn signal(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path(id): Path<String>,
    body: Result<Json<NewSignal>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(NewSignal { signal }) = body?;
    let session = find(&hub, &caller, &id, Right::Control, "signal this session").await;
    let id = session.as_ref().ok().map(|session| session.id());
    let line = AuditRow { detail: signal.to_string(), ..line(&caller, "signal", id, peer) };
    let session = audited(&hub, line, session)?;
    if !(1..=64).contains(&signal) {
        return Err(ApiError::invalid("a signal's number is 1 to 64"));
    }
    if session.has_ended() || !session.tell(Command::Signal(signal)).await {
        return Err(ApiError::new(StatusCode::CONFLICT, "session_ended", "nothing runs in this session now"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/sessions/{id}/tickets`.
pub async fn make_ticket(
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
        Caller::Token(_) => find(&hub, &caller, &id, Right::Control, "make tickets for this session").await,
    };
    let id = session.as_ref().ok().map(|session| session.id());
    let line = AuditRow { detail: format!("{:?}", new.right).to_lowercase(), ..line(&caller, "ticket", id, peer) };
    let session = audited(&hub, line, session)?;
    Ok((StatusCode::CREATED, Json(ticket(&hub, &session, &caller, &new).await?)).into_response())
}

async fn ticket(hub: &Hub, session: &Session, caller: &Caller, new: &NewTicket) -> Result<Ticket, ApiError> {
    let wish = new.expires.as_deref().map(humantime::parse_duration).transpose();
    let wish = wish.map_err(|_| ApiError::invalid("expires is not a duration such as 1h"))?;
    let expires_at = now() + wish.unwrap_or(TICKET.1).min(TICKET.0).as_micros() as Micros;
    let no_secret = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the system has no randomness");
    let secret = secret().map_err(no_secret)?;
    let row = TicketRow {
        id: Uuid::new_v4(),
        hash: hash(&secret),
        session: session.id(),
        right: new.right,
        issuer: caller.name().to_owned(),
        one_use: new.one_use,
        expires_at,
        used_at: None,
        revoked_at: None,
        resume_hash: None,
    };
    hub.store().create_ticket(&row).await?;
    Ok(Ticket { id: row.id, secret, right: new.right, expires_at: time(expires_at) })
}

/// `GET /v1/sessions/{id}/tickets`: all of them, without their secrets.
pub async fn tickets(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let session = find(&hub, &caller, &id, Right::Control, "see the tickets of this session").await?;
    let tickets: Vec<_> = hub.store().tickets(session.id()).await?.iter().map(shown).collect();
    Ok(Json(json!({ "tickets": tickets })).into_response())
}

fn shown(ticket: &TicketRow) -> serde_json::Value {
    json!({
        "id": ticket.id, "right": ticket.right, "issuer": ticket.issuer, "one_use": ticket.one_use,
        "expires_at": time(ticket.expires_at), "used_at": ticket.used_at.map(time),
        "revoked_at": ticket.revoked_at.map(time),
    })
}

/// `DELETE /v1/sessions/{id}/tickets/{ticket}`.
pub async fn revoke_ticket(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Path((id, ticket)): Path<(String, Uuid)>,
) -> Result<StatusCode, ApiError> {
    let session = find(&hub, &caller, &id, Right::Control, "revoke tickets of this session").await?;
    let revoked = hub.store().revoke_ticket(session.id(), ticket, now()).await?;
    hub.audit(line(&caller, "revoke", Some(session.id()), peer));
    if !revoked {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "ticket_not_found", "there is no such ticket to revoke"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What [`audit`] can be asked for.
#[derive(Debug, Deserialize)]
pub struct AuditQuery {
    session: Option<Uuid>,
    actor: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/audit`.
pub async fn audit(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    if !caller.is_admin() {
        return Err(ApiError::forbidden("read the audit trail"));
    }
    let Query(query) = query?;
    let filter = AuditFilter {
        session: query.session,
        actor: query.actor,
        before: query.before.as_deref().map(micros).transpose()?,
        limit: query.limit.unwrap_or(ROWS.1).clamp(1, ROWS.0),
    };
    let rows = hub.store().audit(&filter).await?;
    let lines: Vec<_> = rows.iter().map(audit_line).collect();
    Ok(Json(json!({ "lines": lines })).into_response())
}

fn audit_line(row: &AuditRow) -> serde_json::Value {
    json!({
        "time": time(row.time), "actor": row.actor, "action": row.action, "session": row.session,
        "address": row.address, "outcome": row.outcome, "detail": row.detail,
    })
}
