//! The server: starts everything in order, and stops it in order and in bounded time.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::backend::counted::Counted;
use crate::backend::kubernetes::{self, Kubernetes};
use crate::backend::local::Local;
use crate::config::auth::Auth;
use crate::config::server::Server;
use crate::folder::{self, Holder, Lock, Unusable};
use crate::http::auth::review::Reviews;
use crate::http::auth::webhook::WebhookError;
use crate::http::auth::{Tokens, TokensError, secret};
use crate::http::stream::Listener;
use crate::http::{Hub, Trail, metrics, routes, serve, write_trail};
use crate::kubernetes::{Cluster, ClusterError};
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::protocol::{HubFile, SUBPROTOCOL};
use crate::reaper;
use crate::registry::{Registry, RegistryError};
use crate::session::now;
use crate::store::measured::Measured;
use crate::store::{self, SharedStore, StoreError};
use crate::tasks::Tasks;

/// How long the ends of sessions are waited for before a stop.
const SETTLE: Duration = Duration::from_secs(2);

/// How long all else of a stop may take.
const STOP: Duration = Duration::from_secs(8);

/// The name of the file with which an embedded hub is found, in its state folder.
pub const HUB_FILE: &str = "hub.json";

/// The name of the file with an embedded hub's token, in its state folder.
pub const TOKEN_FILE: &str = "token";

/// Fewest letters of an embedded hub's token.
const MIN_TOKEN: usize = 32;

/// How many connections the listener for metrics alone has at once.
const METRICS_CONNECTIONS: usize = 16;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Home(#[from] Unusable),
    /// Another hub uses the state folder.
    #[error("another hub uses the state folder {path}; stop it, or set FOGHORN_HOME to another one", path = .0.display())]
    Locked(PathBuf),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another address with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The address of the listener for metrics cannot be listened on.
    #[error("cannot listen on {address} for metrics: {reason}; choose another address with --metrics-listen")]
    MetricsListen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The tokens cannot be used.
    #[error("the tokens cannot be used: {0}")]
    Tokens(#[from] TokensError),
    /// There are none.
    #[error("a server needs tokens: name a file of them with --tokens or FOGHORN_TOKENS")]
    NoTokens,
    /// The store cannot be used.
    #[error("{0}{advice}", advice = advice(.0))]
    Store(#[from] StoreError),
    /// The sessions that an earlier hub left cannot be taken up.
    #[error("cannot take up the sessions of an earlier hub: {0}")]
    Adopt(#[from] RegistryError),
    /// The webhook cannot be used.
    #[error("the webhook cannot be used: {0}")]
    Webhook(#[from] WebhookError),
    /// The cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The system has no randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// The system refused something.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// What to do about a database that cannot be used, where its error does not say so.
fn advice(error: &StoreError) -> &'static str {
    match error {
        StoreError::Database(_) => {
            "; does it run, and is FOGHORN_DATABASE_URL, or foghorn.db in the state folder, right?"
        }
        StoreError::Full(_) => "; make room, or set FOGHORN_HOME to a folder that has some",
        _ => "",
    }
}

impl ServerError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Home(_) => "state_folder_unusable",
            Self::Locked(_) => "state_folder_in_use",
            Self::Listen { .. } | Self::MetricsListen { .. } => "address_unusable",
            Self::Tokens(_) => "tokens_unusable",
            Self::NoTokens => "no_tokens",
            Self::Store(error) => error.code(),
            Self::Adopt(_) => "sessions_not_taken_up",
            Self::Webhook(_) => "webhook_unusable",
            Self::Cluster(_) => "cluster_unusable",
            Self::Random(_) | Self::System(_) => "system_failed",
        }
    }
}

/// The state folder, held by this hub.
struct Home {
    path: PathBuf,
    _lock: Lock,
    epoch: u64,
    /// Whether the hub before this one said where it is, and did not take that back: it was killed.
    after_a_kill: bool,
}

impl Home {
    fn take(home: &Path) -> Result<Self, ServerError> {
        let path = folder::make(home)?;
        let failed = |error: io::Error| Unusable::new(&path, error);
        let lock = Lock::take(&path).map_err(failed)?.ok_or_else(|| ServerError::Locked(path.clone()))?;
        if path != home {
            // A hub of 0.1 lives in the folder itself.
            if matches!(folder::holder(home), Ok(Holder::Hub(_))) {
                return Err(ServerError::Locked(home.to_owned()));
            }
            folder::move_in(home, &path).map_err(failed)?;
        }
        let epoch = next_epoch(&path.join("epoch")).map_err(failed)?;
        let after_a_kill = path.join(HUB_FILE).exists();
        Ok(Self { path, _lock: lock, epoch, after_a_kill })
    }

    /// Writes a file that only this user can read, at once or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), ServerError> {
        let path = self.path.join(name);
        Ok(folder::write(&path, text.as_bytes()).map_err(|error| Unusable::new(&path, error))?)
    }

    /// Returns the embedded hub's token: the one that was there before, so that scripts that read it once go on. Behind a
    /// hub that was killed it is a new one: whoever has taken its address since may have been shown the old one.
    fn token(&self) -> Result<String, ServerError> {
        if !self.after_a_kill
            && let Ok(token) = folder::read(&self.path.join(TOKEN_FILE))
            && let token = token.trim()
            && token.len() >= MIN_TOKEN
            && token.bytes().all(|letter| letter.is_ascii_graphic())
        {
            return Ok(token.to_owned());
        }
        let token = secret()?;
        self.write(TOKEN_FILE, &token)?;
        Ok(token)
    }
}

/// Returns a number for this hub that is higher than those of the folder's hubs before it: an agent goes with the highest.
/// The clock is the floor, so that a file which was lost, emptied or put back makes no hub that agents refuse.
fn next_epoch(path: &Path) -> io::Result<u64> {
    let before = folder::read(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let epoch = now().unsigned_abs().max(before.unwrap_or(0).saturating_add(1));
    folder::write(path, epoch.to_string().as_bytes())?;
    Ok(epoch)
}

/// Allows as many open files as the system lets this user have; the limit from before is for the commands.
fn raise_nofile() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok()?;
    limit.current
}

/// Serves until it is told to stop, or, embedded, until there has been nothing to do for a while.
///
/// # Errors
/// [`ServerError`] where it cannot start.
pub async fn run(settings: Server) -> Result<(), ServerError> {
    // From the first moment on: a hub that is told to stop while it starts stops in order, too.
    let asked = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let nofile = raise_nofile();
    let home = Home::take(&settings.home)?;
    let tokens = tokens(&settings, &home)?;
    let metrics = Metrics::new();
    let store = store::open(settings.database_url.as_deref(), &home.path.join("foghorn.db")).await?;
    let store: SharedStore = Arc::new(Measured::new(store, metrics.clone()));
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.map_err(|reason| ServerError::Listen { address: settings.listen, reason })?;
    let address = listener.local_addr()?;
    let metrics_listener = match settings.metrics_listen {
        Some(address) => Some(listen_for_metrics(address).await?),
        None => None,
    };

    let tasks = Tasks::default();
    let waits = (settings.limits.hup_wait, settings.limits.term_wait);
    let cluster = match &settings.kubernetes {
        Some(kubernetes) => Some(Cluster::new(kubernetes.clone(), settings.apps.clone()).await?),
        None => None,
    };
    let reviews = reviews(&settings, cluster.as_ref(), &metrics).await?;
    let backend: Arc<dyn Backend> = match &cluster {
        Some(cluster) => {
            let installation = store.installation().await?;
            let hub = kubernetes::Hub {
                installation,
                epoch: home.epoch,
                end_wait: waits.0 + waits.1,
                dir: home.path.clone(),
                spool_bytes: settings.limits.spool_bytes,
            };
            Arc::new(Kubernetes::new(cluster.clone(), hub, tasks.clone(), metrics.clone()))
        }
        None => Arc::new(Local::new(&home.path, home.epoch, nofile, waits, tasks.clone(), metrics.clone())?),
    };
    let backend = Arc::new(Counted::new(backend, metrics.clone()));
    let registry = Registry::new(store.clone(), backend, &settings, tasks.clone(), metrics.clone());
    let adopted = registry.adopt().await?;
    tasks.spawn("reaper", reaper::run(registry.clone(), settings.limits.clone()));
    let logs = Logs::new(registry.clone(), settings.apps.clone(), cluster.clone(), tasks.clone());
    let (origins, logs_read) = (settings.origins.clone(), logs.followers());
    let (trail, lines) = Trail::new(tasks.clone(), metrics.clone());
    tasks.spawn_to_end("audit", write_trail(store.clone(), lines, metrics.clone()));
    let closing = CancellationToken::new();
    let hub = Arc::new(Hub {
        cluster: cluster.clone(),
        apps: settings.apps.keys().cloned().collect(),
        registry: registry.clone(),
        logs,
        tokens,
        reviews,
        origins,
        tasks: tasks.clone(),
        trail,
        metrics,
        closing: closing.clone(),
    });
    if let Some(listener) = metrics_listener {
        tracing::info!(address = %listener.local_addr()?, "metrics are at");
        let router = metrics::router(hub.clone());
        tasks.spawn_to_end(
            "metrics-listener",
            serve(Listener::Tcp(listener), router, tasks.clone(), METRICS_CONNECTIONS, settings.limits.unread),
        );
    }
    let router = routes::router(hub);
    let (connections, unread) = (settings.limits.connections, settings.limits.unread);
    if settings.embedded {
        // Before its file says that it is there.
        let own = Listener::in_folder(&home.path).map_err(|error| Unusable::new(&home.path, error))?;
        tasks.spawn_to_end("own-listener", serve(own, router.clone(), tasks.clone(), connections, unread));
    }
    tasks.spawn_to_end("listener", serve(Listener::Tcp(listener), router, tasks.clone(), connections, unread));
    tracing::info!(%address, adopted, version = env!("CARGO_PKG_VERSION"), "listening");
    if settings.embedded {
        let of_user = cluster.as_ref().and_then(|cluster| cluster.of_user());
        let file = HubFile { context: of_user, ..hub_file(&home, address, registry.backend_name()) };
        home.write(HUB_FILE, &serde_json::to_string_pretty(&file).unwrap_or_default())?;
    }

    let idle = settings.embedded.then_some(settings.limits.embedded_idle);
    stopped(asked, &registry, logs_read, idle).await;
    tracing::info!("stopping");
    closing.cancel();
    if settings.embedded {
        // Nobody new is to come here; who finds no file starts another hub.
        let _ = std::fs::remove_file(home.path.join(HUB_FILE));
        let _ = std::fs::remove_file(home.path.join(folder::SOCKET));
    }
    // Who spreads the load finds it not ready meanwhile, and sends nobody new.
    tokio::time::sleep(settings.limits.drain).await;
    registry.settle(SETTLE).await;
    tasks.stop();
    if !tasks.ended(STOP).await {
        tracing::warn!("some tasks did not stop in time");
    }
    store.close().await;
    Ok(())
}

async fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|reason| ServerError::MetricsListen { address, reason })
}

fn tokens(settings: &Server, home: &Home) -> Result<Tokens, ServerError> {
    let own = if settings.embedded { Some(home.token()?) } else { None };
    if own.is_none() && settings.tokens.is_none() && settings.auth == Auth::Tokens {
        return Err(ServerError::NoTokens);
    }
    let user = settings.base_env.get("USER").cloned().unwrap_or_else(|| "me".into());
    let tokens = Tokens::new(settings.tokens.clone(), own.as_deref().map(|token| (token, user)))?;
    if settings.kubernetes.is_none() && tokens.let_others_start() {
        tracing::warn!(
            "commands run as the hub's own user, who can read and change its tokens and its database: who may start them \
             can become an admin; let nobody start any who may not be one, or run them elsewhere (backend = \"kubernetes\")"
        );
    }
    Ok(tokens)
}

/// Who vouches for people by the settings, which may be a cluster's that the hub runs nothing on.
async fn reviews(
    settings: &Server,
    cluster: Option<&Arc<Cluster>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Reviews>, ServerError> {
    let cluster = match (cluster, &settings.auth) {
        (None, Auth::Kubernetes(kubernetes)) => {
            Some(Cluster::new((**kubernetes).clone(), settings.apps.clone()).await?)
        }
        (cluster, _) => cluster.cloned(),
    };
    Ok(Reviews::new(settings, cluster, metrics.clone())?)
}

fn hub_file(home: &Home, address: SocketAddr, backend: &str) -> HubFile {
    HubFile {
        url: format!("http://{address}"),
        pid: std::process::id(),
        home: home.path.display().to_string(),
        token_file: home.path.join(TOKEN_FILE).display().to_string(),
        socket: Some(home.path.join(folder::SOCKET).display().to_string()),
        version: env!("CARGO_PKG_VERSION").into(),
        backend: backend.into(),
        context: None,
        protocol: SUBPROTOCOL.into(),
    }
}

/// Waits for a signal that asks to stop, or until there was no session, and nobody who follows a log, for `idle`.
async fn stopped(
    (mut terminate, mut interrupt): (Signal, Signal),
    registry: &Registry,
    mut logs: watch::Receiver<usize>,
    idle: Option<Duration>,
) {
    let nothing_to_do = async {
        let Some(idle) = idle else { return std::future::pending().await };
        let mut count = registry.count();
        loop {
            let empty = *count.borrow_and_update() == 0 && *logs.borrow_and_update() == 0;
            tokio::select! {
                changed = count.changed() => if changed.is_err() { return },
                changed = logs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(idle), if empty => return,
            }
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = nothing_to_do => tracing::info!("no session and nobody who follows a log for a while"),
    }
}
