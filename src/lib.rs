//! Foghorn, a hub for the streams of a platform's apps.

#[cfg(feature = "hub")]
pub mod cli;
pub mod record;
#[cfg(feature = "hub")]
pub mod session;
#[cfg(feature = "hub")]
pub mod store;
