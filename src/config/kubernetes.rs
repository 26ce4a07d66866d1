//! Settings of the Kubernetes backend: where apps are, and what a run's pod is like.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::names::is_label;

/// What `{app}` stands for in a template.
pub const APP: &str = "{app}";

/// How a platform lays its apps out, where single settings do not say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The recommended labels (`app.kubernetes.io/instance`), all apps in one namespace.
    #[default]
    Instance,
    /// As Deis Workflow and Drycc do it: a namespace an app, labels `app`, `type`, `version` and `heritage`.
    Deis,
}

/// What brings the command of a run to a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// An agent beside the command, from an image of ours.
    Agent,
    /// Kubernetes' own attach: for places where no image of ours can be brought.
    Attach,
}

/// All that the Kubernetes backend is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Kubernetes {
    /// The kubeconfig; none: the one that kubectl would use, or the cluster that the hub runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Its context; none: the current one.
    pub context: Option<String>,
    /// The namespace of an app, with [`APP`] in it or not; none: the context's own.
    pub namespace: Option<String>,
    /// The labels of an app's objects, as a selector with [`APP`] as the value of one of them.
    pub selector: String,
    /// The label with the type of a process, such as `web`.
    pub process_label: String,
    /// The type of the process whose Deployment runs are made from.
    pub process: String,
    /// The namespaces that the hub works in; empty: all but the cluster's own.
    pub namespaces: Vec<String>,
    /// The image with the agent; none: there is no agent.
    pub image: Option<String>,
    /// When that image is pulled, in Kubernetes' words.
    pub image_pull_policy: Option<String>,
    /// The secrets it is pulled with, besides the app's own.
    pub image_pull_secrets: Vec<String>,
    /// How runs are brought to the hub.
    pub runner: Runner,
    /// Labels of the app's pods that its runs keep, as a NetworkPolicy may need them.
    pub keep_labels: Vec<String>,
    /// A merge patch (RFC 7386) of every run's pod.
    pub patch: Option<serde_json::Value>,
    /// The most CPU that a run may ask for, in Kubernetes' words.
    pub max_cpu: Option<String>,
    /// The most memory that a run may ask for, in Kubernetes' words.
    pub max_memory: Option<String>,
    /// How many containers' logs are followed at once.
    pub log_upstreams: usize,
    /// How long a pod that is handed over may take to be there.
    pub pod_wait: Duration,
}

/// `[kubernetes]` in `foghorn.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    layout: Layout,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    namespace: Option<String>,
    selector: Option<String>,
    process_label: Option<String>,
    process: Option<String>,
    namespaces: Vec<String>,
    image: Option<String>,
    image_pull_policy: Option<String>,
    image_pull_secrets: Vec<String>,
    runner: Option<Runner>,
    keep_labels: Vec<String>,
    patch: Option<serde_json::Value>,
    max_cpu: Option<String>,
    max_memory: Option<String>,
    log_upstreams: Option<usize>,
    pod_wait: Option<String>,
}

/// How many containers' logs are followed at once, unless told otherwise.
const LOG_UPSTREAMS: usize = 100;

/// How long a pod that is handed over may take to be there, unless told otherwise.
const POD_WAIT: Duration = Duration::from_secs(5 * 60);

impl File {
    pub(super) fn settings(self) -> Result<Kubernetes, ConfigError> {
        let (namespace, selector, process_label) = match self.layout {
            Layout::Instance => (None, "app.kubernetes.io/instance={app}", "app.kubernetes.io/component"),
            Layout::Deis => (Some(APP), "app={app},heritage=deis", "type"),
        };
        let selector = self.selector.unwrap_or_else(|| selector.into());
        if !selector.split(',').any(|part| part.trim().ends_with(&format!("={APP}"))) {
            return Err(super::not("kubernetes.selector", &selector, "a selector with the app as a label: KEY={app}"));
        }
        // A template's name is looked at when it has its app.
        let named = self.namespace.iter().map(|name| ("kubernetes.namespace", name.replace(APP, "a")));
        let listed = self.namespaces.iter().map(|name| ("kubernetes.namespaces", name.clone()));
        if let Some((setting, name)) = named.chain(listed).find(|(_, name)| !is_label(name)) {
            return Err(super::not(setting, &name, "the name of a namespace"));
        }
        let runner = match (self.runner, &self.image) {
            (Some(Runner::Agent), None) => {
                return Err(super::not("kubernetes.runner", "agent", "possible without kubernetes.image"));
            }
            (Some(runner), _) => runner,
            (None, Some(_)) => Runner::Agent,
            (None, None) => Runner::Attach,
        };
        Ok(Kubernetes {
            kubeconfig: self.kubeconfig,
            context: self.context,
            namespace: self.namespace.or(namespace.map(Into::into)),
            selector,
            process_label: self.process_label.unwrap_or_else(|| process_label.into()),
            process: self.process.unwrap_or_else(|| "web".into()),
            namespaces: self.namespaces,
            image: self.image,
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: self.image_pull_secrets,
            runner,
            keep_labels: self.keep_labels,
            patch: self.patch,
            max_cpu: self.max_cpu,
            max_memory: self.max_memory,
            log_upstreams: self.log_upstreams.unwrap_or(LOG_UPSTREAMS),
            pod_wait: match &self.pod_wait {
                Some(text) => humantime::parse_duration(text)
                    .map_err(|_| super::not("kubernetes.pod_wait", text, "a duration such as 90s or 5m"))?,
                None => POD_WAIT,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Kubernetes, ConfigError> {
        toml::from_str::<File>(toml).expect("parses").settings()
    }

    #[test]
    fn both_layouts_come_ready() {
        let deis = read("layout = \"deis\"").expect("reads");
        assert_eq!((deis.namespace.as_deref(), &*deis.process_label), (Some("{app}"), "type"));
        let common = read("namespace = \"apps\"").expect("reads");
        assert_eq!(common.namespace.as_deref(), Some("apps"));
        assert_eq!(common.selector, "app.kubernetes.io/instance={app}");
    }

    #[test]
    fn without_an_image_there_is_no_agent() {
        assert_eq!(read("").expect("reads").runner, Runner::Attach);
        assert_eq!(read("image = \"x\"").expect("reads").runner, Runner::Agent);
        assert_eq!(read("image = \"x\"\nrunner = \"attach\"").expect("reads").runner, Runner::Attach);
        assert!(read("runner = \"agent\"").is_err());
        assert!(read("selector = \"app=blog\"").is_err());
        for odd in ["namespace = \"a/b\"", "namespace = \"{app}/x\"", "namespaces = [\"blog\", \"../x\"]"] {
            assert!(read(odd).is_err(), "{odd}");
        }
        assert!(read("namespace = \"x-{app}\"\nnamespaces = [\"x-blog\"]").is_ok());
    }
}
