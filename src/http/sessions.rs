//! The doors that start, list, show and end sessions, and show the audit trail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::auth::{Bearer, Caller};
use super::error::ApiError;
use super::{Hub, starts, tickets};
use crate::protocol::{AuditLine, AuditList, NewSession, NewSignal, NewSource, SessionInfo, SessionList, Started};
use crate::registry::Found;
use crate::session::{Session, now};
use crate::source::Command;
use crate::store::{AuditFilter, AuditRow, Micros, Right, SessionFilter, SessionRow, StoreError, brief};

/// The longest that [`show`] waits for an end.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many rows a listing has at most, and without a wish.
const ROWS: (u32, u32) = (1000, 100);

/// How many pages of the store's are looked through for one of a caller who does not see all sessions.
const LOOKS: usize = 10;

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
        command_cut: row.command_cut,
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
    Ok(find_with_right(hub, caller, id, right, what).await?.0)
}

/// The same, and the right that the caller has.
pub(super) async fn find_with_right(
    hub: &Hub,
    caller: &Caller,
    id: &str,
    right: Right,
    what: &str,
) -> Result<(Arc<Session>, Right), ApiError> {
    let found = match hub.registry.look_up(id).await {
        // Whose it is cannot be read either.
        Err(StoreError::Row { .. }) if !caller.is_admin(hub).await? => None,
        found => found?,
    };
    let found = found.ok_or_else(|| ApiError::no_session(id))?;
    // What is logged about this request names its session from here on.
    tracing::Span::current().record("session", tracing::field::display(found.row().id));
    // First of all: nobody else waits for it, or hears where it lives.
    let has = caller.right(hub, found.row()).await?.ok_or_else(|| ApiError::no_session(id))?;
    if has < right {
        return Err(ApiError::needs_ticket(what));
    }
    Ok((hub.registry.open(found).await?, has))
}

/// A line for the audit trail. Of a ticket's holder it says whose guest it is.
pub(super) fn line(caller: &Caller, action: &str, session: Option<Uuid>, peer: SocketAddr) -> AuditRow {
    AuditRow {
        time: now(),
        actor: caller.actor(),
        action: action.into(),
        session,
        address: peer.ip().to_string(),
        outcome: "ok".into(),
        detail: if caller.owner().is_none() { caller.name().into_owned() } else { String::new() },
    }
}

/// The same line, with more to say.
pub(super) fn with_detail(mut line: AuditRow, detail: &str) -> AuditRow {
    line.detail = if line.detail.is_empty() { detail.to_owned() } else { format!("{detail}, by {}", line.detail) };
    line
}

/// Writes the outcome of an act into the audit trail, and passes it on.
pub(super) fn audited<T>(hub: &Hub, line: AuditRow, outcome: Result<T, ApiError>) -> Result<T, ApiError> {
    let code = outcome.as_ref().map_or_else(|error| error.code, |_| "ok");
    hub.audit(AuditRow { outcome: code.into(), ..line });
    outcome
}

/// `POST /v1/sessions`.
pub async fn start(
    Shared(hub): Shared<Arc<Hub>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    body: Result<Json<NewSession>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(new) = body?;
    let (command, handed) = (starts::what(&new), matches!(new.source, NewSource::Pod(_)));
    let started = starts::start(&hub, &caller, new).await;
    hub.metrics.start(started.as_ref().map_or_else(|error| error.code, |_| "ok"));
    let id = started.as_ref().ok().map(|(session, _)| session.id());
    let line = AuditRow { detail: command, ..line(&caller, "start", id, peer) };
    let (session, new) = audited(&hub, line, started)?;
    // Who hands a pod over passes the ticket on, and may have lost the answer that had it.
    let ticket = match new || handed {
        true => Some(tickets::make(&hub, &session, &caller, &tickets::for_driver(), peer).await?),
        false => None,
    };
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Started { session: info(&session.row, Some(&session)), ticket })).into_response())
}

/// What [`list`] can be asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct ListQuery {
    /// Only of this app.
    app: Option<String>,
    /// `live`, `ended` or `all`.
    state: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<u32>,
    /// Only those made before this time: the `next` of the page before.
    before: Option<String>,
}

/// `GET /v1/sessions`.
pub async fn list(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<SessionList>, ApiError> {
    let Query(query) = query?;
    let live = match query.state.as_deref() {
        None | Some("all") => None,
        Some("live") => Some(true),
        Some("ended") => Some(false),
        Some(_) => return Err(ApiError::invalid("state is one of live, ended and all")),
    };
    if let Caller::Ticket(bearer) = &caller {
        return Ok(Json(SessionList { sessions: of_ticket(&hub, &caller, bearer).await?, next: None, unreadable: 0 }));
    }
    let others = caller.sees_others(&hub, query.app.as_deref()).await?;
    let filter = SessionFilter {
        app: query.app,
        owner: (!others).then(|| caller.owner().unwrap_or_default().to_owned()),
        live,
        before: query.before.as_deref().map(micros).transpose()?,
        limit: query.limit.unwrap_or(ROWS.1).clamp(1, ROWS.0),
    };
    Ok(Json(page(&hub, &caller, filter).await?))
}

/// The session of a ticket, if its holder still sees it.
async fn of_ticket(hub: &Hub, caller: &Caller, bearer: &Bearer) -> Result<Vec<SessionInfo>, ApiError> {
    let found = match hub.registry.look_up(&bearer.ticket.session.to_string()).await {
        // Whose it is cannot be read either.
        Err(StoreError::Row { .. }) => None,
        found => found?,
    };
    let Some(found) = found else { return Ok(Vec::new()) };
    if caller.right(hub, found.row()).await?.is_none() {
        return Ok(Vec::new());
    }
    let session = match &found {
        Found::Here(session) => Some(&**session),
        Found::Stored(_) => None,
    };
    let mut info = info(found.row(), session);
    info.command_cut = brief::cut_command(&mut info.command);
    Ok(vec![info])
}

/// A page of what the caller sees; fewer than were asked for, and a next page, where most is not for them.
async fn page(hub: &Hub, caller: &Caller, mut filter: SessionFilter) -> Result<SessionList, ApiError> {
    let (limit, live) = (filter.limit, hub.registry.live());
    let (mut sessions, mut unreadable, mut next) = (Vec::new(), 0, None);
    for _ in 0..LOOKS {
        // No more than there is room for, so that nothing of a page is passed over, or counted twice.
        filter.limit = limit - sessions.len() as u32;
        let page = hub.store().sessions(&filter).await?;
        unreadable += page.unreadable;
        for row in &page.rows {
            if caller.right(hub, row).await?.is_none() {
                continue;
            }
            let session = live.iter().find(|session| session.id() == row.id);
            sessions.push(info(row, session.map(|session| &**session)));
        }
        next = page.next;
        filter.before = next;
        if next.is_none() || sessions.len() as u32 >= limit {
            break;
        }
    }
    Ok(SessionList { sessions, next: next.map(time), unreadable })
}

/// What [`show`] can be asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct ShowQuery {
    /// Answer when it has ended, or after so many seconds, at most 60.
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
#[derive(Debug, Deserialize, IntoParams)]
pub struct StopQuery {
    /// Remove it, with all that was recorded of it.
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
pub(super) fn end(hub: &Hub, session: &Arc<Session>, caller: &Caller) -> StatusCode {
    let (session, by) = (session.clone(), caller.name().into_owned());
    hub.tasks.spawn("stop", async move {
        session.stop(&by).await;
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
    let line = with_detail(line(&caller, "signal", id, peer), &signal.to_string());
    let outcome = match session {
        Ok(session) => send_signal(&session, signal).await,
        Err(error) => Err(error),
    };
    audited(&hub, line, outcome)
}

async fn send_signal(session: &Session, signal: u8) -> Result<StatusCode, ApiError> {
    if !(1..=64).contains(&signal) {
        return Err(ApiError::invalid("a signal's number is 1 to 64"));
    }
    if session.has_ended() || !session.tell(Command::Signal(signal)).await {
        return Err(ApiError::new(StatusCode::CONFLICT, "session_ended", "nothing runs in this session now"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What [`audit`] can be asked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct AuditQuery {
    /// Only on this session.
    session: Option<Uuid>,
    /// Only by this actor.
    actor: Option<String>,
    /// Only lines from before this time.
    before: Option<String>,
    /// At most so many, up to 1000.
    limit: Option<u32>,
}

/// `GET /v1/audit`.
pub async fn audit(
    Shared(hub): Shared<Arc<Hub>>,
    caller: Caller,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<AuditList>, ApiError> {
    caller.check_admin(&hub, "read the audit trail").await?;
    let Query(query) = query?;
    let filter = AuditFilter {
        session: query.session,
        actor: query.actor,
        before: query.before.as_deref().map(micros).transpose()?,
        limit: query.limit.unwrap_or(ROWS.1).clamp(1, ROWS.0),
    };
    let page = hub.store().audit(&filter).await?;
    let lines = page.rows.into_iter().map(audit_line).collect();
    Ok(Json(AuditList { lines, unreadable: page.unreadable }))
}

fn audit_line(row: AuditRow) -> AuditLine {
    AuditLine {
        time: time(row.time),
        actor: row.actor,
        action: row.action,
        session: row.session,
        address: row.address,
        outcome: row.outcome,
        detail: row.detail,
    }
}
