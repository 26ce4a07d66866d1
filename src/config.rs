//! Settings: read once, from flags, the environment and files. Nowhere else is the environment looked at.

pub mod client;
