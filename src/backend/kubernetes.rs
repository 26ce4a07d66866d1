//! The backend of a cluster: a run is a pod that is made as the app's own are, with an agent as its first process. It
//! outlives the hub, and the next hub finds it by its labels.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`spec`] | the pod of a run, made from a Deployment |
//! | [`start`] | how far a pod has come, and why it does not come further |

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, PostParams};
use kube::core::Request;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Backend, BackendError, Order, Run, Tell, What, link};
use crate::agent::protocol::{HubHello, MAX_VERSION, MIN_VERSION};
use crate::kubernetes::apps::{Home, NoHome};
use crate::kubernetes::error::{is_not_found, is_refusal, sentence};
use crate::kubernetes::{Cluster, INSTALLATION, SESSION, channel};
use crate::metrics::Metrics;
use crate::record::Cause;
use crate::source::Source;
use crate::tasks::Tasks;

pub mod spec;
pub mod start;

/// How often a pod is asked for before its making counts as failed, and what passes in between.
const TRIES: (usize, Duration) = (5, Duration::from_millis(300));

/// How long the API server may take to say that it is there.
const READY: Duration = Duration::from_secs(2);

/// Where a session's pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

impl Place {
    fn of(place: &Value) -> Result<Self, BackendError> {
        // What was written by this backend.
        Self::deserialize(place).map_err(|_| BackendError::NoTrace)
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

/// See the module's documentation.
pub struct Kubernetes {
    cluster: Arc<Cluster>,
    installation: Uuid,
    epoch: u64,
    /// What passes between a command's first signal and its last one.
    end_wait: Duration,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Kubernetes {
    /// The pods of one installation in a cluster.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        installation: Uuid,
        epoch: u64,
        end_wait: Duration,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { cluster, installation, epoch, end_wait, tasks, metrics }
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), namespace)
    }

    /// The Deployment that a run is made from.
    async fn template(&self, home: &Home, app: &str, run: &Run) -> Result<Deployment, String> {
        let own = self.cluster.app(app);
        let deployments = Api::<Deployment>::namespaced(self.cluster.client.clone(), &home.namespace);
        if let Some(from) = run.from.as_ref().or(own.from.as_ref()) {
            let name = from.strip_prefix("deploy/").or(from.strip_prefix("deployment/"));
            let name = name.ok_or_else(|| format!("a run is made from deploy/NAME, not from {from}"))?;
            let deployment = deployments.get(name).await.map_err(|error| sentence(&error))?;
            return match self.cluster.app_of(&deployment).as_deref() == Some(app) {
                true => Ok(deployment),
                false => Err(format!("{from} in {} does not belong to the app {app}", home.namespace)),
            };
        }
        let all = self.cluster.deployments(home).await.map_err(|error| sentence(&error))?;
        let process = own.process.as_ref().unwrap_or(&self.cluster.settings.process);
        choose(all, &self.cluster.settings.process_label, process, app, home)
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
        // Without labels of the app there is nothing to be selected by, and not every hub may look at Services.
        let Ok(services) = services.list(&ListParams::default()).await else { return Ok(()) };
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
            installation: self.installation,
            name: &place.pod,
            end_wait: self.end_wait,
        };
        let pod = making.pod(&deployment)?;
        self.check_alone(&pod, &deployment, &place.namespace).await?;
        let pods = self.pods(&place.namespace);
        let mut tries = TRIES.0;
        loop {
            tries -= 1;
            match pods.create(&PostParams::default(), &pod).await {
                Ok(_) => return Ok(()),
                // An earlier try, whose answer was lost, has made it.
                Err(kube::Error::Api(status)) if status.code == 409 && self.is_own(place, order.session).await => {
                    return Ok(());
                }
                Err(error) if is_refusal(&error) || tries == 0 => return Err(sentence(&error)),
                Err(error) => {
                    tracing::warn!(%error, session = %order.session, "cannot make a pod; trying again");
                    tokio::time::sleep(TRIES.1).await;
                }
            }
        }
    }

    async fn is_own(&self, place: &Place, session: Uuid) -> bool {
        let pod = self.pods(&place.namespace).get_opt(&place.pod).await.ok().flatten();
        pod.is_some_and(|pod| pod.labels().get(SESSION).is_some_and(|id| *id == session.to_string()))
    }

    /// Deletes a session's pod, if it is this installation's. Waits until the API server has taken it.
    async fn delete(&self, session: Uuid, place: &Place, grace: Option<u32>) {
        let pods = self.pods(&place.namespace);
        let mut params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        for _ in 0..TRIES.0 {
            let error = match pods.get_opt(&place.pod).await {
                Ok(Some(pod)) if self.owns(&pod, session) => {
                    params.preconditions = Some(kube::api::Preconditions { uid: pod.uid(), resource_version: None });
                    match pods.delete(&place.pod, &params).await {
                        Ok(_) => return,
                        Err(error) if is_not_found(&error) => return,
                        Err(error) => error,
                    }
                }
                Ok(_) => return,
                Err(error) => error,
            };
            tracing::warn!(%error, %session, pod = place.pod, "cannot delete a pod; trying again");
            tokio::time::sleep(TRIES.1).await;
        }
    }

    fn owns(&self, pod: &Pod, session: Uuid) -> bool {
        let is = |label, id: Uuid| pod.labels().get(label).is_some_and(|value| *value == id.to_string());
        is(INSTALLATION, self.installation) && is(SESSION, session)
    }
}

/// The Deployment of a type of process.
fn choose(all: Vec<Deployment>, label: &str, process: &str, app: &str, home: &Home) -> Result<Deployment, String> {
    let is_process = |deployment: &&Deployment| {
        let template = deployment.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
        let labels = [Some(deployment.meta()), template].into_iter().flatten().filter_map(|meta| meta.labels.as_ref());
        labels.filter_map(|labels| labels.get(label)).any(|value| value == process)
    };
    let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
    match all.iter().find(is_process) {
        Some(deployment) => Ok(deployment.clone()),
        None if all.len() == 1 => all.into_iter().next().ok_or_else(String::new),
        None if all.is_empty() => Err(format!(
            "the app {app} has no Deployment with the labels {} in the namespace {}",
            home.selector, home.namespace
        )),
        None => Err(format!(
            "none of the app's Deployments is of the type {process}; name one with --from: deploy/{}",
            names.join(", deploy/")
        )),
    }
}

/// Five letters that are the same for the same session.
fn suffix(session: Uuid) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // The last bytes of a version 7 UUID are random.
    let mut number = session.as_u128() as u64;
    let letter = |_| {
        let letter = LETTERS[(number % LETTERS.len() as u64) as usize];
        number /= LETTERS.len() as u64;
        char::from(letter)
    };
    (0..6).map(letter).collect()
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
        let home = self.cluster.home(&order.app)?;
        let What::Run(_) = &order.what;
        let app = &order.app[..order.app.len().min(48)];
        let pod = format!("{}-run-{}", app.trim_end_matches('-'), suffix(order.session));
        Ok(Place { namespace: home.namespace, pod }.value())
    }

    fn reaches(&self, place: &Value) -> bool {
        Place::deserialize(place).is_ok()
    }

    async fn ready(&self) -> Result<(), BackendError> {
        match tokio::time::timeout(READY, self.cluster.client.apiserver_version()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(BackendError::Create(sentence(&error))),
            Err(_) => Err(BackendError::Create("the API server does not answer".into())),
        }
    }

    async fn create(&self, order: &Order, place: &Value) -> Result<(), BackendError> {
        let What::Run(run) = &order.what;
        self.make(order, &Place::of(place)?, run).await.map_err(BackendError::Create)
    }

    async fn connect(&self, session: Uuid, place: &Value, from: u64, tell: &Tell<'_>) -> Result<Source, BackendError> {
        let place = Place::of(place)?;
        let pods = self.pods(&place.namespace);
        let pod = start::running(&self.cluster.client, &place, tell).await?;
        if !self.owns(&pod, session) {
            return Err(BackendError::Ended(Cause::Lost { reason: "its pod is another session's".into() }));
        }
        let params = AttachParams::default().container(start::container(&pod)).stdin(true).stdout(true).stderr(true);
        let request = Request::new(Pod::url_path(&(), Some(&place.namespace)));
        let request = request.exec(&place.pod, spec::BRIDGE, &params);
        let request = request.map_err(|error| BackendError::Unreachable(error.to_string()))?;
        let opened = channel::open(&self.cluster.client, request).await;
        let (output, input) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // What a container that has just ended answers is not told from what a busy kubelet does.
                start::running(&self.cluster.client, &place, &|_| {}).await?;
                return Err(BackendError::Unreachable(sentence(&error)));
            }
        };
        drop(pods);
        let hello = HubHello { min: MIN_VERSION, max: MAX_VERSION, epoch: self.epoch, from };
        link::open(output, input, &hello, &session.to_string(), (&self.tasks, self.metrics.clone())).await
    }

    async fn agents(&self) -> Vec<(Uuid, Value)> {
        let own = ListParams::default().labels(&format!("{INSTALLATION}={},{SESSION}", self.installation));
        let mut agents = Vec::new();
        for pods in self.cluster.everywhere::<Pod>() {
            match pods.list(&own).await {
                Ok(list) => agents.extend(list.items.iter().filter_map(agent)),
                Err(error) => tracing::warn!(%error, "cannot look for the pods of sessions"),
            }
        }
        agents
    }

    async fn release(&self, session: Uuid, place: &Value) {
        if let Ok(place) = Place::of(place) {
            // The agent is about to end by itself; what stands beside it is not waited for.
            self.delete(session, &place, Some(1)).await;
        }
    }

    async fn clean_up(&self, session: Uuid, place: &Value) {
        self.release(session, place).await;
    }
}

/// The session of a pod, and where it is.
fn agent(pod: &Pod) -> Option<(Uuid, Value)> {
    let session = Uuid::parse_str(pod.labels().get(SESSION)?).ok()?;
    Some((session, Place { namespace: pod.namespace()?, pod: pod.name_any() }.value()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_the_same_letters_each_time() {
        let id = Uuid::parse_str("01932b1f-7c00-7000-8000-0123456789ab").expect("a uuid");
        assert_eq!(suffix(id), suffix(id));
        assert_eq!(suffix(id).len(), 6);
        assert_ne!(suffix(id), suffix(Uuid::now_v7()));
    }
}
