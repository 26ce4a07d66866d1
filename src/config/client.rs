//! What the command line knows of its surroundings: which hub, which app, which folder.
//!
//! All of it is read through a lookup that the caller injects, so that a test needs no environment of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::folder;

/// Hubs, comma separated; without it, this user's own hub on this machine.
pub const URL: &str = "FOGHORN_URL";
/// The token, or a ticket's secret.
pub const TOKEN: &str = "FOGHORN_TOKEN";
/// The app.
pub const APP: &str = "FOGHORN_APP";
/// The state folder.
pub const HOME: &str = "FOGHORN_HOME";
/// The backend that this user's own hub is to have.
pub const BACKEND: &str = "FOGHORN_BACKEND";
/// Where a hub finds its database; may hold a password.
const DATABASE_URL: &str = "FOGHORN_DATABASE_URL";
/// How long a client tries to reach a lost hub, such as `10m`.
pub const RECONNECT_LIMIT: &str = "FOGHORN_RECONNECT_LIMIT";

/// The file that names a directory's app. It counts only where nobody but the caller and root can have written it, and
/// names no hub and no token.
pub const APP_FILE: &str = ".foghorn.toml";

/// How long a client tries to reach a lost hub, unless told otherwise.
pub const DEFAULT_RECONNECT_LIMIT: Duration = Duration::from_secs(600);

/// The longest name of an app, in bytes.
const MAX_APP: usize = 63;

/// Variables that are not handed on to a command: they are secrets.
const SECRETS: [&str; 2] = [TOKEN, DATABASE_URL];

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not the URL of a hub.
    #[error("`{0}` is not a hub's URL; give something like https://foghorn.example.com")]
    Url(String),
    /// Not a time.
    #[error("{RECONNECT_LIMIT} is `{0}`, which is not a time such as 10m")]
    ReconnectLimit(String),
    /// Neither an explicit state folder nor a home directory.
    #[error("no folder for Foghorn's state: set {HOME}, or HOME")]
    NoHome,
    /// An app's file cannot be read.
    #[error("{path} cannot be used: {reason}")]
    AppFile {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// What the flags say; each outranks its variable.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--url`.
    pub url: Option<String>,
    /// `--insecure`.
    pub insecure: bool,
    /// A ticket that was read from a file.
    pub token: Option<String>,
}

/// The client's settings.
#[derive(Clone)]
pub struct ClientSettings {
    /// The hubs, without a slash at their end; none: this user's own hub.
    pub urls: Vec<String>,
    /// The token, where one was given.
    pub token: Option<String>,
    /// The state folder, absolute.
    pub home: PathBuf,
    /// The backend that was asked for by name, in the environment or in the nearest file that names one.
    pub backend: Option<String>,
    /// Whether a token may be sent over an unencrypted connection to another machine.
    pub insecure: bool,
    /// How long to try to reach a lost hub.
    pub reconnect_limit: Duration,
    /// The app named by the environment.
    app: Option<String>,
    /// The directory of the caller, where it can be told.
    pub directory: Option<PathBuf>,
}

impl ClientSettings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`SettingsError`] where a setting cannot be used.
    pub fn from_environment(flags: &Flags) -> Result<Self, SettingsError> {
        Self::read(flags, variable, std::env::current_dir().ok())
    }

    /// Reads the settings; `lookup` gives a variable's value.
    ///
    /// # Errors
    /// [`SettingsError`] where a setting cannot be used.
    pub fn read(
        flags: &Flags,
        lookup: impl Fn(&str) -> Option<String>,
        directory: Option<PathBuf>,
    ) -> Result<Self, SettingsError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let home = home(&lookup).ok_or(SettingsError::NoHome)?;
        let home = directory.as_deref().map_or_else(|| home.clone(), |directory| directory.join(&home));
        Ok(Self {
            urls: urls(flags.url.clone().or_else(|| lookup(URL)).as_deref().unwrap_or_default())?,
            token: flags.token.clone().or_else(|| lookup(TOKEN)).map(|token| token.trim().to_owned()),
            home,
            backend: match (lookup(BACKEND), &directory) {
                (None, Some(directory)) => from_files(directory, |file| file.backend.clone())?,
                (backend, _) => backend,
            },
            insecure: flags.insecure,
            reconnect_limit: reconnect_limit(lookup(RECONNECT_LIMIT))?,
            app: lookup(APP),
            directory,
        })
    }

    /// Returns the files that would name the app or the backend here, and are not used, since others can write to them or to
    /// their folders.
    #[must_use]
    pub fn passed_over(&self) -> Vec<PathBuf> {
        let directories = self.directory.iter().flat_map(|directory| directory.ancestors());
        let files = directories.map(|directory| directory.join(APP_FILE));
        files.filter(|file| file.is_file() && !is_used(file)).collect()
    }

    /// The app: as given, else the environment's, else the nearest file's upwards, else the directory's name.
    ///
    /// # Errors
    /// [`SettingsError::AppFile`] where a file is there and cannot be read.
    pub fn app(&self, given: Option<&str>) -> Result<String, SettingsError> {
        if let Some(app) = given.or(self.app.as_deref()) {
            return Ok(app.to_owned());
        }
        let directory = self.directory.as_deref().unwrap_or(Path::new("/"));
        Ok(from_files(directory, |file| file.app.clone())?.unwrap_or_else(|| app_name(directory)))
    }
}

/// A variable of this process's environment, where it is UTF-8.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the client's settings are read")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a command inherits from its caller: all pairs that are UTF-8, without secrets and what else is `withheld`.
#[must_use]
pub fn caller_env(withheld: &[&str]) -> BTreeMap<String, String> {
    let pairs =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    pairs.filter(|(name, _)| !SECRETS.contains(&name.as_str()) && !withheld.contains(&name.as_str())).collect()
}

/// Variables that a hub, started by a client, must not inherit.
pub const NOT_FOR_A_HUB: [&str; 3] = [URL, TOKEN, APP];

/// Where kubectl, and a hub, has its configuration: a list of files.
pub const KUBECONFIG: &str = "KUBECONFIG";

/// The same list for a hub, which does not work where the user does.
///
/// # Errors
/// Where the present directory cannot be had.
#[expect(clippy::disallowed_methods, reason = "for a child")]
pub fn kubeconfig() -> std::io::Result<Option<std::ffi::OsString>> {
    let Some(paths) = std::env::var_os(KUBECONFIG) else { return Ok(None) };
    let paths = std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty());
    let paths = paths.map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
    std::env::join_paths(paths).map(Some).map_err(std::io::Error::other)
}

fn home(lookup: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let state = || {
        lookup("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| lookup("HOME").map(|home| Path::new(&home).join(".local/state")))
    };
    lookup(HOME).map(PathBuf::from).or_else(|| state().map(|state| state.join("foghorn")))
}

fn urls(list: &str) -> Result<Vec<String>, SettingsError> {
    let urls = list.split(',').map(str::trim).filter(|url| !url.is_empty());
    urls.map(|url| {
        let parsed = url.parse::<http::Uri>().ok().filter(|uri| uri.authority().is_some() && uri.query().is_none());
        let known = parsed.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        known.map(|_| url.trim_end_matches('/').to_owned()).ok_or_else(|| SettingsError::Url(url.to_owned()))
    })
    .collect()
}

fn reconnect_limit(value: Option<String>) -> Result<Duration, SettingsError> {
    let Some(value) = value else { return Ok(DEFAULT_RECONNECT_LIMIT) };
    humantime::parse_duration(&value).map_err(|_| SettingsError::ReconnectLimit(value))
}

#[derive(Deserialize)]
struct AppFile {
    app: Option<String>,
    backend: Option<String>,
}

/// What the nearest file upwards that says it has.
fn from_files(directory: &Path, field: impl Fn(&AppFile) -> Option<String>) -> Result<Option<String>, SettingsError> {
    for directory in directory.ancestors() {
        if let Some(value) = app_file(&directory.join(APP_FILE))?.as_ref().and_then(&field) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn app_file(path: &Path) -> Result<Option<AppFile>, SettingsError> {
    let fail = |reason: String| SettingsError::AppFile { path: path.display().to_string(), reason };
    if !is_used(path) {
        return Ok(None);
    }
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map(Some).map_err(|error| fail(error.message().to_owned())),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        Err(error) => Err(fail(error.to_string())),
    }
}

/// Returns whether an app's file is one that nobody but the caller and root can have written.
fn is_used(path: &Path) -> bool {
    let trusted = |path: &Path| std::fs::metadata(path).ok().filter(folder::is_trusted);
    path.parent().and_then(trusted).is_some() && trusted(path).is_some_and(|file| file.is_file())
}

/// A directory's name as an app's: what an app's name cannot have becomes a hyphen.
fn app_name(directory: &Path) -> String {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).take(MAX_APP).collect();
    if name.chars().any(|c| c.is_ascii_alphanumeric()) { name } else { "app".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)], directory: &str) -> Result<ClientSettings, SettingsError> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ClientSettings::read(&Flags::default(), lookup, Some(directory.into()))
    }

    #[test]
    fn several_hubs_are_separated_by_commas() {
        let settings =
            read(&[("HOME", "/h"), (URL, "https://a.example/, http://b.example:80/x")], "/d").expect("reads");
        assert_eq!(settings.urls, ["https://a.example", "http://b.example:80/x"]);
        assert!(read(&[("HOME", "/h"), (URL, "ftp://a")], "/d").is_err());
        assert!(read(&[("HOME", "/h"), (URL, "example.com")], "/d").is_err());
    }

    #[test]
    fn the_state_folder_is_absolute() {
        assert_eq!(read(&[("HOME", "/h")], "/d").expect("reads").home, Path::new("/h/.local/state/foghorn"));
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(read(&xdg, "/d").expect("reads").home, Path::new("/s/foghorn"));
        assert_eq!(read(&[(HOME, "state")], "/d").expect("reads").home, Path::new("/d/state"));
        assert_eq!(read(&[], "/d").err(), Some(SettingsError::NoHome));
    }

    #[test]
    fn the_app_comes_from_the_nearest_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("web/My App");
        std::fs::create_dir_all(&below).expect("a folder");
        let at = |directory: &Path| read(&[("HOME", "/h")], &directory.display().to_string()).expect("reads");
        assert_eq!(at(&below).app(None).as_deref(), Ok("My-App"));
        std::fs::write(folder.path().join(APP_FILE), "app = \"blog\"\nother = 1\n").expect("writes");
        assert_eq!(at(&below).app(None).as_deref(), Ok("blog"));
        assert_eq!(at(&below).app(Some("shop")).as_deref(), Ok("shop"));
        assert_eq!(at(&below).backend, None);
        std::fs::write(folder.path().join("web").join(APP_FILE), "backend = \"kubernetes\"\n").expect("writes");
        assert_eq!((at(&below).backend.as_deref(), at(&below).app(None).as_deref()), (Some("kubernetes"), Ok("blog")));
        assert_eq!(app_name(Path::new("/")), "app");
    }

    #[test]
    fn a_file_counts_only_where_others_cannot_write() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(APP_FILE);
        std::fs::write(&file, "app = \"evil\"\nbackend = \"kubernetes\"\nurl = \"http://evil\"\ntoken = \"t\"\n")
            .expect("writes");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets its mode");
        };
        let settings = || read(&[("HOME", "/h")], &folder.path().display().to_string()).expect("reads");
        for (of_folder, of_file, counts) in [
            (0o755, 0o644, true),
            (0o777, 0o644, false),
            (0o1777, 0o644, false),
            (0o755, 0o666, false),
            (0o702, 0o600, false),
            (0o700, 0o600, true),
        ] {
            mode(folder.path(), of_folder);
            mode(&file, of_file);
            let settings = settings();
            let app = settings.app(None).expect("an app");
            assert_eq!((app == "evil", settings.backend.is_some()), (counts, counts), "{of_folder:o} {of_file:o}");
            assert_eq!(settings.passed_over().contains(&file), !counts, "it is told");
            assert_eq!((settings.urls.len(), settings.token), (0, None), "a file names no hub and no token");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(APP_FILE), "app = ").expect("writes");
        let settings = read(&[("HOME", "/h")], &folder.path().display().to_string());
        assert!(matches!(settings.err(), Some(SettingsError::AppFile { .. })));
    }
}
