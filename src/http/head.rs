//! What every request's head has to be, and every answer's, whatever the door.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header, request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::accept::MAX_HEAD;
use super::error::ApiError;
use crate::metrics::Metrics;

/// The doors whose answers anybody may keep: they have nobody's secret and no session's bytes.
const OPEN: [&str; 2] = ["/healthz", "/openapi.json"];

/// Refuses a request that is too long, or that does not say for which host it is, and lets no answer be kept.
pub async fn checked(Shared(metrics): Shared<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let is_open = OPEN.contains(&request.uri().path());
    let (parts, body) = request.into_parts();
    let mut response = match check(&parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refused) => {
            metrics.request("none", refused.status.as_u16());
            let mut response = refused.into_response();
            // What follows may be no request of the same client's.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    if !is_open {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn check(parts: &request::Parts) -> Result<(), ApiError> {
    // The HTTP library's own limit is that of its buffer, which takes more at once.
    if length(parts) > MAX_HEAD {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(ApiError::new(status, "too_large", "the request's head is longer than 64 KiB"));
    }
    // Clients from before HTTP/1.1 need not name one.
    if host(&parts.uri, &parts.headers)?.is_none() && parts.version >= Version::HTTP_11 {
        return Err(ApiError::invalid("the request has no Host"));
    }
    Ok(())
}

/// The length of a head as it is written, in bytes.
fn length(parts: &request::Parts) -> usize {
    let field = |(name, value): (&header::HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    let target = parts.uri.to_string().len();
    parts.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len() + parts.headers.iter().map(field).sum::<usize>()
}

/// The host that a request is for: that of its target where it has one, whatever the header says (RFC 9112, section
/// 3.2.2).
///
/// # Errors
/// Where there are two, or one that is none.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, ApiError> {
    let mut named = headers.get_all(header::HOST).iter();
    let (header, more) = (named.next(), named.next());
    let unread = || ApiError::invalid("the request's Host cannot be read");
    if more.is_some() {
        return Err(ApiError::invalid("the request has more than one Host"));
    }
    let header = header.map(|host| Authority::try_from(host.as_bytes())).transpose().map_err(|_| unread())?;
    let host = uri.authority().cloned().or(header.clone());
    // A name and a password before the host are nobody's here.
    if [&host, &header].into_iter().flatten().any(|host| host.as_str().contains('@')) {
        return Err(unread());
    }
    Ok(host)
}

/// The page that calls, if one says so.
///
/// # Errors
/// Where there are two, or one that cannot be read.
pub fn origin(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut named = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = named.next() else { return Ok(None) };
    let refused = || {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "the request's Origin is more than one, or cannot be read",
        )
    };
    match (origin.to_str(), named.next()) {
        (Ok(origin), None) => Ok(Some(origin)),
        _ => Err(refused()),
    }
}
