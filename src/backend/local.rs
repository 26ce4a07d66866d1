//! The backend of one machine: an agent is a process of its own session, made from this same program. It outlives the
//! hub, and the next hub finds it by its directory.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Backend, BackendError, Handed, Order, Tell, What, Whose, link};
use crate::agent::command::{NO_PROCESSES, is_out_of_processes};
use crate::agent::descendants::{EXEMPT, Family};
use crate::agent::protocol::{HubHello, MAX_VERSION, MIN_VERSION};
use crate::agent::serve::SOCKET;
use crate::agent::wire;
use crate::folder;
use crate::metrics::Metrics;
use crate::source::Source;
use crate::tasks::Tasks;

/// How long an agent may take to listen.
const READY: Duration = Duration::from_secs(10);

/// Size of what is written to see whether the state folder takes it, in bytes.
const PROBE_BYTES: usize = 16 << 10;

/// This program, also after its file was replaced by an upgrade.
const SELF: &str = "/proc/self/exe";

/// See the module's documentation.
#[derive(Debug)]
pub struct Local {
    /// Where the agents' directories are.
    agents: PathBuf,
    /// This hub's epoch.
    epoch: u64,
    /// The limit of open files before the hub raised its own.
    nofile: Option<u64>,
    hup_wait: Duration,
    term_wait: Duration,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Local {
    /// Keeps its agents below `home`, which is the user's alone.
    ///
    /// # Errors
    /// Where the directory cannot be made.
    pub fn new(
        home: &Path,
        epoch: u64,
        nofile: Option<u64>,
        (hup_wait, term_wait): (Duration, Duration),
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let agents = home.join("agents");
        folder::make_inner(&agents)?;
        Ok(Self { agents, epoch, nofile, hup_wait, term_wait, tasks, metrics })
    }

    fn dir(&self, session: Uuid) -> PathBuf {
        self.agents.join(session.to_string())
    }

    /// This machine and the folder: hubs elsewhere that share a database must not look here.
    fn here(&self) -> Value {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        serde_json::json!({ "machine": machine, "agents": self.agents })
    }

    async fn spawn(&self, session: Uuid) -> io::Result<()> {
        let dir = self.dir(session);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let mut command = Command::new(SELF);
        command.arg0("foghorn-agent").args(["agent", "serve", "--session"]).arg(session.to_string());
        command.arg("--dir").arg(&dir).env_clear().env(EXEMPT, "1").current_dir("/");
        if let Some(limit) = self.nofile {
            command.arg("--nofile").arg(limit.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        self.tasks.spawn("agent-process", async move {
            // Whether and how it ended is known from its records; this only keeps no zombie.
            let _ = child.wait().await;
        });
        let mut line = String::new();
        timeout(READY, BufReader::new(stdout).read_line(&mut line)).await??;
        match line.as_str() {
            "ready\n" => Ok(()),
            _ => Err(io::Error::other("it ended before it listened")),
        }
    }
}

fn no_pods() -> BackendError {
    BackendError::Refused(
        "this hub runs commands on its own machine; pods are of a hub with backend = \"kubernetes\"".into(),
    )
}

#[async_trait]
impl Backend for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn has_environment(&self) -> bool {
        false
    }

    async fn place(&self, order: &Order) -> Result<Value, BackendError> {
        match order.what {
            What::Run(_) => Ok(self.here()),
            What::Exec(_) | What::Pod(_) => Err(no_pods()),
        }
    }

    async fn whose(&self, _handed: &Handed) -> Result<Whose, BackendError> {
        Err(no_pods())
    }

    /// Its agents do.
    fn numbers(&self, _place: &Value) -> bool {
        false
    }

    fn reaches(&self, place: &Value) -> bool {
        let own = self.here();
        let agents = |path: &Path| place["agents"].as_str().is_some_and(|agents| Path::new(agents) == path);
        // Before the state of a folder that several write to was moved into one of its hub's own.
        let below = self.agents.parent().filter(|folder| folder.ends_with(folder::own_name()));
        let before = below.and_then(Path::parent).map(|home| home.join("agents"));
        place["machine"] == own["machine"] && (agents(&self.agents) || before.is_some_and(|before| agents(&before)))
    }

    async fn ready(&self) -> Result<(), BackendError> {
        let probe = self.agents.join(format!(".probe-{}", std::process::id()));
        let made = async {
            // A disk without room still takes an empty file.
            let written = tokio::fs::write(&probe, [0; PROBE_BYTES]).await;
            let removed = tokio::fs::remove_file(&probe).await;
            written.and(removed)
        };
        let reason = |error: io::Error| format!("the state folder cannot be written: {error}");
        made.await.map_err(|error| BackendError::Create(reason(error)))
    }

    async fn create(&self, order: &Order, _place: &Value) -> Result<(), BackendError> {
        let session = order.session;
        self.spawn(session).await.map_err(|error| {
            // What was made for it so far.
            let _ = std::fs::remove_dir_all(self.dir(session));
            let no_room = is_out_of_processes(&error);
            BackendError::Create(if no_room { NO_PROCESSES.into() } else { error.to_string() })
        })
    }

    async fn connect(
        &self,
        session: Uuid,
        _place: &Value,
        from: u64,
        _tell: &Tell<'_>,
    ) -> Result<Source, BackendError> {
        let stream = folder::connect_to(&self.dir(session), SOCKET).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !self.dir(session).exists() => BackendError::NoTrace,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => BackendError::Gone,
            _ => BackendError::Unreachable(error.to_string()),
        })?;
        let (read, write) = wire::split(stream).map_err(|error| BackendError::Unreachable(error.to_string()))?;
        let hello = HubHello { min: MIN_VERSION, max: MAX_VERSION, epoch: self.epoch, from };
        link::open(read, write, &hello, &session.to_string(), (&self.tasks, self.metrics.clone())).await
    }

    async fn agents(&self) -> Vec<(Uuid, Value)> {
        let Ok(entries) = std::fs::read_dir(&self.agents) else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| Uuid::parse_str(entry.file_name().to_str()?).ok());
        ids.map(|id| (id, self.here())).collect()
    }

    async fn release(&self, _session: Uuid, _place: &Value) -> bool {
        // An agent ends by itself once it is told that a hub has its end, and takes its directory along.
        false
    }

    async fn clean_up(&self, session: Uuid, _place: &Value) {
        let family = Family { session: session.to_string(), agent: None };
        family.end(self.hup_wait, self.term_wait).await;
        // The agent removes it itself, unless it was killed.
        let _ = std::fs::remove_dir_all(self.dir(session));
    }
}
