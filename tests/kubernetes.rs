//! Runs, exec, logs and hand-overs on a real Kubernetes.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

#[path = "kubernetes/rights.rs"]
mod rights;
#[path = "kubernetes/runs.rs"]
mod runs;
