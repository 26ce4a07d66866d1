//! Foghorn, a hub for the streams of a platform's apps. ARCHITECTURE.md has the map.
//!
//! The way of a byte: [`backend`] → [`source`] → [`session`] → [`http`] → the viewer; [`recorder`] writes what passes
//! into the [`store`]. A module names what feeds it, never what it feeds.

pub mod agent;
#[cfg(feature = "hub")]
pub mod backend;
#[cfg(feature = "hub")]
pub mod cli;
#[cfg(feature = "hub")]
pub mod client;
#[cfg(feature = "hub")]
pub mod config;
#[cfg(feature = "hub")]
pub mod folder;
#[cfg(feature = "hub")]
pub mod http;
#[cfg(feature = "hub")]
pub mod kubernetes;
#[cfg(feature = "hub")]
pub mod logs;
#[cfg(feature = "hub")]
pub mod metrics;
#[cfg(feature = "hub")]
pub mod protocol;
#[cfg(feature = "hub")]
pub mod reaper;
pub mod record;
#[cfg(feature = "hub")]
pub mod recorder;
#[cfg(feature = "hub")]
pub mod registry;
#[cfg(feature = "hub")]
pub mod server;
#[cfg(feature = "hub")]
pub mod session;
#[cfg(feature = "hub")]
pub mod source;
#[cfg(feature = "hub")]
pub mod store;
#[cfg(feature = "hub")]
pub mod tasks;
#[cfg(feature = "hub")]
pub mod telemetry;
#[cfg(feature = "hub")]
pub mod visible;
