//! What an operator relies on: metrics, readiness, the description of the doors, the log.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "operation/dashboard.rs"]
mod dashboard;
#[path = "operation/log.rs"]
mod log;
#[path = "operation/long.rs"]
mod long;
#[path = "operation/metrics.rs"]
mod metrics;
#[path = "operation/openapi.rs"]
mod openapi;
#[path = "operation/ready.rs"]
mod ready;
#[path = "operation/schema.rs"]
mod schema;
#[path = "operation/unreadable.rs"]
mod unreadable;
#[path = "operation/viewers.rs"]
mod viewers;

use bytes::Bytes;
use http_body_util::Full;
use support::whole::whole;

/// Asks without a token.
async fn get(url: &str) -> http::Response<Bytes> {
    whole(http::Request::get(url).body(Full::default()).expect("a request")).await
}
