//! What comes in and is not as it should be: each has a clear error with a stable code, the hub survives it, and those
//! who follow the same session lose nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod bed;
mod frames;
mod golden;
mod heads;
mod output;
mod raw;
mod requests;
mod starts;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod unread;
mod viewers;
mod wire;
