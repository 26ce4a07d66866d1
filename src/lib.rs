//! Foghorn, a hub for the streams of a platform's apps.

pub mod agent;
#[cfg(feature = "hub")]
pub mod cli;
#[cfg(feature = "hub")]
pub mod client;
#[cfg(feature = "hub")]
pub mod config;
#[cfg(feature = "hub")]
pub mod protocol;
pub mod record;
#[cfg(feature = "hub")]
pub mod session;
#[cfg(feature = "hub")]
pub mod source;
#[cfg(feature = "hub")]
pub mod store;
