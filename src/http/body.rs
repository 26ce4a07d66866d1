//! What may come with a request, whatever its door: the address, and the body's length and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;

/// The longest body of a request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// How long a client may take to send the body of a request.
pub const BODY_LIMIT: Duration = Duration::from_secs(20);

/// A NUL character in an address.
const NUL: &str = "%00";

/// Refuses an address with NUL characters, which no name has and not every database can be asked for, and a body whose
/// length is said to be too much; gives one that comes a limited time.
///
/// A body in chunks is the last thing on its connection: a request that also gave a length (which the HTTP library has
/// passed over) may have been understood otherwise by a proxy, and what follows is then no request of its client's
/// (RFC 9112, section 6.1).
pub async fn checked(request: Request, next: Next) -> Response {
    if request.uri().path().contains(NUL) || request.uri().query().is_some_and(|query| query.contains(NUL)) {
        return ApiError::invalid("an address cannot have NUL characters").into_response();
    }
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return ApiError::rejected(StatusCode::PAYLOAD_TOO_LARGE, String::new()).into_response();
    }
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let mut response = next.run(request.map(in_time)).await;
    if chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The body, which fails where it has not come to its end in time.
fn in_time(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let until = Instant::now() + BODY_LIMIT;
    let late = || axum::Error::new(format!("it did not come within {} s", BODY_LIMIT.as_secs()));
    Body::from_stream(stream::unfold(body.into_data_stream(), move |mut data| async move {
        let next = timeout_at(until, data.next()).await.unwrap_or_else(|_| Some(Err(late())))?;
        Some((next, data))
    }))
}
