//! The command line as people use it: the real program, its own hub in a folder of its own, real pseudo-terminals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod deaths;
mod home;
mod pipes;
mod recordings;
mod terminal;
mod terminals;
