//! Answers with their headers.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Sends a request, and reads the whole answer. One that switches protocols has no body.
pub(crate) async fn whole(request: http::Request<Full<Bytes>>) -> http::Response<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (parts, body) = client.request(request).await.expect("an answer").into_parts();
    let body = match parts.status.as_u16() {
        101 => Bytes::new(),
        _ => body.collect().await.expect("a body").to_bytes(),
    };
    http::Response::from_parts(parts, body)
}
