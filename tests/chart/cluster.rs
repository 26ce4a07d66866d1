//! A real cluster, and what it makes of the chart's objects.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::helm::{Helm, SETS, over};
use crate::rights::{IN_NAMESPACES, REVIEWS, Rights, expected, given};
use crate::support::cluster;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `fact` gives something.
pub(crate) fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(since.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A cluster, with namespaces of a test's own: one for the hub, one for apps. They are removed when it is dropped.
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    /// The name of the release, and of its objects.
    pub(crate) release: String,
    /// Where the hub is.
    pub(crate) hub: String,
    /// Where apps are.
    pub(crate) apps: String,
}

impl Cluster {
    /// `None`, with a loud line, where there is none.
    pub(crate) fn find() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let kubeconfig = cluster::kubeconfig()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis() % 100_000_000;
        let unique = format!("{now}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let [release, hub, apps] = ["foghorn-", "chart-hub-", "chart-apps-"].map(|prefix| format!("{prefix}{unique}"));
        let cluster = Self { kubeconfig, release, hub, apps };
        for namespace in [&cluster.hub, &cluster.apps] {
            cluster.kubectl(&["create", "namespace", namespace]);
        }
        Some(cluster)
    }

    /// The real Helm, for this cluster.
    pub(crate) fn helm(&self) -> Option<Helm> {
        Some(Helm::find()?.at(&self.kubeconfig))
    }

    /// What `kubectl` prints; it has to succeed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let output = self.kubectl_may(args, "");
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What `kubectl` does with an input.
    pub(crate) fn kubectl_may(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("kubectl");
        // It may end without having read all.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("waits")
    }

    /// `kubectl` with pipes.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(args).env("KUBECONFIG", &self.kubeconfig);
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        kubectl
    }

    /// Makes objects.
    pub(crate) fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let output = self.kubectl_may(&["apply", "--server-side", "-f", "-"], &list.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// All that there is with these labels, in these namespaces and in the cluster, but for events: `kind/name`.
    pub(crate) fn with_labels(&self, labels: &str) -> Vec<String> {
        let kinds = |of_namespaces: &str| {
            let args = ["api-resources", "--verbs=list", "-o", "name", of_namespaces];
            let names = self.kubectl(&args);
            names.lines().filter(|name| !name.starts_with("events")).collect::<Vec<_>>().join(",")
        };
        let (inner, outer) = (kinds("--namespaced=true"), kinds("--namespaced=false"));
        let mut found = String::new();
        for (kinds, place) in [(&inner, &["-n", &self.hub][..]), (&inner, &["-n", &self.apps]), (&outer, &[])] {
            let args = [&["get", kinds, "-l", labels, "-o", "name", "--ignore-not-found"], place].concat();
            let _ = writeln!(found, "{}", self.kubectl(&args));
        }
        let mut found: Vec<String> = found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Waits until just these are there of what has these labels. What belongs to an object that was deleted, as a
    /// Deployment's ReplicaSets and a Service's EndpointSlices do, is collected by the cluster some time later.
    pub(crate) fn keeps(&self, labels: &str, kept: &[String]) {
        until(&format!("only {kept:?} is left"), || {
            let left = self.with_labels(labels);
            (left == kept).then_some(()).or_else(|| {
                println!("left with {labels}: {left:?}");
                None
            })
        });
    }

    /// All that the hub may do in a namespace, and in the cluster, as the cluster itself says.
    pub(crate) fn rights(&self, namespace: &str) -> Rights {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
        });
        let account = format!("system:serviceaccount:{}:{}", self.hub, self.release);
        let groups = ["system:serviceaccounts", "system:authenticated"].map(|group| format!("--as-group={group}"));
        let account = format!("--as={account}");
        let args = ["create", "-f", "-", "-o", "json", &account, &groups[0], &groups[1]];
        let output = self.kubectl_may(&args, &review.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer");
        assert_eq!(answer["status"]["incomplete"], false);
        given(answer["status"]["resourceRules"].as_array().expect("rules"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let args = ["delete", "namespace", &self.hub, &self.apps, "--timeout=120s"];
        let output = self.kubectl_may(&args, "");
        // What is the cluster's is in no namespace; a test that went well has none of it any more.
        let labels = format!("app.kubernetes.io/instance={}", self.release);
        self.kubectl_may(&["delete", "clusterroles,clusterrolebindings", "-l", &labels], "");
        self.kubectl_may(
            &["delete", "persistentvolumes", "-l", &format!("tests/of={}", self.release), "--wait=false"],
            "",
        );
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// What the cluster has nothing for is left out; nothing is started.
fn for_this_cluster(cluster: &Cluster, values: &Value) -> Value {
    let known = cluster.kubectl(&["api-resources", "-o", "name"]);
    let knows = |name: &str| known.lines().any(|line| line == name);
    over(
        values,
        &json!({
            "replicaCount": 0,
            "kubernetes": {"namespaces": [cluster.apps]},
            "httpRoute": {"enabled": values["httpRoute"]["enabled"] == true && knows("httproutes.gateway.networking.k8s.io")},
            "metrics": {"serviceMonitor": {"enabled": values["metrics"]["serviceMonitor"]["enabled"] == true
                && knows("servicemonitors.monitoring.coreos.com")}},
        }),
    )
}

#[test]
fn a_cluster_takes_every_set_and_gives_it_back() {
    let Some(cluster) = Cluster::find() else { return };
    let Some(helm) = cluster.helm() else { return };
    for set in SETS {
        let values = for_this_cluster(&cluster, &helm.set(set));
        let request = json!({"name": cluster.release, "namespace": cluster.hub, "values": values});
        let mut dry = request.clone();
        dry["dry"] = true.into();
        helm.ask("install", dry).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        let made = helm.ask("install", request.clone()).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        let made = made.as_array().expect("objects");
        let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/managed-by=Helm", cluster.release);
        let there: Vec<String> = cluster.with_labels(&labels);
        for object in made {
            let name = object["metadata"]["name"].as_str().expect("a name");
            let kind = object["kind"].as_str().expect("a kind").to_lowercase();
            let is = |line: &String| line.ends_with(&format!("/{name}")) && line.starts_with(&kind);
            assert!(there.iter().any(is), "{set}: no {kind} {name} in {there:?}");
        }
        let budget = made.iter().find(|object| object["kind"] == "PodDisruptionBudget").expect("a budget");
        let newer = cluster.kubectl(&["api-versions"]).lines().any(|version| version == "policy/v1");
        assert_eq!(budget["apiVersion"], if newer { "policy/v1" } else { "policy/v1beta1" });
        let mut upgrade = request.clone();
        upgrade["upgrade"] = true.into();
        upgrade["values"]["log"] = "debug".into();
        helm.ask("install", upgrade).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        helm.ask("uninstall", request).unwrap_or_else(|refused| panic!("{set}: {refused}"));
        let kept = if set == "full" { vec![format!("persistentvolumeclaim/{}", cluster.release)] } else { Vec::new() };
        cluster.keeps(&labels, &kept);
        cluster.kubectl(&["delete", "pvc", "-n", &cluster.hub, "--all"]);
    }
}

#[test]
fn the_clusters_own_judge_gives_the_hub_the_rights_of_the_table() {
    let Some(cluster) = Cluster::find() else { return };
    let Some(helm) = cluster.helm() else { return };
    let values = for_this_cluster(&cluster, &helm.set("cluster"));
    let request = json!({"name": cluster.release, "namespace": cluster.hub, "values": values});
    helm.ask("install", request.clone()).expect("installs");
    // What everyone may do is left out.
    let own = |namespace: &str| {
        let mut rights = cluster.rights(namespace);
        rights.retain(|resource, _| !resource.starts_with("authorization.k8s.io/self"));
        rights.retain(|resource, _| !resource.starts_with("authentication.k8s.io/self"));
        rights
    };
    let all = expected(&IN_NAMESPACES).into_iter().chain(expected(&REVIEWS)).collect();
    // The cluster's judge hears of a rule some time after it was made.
    for (namespace, rights) in [(&cluster.apps, all), (&cluster.hub, expected(&REVIEWS))] {
        until(&format!("the rights are {rights:?}"), || {
            let own = own(namespace);
            let same = own == rights;
            (!same).then(|| println!("the rights are {own:?}"));
            same.then_some(())
        });
    }
    helm.ask("uninstall", request).expect("uninstalls");
}
