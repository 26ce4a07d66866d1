//! Which hub a client talks to: one that it was told of, or this user's own, which it starts where none runs.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::error::ClientError;
use super::http::{Ask, Http};
use super::login::{Logins, Tokens};
use crate::agent::descendants::{EXEMPT, MARK, WITHIN};
use crate::config::client::{ClientSettings, KUBECONFIG, NOT_FOR_A_HUB, kubeconfig};
use crate::folder::{self, Holder};
use crate::protocol::{HubFile, SUBPROTOCOL};

/// The file in which this user's own hub says where it is.
pub const HUB_FILE: &str = "hub.json";

/// Name of the file with the token of this user's own hub.
const TOKEN_FILE: &str = "token";

/// The log of this user's own hub.
pub const LOG_FILE: &str = "hub.log";

/// How long this user's own hub may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How often a starting hub is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// How long the next try to start a hub waits after one that failed: another hub may just be leaving.
const RETRY: Duration = Duration::from_millis(300);

/// Within how long a living hub says that it lives.
const HEALTH_LIMIT: Duration = Duration::from_secs(3);

/// How many lines of a hub's log are shown when it does not start.
const TAIL_LINES: usize = 10;

/// How many bytes of the log are looked at for them.
const TAIL_BYTES: u64 = 4096;

/// The exit status of a hub that was started in a wrong way; another try would end the same.
const USAGE: i32 = 2;

/// The exit status of a hub whose state folder another one holds, which may be about to leave: it can be tried again.
pub const HUB_BUSY: u8 = 75;

/// A hub that can be asked.
#[derive(Clone)]
pub struct Hub {
    /// Where it listens, without a slash at the end.
    pub url: String,
    /// What to show it.
    pub token: Option<String>,
    /// The state folder of this user's own hub, which is reached by the socket in it and not by the URL.
    pub folder: Option<PathBuf>,
}

/// This user's own hub, as its state folder says.
pub enum Running {
    /// None runs.
    Nobody,
    /// A process holds the state folder, and cannot be asked yet, or does not answer: its process id.
    Silent(Option<u32>),
    /// One answers.
    Hub(Box<HubFile>),
}

/// Finds hubs.
pub struct Hubs {
    settings: ClientSettings,
    /// The state folder, where this user's own hub is meant.
    folder: Option<PathBuf>,
    http: Http,
    turn: AtomicUsize,
    /// Whether the present context is known to be the own hub's: it may be another one later on, for other commands.
    of_context: AtomicBool,
    started: Mutex<Vec<Child>>,
    /// The exit status of the last one that ended.
    ended: Mutex<Option<i32>>,
    /// The tokens of those that were logged in to.
    tokens: Tokens,
}

impl Hubs {
    /// A finder with these settings.
    ///
    /// # Errors
    /// [`ClientError::Insecure`] where a token would travel unencrypted, and [`ClientError::Folder`].
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        let open = settings.urls.iter().find(|url| !is_private(url));
        if let (Some(url), true, false) = (open, settings.token.is_some(), settings.insecure) {
            return Err(ClientError::Insecure(url.clone()));
        }
        let https = settings.urls.iter().any(|url| url.starts_with("https:"));
        let known = settings.token.is_some() || settings.urls.is_empty();
        let logins = if known { Logins::default() } else { Logins::read(&settings.home)? };
        let own = settings.urls.is_empty();
        let folder = if own { Some(folder::locate(&settings.home)?) } else { None };
        Ok(Self {
            http: Http::new(https, folder.clone())?,
            folder,
            tokens: Tokens::new(logins),
            settings,
            turn: AtomicUsize::new(0),
            of_context: AtomicBool::new(false),
            started: Mutex::new(Vec::new()),
            ended: Mutex::new(None),
        })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// The client for requests.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Whether this user's own hub is meant.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.settings.urls.is_empty()
    }

    /// A hub. This user's own is started where none runs; of several, the one whose turn it is.
    ///
    /// # Errors
    /// [`ClientError::NotStarted`] and [`ClientError::Mismatch`], for this user's own only.
    pub async fn find(&self) -> Result<Hub, ClientError> {
        let urls = &self.settings.urls;
        if urls.is_empty() {
            return self.own(&self.find_own().await?);
        }
        let url = urls[self.turn.load(Ordering::Relaxed) % urls.len()].clone();
        let token = match &self.settings.token {
            Some(token) => Some(token.clone()),
            None => self.token_of(&url).await?,
        };
        Ok(Hub { url, token, folder: None })
    }

    /// Whether a token may be sent there.
    ///
    /// # Errors
    /// [`ClientError::Insecure`].
    pub fn check_private(&self, url: &str) -> Result<(), ClientError> {
        if is_private(url) || self.settings.insecure { Ok(()) } else { Err(ClientError::Insecure(url.to_owned())) }
    }

    /// The token of a hub that was logged in to.
    async fn token_of(&self, url: &str) -> Result<Option<String>, ClientError> {
        let token = self.tokens.of(url).await?;
        if token.is_some() {
            self.check_private(url)?;
        }
        Ok(token)
    }

    /// Says that a hub did not take the token that it was shown. Whether there may be another one.
    pub async fn refused(&self, url: &str) -> bool {
        self.tokens.refused(url).await
    }

    /// The token of the hub found last, found anew: none where there is no way to one.
    pub async fn renewed(&self) -> Option<String> {
        let hub = self.find().await.ok()?;
        self.tokens.forget(&hub.url).await;
        if self.settings.token.is_some() { None } else { self.token_of(&hub.url).await.ok()? }
    }

    /// Says that the hub found last did not answer: the next one is tried from now on.
    pub fn pass_over(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks for this user's own hub.
    ///
    /// # Errors
    /// [`ClientError::Mismatch`] for one that cannot be proved to be this user's, and [`ClientError::Folder`].
    pub async fn running(&self) -> Result<Running, ClientError> {
        self.reap();
        let Some(folder) = &self.folder else { return Ok(Running::Nobody) };
        let holder = folder::holder(folder).map_err(|error| folder::Unusable::new(folder, error))?;
        let Holder::Hub(pid) = holder else { return Ok(Running::Nobody) };
        let Some(file) = read_hub_file(folder) else { return Ok(Running::Silent(pid)) };
        let hub = Hub { url: own_url(&file)?, token: None, folder: Some(folder.clone()) };
        let ask = Ask { limit: HEALTH_LIMIT, ..Ask::get("/healthz") };
        if self.http.send(&hub, &ask).await.is_ok() {
            return Ok(Running::Hub(Box::new(file)));
        }
        if file.socket.is_none() && is_alive(file.pid) {
            return Err(ClientError::Mismatch(format!(
                "the hub that runs here (version {}) cannot be told from another user's program, since it has no socket \
                 in the state folder; stop it with `foghorn server stop`: its sessions go on, and the next hub takes them up",
                file.version
            )));
        }
        Ok(Running::Silent(pid))
    }

    /// Returns the process id of the hub that holds the state folder, whether it answers or not.
    ///
    /// # Errors
    /// [`ClientError::Folder`].
    pub fn holder(&self) -> Result<Option<u32>, ClientError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let holder = folder::holder(folder).map_err(|error| folder::Unusable::new(folder, error))?;
        Ok(match holder {
            Holder::Nobody => None,
            Holder::Hub(pid) => pid.or_else(|| read_hub_file(folder).map(|file| file.pid)),
        })
    }

    fn own(&self, file: &HubFile) -> Result<Hub, ClientError> {
        let wanted = self.settings.backend.as_deref();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != file.backend) {
            return Err(ClientError::Mismatch(format!(
                "the hub that runs here has the backend `{}`, not `{wanted}`; stop it with `foghorn server stop`, or use another FOGHORN_HOME",
                file.backend
            )));
        }
        let current = || crate::kubernetes::current();
        if !self.of_context.load(Ordering::Relaxed)
            && let Some((theirs, ours)) = file.context.as_ref().zip(wanted.and_then(|_| current()))
            && !theirs.is(&ours)
        {
            return Err(ClientError::Mismatch(format!(
                "the hub that runs here is of the cluster {theirs}, and the current context's is {ours}; stop it with `foghorn server stop`, or use another FOGHORN_HOME"
            )));
        }
        if file.protocol != SUBPROTOCOL {
            return Err(ClientError::Mismatch(format!(
                "the hub that runs here (version {}) speaks `{}`, not `{SUBPROTOCOL}`; stop it with `foghorn server stop`",
                file.version, file.protocol
            )));
        }
        self.of_context.store(true, Ordering::Relaxed);
        let folder = self.own_folder();
        let token = match &self.settings.token {
            Some(token) => token.clone(),
            // Nobody else's word counts on where it is.
            None => folder::read(&folder.join(TOKEN_FILE))
                .map_err(|error| ClientError::Broken(format!("{}: {error}", folder.join(TOKEN_FILE).display())))?,
        };
        Ok(Hub { url: own_url(file)?, token: Some(token.trim().to_owned()), folder: Some(folder.to_owned()) })
    }

    /// The state folder; as it is set where none is used.
    fn own_folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(&self.settings.home)
    }

    async fn find_own(&self) -> Result<HubFile, ClientError> {
        let deadline = Instant::now() + START_LIMIT;
        let mut next_try = Instant::now();
        loop {
            let running = self.running().await?;
            if let Running::Hub(file) = running {
                return Ok(*file);
            }
            self.reap();
            if let Some(status) = self.last_status().filter(|status| *status == USAGE) {
                let said = self.last_words();
                return Err(ClientError::Mismatch(format!("a hub cannot be started here (status {status}): {said}")));
            }
            if let Some(status) = self.last_failure() {
                let said = self.last_words();
                let home = self.own_folder().display();
                let silent =
                    || format!("it ended with status {status} and could not say why; is there room in {home}?");
                return Err(self.not_started(if said.is_empty() { silent() } else { said }));
            }
            if Instant::now() > deadline {
                let limit = START_LIMIT.as_secs();
                return Err(match running {
                    Running::Silent(pid) if !self.starting() => ClientError::Mismatch(silent(pid)),
                    _ => self.not_started(format!("none answered within {limit} s")),
                });
            }
            if self.starting() {
                next_try = Instant::now() + RETRY;
            } else if Instant::now() >= next_try && matches!(running, Running::Nobody) {
                self.start()?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes note of the hubs of ours that have ended.
    fn reap(&self) {
        let mut started = self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        started.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(end)) => {
                *self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = end.code();
                false
            }
            Err(_) => false,
        });
    }

    /// The exit status of the last hub of ours that ended.
    fn last_status(&self) -> Option<i32> {
        *self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The exit status of the last hub of ours, where it could not start, and takes note that it is told.
    fn last_failure(&self) -> Option<i32> {
        let mut ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ended.take_if(|status| *status != 0 && *status != i32::from(HUB_BUSY))
    }

    /// What the last hub said at its end, by its log.
    fn last_words(&self) -> String {
        let last = tail(&self.own_folder().join(LOG_FILE)).unwrap_or_default();
        let words =
            last.last().map(String::as_str).unwrap_or_default().trim().strip_prefix("foghorn: ").unwrap_or_default();
        words.to_owned()
    }

    fn starting(&self) -> bool {
        !self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
    }

    fn start(&self) -> Result<(), ClientError> {
        let spawned = self.spawn().map_err(|error| self.not_started(error.to_string()))?;
        self.started.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(spawned);
        Ok(())
    }

    /// Starts a hub that inherits no descriptor and no terminal: it makes a session of its own first thing.
    fn spawn(&self) -> std::io::Result<Child> {
        let home = &self.settings.home;
        let folder = folder::make(home).map_err(std::io::Error::other)?;
        let log = folder::open(&folder.join(LOG_FILE), OpenOptions::new().create(true).append(true))?;
        super::descriptors::keep_from_children()?;
        let mut command = Command::new(program()?);
        command.arg0("foghorn").args(["serve", "--embedded", "--home"]).arg(home).current_dir("/");
        if let Some(backend) = &self.settings.backend {
            command.arg("--backend").arg(backend);
        }
        NOT_FOR_A_HUB.iter().for_each(|name| {
            command.env_remove(name);
        });
        if let Some(paths) = kubeconfig()? {
            command.env(KUBECONFIG, paths);
        }
        command
            .env_remove(MARK)
            .env_remove(WITHIN)
            .env(EXEMPT, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    fn not_started(&self, reason: String) -> ClientError {
        let log = self.own_folder().join(LOG_FILE);
        ClientError::NotStarted { reason, tail: tail(&log).unwrap_or_default(), log: log.display().to_string() }
    }
}

/// This program: the very file that runs, even where another one has taken its path.
fn program() -> std::io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Ok(own.to_owned()) } else { std::env::current_exe() }
}

fn read_hub_file(folder: &Path) -> Option<HubFile> {
    serde_json::from_str(&folder::read(&folder.join(HUB_FILE)).ok()?).ok()
}

/// Returns a sentence on a hub that holds the state folder and cannot be asked.
#[must_use]
pub fn silent(pid: Option<u32>) -> String {
    let process = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
    format!(
        "a hub holds the state folder ({process}), and does not answer, or its {HUB_FILE} cannot be read; \
         `foghorn server stop` stops it, and its sessions go on"
    )
}

/// Returns where this user's own hub says that it listens, for those who are told a URL. It can only be on this machine.
fn own_url(file: &HubFile) -> Result<String, ClientError> {
    let url = file.url.trim_end_matches('/');
    if !url.starts_with("http://") || !is_private(url) {
        return Err(ClientError::Mismatch(format!(
            "{HUB_FILE} in the state folder names no hub of this machine; stop the hub with `foghorn server stop`"
        )));
    }
    Ok(url.to_owned())
}

/// Whether a process runs: there, and not only waiting for its parent to take note of its end.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        let state = stat.rfind(')').and_then(|end| stat[end + 1..].trim_start().chars().next());
        return !matches!(state, Some('Z' | 'X'));
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| match rustix::process::test_kill_process(pid) {
        Ok(()) => true,
        Err(error) => error == rustix::io::Errno::PERM,
    })
}

/// Whether what is sent to this URL can be read by its hub alone.
fn is_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    uri.scheme_str() == Some("https") || host == "localhost" || loopback
}

/// The last lines of a log.
fn tail(path: &Path) -> std::io::Result<Vec<String>> {
    let mut file = folder::open(path, OpenOptions::new().read(true))?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(last.iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client::{Flags, TOKEN, URL};

    fn hubs(url: &str, insecure: bool) -> Result<Hubs, ClientError> {
        let lookup = |name: &str| match name {
            URL => Some(url.to_owned()),
            TOKEN => Some("secret".to_owned()),
            "HOME" => Some("/nowhere".to_owned()),
            _ => None,
        };
        let flags = Flags { insecure, ..Flags::default() };
        Hubs::new(ClientSettings::read(&flags, lookup, None).expect("settings"))
    }

    #[test]
    fn a_token_is_not_sent_in_the_open() {
        assert!(matches!(hubs("http://hub.example", false), Err(ClientError::Insecure(_))));
        assert!(matches!(hubs("http://127.0.0.1:1,http://10.0.0.1", false), Err(ClientError::Insecure(_))));
        assert!(hubs("http://hub.example", true).is_ok());
        for url in ["http://127.0.0.1:8080", "http://localhost:1/x", "http://[::1]:9"] {
            assert!(hubs(url, false).is_ok(), "{url}");
        }
        assert!(!is_private("http://localhost.example.com"));
    }

    #[tokio::test]
    async fn several_hubs_take_turns() {
        let hubs = hubs("http://localhost:1,http://localhost:2", false).expect("hubs");
        assert_eq!(hubs.find().await.expect("a hub").url, "http://localhost:1");
        hubs.pass_over();
        assert_eq!(hubs.find().await.expect("a hub").url, "http://localhost:2");
        hubs.pass_over();
        assert_eq!(hubs.find().await.expect("a hub").url, "http://localhost:1");
    }

    #[test]
    fn a_process_that_is_not_there_is_not_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
