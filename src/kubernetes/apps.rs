//! Where an app is: its namespace and the labels of its objects; and which apps there are.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use super::Cluster;
use super::error::surely;
use crate::config::kubernetes::APP as TEMPLATE;
use crate::config::names::is_label;

/// Where an app's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The namespace.
    pub namespace: String,
    /// The labels, as a selector.
    pub selector: String,
}

/// An app that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub app: String,
    /// Its namespace.
    pub namespace: String,
    /// The types of its processes, and how many of each are wanted.
    pub processes: BTreeMap<String, i32>,
}

/// Why an app is nowhere.
#[derive(Debug, thiserror::Error)]
pub enum NoHome {
    /// No object of Kubernetes can have such a name.
    #[error(
        "an app on Kubernetes has a name of lower-case letters, digits and '-', with a letter or digit at both ends"
    )]
    Name,
    /// No namespace can have such a name.
    #[error("\"{0}\" is no name of a namespace: it has up to 63 lower-case letters, digits and '-'")]
    Namespace(String),
    /// The namespace is the cluster's or the hub's own.
    #[error("the namespace {0} is not for apps")]
    Reserved(String),
    /// The namespace is not one of those that the hub works in.
    #[error("this hub does not work in the namespace {0}; it is not in kubernetes.namespaces")]
    Elsewhere(String),
}

impl Cluster {
    /// Where an app is, by the configuration.
    ///
    /// # Errors
    /// [`NoHome`].
    pub fn home(&self, app: &str) -> Result<Home, NoHome> {
        if !is_label(app) {
            return Err(NoHome::Name);
        }
        let own = self.apps.get(app);
        let namespace = own.and_then(|own| own.namespace.as_deref()).or(self.settings.namespace.as_deref());
        let namespace = namespace.unwrap_or(self.client.default_namespace()).replace(TEMPLATE, app);
        let selector = own.and_then(|own| own.selector.as_deref()).unwrap_or(&self.settings.selector);
        self.check(&namespace)?;
        Ok(Home { namespace, selector: selector.replace(TEMPLATE, app) })
    }

    /// Whether the hub may touch anything in a namespace.
    ///
    /// # Errors
    /// [`NoHome::Namespace`], [`NoHome::Reserved`] and [`NoHome::Elsewhere`].
    pub fn check(&self, namespace: &str) -> Result<(), NoHome> {
        if !is_label(namespace) {
            return Err(NoHome::Namespace(namespace.escape_debug().take(64).collect()));
        }
        if namespace.starts_with("kube-") || self.own.as_deref() == Some(namespace) {
            return Err(NoHome::Reserved(namespace.into()));
        }
        let listed = &self.settings.namespaces;
        if !listed.is_empty() && !listed.iter().any(|known| known == namespace) {
            return Err(NoHome::Elsewhere(namespace.into()));
        }
        Ok(())
    }

    /// What is set for an app alone.
    #[must_use]
    pub fn app(&self, app: &str) -> crate::config::server::App {
        self.apps.get(app).cloned().unwrap_or_default()
    }

    /// The app that an object belongs to, by its labels, if the configuration knows it there.
    pub fn app_of<K: Resource>(&self, object: &K) -> Option<String> {
        let namespace = object.meta().namespace.as_deref()?;
        let named = object.labels().get(self.app_label()?).filter(|app| self.is_at(app, namespace, object.labels()));
        let own = || self.apps.keys().find(|app| self.is_at(app, namespace, object.labels()));
        named.or_else(own).cloned()
    }

    fn is_at(&self, app: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.home(app).is_ok_and(|home| home.namespace == namespace && selects(&home.selector, labels))
    }

    /// The label that has the app's name in the common selector.
    fn app_label(&self) -> Option<&str> {
        let parts = self.settings.selector.split(',').map(str::trim);
        parts.filter_map(|part| part.strip_suffix(TEMPLATE)).find_map(|key| key.strip_suffix('='))
    }

    /// The type of the process that an object belongs to, such as `web`; the name of its first container where no label
    /// says it.
    #[must_use]
    pub fn process_of(&self, pod: &Pod) -> String {
        let first = || pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|first| first.name.clone());
        pod.labels().get(&self.settings.process_label).cloned().or_else(first).unwrap_or_default()
    }

    /// The Deployments of an app.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn deployments(&self, home: &Home) -> Result<Vec<Deployment>, kube::Error> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), &home.namespace);
        let of_app = ListParams::default().labels(&home.selector);
        Ok(surely(|| api.list(&of_app)).await?.items)
    }

    /// The apps that there are, in all namespaces that the hub works in.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn find_apps(&self) -> Result<Vec<Found>, kube::Error> {
        let mut found = BTreeMap::<(String, String), BTreeMap<String, i32>>::new();
        for deployment in self.all_deployments().await? {
            let Some(app) = self.app_of(&deployment) else { continue };
            let spec = deployment.spec.as_ref();
            let labels = spec.and_then(|spec| spec.template.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
            let process = labels.and_then(|labels| labels.get(&self.settings.process_label)).cloned();
            let process = process.unwrap_or_else(|| deployment.name_any());
            let namespace = deployment.namespace().unwrap_or_default();
            let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
            *found.entry((app, namespace)).or_default().entry(process).or_default() += wanted;
        }
        let found = found.into_iter();
        Ok(found.map(|((app, namespace), processes)| Found { app, namespace, processes }).collect())
    }

    async fn all_deployments(&self) -> Result<Vec<Deployment>, kube::Error> {
        let all = ListParams::default();
        let labelled = match self.app_label() {
            Some(label) if self.apps.values().all(|app| app.selector.is_none()) => all.labels(label),
            _ => all,
        };
        let mut deployments = Vec::new();
        for api in self.everywhere() {
            deployments.extend(surely(|| api.list(&labelled)).await?.items);
        }
        Ok(deployments)
    }

    /// One kind of object, in each namespace that the hub works in, or in all at once.
    pub fn everywhere<K>(&self) -> Vec<Api<K>>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let in_namespace = |namespace: &str| Api::namespaced(self.client.clone(), namespace);
        let own = || self.apps.values().filter_map(|app| app.namespace.as_deref());
        match (&self.settings.namespaces[..], self.settings.namespace.as_deref()) {
            ([], Some(template)) if template.contains(TEMPLATE) => vec![Api::all(self.client.clone())],
            ([], fixed) => {
                let fixed = fixed.unwrap_or(self.client.default_namespace());
                let mut names: Vec<&str> = own().chain([fixed]).collect();
                names.sort_unstable();
                names.dedup();
                names.into_iter().map(in_namespace).collect()
            }
            (listed, _) => listed.iter().map(|namespace| in_namespace(namespace)).collect(),
        }
    }
}

/// Whether a selector of equalities selects these labels.
#[must_use]
pub fn selects(selector: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim_start_matches('=');
        labels.get(key.trim()).is_some_and(|known| known == value.trim() || !part.contains('='))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_equalities() {
        let labels =
            BTreeMap::from([("app".to_owned(), "blog".to_owned()), ("heritage".to_owned(), "deis".to_owned())]);
        for (selector, fits) in [
            ("app=blog", true),
            ("app==blog, heritage=deis", true),
            ("app=shop", false),
            ("type=web", false),
            ("app", true),
        ] {
            assert_eq!(selects(selector, &labels), fits, "{selector}");
        }
    }

    #[tokio::test]
    async fn the_hubs_own_namespace_and_the_clusters_have_no_apps() {
        let home = tempfile::tempdir().expect("a directory");
        let settings = "backend = \"kubernetes\"\n[kubernetes]\nlayout = \"deis\"\nrunner = \"attach\"\n";
        std::fs::write(home.path().join("foghorn.toml"), settings).expect("writes");
        let args = crate::config::server::ServeArgs { home: Some(home.path().to_owned()), ..Default::default() };
        let settings = crate::config::server::Server::read(args).expect("settings").kubernetes.expect("kubernetes");
        let address = "http://127.0.0.1:1".parse().expect("an address");
        let client = kube::Client::try_from(kube::Config::new(address)).expect("a client");
        let cluster = Cluster { client, settings, apps: BTreeMap::new(), own: Some("hub".into()) };
        assert_eq!(cluster.home("blog").expect("a place").namespace, "blog");
        for reserved in ["hub", "kube-system", "kube-public"] {
            assert!(matches!(cluster.home(reserved), Err(NoHome::Reserved(_))), "{reserved}");
        }
        for odd in ["../blog", "a/b", "Blog", ""] {
            assert!(matches!(cluster.home(odd), Err(NoHome::Name)), "{odd}");
            assert!(matches!(cluster.check(odd), Err(NoHome::Namespace(_))), "{odd}");
        }
    }
}
