//! What several tests need.
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub(crate) mod answer;
pub(crate) mod postgres;
pub(crate) mod server;
pub(crate) mod whole;
