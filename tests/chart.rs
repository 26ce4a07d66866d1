//! The chart and the image: what is rendered, what a cluster makes of it, and a hub that runs in one.
//!
//! Helm, and the schemas of Kubernetes' objects, come from Python packages that `scripts/setup` fetches. The cluster is
//! that of `support::cluster`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "chart/cluster.rs"]
mod cluster;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/hub.rs"]
mod hub;
#[path = "chart/image.rs"]
mod image;
#[path = "chart/missed.rs"]
mod missed;
#[path = "chart/objects.rs"]
mod objects;
#[path = "chart/refusals.rs"]
mod refusals;
#[path = "chart/restricted.rs"]
mod restricted;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/standard.rs"]
mod standard;

use std::io::Write;
use std::path::Path;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says why a test does nothing, past the harness's capture, which would swallow it with a test that passes; or fails,
/// where the variable forbids that.
fn skip<T>(require: &str, why: &str) -> Option<T> {
    assert!(std::env::var(require).as_deref() != Ok("1"), "{why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    None
}
