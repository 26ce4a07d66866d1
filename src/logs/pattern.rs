//! The files that an app's patterns match, and those that they matched before they were rotated.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::config::patterns::alternatives;

/// Endings of files that hold no text.
const PACKED: [&str; 5] = [".gz", ".bz2", ".xz", ".zst", ".lz4"];

/// A leading dot is matched by a dot alone, and a `/` by itself.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Returns the files that match a pattern now, in their order. What cannot be read goes to `unread`.
#[must_use]
pub fn matches(pattern: &str, unread: &mut Vec<(PathBuf, io::Error)>) -> Vec<PathBuf> {
    let mut found = walk(alternatives(pattern).unwrap_or_default(), unread);
    found.retain(|path| !is_packed(path));
    found
}

/// Returns the files beside those that match whose names say that they were such a file once: `web.log.1` beside
/// `web.log`.
#[must_use]
pub fn rotated(pattern: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for one in alternatives(pattern).unwrap_or_default() {
        let Some((folder, last)) = one.rsplit_once('/') else { continue };
        let Ok(last) = Pattern::new(last) else { continue };
        let was_matched = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut stems = name.match_indices(['.', '-']).map(|(at, _)| &name[..at]);
            !is_packed(path) && stems.any(|stem| last.matches_with(stem, OPTIONS))
        };
        found.extend(walk(vec![format!("{folder}/*")], &mut Vec::new()).into_iter().filter(was_matched));
    }
    found
}

/// Returns the folders in which a new file could match: those of the files that match now, and where patterns begin.
#[must_use]
pub fn folders(pattern: &str, files: &[PathBuf]) -> Vec<PathBuf> {
    let is_pattern = |part: &str| part.contains(['*', '?', '[']);
    let begins = |one: String| {
        let (folder, _) = one.rsplit_once('/')?;
        let parts: Vec<_> = folder.split('/').take_while(|part| !is_pattern(part)).collect();
        Some(PathBuf::from(format!("{}/", parts.join("/"))))
    };
    let mut folders: Vec<_> = alternatives(pattern).unwrap_or_default().into_iter().filter_map(begins).collect();
    folders.extend(files.iter().filter_map(|file| Some(file.parent()?.to_owned())));
    folders.sort();
    folders.dedup();
    folders
}

fn is_packed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    PACKED.iter().any(|ending| name.ends_with(ending))
}

fn walk(patterns: Vec<String>, unread: &mut Vec<(PathBuf, io::Error)>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in patterns.iter().filter_map(|one| glob::glob_with(one, OPTIONS).ok()).flatten() {
        match entry {
            Ok(path) => found.push(path),
            Err(error) => unread.push((error.path().to_owned(), error.into())),
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The process type that a file's lines are from: `web` for `web.log`, `web.log.1` and `web.txt`.
#[must_use]
pub fn process(path: &Path) -> String {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let stem = name.find(".log").filter(|at| *at > 0).map(|at| &name[..at]);
    let stem = stem.or_else(|| name.rsplit_once('.').map(|(stem, _)| stem).filter(|stem| !stem.is_empty()));
    stem.unwrap_or(&name).chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_any_directory_of_the_pattern() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a/web.log", "a/web.log.1", "a/web.log.2.gz", "a/notes.txt", "b/worker.log", "c/x/deep.log"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, "x").expect("writes");
        }
        let pattern = format!("{}/?/*.log", dir.path().display());
        let short = |paths: Vec<PathBuf>| -> Vec<String> {
            let relative = |path: PathBuf| Some(path.strip_prefix(dir.path()).ok()?.display().to_string());
            paths.into_iter().filter_map(relative).collect()
        };
        assert_eq!(short(matches(&pattern, &mut Vec::new())), ["a/web.log", "b/worker.log"]);
        assert_eq!(short(rotated(&pattern)), ["a/web.log.1"]);
        for (pattern, files) in [
            ("**/*.log", vec!["a/web.log", "b/worker.log", "c/x/deep.log"]),
            ("c/**/deep.log", vec!["c/x/deep.log"]),
            ("{a,b}/*.log", vec!["a/web.log", "b/worker.log"]),
            ("[bc]/{worker,none}.log", vec!["b/worker.log"]),
            ("a/web.log*", vec!["a/web.log", "a/web.log.1"]),
        ] {
            let pattern = format!("{}/{pattern}", dir.path().display());
            assert_eq!(short(matches(&pattern, &mut Vec::new())), files, "{pattern}");
        }
        assert_eq!(
            matches(&dir.path().join("none/*.log").display().to_string(), &mut Vec::new()),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn a_process_is_named_by_its_file() {
        for (path, name) in [
            ("/l/web.log", "web"),
            ("web.log.1", "web"),
            ("web.log-20261122", "web"),
            ("a.b.txt", "a.b"),
            (".log", ".log"),
            ("plain", "plain"),
        ] {
            assert_eq!(process(Path::new(path)), name, "{path}");
        }
    }
}
