//! `GET /metrics`, and what counts the requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::Instrument;
use tracing::field::Empty;

use super::Hub;
use super::auth::Caller;
use super::error::ApiError;
use super::head;
use crate::metrics::Metrics;
use crate::store::{Kind, State};

/// The content type of Prometheus' text format, as the OpenMetrics standard has it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics` for admins.
pub async fn metrics(Shared(hub): Shared<Arc<Hub>>, caller: Caller) -> Result<Response, ApiError> {
    caller.check_admin(&hub, "read the hub's metrics").await?;
    Ok(text(&hub))
}

/// The one door of the listener for metrics alone, which needs no token.
pub fn router(hub: Arc<Hub>) -> Router {
    let checked = from_fn_with_state(hub.metrics.clone(), head::checked);
    let door = get(|Shared(hub): Shared<Arc<Hub>>| async move { text(&hub) });
    Router::new().route("/metrics", door).layer(checked).with_state(hub)
}

fn text(hub: &Hub) -> Response {
    hub.metrics.note_sessions(&sessions(hub));
    hub.metrics.note_audit_waiting(hub.trail.waiting());
    hub.metrics.note_tokens_unreadable(hub.tokens.are_unreadable());
    match hub.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics cannot be written")
                .into_response()
        }
    }
}

/// How many sessions of each state and kind are in memory.
fn sessions(hub: &Hub) -> BTreeMap<(&'static str, &'static str), usize> {
    let states = [State::Starting, State::Running, State::Ended];
    let mut count: BTreeMap<_, _> = states.map(|state| ((state.name(), Kind::Run.name()), 0)).into();
    for session in hub.registry.live() {
        *count.entry((session.status_now().state.name(), session.row.kind.name())).or_default() += 1;
    }
    count
}

/// Counts a request by its route and the class of its answer's status, and gives what it does a span.
pub async fn watch(
    Shared((metrics, route)): Shared<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().as_str().to_owned();
    let span = tracing::info_span!("request", method, route, session = Empty, status = Empty);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    metrics.request(route, response.status().as_u16());
    response
}
