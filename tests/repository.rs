//! What holds of the repository itself: which modules may name which, how dependencies are licensed.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let nested = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// The top-level module that a file belongs to.
fn module(path: &Path) -> String {
    let relative = path.strip_prefix(root().join("src")).expect("a source").with_extension("");
    relative.iter().next().expect("a name").to_string_lossy().into_owned()
}

/// The top-level modules that a file names outside its tests.
fn named(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("reads");
    let code = text.split("#[cfg(test)]").next().expect("a part");
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let parts = lines.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    parts.map(|part| part.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()).collect()
}

/// What each module may name. A module names what feeds it and the shared words, never what it feeds.
const MAY: [(&str, &[&str]); 16] = [
    ("folder", &[]),
    ("kubernetes", &["config", "record"]),
    ("record", &[]),
    ("metrics", &["record"]),
    ("agent", &["record"]),
    ("store", &["folder", "metrics", "record"]),
    ("tasks", &[]),
    ("source", &["agent", "record"]),
    ("backend", &["agent", "config", "folder", "kubernetes", "metrics", "record", "source", "tasks"]),
    ("protocol", &["agent", "kubernetes", "record", "session", "store"]),
    ("session", &["agent", "backend", "metrics", "record", "source", "store"]),
    ("recorder", &["record", "session", "source", "store"]),
    (
        "registry",
        &[
            "agent", "backend", "config", "metrics", "protocol", "record", "recorder", "session", "source", "store",
            "tasks",
        ],
    ),
    ("reaper", &["config", "registry", "session", "store"]),
    ("config", &["agent", "folder"]),
    ("logs", &["config", "kubernetes", "protocol", "record", "registry", "session", "store", "tasks"]),
];

#[test]
fn modules_look_left_only() {
    let may: BTreeMap<_, _> = MAY.into_iter().collect();
    for path in sources(&root().join("src")) {
        let own = module(&path);
        let Some(allowed) = may.get(own.as_str()) else { continue };
        for name in named(&path) {
            assert!(name == own || allowed.contains(&name.as_str()), "{} names {name}", path.display());
        }
    }
    for verb in sources(&root().join("src/cli")) {
        let doors = ["http", "registry", "session", "recorder", "backend"];
        let serves =
            verb.ends_with("serve.rs") || verb.ends_with("view.rs") || verb.to_string_lossy().contains("/view/");
        for name in named(&verb) {
            assert!(serves || !doors.contains(&name.as_str()), "{} goes past the doors to {name}", verb.display());
        }
    }
}

#[test]
fn dependencies_are_licensed_permissively() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("reads");
    let list = deny.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("a list");
    let allowed: Vec<&str> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--all-features", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for package in metadata["packages"].as_array().expect("packages") {
        let licence = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // One of the choices is enough; of a choice, all parts that are joined by AND are needed.
        let permitted = licence.split(" OR ").any(|choice| {
            let choice = choice.trim_matches(|letter| matches!(letter, '(' | ')' | ' '));
            choice.split(" AND ").all(|part| allowed.contains(&part.trim_matches(['(', ')', ' '])))
        });
        assert!(permitted, "{} is licensed as {licence:?}", package["name"]);
    }
}
