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

#[path = "kubernetes/attach.rs"]
mod attach;
#[path = "kubernetes/bare.rs"]
mod bare;
#[path = "kubernetes/channels.rs"]
mod channels;
#[path = "kubernetes/exec.rs"]
mod exec;
#[path = "kubernetes/handover.rs"]
mod handover;
#[path = "cli/home.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod home;
#[path = "kubernetes/hubs.rs"]
mod hubs;
#[path = "kubernetes/layouts.rs"]
mod layouts;
#[path = "kubernetes/logs.rs"]
mod logs;
#[path = "kubernetes/names.rs"]
mod names;
#[path = "kubernetes/resources.rs"]
mod resources;
#[path = "kubernetes/rights.rs"]
mod rights;
#[path = "kubernetes/runs.rs"]
mod runs;
#[path = "kubernetes/silence.rs"]
mod silence;
#[path = "chart/standard.rs"]
mod standard;
#[path = "kubernetes/starts.rs"]
mod starts;
#[path = "cli/terminal.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod terminal;
