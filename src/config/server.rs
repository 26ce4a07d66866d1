//! The server's settings: flag, then environment, then `foghorn.toml`, then default.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::{ConfigError, auth, kubernetes};
use crate::folder;

/// The flags of `foghorn serve`, and their variables.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Serve this user's own commands and end when there is nothing to do; started by them, not by hand.
    #[arg(long, hide = true)]
    pub embedded: bool,
    /// Address and port to listen on [default: 127.0.0.1:7300].
    #[arg(long, env = "FOGHORN_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Allow the local backend to be reached from other machines.
    #[arg(long, env = "FOGHORN_ALLOW_REMOTE")]
    pub allow_remote: bool,
    /// The database, as postgres://…; without one, SQLite in the state folder. Holds a password: prefer the variable.
    #[arg(long, env = "FOGHORN_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Address and port of a listener for metrics alone, which needs no token.
    #[arg(long, env = "FOGHORN_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// What the log tells, such as info or foghorn=debug [default: info].
    #[arg(long, env = "FOGHORN_LOG")]
    pub log: Option<String>,
    /// Where commands run [default: local].
    #[arg(long, env = "FOGHORN_BACKEND")]
    pub backend: Option<String>,
    /// Who says whose token a token is, besides the file: tokens, kubernetes or webhook [default: tokens].
    #[arg(long, env = "FOGHORN_AUTH")]
    pub auth: Option<String>,
    /// In which words it is asked what a person may do: pods or foghorn [default: pods].
    #[arg(long, env = "FOGHORN_RIGHTS")]
    pub rights: Option<String>,
    /// The file with the tokens that may call.
    #[arg(long, env = "FOGHORN_TOKENS")]
    pub tokens: Option<PathBuf>,
    /// The settings file [default: foghorn.toml in the state folder].
    #[arg(long, env = "FOGHORN_CONFIG")]
    pub config: Option<PathBuf>,
    /// The state folder [default: foghorn in the user's XDG state folder].
    #[arg(long, env = "FOGHORN_HOME")]
    pub home: Option<PathBuf>,
}

/// All that a server is told.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it gives its metrics to everyone, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What the log tells, in `tracing`'s syntax.
    pub log: String,
    /// Where traces go: an OTLP collector's URL.
    pub traces: Option<String>,
    /// The database's URL; none for SQLite. Secret.
    pub database_url: Option<String>,
    /// Who says whose token a token is, besides the tokens' file.
    pub auth: auth::Auth,
    /// In which words it is asked what a person may do.
    pub rights: auth::Rights,
    /// Who may watch the sessions of others, where an app does not say otherwise.
    pub watch: auth::Watch,
    /// The tokens' file.
    pub tokens: Option<PathBuf>,
    /// The state folder.
    pub home: PathBuf,
    /// Whether it serves one user's own commands.
    pub embedded: bool,
    /// Origins of web pages that may call, besides the server's own.
    pub origins: Vec<String>,
    /// The backend of Kubernetes, where it is that one.
    pub kubernetes: Option<kubernetes::Kubernetes>,
    /// The limits.
    pub limits: Limits,
    /// What is set for single apps.
    pub apps: BTreeMap<String, App>,
    /// The environment that commands start from where it is not the caller's own.
    pub base_env: BTreeMap<String, String>,
}

/// What is set for an app.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct App {
    /// Patterns of files that belong to its log, such as `/var/log/blog/*.log`.
    pub logs: Vec<String>,
    /// Who may watch the sessions of others.
    pub watch: Option<auth::Watch>,
    /// On Kubernetes, its namespace, where the template does not say it.
    pub namespace: Option<String>,
    /// On Kubernetes, the selector of its objects, where the template does not say it.
    pub selector: Option<String>,
    /// On Kubernetes, the type of the process whose Deployment its runs are made from.
    pub process: Option<String>,
    /// On Kubernetes, what its runs are made from: `deploy/NAME`.
    pub from: Option<String>,
    /// On Kubernetes, the container that its runs are made from.
    pub container: Option<String>,
    /// On Kubernetes, containers that its runs keep beside the command's, such as a database's proxy.
    pub keep_containers: Vec<String>,
    /// On Kubernetes, labels that its runs keep, besides those that all keep.
    pub keep_labels: Vec<String>,
}

/// Limits, with DESIGN's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a session's newest records in memory.
    pub ring_bytes: u64,
    /// Compressed bytes of one session's journal.
    pub journal_bytes: u64,
    /// Compressed bytes of all journals.
    pub journals_bytes: u64,
    /// How long an ended session is kept.
    pub journal_age: Duration,
    /// Bytes that an agent keeps for a hub.
    pub spool_bytes: u64,
    /// How long a client may be away before its session is ended.
    pub grace: Duration,
    /// How long a terminal may be idle.
    pub idle_limit: Duration,
    /// How long a session may last.
    pub time_limit: Duration,
    /// How long an agent of an attached session goes on without a hub.
    pub orphan_limit: Duration,
    /// What passes between HUP and TERM when a session is ended.
    pub hup_wait: Duration,
    /// What passes between TERM and KILL.
    pub term_wait: Duration,
    /// Live sessions a person; none for the embedded hub.
    pub live_per_owner: Option<u64>,
    /// Live sessions an app; none for the embedded hub.
    pub live_per_app: Option<u64>,
    /// Connections at once.
    pub connections: usize,
    /// How long a client may take nothing of an answer that lies in memory.
    pub unread: Duration,
    /// How often what sessions have left behind is looked for.
    pub reap: Duration,
    /// How long a hub that was told to stop goes on, not ready, before it does.
    pub drain: Duration,
    /// After how long without a session and a viewer the embedded hub ends.
    pub embedded_idle: Duration,
}

/// What the log tells, unless told otherwise.
const LOG: &str = "info";

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(60 * 60);

impl Default for Limits {
    fn default() -> Self {
        Self {
            ring_bytes: MIB,
            journal_bytes: 256 * MIB,
            journals_bytes: 20 * 1024 * MIB,
            journal_age: 7 * 24 * HOUR,
            spool_bytes: 64 * MIB,
            grace: HOUR / 2,
            idle_limit: HOUR,
            time_limit: 24 * HOUR,
            orphan_limit: HOUR,
            hup_wait: Duration::from_secs(5),
            term_wait: Duration::from_secs(10),
            live_per_owner: Some(25),
            live_per_app: Some(50),
            connections: 10_000,
            unread: Duration::from_secs(30),
            reap: Duration::from_secs(60),
            drain: Duration::ZERO,
            embedded_idle: Duration::from_secs(10 * 60),
        }
    }
}

/// `foghorn.toml`. Durations are like `90s` or `1h 30m`, sizes in bytes or like `64 MiB`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    allow_remote: bool,
    metrics_listen: Option<SocketAddr>,
    log: Option<String>,
    database_url: Option<String>,
    backend: Option<String>,
    auth: Option<String>,
    rights: Option<String>,
    watch: auth::Watch,
    webhook: auth::File,
    tokens: Option<PathBuf>,
    origins: Vec<String>,
    kubernetes: kubernetes::File,
    limits: FileLimits,
    apps: BTreeMap<String, App>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileLimits {
    ring: Option<String>,
    journal: Option<String>,
    journals: Option<String>,
    journal_age: Option<String>,
    spool: Option<String>,
    grace: Option<String>,
    idle: Option<String>,
    time: Option<String>,
    orphan: Option<String>,
    hup_wait: Option<String>,
    term_wait: Option<String>,
    live_per_owner: Option<u64>,
    live_per_app: Option<u64>,
    connections: Option<usize>,
    unread: Option<String>,
    reap: Option<String>,
    drain: Option<String>,
    embedded_idle: Option<String>,
}

impl Server {
    /// Reads the settings once.
    ///
    /// # Errors
    /// [`ConfigError`] with what is wrong and where.
    pub fn read(args: ServeArgs) -> Result<Self, ConfigError> {
        let home = match args.home {
            Some(home) => home,
            None => super::state_folder()?,
        };
        let file = read_file(args.config.as_deref(), &home)?;
        let backend = args.backend.or(file.backend).unwrap_or_else(|| "local".into());
        let kubernetes = match backend.as_str() {
            "local" => None,
            "kubernetes" => Some(file.kubernetes.clone().settings()?),
            _ => {
                let reason = format!("{backend} is not known; it can be local or kubernetes");
                return Err(ConfigError::Setting { name: "backend", reason });
            }
        };
        let apps = file.apps;
        for pattern in apps.values().flat_map(|app| &app.logs) {
            if let Err(reason) = super::patterns::alternatives(pattern) {
                let reason = format!("{pattern:?} cannot be followed: {reason}");
                return Err(ConfigError::Setting { name: "logs", reason });
            }
        }
        let auth = args.auth.or(file.auth).unwrap_or_else(|| "tokens".into());
        let auth = auth::Auth::read(&auth, file.webhook, || file.kubernetes.settings())?;
        let rights = args.rights.or(file.rights).as_deref().map(auth::rights).transpose()?.unwrap_or_default();
        let default = if args.embedded { 0 } else { 7300 };
        let listen = args.listen.or(file.listen.filter(|_| !args.embedded));
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], default)));
        if args.embedded && !listen.ip().is_loopback() {
            let reason =
                "a hub that a command starts for its user is reached from this machine alone; run `foghorn serve` \
                          for one that others reach"
                    .into();
            return Err(ConfigError::Setting { name: "listen", reason });
        }
        if kubernetes.is_none() && !listen.ip().is_loopback() && !args.allow_remote && !file.allow_remote {
            let reason =
                "the local backend runs commands as this user, so it listens beyond loopback only with --allow-remote"
                    .into();
            return Err(ConfigError::Setting { name: "listen", reason });
        }
        let log = args.log.or(file.log).unwrap_or_else(|| LOG.into());
        if EnvFilter::try_new(&log).is_err() {
            return Err(super::not("log", &log, "a filter such as info or foghorn=debug"));
        }
        Ok(Self {
            listen,
            metrics_listen: args.metrics_listen.or(file.metrics_listen),
            log,
            traces: super::traces_endpoint(),
            database_url: args.database_url.or(file.database_url),
            auth,
            rights,
            watch: file.watch,
            tokens: args.tokens.or(file.tokens),
            home,
            embedded: args.embedded,
            origins: file.origins,
            kubernetes,
            limits: limits(&file.limits, args.embedded)?,
            apps,
            base_env: super::base_env(),
        })
    }
}

fn read_file(path: Option<&Path>, home: &Path) -> Result<File, ConfigError> {
    let (file, text) = match path {
        Some(path) => (path.to_owned(), std::fs::read_to_string(path)),
        None => of_folder(home),
    };
    let text = match text {
        Ok(text) => text,
        // A state folder that cannot be used is told of when it is to be used.
        Err(error) if path.is_none() && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(File::default());
        }
        Err(error) => return Err(ConfigError::Read { path: file, reason: error.to_string() }),
    };
    toml::from_str(&text).map_err(|error| ConfigError::Read { path: file, reason: super::misread(&text, &error) })
}

/// Reads the settings in the state folder: the folder that is set as it, or this user's own in that.
fn of_folder(home: &Path) -> (PathBuf, std::io::Result<String>) {
    const NAME: &str = "foghorn.toml";
    let Ok(folder) = folder::locate(home) else { return (home.join(NAME), Err(ErrorKind::NotFound.into())) };
    let set = folder::read(&home.join(NAME));
    match set {
        Err(_) if folder != home => (folder.join(NAME), folder::read(&folder.join(NAME))),
        set => (home.join(NAME), set),
    }
}

fn limits(file: &FileLimits, embedded: bool) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    if embedded {
        (limits.live_per_owner, limits.live_per_app) = (None, None);
    }
    for (name, text, value) in [
        ("limits.ring", &file.ring, &mut limits.ring_bytes),
        ("limits.journal", &file.journal, &mut limits.journal_bytes),
        ("limits.journals", &file.journals, &mut limits.journals_bytes),
        ("limits.spool", &file.spool, &mut limits.spool_bytes),
    ] {
        if let Some(text) = text {
            *value = super::bytes(text).ok_or_else(|| super::not(name, text, "a size such as 64 MiB"))?;
        }
    }
    for (name, text, value) in [
        ("limits.journal_age", &file.journal_age, &mut limits.journal_age),
        ("limits.grace", &file.grace, &mut limits.grace),
        ("limits.idle", &file.idle, &mut limits.idle_limit),
        ("limits.time", &file.time, &mut limits.time_limit),
        ("limits.orphan", &file.orphan, &mut limits.orphan_limit),
        ("limits.hup_wait", &file.hup_wait, &mut limits.hup_wait),
        ("limits.term_wait", &file.term_wait, &mut limits.term_wait),
        ("limits.unread", &file.unread, &mut limits.unread),
        ("limits.reap", &file.reap, &mut limits.reap),
        ("limits.drain", &file.drain, &mut limits.drain),
        ("limits.embedded_idle", &file.embedded_idle, &mut limits.embedded_idle),
    ] {
        if let Some(text) = text {
            *value = humantime::parse_duration(text).map_err(|_| super::not(name, text, "a duration such as 90s"))?;
        }
    }
    limits.live_per_owner = file.live_per_owner.or(limits.live_per_owner);
    limits.live_per_app = file.live_per_app.or(limits.live_per_app);
    limits.connections = file.connections.unwrap_or(limits.connections);
    if limits.connections == 0 {
        return Err(super::not("limits.connections", "0", "a number of connections that anybody could use"));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str, embedded: bool) -> Result<Server, ConfigError> {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("foghorn.toml"), toml).expect("writes");
        Server::read(ServeArgs { embedded, home: Some(home.path().to_owned()), ..ServeArgs::default() })
    }

    #[test]
    fn the_file_sets_limits_and_apps() {
        let server =
            read("[limits]\ngrace = \"3s\"\nspool = \"8 MiB\"\n[apps.blog]\nlogs = [\"/var/log/*.log\"]", false);
        let server = server.expect("reads");
        assert_eq!((server.limits.grace, server.limits.spool_bytes), (Duration::from_secs(3), 8 * MIB));
        assert_eq!(server.apps["blog"].logs, ["/var/log/*.log"]);
        assert_eq!(server.limits.live_per_owner, Some(25));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (toml, name) in [
            ("[limits]\ngrase = \"3s\"", "grase"),
            ("[limits]\ngrace = \"soon\"", "limits.grace"),
            ("backend = \"moon\"", "backend"),
            ("auth = \"moon\"", "auth"),
            ("auth = \"webhook\"", "webhook.url"),
            ("rights = \"all\"", "rights"),
            ("watch = \"all\"", "watch"),
            ("log = \"foghorn=loud\"", "log"),
            ("listen = \"0.0.0.0:1\"", "listen"),
        ] {
            let error = read(toml, false).expect_err("refused").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_embedded_hub_has_no_limit_of_live_runs_and_any_port() {
        let server = read("listen = \"127.0.0.1:99\"", true).expect("reads");
        assert_eq!((server.limits.live_per_owner, server.listen.port()), (None, 0));
    }
}
