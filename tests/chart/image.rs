//! The image, as an archive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::{root, skip};

/// With `1`, tests that miss a program fail instead of being skipped.
const REQUIRE: &str = "FOGHORN_TEST_REQUIRE_PROGRAMS";

/// The name of the image in tests.
pub(crate) const NAME: &str = "docker.io/foghorn/foghorn:chart-test";

/// The archive with the programs that are tested, made once. `None`, with a loud line, where it cannot be made here.
pub(crate) fn archive() -> Option<PathBuf> {
    static ARCHIVE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        for program in ["strip", "readelf", "gzip", "tar"] {
            if Command::new(program).arg("--version").output().is_err() {
                return skip(REQUIRE, &format!("no image without {program}"));
            }
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image.tar");
        make(&path);
        Some(path)
    };
    ARCHIVE.get_or_init(make).clone()
}

fn make(path: &Path) {
    let mut script = Command::new(root().join("scripts/image"));
    script.args(["--name", NAME, "--program", env!("CARGO_BIN_EXE_foghorn")]).arg(path);
    let output = script.output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A file in an archive.
fn file(archive: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().expect("tar");
    assert!(output.status.success(), "no {name}");
    output.stdout
}

fn json(archive: &Path, name: &str) -> Value {
    serde_json::from_slice(&file(archive, name)).expect("JSON")
}

fn blob(descriptor: &Value) -> String {
    descriptor["digest"].as_str().expect("a digest").replacen("sha256:", "blobs/sha256/", 1)
}

#[test]
fn the_same_programs_give_the_same_image() {
    let Some(archive) = archive() else { return };
    let again = archive.with_extension("again");
    make(&again);
    assert!(std::fs::read(&archive).expect("reads") == std::fs::read(&again).expect("reads"), "they differ");
    std::fs::remove_file(again).expect("removes");
}

#[test]
fn the_image_has_what_the_hub_needs_and_nothing_else() {
    let Some(archive) = archive() else { return };
    let index = json(&archive, "index.json");
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], NAME);
    let manifest = json(&archive, &blob(&index["manifests"][0]));
    let config = json(&archive, &blob(&manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/foghorn"]));
    // What older engines read says the same.
    let docker = json(&archive, "manifest.json");
    assert_eq!(docker[0]["RepoTags"], serde_json::json!([NAME]));
    assert_eq!(docker[0]["Config"], blob(&manifest["config"]));
    assert_eq!(docker[0]["Layers"], serde_json::json!([blob(&manifest["layers"][0])]));

    let layer = archive.with_extension("layer.tar.gz");
    std::fs::write(&layer, file(&archive, &blob(&manifest["layers"][0]))).expect("writes");
    let list = Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&layer).output().expect("tar");
    let list = String::from_utf8(list.stdout).expect("text");
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    for needed in
        ["usr/local/bin/foghorn", "usr/local/bin/foghorn-agent", "etc/passwd", "etc/ssl/certs/ca-certificates.crt"]
    {
        assert!(names.contains(&needed), "no {needed} in {list}");
    }
    assert!(
        names.iter().any(|name| name.ends_with("/libc.so.6")) && names.iter().any(|name| name.contains("ld-linux"))
    );
    assert!(list.contains("drwxrwxrwt 0/0               0 1970-01-01 00:00 tmp/"), "{list}");
    assert!(list.contains("drwxr-xr-x 65532/65532"), "{list}");
    let programs = names.iter().filter(|name| name.contains("bin/") && !name.ends_with('/')).count();
    assert_eq!(programs, 2, "a shell, or another program, is in {list}");
    std::fs::remove_file(layer).expect("removes");
}

/// What the container engine is given has all that the sources include.
#[test]
fn the_dockerfile_sees_what_it_needs() {
    let ignore = std::fs::read_to_string(root().join(".dockerignore")).expect("reads");
    let seen: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let output =
        Command::new("grep").args(["-rhoE", r#"include_(str|bytes)!\("[^"]*"#, "src"]).current_dir(root()).output();
    let found = String::from_utf8(output.expect("grep").stdout).expect("text");
    for line in found.lines() {
        let path = line.split('"').nth(1).expect("a path").trim_start_matches("../");
        let top = path.split('/').next().expect("a part");
        let in_sources = !line.contains("../") || root().join("src").join(path).exists();
        assert!(in_sources || seen.contains(&top), "{path} is not in .dockerignore");
    }
    for needed in ["Cargo.toml", "Cargo.lock", "src", "benches", "migrations", "scripts/agent"] {
        assert!(seen.contains(&needed), "{needed}");
    }
}
