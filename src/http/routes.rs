//! The table of doors: what there is, and who may come in. The router and `/openapi.json` are made from it alone, and a
//! test walks through it with every kind of caller.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::path::Parameter;

use super::error::ApiError;
use super::logs::LogsQuery;
use super::openapi::{Answer, Shape, asked, nothing};
use super::output::OutputQuery;
use super::sessions::{AuditQuery, ListQuery, ShowQuery, StopQuery};
use super::{Hub, apps, attach, body, error, head, logs, metrics, openapi, output, ready, sessions, tickets};
use crate::protocol::{
    AppList, AuditList, NewSession, NewSignal, NewTicket, Ready, SessionInfo, SessionList, Started, Ticket, TicketList,
    Unready,
};
use crate::store::Right;

/// Who may come in at a door. A caller who may not even see a session finds nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Everyone, without a token.
    Everyone,
    /// Whoever has a token or a ticket; what the caller may not see is left out of the answer.
    Known,
    /// Tokens that may start sessions of the app that the body names.
    Start,
    /// Whoever may read the session; a ticket for one use is not used up by it.
    See,
    /// Whoever may read the session: the one use of a ticket for one use.
    Follow,
    /// Whoever has at least this right on the session.
    Session(Right),
    /// Whoever has all rights on the session by a token: who was let in by a ticket cannot let others in.
    Issue,
    /// Tokens that may read the log of the app.
    Logs,
    /// Admins.
    Admin,
}

impl Rule {
    /// Whether a ticket for one use, which is to follow a session, is taken before that use.
    #[must_use]
    pub fn takes_unused_tickets(self) -> bool {
        matches!(self, Self::Known | Self::See | Self::Follow)
    }
}

/// A door.
pub struct Door {
    /// Its method, in capitals.
    pub method: &'static str,
    /// Its path, with `{names}` where something is filled in.
    pub path: &'static str,
    /// Who may come in.
    pub rule: Rule,
    /// What it is for, in a sentence.
    pub summary: &'static str,
    /// What can be asked for behind the `?`.
    pub query: fn() -> Vec<Parameter>,
    /// What the body has to be, as JSON, and an example of one.
    pub body: Option<(Shape, &'static str)>,
    /// What comes back where nothing went wrong.
    pub answers: &'static [Answer],
    /// Errors of this door besides those that its rule makes: status and code.
    pub errors: &'static [(u16, &'static str)],
    route: fn() -> MethodRouter<Arc<Hub>>,
}

impl Door {
    const fn new(
        (method, path): (&'static str, &'static str),
        rule: Rule,
        summary: &'static str,
        route: fn() -> MethodRouter<Arc<Hub>>,
        answers: &'static [Answer],
    ) -> Self {
        Self { method, path, rule, summary, query: nothing, body: None, answers, errors: &[], route }
    }

    const fn query(self, query: fn() -> Vec<Parameter>) -> Self {
        Self { query, ..self }
    }

    const fn body(self, shape: Shape, example: &'static str) -> Self {
        Self { body: Some((shape, example)), ..self }
    }

    const fn errors(self, errors: &'static [(u16, &'static str)]) -> Self {
        Self { errors, ..self }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

/// All doors.
pub static DOORS: &[Door] = &[
    Door::new(
        ("GET", "/healthz"),
        Rule::Everyone,
        "Whether the process lives.",
        || get(|| async { "ok\n" }),
        &[Answer::stream(200, "It does.", &[TEXT])],
    ),
    Door::new(
        ("GET", "/readyz"),
        Rule::Everyone,
        "Whether the hub can serve: its database answers, agents can be made, and it is not about to stop.",
        || get(ready::ready),
        &[
            Answer::json(200, "It can.", Shape::of::<Ready>()),
            Answer::json(503, "It cannot, and why: `code` is the first of the reasons.", Shape::of::<Unready>()),
        ],
    ),
    Door::new(
        ("GET", "/metrics"),
        Rule::Admin,
        "The hub's metrics, for Prometheus.",
        || get(metrics::metrics),
        &[Answer::stream(200, "The metrics.", &[metrics::CONTENT_TYPE])],
    ),
    Door::new(
        ("GET", "/openapi.json"),
        Rule::Everyone,
        "This description of the doors.",
        || get(openapi::openapi),
        &[Answer::stream(200, "OpenAPI 3.1.", &["application/json"])],
    ),
    Door::new(
        ("POST", "/v1/sessions"),
        Rule::Start,
        "Starts a session.",
        || post(sessions::start),
        &[
            Answer::json(201, "The session, and a ticket for its driver.", Shape::of::<Started>()),
            Answer::json(200, "The session that the same request started before.", Shape::of::<Started>()),
        ],
    )
    .body(
        Shape::of::<NewSession>(),
        r#"{"source": {"kind": "run", "app": "blog", "command": ["sleep", "600"], "detached": true}}"#,
    )
    .errors(&[
        (400, "invalid_request"),
        (409, "idempotency_key_reused"),
        (409, "id_taken"),
        (413, "too_large"),
        (429, "too_many_sessions"),
        (500, "backend_refused"),
        (503, "stopping"),
        (503, "backend_unavailable"),
    ]),
    Door::new(
        ("GET", "/v1/sessions"),
        Rule::Known,
        "The sessions that the caller sees, newest first.",
        || get(sessions::list),
        &[Answer::json(200, "A page of sessions.", Shape::of::<SessionList>())],
    )
    .query(asked::<ListQuery>)
    .errors(&[(400, "invalid_request")]),
    Door::new(
        ("GET", "/v1/sessions/{id}"),
        Rule::See,
        "One session, now or when it has ended.",
        || get(sessions::show),
        &[Answer::json(200, "The session.", Shape::of::<SessionInfo>())],
    )
    .query(asked::<ShowQuery>)
    .errors(&[(400, "invalid_request")]),
    Door::new(
        ("POST", "/v1/sessions/{id}/signal"),
        Rule::Session(Right::Control),
        "Sends a signal to the foreground processes.",
        || post(sessions::signal),
        &[Answer::empty(204, "It was sent.")],
    )
    .body(Shape::of::<NewSignal>(), r#"{"signal": 28}"#)
    .errors(&[(400, "invalid_request"), (409, "session_ended")]),
    Door::new(
        ("POST", "/v1/sessions/{id}/tickets"),
        Rule::Issue,
        "Makes a ticket for a session.",
        || post(tickets::add),
        &[Answer::json(201, "The ticket. Its secret is shown once.", Shape::of::<Ticket>())],
    )
    .body(Shape::of::<NewTicket>(), r#"{"right": "read", "expires": "1h"}"#)
    .errors(&[(400, "invalid_request")]),
    Door::new(
        ("GET", "/v1/sessions/{id}/tickets"),
        Rule::Session(Right::Control),
        "The tickets of a session, without their secrets.",
        || get(tickets::list),
        &[Answer::json(200, "The tickets.", Shape::of::<TicketList>())],
    ),
    Door::new(
        ("DELETE", "/v1/sessions/{id}/tickets/{ticket}"),
        Rule::Session(Right::Control),
        "Revokes a ticket, which ends what it opened too.",
        || delete(tickets::remove),
        &[Answer::empty(204, "It is revoked.")],
    )
    .errors(&[(400, "invalid_request"), (404, "ticket_not_found")]),
    Door::new(
        ("GET", "/v1/sessions/{id}/attach"),
        Rule::Follow,
        "Follows a session and types in it: a websocket with the subprotocol foghorn.v1.",
        || get(attach::attach),
        &[Answer::empty(101, "The websocket.")],
    )
    .errors(&[
        (400, "invalid_request"),
        (400, "websocket_needed"),
        (400, "websocket_version"),
        (400, "unsupported_subprotocol"),
    ]),
    Door::new(
        ("GET", "/v1/sessions/{id}/output"),
        Rule::Session(Right::Read),
        "The output of a session: stdout and stderr in their order, or every record.",
        || get(output::output),
        &[Answer::stream(200, "In the form that Accept asks for.", &["application/octet-stream", NDJSON, EVENTS])],
    )
    .query(asked::<OutputQuery>)
    .errors(&[(400, "invalid_request"), (416, "offset_beyond_end")]),
    Door::new(
        ("GET", "/v1/sessions/{id}/recording.cast"),
        Rule::Session(Right::Read),
        "The recording of a session, as asciicast version 2.",
        || get(output::recording),
        &[Answer::stream(200, "The recording.", &["application/x-asciicast"])],
    ),
    Door::new(
        ("DELETE", "/v1/sessions/{id}"),
        Rule::Session(Right::Control),
        "Stops a session, or removes one that has ended.",
        || delete(sessions::stop),
        &[Answer::empty(202, "It is being stopped."), Answer::empty(204, "It is removed.")],
    )
    .query(asked::<StopQuery>)
    .errors(&[(400, "invalid_request"), (409, "session_live")]),
    Door::new(
        ("GET", "/v1/apps"),
        Rule::Known,
        "The apps that there are, as far as the caller may do something with them.",
        || get(apps::list),
        &[Answer::json(200, "The apps, by name.", Shape::of::<AppList>())],
    )
    .errors(&[(500, "backend_refused"), (503, "backend_unavailable")]),
    Door::new(
        ("GET", "/v1/apps/{app}/logs"),
        Rule::Logs,
        "The log of an app.",
        || get(logs::logs),
        &[Answer::stream(200, "Lines, in the form that Accept asks for.", &[TEXT, NDJSON, EVENTS])],
    )
    .query(asked::<LogsQuery>)
    .errors(&[(400, "invalid_request"), (500, "backend_refused"), (503, "backend_unavailable")]),
    Door::new(
        ("GET", "/v1/audit"),
        Rule::Admin,
        "The audit trail, newest first.",
        || get(sessions::audit),
        &[Answer::json(200, "Lines of the trail.", Shape::of::<AuditList>())],
    )
    .query(asked::<AuditQuery>)
    .errors(&[(400, "invalid_request")]),
];

/// The router of all doors.
pub fn router(hub: Arc<Hub>) -> Router {
    let mut router = Router::new();
    for door in DOORS {
        let route: MethodRouter<Arc<Hub>> = (door.route)().layer(Extension(door.rule));
        let route: MethodRouter<Arc<Hub>> = route.layer(from_fn(body::checked));
        let route = route
            .layer(CatchPanicLayer::custom(failed))
            .layer(from_fn_with_state((hub.metrics.clone(), door.path), metrics::watch));
        router = router.route(door.path, route);
    }
    router
        .fallback(no_door)
        .layer(DefaultBodyLimit::max(body::MAX_BODY))
        .layer(map_response(error::as_problem))
        .layer(from_fn_with_state(hub.metrics.clone(), head::checked))
        .with_state(hub)
}

async fn no_door(Shared(hub): Shared<Arc<Hub>>) -> ApiError {
    hub.metrics.request("none", 404);
    ApiError::new(StatusCode::NOT_FOUND, "no_such_door", "there is nothing at this address")
}

fn failed(_: Box<dyn Any + Send>) -> Response {
    let detail = "the hub failed at this request; its log says more";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}
