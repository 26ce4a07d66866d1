//! A cluster, as every part of a hub that talks to one sees it: its client, and where apps are in it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`apps`] | which namespace and labels an app has, and which apps there are |
//! | [`channel`] | exec and attach: the streams of a container over one websocket |
//! | [`error`] | what the API server says, as a sentence |

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};

use crate::config::kubernetes::Kubernetes;
use crate::config::server::App;

pub mod apps;
pub mod channel;
pub mod error;

/// The label with the installation that a pod belongs to.
pub const INSTALLATION: &str = "foghorn.dev/installation";

/// The label with a pod's session.
pub const SESSION: &str = "foghorn.dev/session";

/// The label with the app that a run's pod belongs to.
pub const APP: &str = "foghorn.dev/app";

/// The annotation with the person who started a run.
pub const OWNER: &str = "foghorn.dev/owner";

/// The annotation with who a session is, of a run without an agent that could keep it.
pub const CARD: &str = "foghorn.dev/card";

/// The annotation that names the container with the command, as kubectl knows it.
pub const CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A cluster that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No way to it is known.
    #[error("no way to a cluster: {0}; set KUBECONFIG or kubernetes.kubeconfig, or run in a cluster")]
    Config(String),
    /// The client cannot be made.
    #[error("no client for the cluster can be made: {0}")]
    Client(kube::Error),
}

/// See the module's documentation.
pub struct Cluster {
    /// Its client.
    pub client: Client,
    /// The settings.
    pub settings: Kubernetes,
    apps: BTreeMap<String, App>,
    /// The namespace that the hub itself is in, where it is in the cluster.
    own: Option<String>,
}

impl Cluster {
    /// A client by these settings. Nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn new(settings: Kubernetes, apps: BTreeMap<String, App>) -> Result<Arc<Self>, ClusterError> {
        let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
        let config = match &settings.kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(kubeconfig) => kube::Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            }
            .map_err(|error| ClusterError::Config(error.to_string()))?,
            None if settings.context.is_some() => kube::Config::from_kubeconfig(&options)
                .await
                .map_err(|error| ClusterError::Config(error.to_string()))?,
            None => kube::Config::infer().await.map_err(|error| ClusterError::Config(error.to_string()))?,
        };
        Self::with(config, settings, apps)
    }

    /// What it takes from the user's own kubeconfig, where it does: no namespace where the settings say it.
    #[must_use]
    pub fn of_user(&self) -> Option<ClusterContext> {
        let own = self.settings.kubeconfig.is_none() && self.settings.context.is_none();
        let current = own.then(current).flatten()?;
        let namespace = current.namespace.filter(|_| self.settings.namespace.is_none());
        Some(ClusterContext { namespace, ..current })
    }

    fn with(
        mut config: kube::Config,
        settings: Kubernetes,
        apps: BTreeMap<String, App>,
    ) -> Result<Arc<Self>, ClusterError> {
        // What lives long and is silent is looked after by who reads it: no stream of a session ends by this.
        (config.read_timeout, config.write_timeout) = (None, None);
        let own = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
        let client = Client::try_from(config).map_err(ClusterError::Client)?;
        Ok(Arc::new(Self { client, settings, apps, own }))
    }
}

/// What a kubeconfig's current context leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterContext {
    /// The API server's address.
    pub server: String,
    /// The name that the kubeconfig gives whoever asks it.
    pub user: Option<String>,
    /// The namespace, `default` where the context names none; none where it makes no difference.
    pub namespace: Option<String>,
}

impl ClusterContext {
    /// Whether one that was taken then is the same now, as far as it makes a difference.
    #[must_use]
    pub fn is(&self, now: &Self) -> bool {
        let namespace = self.namespace.as_ref().is_none_or(|namespace| Some(namespace) == now.namespace.as_ref());
        (&self.server, &self.user) == (&now.server, &now.user) && namespace
    }
}

impl fmt::Display for ClusterContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server)?;
        self.user.iter().try_for_each(|user| write!(f, ", as {user}"))?;
        self.namespace.iter().try_for_each(|namespace| write!(f, ", in the namespace {namespace}"))
    }
}

/// The current context of the kubeconfig that kubectl would use.
#[must_use]
pub fn current() -> Option<ClusterContext> {
    let kubeconfig = Kubeconfig::read().ok()?;
    let current = kubeconfig.current_context?;
    let context = kubeconfig.contexts.into_iter().find(|named| named.name == current)?.context?;
    let cluster = kubeconfig.clusters.into_iter().find(|named| named.name == context.cluster)?;
    let namespace = Some(context.namespace.unwrap_or_else(|| "default".into()));
    Some(ClusterContext { server: cluster.cluster?.server?, user: context.user, namespace })
}
