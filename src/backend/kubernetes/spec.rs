//! The pod of a run: the app's own, as its Deployment has it, without what makes it a server.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Affinity, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference, Pod, PodSpec, ResourceRequirements,
    Service, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::ResourceExt;
use uuid::Uuid;

use crate::agent::pod::PROGRAM;
use crate::backend::{Order, Run};
use crate::config::kubernetes::{Kubernetes, Runner};
use crate::config::server::App;
use crate::kubernetes::apps::selects;
use crate::kubernetes::{APP, CARD, CONTAINER, INSTALLATION, OWNER, SESSION};

/// Where the agent is in a container.
const MOUNT: &str = "/.foghorn";

/// The agent's own directory there.
const DIR: &str = "/.foghorn/agent";

/// The name of the volume and of the container that brings it.
const NAME: &str = "foghorn-agent";

/// Where the agent is in the image that brings it.
const IN_IMAGE: &str = "/usr/local/bin/foghorn-agent";

/// The command that bridges to the agent in a container.
pub const BRIDGE: [&str; 3] = ["/.foghorn/foghorn-agent", "connect", DIR];

/// What images start their programs with: Cloud Native Buildpacks, and Deis' slugs.
const LAUNCHERS: &str = "/cnb/lifecycle/launcher:/runner/init";

/// What passes between a pod's creation and its command's start, at most, on top of what the command may take.
const SLACK: Duration = Duration::from_secs(15 * 60);

/// What the container gets that brings the agent: a quota wants to know.
const INSTALL: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "32Mi")];

/// What a container may write outside of its volumes.
const STORAGE: &str = "ephemeral-storage";

/// Annotations that confine a container whose name they end with, or all of them.
const CONFINED: [&str; 3] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/pod",
];

/// The longest value of an annotation that is kept, in bytes.
const MAX_OWNER: usize = 1024;

/// The longest card, in bytes: a pod's annotations have 256 KiB together. The session of a longer one cannot be taken up
/// with an older copy of the database.
const MAX_CARD: usize = 128 << 10;

/// All that a pod is made of.
pub struct Making<'a> {
    /// The session.
    pub order: &'a Order,
    /// The command.
    pub run: &'a Run,
    /// The settings.
    pub settings: &'a Kubernetes,
    /// What is set for the app alone.
    pub app: &'a App,
    /// The installation.
    pub installation: Uuid,
    /// The pod's name.
    pub name: &'a str,
    /// What passes between a command's first signal and its last one.
    pub end_wait: Duration,
}

impl Making<'_> {
    /// The pod.
    ///
    /// # Errors
    /// A sentence, where the Deployment or the wish cannot be made one.
    pub fn pod(&self, deployment: &Deployment) -> Result<Pod, String> {
        let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let spec = template.spec.ok_or("its Deployment has no pod template")?;
        let meta = template.metadata.unwrap_or_default();
        let container = self.container(&spec, meta.annotations.as_ref(), deployment)?;
        let metadata = self.metadata(&meta, &container, deployment);
        let pod = Pod { metadata, spec: Some(self.spec(spec, &container)?), status: None };
        match &self.settings.patch {
            Some(patch) => patched(pod, patch),
            None => Ok(pod),
        }
    }

    /// The name of the container that the command's is made from.
    fn container(
        &self,
        spec: &PodSpec,
        annotations: Option<&BTreeMap<String, String>>,
        deployment: &Deployment,
    ) -> Result<String, String> {
        let wanted = self.run.container.as_ref().or(self.app.container.as_ref());
        let wanted = wanted.or(annotations.and_then(|annotations| annotations.get(CONTAINER)));
        let names: Vec<&str> = spec.containers.iter().map(|container| &*container.name).collect();
        match (wanted, names.first()) {
            (Some(wanted), _) if names.contains(&&**wanted) => Ok(wanted.clone()),
            (Some(wanted), _) => {
                Err(format!("{} has no container {wanted}; it has {}", deployment.name_any(), names.join(", ")))
            }
            (None, Some(first)) => Ok((*first).to_owned()),
            (None, None) => Err(format!("{} has no container", deployment.name_any())),
        }
    }

    fn metadata(&self, meta: &ObjectMeta, container: &str, deployment: &Deployment) -> ObjectMeta {
        let keep = self.settings.keep_labels.iter().chain(&self.app.keep_labels);
        let of_app = meta.labels.clone().unwrap_or_default();
        let mut labels: BTreeMap<String, String> =
            keep.filter_map(|name| Some((name.clone(), of_app.get(name)?.clone()))).collect();
        labels.insert(INSTALLATION.into(), self.installation.to_string());
        labels.insert(SESSION.into(), self.order.session.to_string());
        labels.insert(APP.into(), self.order.app.clone());
        let owner: String = self.order.owner.chars().take(MAX_OWNER).collect();
        let mut annotations = self.confined(meta, container);
        annotations.insert(OWNER.into(), owner);
        annotations.insert(CONTAINER.into(), container.to_owned());
        let card = self.order.card.to_string();
        if self.settings.runner == Runner::Attach && card.len() <= MAX_CARD {
            annotations.insert(CARD.into(), card);
        }
        // Its controller is the Deployment, so that it goes with the app, and those who drain a node take it for managed.
        let owner = deployment.uid().map(|uid| OwnerReference {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: deployment.name_any(),
            uid,
            controller: Some(true),
            block_owner_deletion: Some(false),
        });
        ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// What confines the containers in a cluster from before their security context said it.
    fn confined(&self, meta: &ObjectMeta, container: &str) -> BTreeMap<String, String> {
        let of_app = meta.annotations.iter().flatten();
        let mut kept = BTreeMap::new();
        for (name, value) in of_app {
            let of = CONFINED.iter().find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)));
            match of {
                Some((_, "")) => drop(kept.insert(name.clone(), value.clone())),
                Some((prefix, own)) if own == container => {
                    kept.insert(name.clone(), value.clone());
                    if self.settings.runner == Runner::Agent {
                        kept.insert(format!("{prefix}{NAME}"), value.clone());
                    }
                }
                Some((_, other)) if self.app.keep_containers.iter().any(|kept| kept == other) => {
                    kept.insert(name.clone(), value.clone());
                }
                _ => {}
            }
        }
        kept
    }

    fn spec(&self, mut spec: PodSpec, container: &str) -> Result<PodSpec, String> {
        let keeps = |other: &Container| self.app.keep_containers.contains(&other.name);
        let own = spec.containers.iter().find(|other| other.name == container).cloned();
        let own = self.command(own.ok_or("its container is gone")?)?;
        let mut inits = Vec::new();
        if self.settings.runner == Runner::Agent {
            let image = self.settings.image.clone().ok_or("no image has the agent; set kubernetes.image")?;
            inits.push(self.installer(image, &own));
            spec.volumes.get_or_insert_default().push(Volume {
                name: NAME.into(),
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..Volume::default()
            });
            let secrets =
                self.settings.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
            spec.image_pull_secrets.get_or_insert_default().extend(secrets);
        }
        inits.extend(spec.init_containers.take().unwrap_or_default().into_iter().filter(keeps).map(quiet));
        let beside = spec.containers.into_iter().filter(|other| other.name != container).filter(keeps).map(quiet);
        Ok(PodSpec {
            containers: std::iter::once(own).chain(beside).collect(),
            init_containers: Some(inits),
            restart_policy: Some("Never".into()),
            active_deadline_seconds: Some((self.order.lifetime + SLACK).as_secs() as i64),
            termination_grace_period_seconds: Some(self.end_wait.as_secs() as i64 + 5),
            ephemeral_containers: None,
            hostname: None,
            subdomain: None,
            readiness_gates: None,
            // What keeps the app's own pods apart is not for one that is none of them.
            topology_spread_constraints: None,
            affinity: spec.affinity.map(|affinity| Affinity { pod_anti_affinity: None, ..affinity }),
            node_name: None,
            ..spec
        })
    }

    /// The container with the command.
    fn command(&self, own: Container) -> Result<Container, String> {
        let mut own = quiet(own);
        own.resources = self.resources(own.resources)?;
        match self.settings.runner {
            Runner::Agent => {
                let launchers = if self.run.launcher { LAUNCHERS } else { "" };
                let session = self.order.session.to_string();
                let agent = format!("{MOUNT}/{PROGRAM}");
                let words = [&*agent, "serve", "--dir", DIR, "--session", &session, "--pod", launchers];
                own.command = Some(words.map(Into::into).to_vec());
                own.volume_mounts.get_or_insert_default().push(mount());
                (own.stdin, own.stdin_once, own.tty) = (None, None, None);
            }
            Runner::Attach => {
                own.command = Some(self.run.command.clone());
                let new = |(name, value): (&String, &String)| EnvVar {
                    name: name.clone(),
                    value: Some(value.clone()),
                    value_from: None,
                };
                let env = own.env.get_or_insert_default();
                env.retain(|variable| !self.run.env.contains_key(&variable.name));
                env.extend(self.run.env.iter().map(new));
                own.stdin = Some(self.order.stdin || self.order.tty);
                // What ends a stdin without a terminal is the end of the connection that wrote to it.
                own.stdin_once = Some(!self.order.tty);
                own.tty = Some(self.order.tty);
            }
        }
        own.args = None;
        Ok(own)
    }

    fn resources(&self, own: Option<ResourceRequirements>) -> Result<Option<ResourceRequirements>, String> {
        let mut resources = own.unwrap_or_default();
        for (name, wish, most) in
            [("cpu", &self.run.cpu, &self.settings.max_cpu), ("memory", &self.run.memory, &self.settings.max_memory)]
        {
            let Some(wish) = wish else { continue };
            let wanted =
                quantity(wish).ok_or_else(|| format!("--{name} {wish} is not a quantity such as 500m or 512Mi"))?;
            // To a kubelet a limit of nothing is no limit.
            if wanted <= 0.0 {
                return Err(format!("--{name} {wish} is nothing"));
            }
            // A maximum that cannot be read allows nothing.
            if let Some(most) = most.as_ref().filter(|most| quantity(most).is_none_or(|most| wanted > most)) {
                return Err(format!("--{name} {wish} is more than the {most} that a run may have here"));
            }
            for amounts in [&mut resources.limits, &mut resources.requests] {
                amounts.get_or_insert_default().insert(name.into(), Quantity(wish.clone()));
            }
        }
        Ok(Some(resources))
    }

    /// The container that brings the agent, with the rights of the one that it brings it to.
    fn installer(&self, image: String, own: &Container) -> Container {
        let amounts = |own: Option<&BTreeMap<String, Quantity>>| {
            let mut amounts = BTreeMap::from(INSTALL.map(|(name, amount)| (name.to_owned(), Quantity(amount.into()))));
            // A quota that counts this knows it of all containers, or of none.
            amounts.extend(
                own.and_then(|own| own.get_key_value(STORAGE)).map(|(name, most)| (name.clone(), most.clone())),
            );
            amounts
        };
        let asked = own.resources.as_ref();
        Container {
            name: NAME.into(),
            image: Some(image),
            image_pull_policy: self.settings.image_pull_policy.clone(),
            command: Some([IN_IMAGE, "install", MOUNT].map(Into::into).to_vec()),
            resources: Some(ResourceRequirements {
                limits: Some(amounts(asked.and_then(|asked| asked.limits.as_ref()))),
                requests: Some(amounts(asked.and_then(|asked| asked.requests.as_ref()))),
                ..ResourceRequirements::default()
            }),
            security_context: own.security_context.clone(),
            volume_mounts: Some(vec![mount()]),
            ..Container::default()
        }
    }
}

/// Whether a run's pod has an agent.
#[must_use]
pub fn has_agent(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.is_some_and(|volumes| volumes.iter().any(|volume| volume.name == NAME))
}

fn mount() -> VolumeMount {
    VolumeMount { name: NAME.into(), mount_path: MOUNT.into(), ..VolumeMount::default() }
}

/// A container without what makes it a server.
fn quiet(container: Container) -> Container {
    Container {
        liveness_probe: None,
        readiness_probe: None,
        startup_probe: None,
        lifecycle: None,
        ports: None,
        ..container
    }
}

/// A pod with a merge patch (RFC 7386).
fn patched(pod: Pod, patch: &serde_json::Value) -> Result<Pod, String> {
    let failed = |error: serde_json::Error| format!("kubernetes.patch does not make a pod: {error}");
    let mut value = serde_json::to_value(pod).map_err(failed)?;
    merge(&mut value, patch);
    serde_json::from_value(value).map_err(failed)
}

fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        match value {
            serde_json::Value::Null => drop(fields.remove(name)),
            value => merge(fields.entry(name.clone()).or_insert(serde_json::Value::Null), value),
        }
    }
}

/// The number of a quantity, such as `500m` or `2Gi`.
fn quantity(text: &str) -> Option<f64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Pi" => 1024f64.powi(5),
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Whether the Deployment would take a pod with these labels for one of its own.
#[must_use]
pub fn is_selected(deployment: &Deployment, labels: &BTreeMap<String, String>) -> bool {
    let empty = LabelSelector::default();
    let selector = deployment.spec.as_ref().map_or(&empty, |spec| &spec.selector);
    let equal = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let fits = selector.match_expressions.iter().flatten().all(|wanted| {
        let own = labels.get(&wanted.key);
        let listed = own.is_some_and(|own| wanted.values.iter().flatten().any(|value| value == own));
        match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => own.is_some(),
            _ => own.is_none(),
        }
    });
    equal && fits
}

/// Whether a Service would send traffic to a pod with these labels.
#[must_use]
pub fn is_served(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    selector.is_some_and(|selector| {
        let parts: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
        selects(&parts.join(","), labels)
    })
}

#[cfg(test)]
mod tests;
