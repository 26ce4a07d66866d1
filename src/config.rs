//! Settings, read once. The only place that looks at the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub mod auth;
pub mod client;
pub mod kubernetes;
pub mod names;
pub mod patterns;
pub mod server;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read or understood.
    #[error("{path}: {reason}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting has a value that it cannot have.
    #[error("setting {name}: {reason}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
}

fn not(name: &'static str, text: &str, what: &str) -> ConfigError {
    ConfigError::Setting { name, reason: format!("\"{text}\" is not {what}") }
}

/// The line where a TOML file is wrong, from 1 on.
#[must_use]
pub fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What is wrong in a settings' file, without the line itself, which may hold a database's password.
fn misread(text: &str, error: &toml::de::Error) -> String {
    let line = line_of(text, error);
    let key = text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map(|(key, _)| key.trim());
    let plain = |key: &&str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match key.filter(plain) {
        Some(key) => format!("line {line}, {key}: {}", error.message()),
        None => format!("line {line}: {}", error.message()),
    }
}

/// A size in bytes: a number, or one with `KiB`, `MiB` or `GiB`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that looks at the environment")]
fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The state folder where none is set: `foghorn` in the user's XDG state folder.
///
/// # Errors
/// Where there is no home directory either.
pub fn state_folder() -> Result<PathBuf, ConfigError> {
    let state = var("XDG_STATE_HOME").map(PathBuf::from);
    let home = || var("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let reason = || "there is no home directory; set FOGHORN_HOME".into();
    let state = state.or_else(home).ok_or_else(|| ConfigError::Setting { name: "home", reason: reason() })?;
    Ok(state.join("foghorn"))
}

/// Where traces go: the collector's URL, by the names that all programs with OpenTelemetry know.
fn traces_endpoint() -> Option<String> {
    let all = || var("OTEL_EXPORTER_OTLP_ENDPOINT").map(|url| format!("{}/v1/traces", url.trim_end_matches('/')));
    var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(all)
}

/// What commands get of the hub's own environment where it is not their caller's.
fn base_env() -> BTreeMap<String, String> {
    let names = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ"];
    let mut env: BTreeMap<_, _> = names.into_iter().filter_map(|name| Some((name.into(), var(name)?))).collect();
    env.entry("PATH".into()).or_insert_with(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    env
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        for (text, size) in [("7", Some(7)), ("64 MiB", Some(64 << 20)), ("1GiB", Some(1 << 30)), ("1 MB", None)] {
            assert_eq!(super::bytes(text), size, "{text}");
        }
    }
}
