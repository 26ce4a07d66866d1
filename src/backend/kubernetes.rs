//! The backend of a cluster: a run is a pod that is made as the app's own are, with an agent as its first process. It
//! outlives the hub, and the next hub finds it by its labels. Where no agent can be, in a run of `runner = "attach"`, an
//! exec and a pod that is handed over, the hub has the container's own streams.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`choose`] | which Deployment, which pod, and whose |
//! | [`names`] | which names are asked for at all |
//! | [`reach`] | from a session's place to its source |
//! | [`remove`] | which pods are deleted |
//! | [`spec`] | the pod of a run, made from a Deployment |
//! | [`start`] | how far a pod has come, and why it does not come further |
//! | [`stream`] | a container's own streams as a source |

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use self::remove::Remover;
use super::{Backend, BackendError, Handed, Order, Run, Tell, What, Whose};
use crate::config::kubernetes::Runner;
use crate::kubernetes::apps::{Home, NoHome};
use crate::kubernetes::error::{sentence, surely};
use crate::kubernetes::{Cluster, INSTALLATION, SESSION};
use crate::metrics::Metrics;
use crate::source::Source;
use crate::tasks::Tasks;

mod choose;
mod names;
mod reach;
mod remove;
pub mod spec;
pub mod start;
mod stream;

/// How long the API server may take to say that it is there.
const READY: Duration = Duration::from_secs(2);

/// How a session's container is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By the agent that is its first process.
    #[default]
    Agent,
    /// By the streams of its first process, which is the command.
    Attach,
    /// By the streams of a command that is started in it.
    Exec,
    /// By the streams of its first process, whose pod somebody else has made.
    Pod,
}

/// Where a session's pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The container; none: the one with the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// How it is reached.
    #[serde(default)]
    pub way: Way,
    /// The app that a pod has to belong to that somebody else has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Whether such a pod is deleted in the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete: bool,
    /// How many hubs have taken the session up from another one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub takers: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Place {
    fn of(place: &Value) -> Result<Self, BackendError> {
        // What was written by this backend.
        let place = Self::deserialize(place).map_err(|_| BackendError::NoTrace)?;
        if names::are_good(&place) { Ok(place) } else { Err(BackendError::NoTrace) }
    }

    fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl From<NoHome> for BackendError {
    fn from(error: NoHome) -> Self {
        Self::Refused(error.to_string())
    }
}

/// What the backend is told of its hub.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The installation that it is of.
    pub installation: Uuid,
    /// Its epoch.
    pub epoch: u64,
    /// What passes between a command's first signal and its last one.
    pub end_wait: Duration,
    /// Where it keeps what is too much for its memory.
    pub dir: PathBuf,
    /// Bytes of a container's output that it keeps for its store.
    pub spool_bytes: u64,
}

/// See the module's documentation.
pub struct Kubernetes {
    cluster: Arc<Cluster>,
    hub: Hub,
    /// Sessions that this hub has made and nobody has connected to.
    fresh: Mutex<HashSet<Uuid>>,
    /// Of pods that were handed over, which one was attached to: another one of the same name is not theirs.
    handed: Mutex<HashMap<Uuid, String>>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Kubernetes {
    /// The pods of one installation in a cluster.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, hub: Hub, tasks: Tasks, metrics: Arc<Metrics>) -> Self {
        Self { cluster, hub, fresh: Mutex::default(), handed: Mutex::default(), tasks, metrics }
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), namespace)
    }

    /// The Deployment that a run is made from.
    async fn template(&self, home: &Home, app: &str, run: &Run) -> Result<Deployment, String> {
        let own = self.cluster.app(app);
        let deployments = Api::<Deployment>::namespaced(self.cluster.client.clone(), &home.namespace);
        if let Some(from) = run.from.as_ref().or(own.from.as_ref()) {
            let name = names::deployment(from)?;
            let deployment = surely(|| deployments.get(name)).await.map_err(|error| sentence(&error))?;
            return match self.cluster.app_of(&deployment).as_deref() == Some(app) {
                true => Ok(deployment),
                false => Err(format!("{from} in {} does not belong to the app {app}", home.namespace)),
            };
        }
        let all = self.cluster.deployments(home).await.map_err(|error| sentence(&error))?;
        let process = own.process.as_ref().unwrap_or(&self.cluster.settings.process);
        choose::deployment(all, &self.cluster.settings.process_label, process, app, home)
    }

    /// Makes sure that nothing takes a run's pod for one of its own.
    async fn check_alone(&self, pod: &Pod, deployment: &Deployment, namespace: &str) -> Result<(), String> {
        if spec::is_selected(deployment, pod.labels()) {
            return Err(format!(
                "the labels that its pod would keep are those that {} selects its own pods by; keep fewer labels",
                deployment.name_any()
            ));
        }
        let services = Api::<Service>::namespaced(self.cluster.client.clone(), namespace);
        let all = ListParams::default();
        let services = match surely(|| services.list(&all)).await {
            Ok(services) => services,
            // Not every hub may look at Services; who keeps labels then sees to it himself.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(()),
            Err(error) => return Err(sentence(&error)),
        };
        let selects = |service: &&Service| spec::is_served(service, pod.labels());
        match services.items.iter().find(selects) {
            Some(service) => Err(format!(
                "the Service {} would send its pod the app's traffic, by the labels that it would keep; keep fewer labels",
                service.name_any()
            )),
            None => Ok(()),
        }
    }

    async fn make(&self, order: &Order, place: &Place, run: &Run) -> Result<(), String> {
        let home = self.cluster.home(&order.app).map_err(|error| error.to_string())?;
        let deployment = self.template(&home, &order.app, run).await?;
        let app = self.cluster.app(&order.app);
        let making = spec::Making {
            order,
            run,
            settings: &self.cluster.settings,
            app: &app,
            installation: self.hub.installation,
            name: &place.pod,
            end_wait: self.hub.end_wait,
        };
        let pod = making.pod(&deployment)?;
        self.check_alone(&pod, &deployment, &place.namespace).await?;
        self.ask_for(&pod, place, order.session).await
    }

    /// Has a pod made, once.
    async fn ask_for(&self, pod: &Pod, place: &Place, session: Uuid) -> Result<(), String> {
        let pods = &self.pods(&place.namespace);
        let made = surely(|| async move {
            match pods.create(&PostParams::default(), pod).await {
                Ok(_) => Ok(()),
                // An earlier try, whose answer was lost, may have made it.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let own = session.to_string();
                    let there = pods.get_opt(&place.pod).await?;
                    match there.is_some_and(|pod| pod.labels().get(SESSION) == Some(&own)) {
                        true => Ok(()),
                        false => Err(kube::Error::Api(status)),
                    }
                }
                Err(error) => Err(error),
            }
        });
        made.await.map_err(|error| sentence(&error))
    }

    /// What deletes a session's pod, if it is this installation's, or to be deleted.
    fn remover(&self, session: Uuid, place: &Place) -> Remover {
        let (cluster, installation) = (self.cluster.clone(), self.hub.installation);
        let uid = lock(&self.handed).get(&session).cloned();
        Remover { cluster, installation, session, place: place.clone(), uid }
    }
}

#[async_trait]
impl Backend for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn has_environment(&self) -> bool {
        true
    }

    async fn place(&self, order: &Order) -> Result<Value, BackendError> {
        names::check(&order.what)?;
        Ok(match &order.what {
            What::Run(_) => {
                let home = self.cluster.home(&order.app)?;
                let app = &order.app[..order.app.len().min(48)];
                let pod = format!("{}-run-{}", app.trim_end_matches('-'), choose::suffix(order.session));
                let way = match self.cluster.settings.runner {
                    Runner::Agent => Way::Agent,
                    Runner::Attach => Way::Attach,
                };
                Place { namespace: home.namespace, pod, way, ..Place::default() }
            }
            What::Exec(exec) => choose::exec(&self.cluster, &order.app, exec).await?,
            What::Pod(handed) => Place {
                namespace: handed.namespace.clone(),
                pod: handed.pod.clone(),
                container: handed.container.clone(),
                way: Way::Pod,
                app: Some(order.app.clone()),
                delete: handed.delete,
                takers: 0,
            },
        }
        .value())
    }

    async fn whose(&self, handed: &Handed) -> Result<Whose, BackendError> {
        choose::whose(&self.cluster, handed).await
    }

    fn reaches(&self, place: &Value) -> bool {
        Place::deserialize(place).is_ok()
    }

    fn numbers(&self, place: &Value) -> bool {
        Place::deserialize(place).is_ok_and(|place| matches!(place.way, Way::Attach | Way::Pod))
    }

    async fn ready(&self) -> Result<(), BackendError> {
        match timeout(READY, self.cluster.client.apiserver_version()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(BackendError::Create(sentence(&error))),
            Err(_) => Err(BackendError::Create("the API server does not answer".into())),
        }
    }

    async fn create(&self, order: &Order, place: &Value) -> Result<(), BackendError> {
        if let What::Run(run) = &order.what {
            self.make(order, &Place::of(place)?, run).await.map_err(BackendError::Create)?;
        }
        lock(&self.fresh).insert(order.session);
        Ok(())
    }

    async fn connect(&self, session: Uuid, place: &Value, from: u64, tell: &Tell<'_>) -> Result<Source, BackendError> {
        let place = Place::of(place)?;
        let fresh = lock(&self.fresh).contains(&session);
        let source = match place.way {
            Way::Agent => self.agent(session, &place, from, tell).await,
            Way::Exec => self.exec(place, from, fresh),
            Way::Attach | Way::Pod => self.attach(session, place, from, fresh, tell).await,
        };
        if source.is_ok() {
            lock(&self.fresh).remove(&session);
        }
        source
    }

    async fn agents(&self) -> Vec<(Uuid, Value)> {
        let own = ListParams::default().labels(&format!("{INSTALLATION}={},{SESSION}", self.hub.installation));
        let mut agents = Vec::new();
        for pods in self.cluster.everywhere::<Pod>() {
            match surely(|| pods.list(&own)).await {
                Ok(list) => agents.extend(list.items.iter().filter_map(agent)),
                Err(error) => tracing::warn!(error = sentence(&error), "cannot look for the pods of sessions"),
            }
        }
        agents
    }

    async fn release(&self, session: Uuid, place: &Value) -> bool {
        lock(&self.fresh).remove(&session);
        if let Ok(place) = Place::of(place) {
            let remover = self.remover(session, &place);
            // The agent is about to end by itself; what stands beside it is not waited for.
            self.tasks.spawn_to_end("delete-pod", async move { remover.delete(Some(1)).await });
        }
        lock(&self.handed).remove(&session);
        true
    }

    async fn clean_up(&self, session: Uuid, place: &Value) {
        self.release(session, place).await;
    }
}

/// The session of a pod, and where it is.
fn agent(pod: &Pod) -> Option<(Uuid, Value)> {
    let session = Uuid::parse_str(pod.labels().get(SESSION)?).ok()?;
    let way = if spec::has_agent(pod) { Way::Agent } else { Way::Attach };
    Some((session, Place { namespace: pod.namespace()?, pod: pod.name_any(), way, ..Place::default() }.value()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is done under it but to look.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
