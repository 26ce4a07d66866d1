//! Patterns of file names, such as `/var/log/blog/*.log`: `*` and `?` within one part of a path.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Endings of files that hold no text.
const PACKED: [&str; 5] = [".gz", ".bz2", ".xz", ".zst", ".lz4"];

/// The files that match a pattern now, in their order.
#[must_use]
pub fn matches(pattern: &str) -> Vec<PathBuf> {
    walk(pattern, |name, part| matches_name(part, name) && !is_packed(name))
}

/// Files beside those that match whose names say that they were such a file once: `web.log.1` beside `web.log`.
#[must_use]
pub fn rotated(pattern: &str) -> Vec<PathBuf> {
    walk(pattern, |name, part| {
        let stems = name.char_indices().filter(|(_, letter)| matches!(letter, '.' | '-')).map(|(at, _)| &name[..at]);
        !is_packed(name) && stems.into_iter().any(|stem| matches_name(part, stem))
    })
}

fn is_packed(name: &str) -> bool {
    PACKED.iter().any(|ending| name.ends_with(ending))
}

/// The files in the pattern's directories whose names fit its last part.
fn walk(pattern: &str, fits: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let path = Path::new(pattern);
    let (Some(parent), Some(last)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Vec::new();
    };
    let mut places = vec![PathBuf::new()];
    for part in parent.components() {
        let part = part.as_os_str();
        places = match part.to_str().filter(|part| is_pattern(part)) {
            Some(part) => {
                let inside = |place: &PathBuf| names(place, |name| matches_name(part, name));
                places.iter().flat_map(inside).filter(|place| place.is_dir()).collect()
            }
            None => places.into_iter().map(|place| place.join(part)).collect(),
        };
    }
    places.iter().flat_map(|place| names(place, |name| fits(name, last))).collect()
}

fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?'])
}

fn names(place: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    // What cannot be read has no matches; it may be made later.
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    let mut paths: Vec<_> = fitting.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Whether a name fits one part of a pattern. A leading dot is fitted by a dot alone.
fn matches_name(part: &str, name: &str) -> bool {
    if name.starts_with('.') && !part.starts_with('.') {
        return false;
    }
    let (part, name): (Vec<char>, Vec<char>) = (part.chars().collect(), name.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where the last star stands, and up to where it has taken.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match part.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[from] => (at, from) = (at + 1, from + 1),
            _ => match &mut star {
                Some((back, taken)) => {
                    *taken += 1;
                    (at, from) = (*back + 1, *taken);
                }
                None => return false,
            },
        }
    }
    part[at..].iter().all(|letter| *letter == '*')
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
    fn names_and_patterns() {
        for (part, name, fits) in [
            ("*.log", "web.log", true),
            ("*.log", "web.log.1", false),
            ("*.log", ".hidden.log", false),
            ("web*", "web", true),
            ("w?b.*g", "web.xlog", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab-ab-", false),
            ("", "", true),
        ] {
            assert_eq!(matches_name(part, name), fits, "{part} {name}");
        }
    }

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
        assert_eq!(short(matches(&pattern)), ["a/web.log", "b/worker.log"]);
        assert_eq!(short(rotated(&pattern)), ["a/web.log.1"]);
        assert_eq!(matches(&dir.path().join("none/*.log").display().to_string()), Vec::<PathBuf>::new());
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
