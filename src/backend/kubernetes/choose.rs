//! Which Deployment a run is made from, which pod an exec is for, and whose a pod is that is handed over.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use uuid::Uuid;

use super::{Place, Way, names, start};
use crate::backend::{BackendError, Exec, Handed, Whose};
use crate::config::kubernetes::APP;
use crate::kubernetes::Cluster;
use crate::kubernetes::apps::Home;
use crate::kubernetes::error::{is_refusal, sentence, surely};

/// The Deployment of a type of process.
pub(super) fn deployment(
    all: Vec<Deployment>,
    label: &str,
    process: &str,
    app: &str,
    home: &Home,
) -> Result<Deployment, String> {
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

/// Letters that are the same for the same session.
pub(super) fn suffix(session: Uuid) -> String {
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

fn failed(error: &kube::Error) -> BackendError {
    match is_refusal(error) {
        true => BackendError::Forbidden(sentence(error)),
        false => BackendError::Unreachable(sentence(error)),
    }
}

/// Where an exec is to be.
pub(super) async fn exec(cluster: &Cluster, app: &str, exec: &Exec) -> Result<Place, BackendError> {
    let home = cluster.home(app)?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &home.namespace);
    let of_app = ListParams::default().labels(&home.selector);
    let mut pods = surely(|| pods.list(&of_app)).await.map_err(|error| failed(&error))?.items;
    pods.retain(is_running);
    pods.sort_by_key(|pod| (pod.meta().creation_timestamp.clone(), pod.name_any()));
    let named: Vec<(String, &Pod)> = pods.iter().map(|pod| (cluster.process_of(pod), pod)).collect();
    let pod = find(&named, &exec.pod).ok_or_else(|| BackendError::Refused(none(&named, app, &exec.pod)))?;
    let own = cluster.app(app).container;
    let container = container(pod, exec.container.as_ref(), own.as_ref()).map_err(BackendError::Refused)?;
    Ok(Place {
        namespace: home.namespace,
        pod: pod.name_any(),
        container: Some(container),
        way: Way::Exec,
        ..Place::default()
    })
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.meta().deletion_timestamp.is_none()
}

/// The pod that people call so: by its name, by its process and its place among those of it, the oldest first, or by its
/// process and the last part of its name.
fn find<'a>(pods: &[(String, &'a Pod)], name: &str) -> Option<&'a Pod> {
    if let Some((_, pod)) = pods.iter().find(|(_, pod)| pod.name_any() == name) {
        return Some(pod);
    }
    let (process, which) = name.rsplit_once('.')?;
    let mut of_process = pods.iter().filter(|(own, _)| own == process).map(|(_, pod)| *pod);
    let place = which.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    match place {
        Some(place) => of_process.nth(place),
        None => of_process.find(|pod| pod.name_any().rsplit('-').next() == Some(which)),
    }
}

fn none(pods: &[(String, &Pod)], app: &str, name: &str) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    let mut there: Vec<String> = Vec::new();
    for (process, pod) in pods {
        let count = counts.entry(process).or_default();
        *count += 1;
        there.push(format!("{process}.{count} ({})", pod.name_any()));
    }
    match there.is_empty() {
        true => format!("the app {app} has no running pod"),
        false => format!("the app {app} has no running pod {name}; it has {}", there.join(", ")),
    }
}

/// The container that is meant, among those that a pod has.
fn container(pod: &Pod, wanted: Option<&String>, own: Option<&String>) -> Result<String, String> {
    let all: Vec<&str> = containers(pod).map(|container| &*container.name).collect();
    match (wanted, own.filter(|own| all.contains(&&***own))) {
        (Some(wanted), _) if all.contains(&&**wanted) => Ok(wanted.clone()),
        (Some(wanted), _) => Err(format!("{} has no container {wanted}; it has {}", pod.name_any(), all.join(", "))),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Ok(start::container(pod)),
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

/// Whose a pod is that is handed over.
pub(super) async fn whose(cluster: &Cluster, handed: &Handed) -> Result<Whose, BackendError> {
    names::check_handed(handed)?;
    cluster.check(&handed.namespace)?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &handed.namespace);
    let pod = surely(|| pods.get_opt(&handed.pod)).await.map_err(|error| failed(&error))?;
    let Some(pod) = pod else {
        let app = handed.app.clone().or_else(|| of_namespace(cluster, &handed.namespace));
        let app = app.filter(|app| cluster.home(app).is_ok_and(|home| home.namespace == handed.namespace));
        let app = app.ok_or_else(|| {
            BackendError::Refused(format!(
                "there is no pod {} in {} yet; say which app of this namespace it is going to belong to",
                handed.pod, handed.namespace
            ))
        })?;
        return Ok(Whose { app, tty: None });
    };
    let app = belongs(cluster, &pod, handed.app.as_deref()).map_err(BackendError::Refused)?;
    let container = container(&pod, handed.container.as_ref(), None).map_err(BackendError::Refused)?;
    Ok(Whose { app, tty: Some(streams(&pod, &container).1) })
}

/// The app that a pod belongs to, which has to be this one if one is said.
pub(super) fn belongs(cluster: &Cluster, pod: &Pod, app: Option<&str>) -> Result<String, String> {
    match (cluster.app_of(pod), app) {
        (Some(own), Some(app)) if own != app => {
            Err(format!("the pod {} does not belong to the app {app}", pod.name_any()))
        }
        (Some(own), _) => Ok(own),
        (None, _) => Err(format!("the pod {} belongs to no app that this hub knows, by its labels", pod.name_any())),
    }
}

/// The app whose namespace it is, where each app has one.
fn of_namespace(cluster: &Cluster, namespace: &str) -> Option<String> {
    cluster.settings.namespace.as_deref().filter(|template| template.contains(APP)).map(|_| namespace.to_owned())
}

/// Whether a container has a stdin, a terminal, and a stdin that ends with who first writes to it.
pub(super) fn streams(pod: &Pod, name: &str) -> (bool, bool, bool) {
    let is = |flag: Option<bool>| flag.unwrap_or(false);
    let own = containers(pod).find(|container| container.name == name);
    own.map_or((false, false, false), |own| (is(own.stdin), is(own.tty), is(own.stdin_once)))
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

    fn pod(name: &str) -> Pod {
        let json = serde_json::json!({
            "metadata": { "name": name, "namespace": "blog" },
            "spec": { "containers": [{ "name": "web", "tty": true, "stdin": true }, { "name": "proxy" }] },
        });
        serde_json::from_value(json).expect("a pod")
    }

    #[test]
    fn a_pod_is_called_by_its_name_or_by_its_process() {
        let (a, b, c) = (pod("blog-web-7d9f-abcde"), pod("blog-web-7d9f-fghij"), pod("blog-job-1"));
        let pods = [("web".to_owned(), &a), ("web".to_owned(), &b), ("my.job".to_owned(), &c)];
        let found = |name: &str| find(&pods, name).map(ResourceExt::name_any);
        assert_eq!(found("blog-web-7d9f-fghij").as_deref(), Some("blog-web-7d9f-fghij"));
        assert_eq!(found("web.1").as_deref(), Some("blog-web-7d9f-abcde"));
        assert_eq!(found("web.2").as_deref(), Some("blog-web-7d9f-fghij"));
        assert_eq!(found("web.fghij").as_deref(), Some("blog-web-7d9f-fghij"));
        assert_eq!(found("my.job.1").as_deref(), Some("blog-job-1"));
        for name in ["web", "web.0", "web.3", "web.x", "job.1", ""] {
            assert_eq!(found(name), None, "{name}");
        }
        assert!(none(&pods, "blog", "web.3").contains("web.2 (blog-web-7d9f-fghij)"));
    }

    #[test]
    fn a_container_is_the_one_that_is_named_or_the_main_one() {
        let pod = pod("x");
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(container(&pod, None, None), Ok("web".to_owned()));
        assert_eq!(container(&pod, named("proxy").as_ref(), None), Ok("proxy".to_owned()));
        assert_eq!(container(&pod, None, named("proxy").as_ref()), Ok("proxy".to_owned()));
        assert_eq!(container(&pod, None, named("gone").as_ref()), Ok("web".to_owned()));
        assert!(container(&pod, named("db").as_ref(), None).is_err_and(|error| error.contains("web, proxy")));
        assert_eq!(streams(&pod, "web"), (true, true, false));
    }
}
