//! A session: what is known of it, and what follows it. No I/O of its own.

pub mod screen;
