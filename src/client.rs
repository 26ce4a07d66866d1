//! A hub's client: finding a hub or starting one, its HTTP doors, and a stream that survives hubs.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`error`] | what can go wrong between a client and a hub |
//! | [`http`] | requests |
//! | [`login`] | where a person's token comes from |
//! | [`hubs`] | which hub, and the start of this user's own |
//! | [`api`] | requests that are tried again when a hub is replaced |
//! | [`descriptors`] | what a started hub must not inherit |
//! | [`wire`], [`socket`] | one connection, and one websocket |
//! | [`outgoing`] | what is typed, until the command has it |
//! | [`sequence`] | which records come next, each byte once |
//! | [`backoff`] | how long to wait between two tries |
//! | [`follow`] | a session followed across connections |
//!
//! It knows the wire, and nothing of terminals.

pub mod api;
pub mod backoff;
mod descriptors;
pub mod error;
pub mod follow;
pub mod http;
pub mod hubs;
pub mod login;
pub mod outgoing;
pub mod sequence;
pub mod socket;
mod wire;
