#![no_main]
//! See `bodies::agent_protocol`.

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target runs one of them")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::agent_protocol(data));
