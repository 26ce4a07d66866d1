//! Runs, exec, logs and hand-overs on a real Kubernetes.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[allow(dead_code, reason = "it has more than these tests use")]
#[path = "logs/bed.rs"]
mod bed;
mod support;

#[path = "kubernetes/logs.rs"]
mod logs;
#[path = "kubernetes/runs.rs"]
mod runs;
