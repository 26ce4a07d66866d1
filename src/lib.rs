//! Foghorn, a hub for the streams of a platform's apps.

pub mod agent;
#[cfg(feature = "hub")]
pub mod protocol;
pub mod record;
#[cfg(feature = "hub")]
pub mod source;
#[cfg(feature = "hub")]
pub mod store;
