//! In which form a streaming door answers: as the client's `Accept` asks.

use axum::http::{HeaderMap, HeaderValue, header};

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// As it is.
    Plain,
    /// A JSON object a line.
    Json,
    /// The same objects as server-sent events, each with the place behind it as its id.
    Events,
}

impl Format {
    /// What the request asks for; plain where it does not say.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match accept {
            accept if accept.contains("application/x-ndjson") => Self::Json,
            accept if accept.contains("text/event-stream") => Self::Events,
            _ => Self::Plain,
        }
    }

    /// The answer's content type, where the plain form is of the type `plain`.
    pub(super) fn content_type(self, plain: &'static str) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Plain => plain,
            Self::Json => "application/x-ndjson",
            Self::Events => "text/event-stream",
        })
    }
}
