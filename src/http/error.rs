//! Errors as the doors tell them: a status, a stable code, and a sentence that says what to do.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::backend::BackendError;
use crate::logs::LogsError;
use crate::protocol::Problem;
use crate::registry::RegistryError;
use crate::store::{StoreError, brief, unreadable};

/// The media type of an error.
const PROBLEM: &str = "application/problem+json";

/// An error for a client. What is not for clients is logged where it becomes one of these.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// The sentence.
    pub detail: String,
}

impl ApiError {
    /// An error with this status, code and sentence.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    /// The token is missing, unknown or has ended.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "a token is needed, and this one is missing, unknown or has ended; set FOGHORN_TOKEN";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    /// The caller may not do this.
    #[must_use]
    pub fn forbidden(what: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", format!("this token does not allow to {what}"))
    }

    /// The caller may not do this with a session of which it knows: a ticket of its owner's would allow it.
    #[must_use]
    pub fn needs_ticket(what: &str) -> Self {
        let mut error = Self::forbidden(what);
        error.detail.push_str("; ask the session's owner for a ticket");
        error
    }

    /// There is no such session, or not for this caller.
    #[must_use]
    pub fn no_session(id: &str) -> Self {
        let id: String = id.chars().filter(|letter| !letter.is_control()).take(64).collect();
        let detail = format!("there is no session {id}, or it is not yours; `foghorn sessions` lists them");
        Self::new(StatusCode::NOT_FOUND, "session_not_found", detail)
    }

    /// The hub itself may not do that where sessions and logs are.
    #[must_use]
    pub fn backend_refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "backend_refused", detail)
    }

    /// The request cannot be understood.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// What came is not what the door takes.
    #[must_use]
    pub fn rejected(status: StatusCode, detail: String) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(status, "too_large", "the request's body is longer than 1 MiB"),
            _ => Self::invalid(detail),
        }
    }

    /// The hub is about to stop.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this hub is about to stop; try again in a moment")
    }

    /// The database is away.
    #[must_use]
    pub fn unavailable() -> Self {
        let detail = "the hub's database does not answer; what runs goes on, try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail)
    }

    /// All connections that the settings allow are taken.
    #[must_use]
    pub fn crowded() -> Self {
        let detail = "as many are connected to this hub as may be; try again in a moment, or raise `connections`";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_connections", detail)
    }

    /// The database has no room.
    #[must_use]
    pub fn full() -> Self {
        let detail = "there is no space left for the hub's database; what runs goes on, and is stored when its \
                      operator has made room on the disk";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", detail)
    }
}

/// Makes a problem of an error that the router or an extractor tells in its own way: an address that cannot be decoded,
/// a method that a door does not have.
pub async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !(status.is_client_error() || status.is_server_error()) || kind.is_some_and(|kind| kind == PROBLEM) {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(
            status,
            "method_not_allowed",
            "this door does not have this method; `Allow` says which it has",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::rejected(status, String::new()),
        status if status.is_client_error() => {
            ApiError::new(status, "invalid_request", "the request cannot be understood")
        }
        status => ApiError::new(status, "internal", "the hub failed at this request; its log says more"),
    };
    let mut problem = error.into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        Self::rejected(error.status(), error.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::rejected(error.status(), error.body_text())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Row { table: "sessions", .. } => "session_unreadable",
            StoreError::Row { .. } => "row_unreadable",
            _ => {
                tracing::error!(%error, "the store failed");
                return if matches!(error, StoreError::Full(_)) { Self::full() } else { Self::unavailable() };
            }
        };
        unreadable::tell(&error);
        let detail = format!("{error}; it is damaged or of a later version, and the hub's operator has to look at it");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail)
    }
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Store(error) => error.into(),
            LogsError::NoHome(detail) => Self::invalid(detail),
            LogsError::Refused(_) => Self::backend_refused(error.to_string()),
            LogsError::Cluster(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable", error.to_string())
            }
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => error.into(),
            RegistryError::Invalid(detail) | RegistryError::Backend(BackendError::Refused(detail)) => {
                Self::invalid(detail)
            }
            RegistryError::Backend(error @ BackendError::Forbidden(_)) => Self::backend_refused(error.to_string()),
            RegistryError::Backend(error) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable", error.to_string())
            }
            RegistryError::KeyReused => Self::new(StatusCode::CONFLICT, "idempotency_key_reused", error.to_string()),
            RegistryError::IdTaken => Self::new(StatusCode::CONFLICT, "id_taken", error.to_string()),
            RegistryError::Elsewhere => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "session_elsewhere", error.to_string())
            }
            RegistryError::Stopping => Self::stopping(),
            RegistryError::TooMany(..) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_sessions", error.to_string())
            }
        }
    }
}

impl ApiError {
    /// The error as the body that tells it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        // It may have what the caller sent.
        let mut shown = self.detail.clone();
        brief::cut(&mut shown);
        Problem {
            kind: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or_default().into(),
            status: self.status.as_u16(),
            code: self.code.into(),
            detail: shown,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
