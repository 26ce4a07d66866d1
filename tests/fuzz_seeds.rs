//! The seeds of the fuzz targets, and what they found, go through the same functions as every test run.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

fn seeds(target: &str, body: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("seeds") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        body(&fs::read(path).expect("a seed"));
        count += 1;
    }
    assert!(count >= 5, "{count} seeds");
}

#[test]
fn agent_protocol() {
    seeds("agent_protocol", bodies::agent_protocol);
}

#[test]
fn record() {
    seeds("record", bodies::record);
}

#[test]
fn screen() {
    seeds("screen", bodies::screen);
}

#[test]
fn viewer_protocol() {
    seeds("viewer_protocol", bodies::viewer_protocol);
}
