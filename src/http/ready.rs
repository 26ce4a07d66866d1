//! `GET /readyz`: whether the hub can serve, and what keeps it from it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::Hub;
use super::error::ApiError;
use crate::protocol::{NotReady, Ready, Unready};

/// How long the database, and the state folder's disk, may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Answers whether the hub can serve.
pub async fn ready(Shared(hub): Shared<Arc<Hub>>) -> Response {
    let reasons = reasons(&hub).await;
    let not_ready = reasons.iter().map(|error| NotReady { code: error.code.into(), detail: error.detail.clone() });
    let not_ready = not_ready.collect();
    match reasons.first() {
        None => Json(Ready { ready: true, not_ready }).into_response(),
        Some(first) => {
            let body = Json(Unready { ready: false, not_ready, problem: first.problem() });
            let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            let again = (header::RETRY_AFTER, HeaderValue::from_static("5"));
            (StatusCode::SERVICE_UNAVAILABLE, [kind, again], body).into_response()
        }
    }
}

/// All that keeps the hub from serving.
async fn reasons(hub: &Hub) -> Vec<ApiError> {
    let (store, backend) = tokio::join!(timeout(ANSWER, hub.store().ping()), timeout(ANSWER, hub.registry.ready()));
    let stopping = hub.closing.is_cancelled().then(ApiError::stopping);
    let store = match store {
        Ok(Ok(())) if hub.store().is_full() => Some(reason("store_full", "there is no room for the database")),
        Ok(Ok(())) => None,
        // The database's own words may name its address.
        Ok(Err(_)) => Some(reason("store_unavailable", "the database does not answer")),
        Err(_) => Some(reason("store_unavailable", "the database did not answer in time")),
    };
    let backend = match backend {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(reason("backend_unavailable", error.to_string())),
        Err(_) => Some(reason("backend_unavailable", "the state folder's disk did not answer in time")),
    };
    stopping.into_iter().chain(store).chain(backend).collect()
}

fn reason(code: &'static str, detail: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
}
