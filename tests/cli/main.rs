//! The command line as people use it: the real program, its own hub in a folder of its own, real pseudo-terminals.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod deaths;
mod folder;
mod foreign;
mod home;
mod payloads;
mod pipes;
#[path = "../support/proxy.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod proxy;
mod recordings;
mod terminal;
mod terminals;
mod within;
