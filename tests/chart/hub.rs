//! A hub that runs in the cluster, from the image, as the chart installs it.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, until};
use crate::helm::Helm;
use crate::image;
use crate::support::cluster::{BASH, import};

pub(crate) const TOKEN: &str = "token-of-a-tester-0123456789";

/// A hub that is installed in the cluster, with an app, `demo`, whose runs it starts.
pub(crate) struct Installed {
    forward: Forward,
    volume: Volume,
    helm: Helm,
    values: Value,
    home: tempfile::TempDir,
    // Last: its namespaces go when all else is gone.
    pub(crate) cluster: Cluster,
}

impl Installed {
    /// `None`, with a loud line, where there is no cluster or no Helm.
    pub(crate) fn new() -> Option<Self> {
        let cluster = Cluster::find()?;
        let (helm, archive) = (cluster.helm()?, image::archive()?);
        import(&archive);
        cluster.apply(&[app(&cluster)]);
        let volume = Volume::make(&cluster);
        let (repository, tag) = image::NAME.rsplit_once(':').expect("a tag");
        let values = json!({
            "image": {"repository": repository, "tag": tag},
            "kubernetes": {"namespaces": [cluster.apps]},
            "tokens": {"entries": [{"name": "tester", "role": "admin", "token": TOKEN}]},
            "persistence": {"existingClaim": volume.claim},
        });
        let request = json!({"name": cluster.release, "namespace": cluster.hub, "values": values, "wait": true});
        if let Err(refused) = helm.ask("install", request) {
            panic!("{refused}: {}", log(&cluster));
        }
        let forward = Forward::to(&cluster);
        let home = tempfile::tempdir().expect("a directory");
        Some(Self { forward, volume, helm, values, home, cluster })
    }

    /// Where the hub is, for those outside of the cluster.
    pub(crate) fn url(&self) -> String {
        self.forward.url()
    }

    /// A client, outside of the cluster.
    pub(crate) fn client(&self, token: &str, args: &[&str]) -> Command {
        let mut client = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        client.args(args).env("FOGHORN_URL", self.url()).env("FOGHORN_TOKEN", token);
        client.env("FOGHORN_HOME", self.home.path()).env_remove("KUBECONFIG");
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client
    }

    /// Runs a script in the app, as the holder of a token.
    fn run(&self, token: &str, script: &str) -> Output {
        self.client(token, &["run", "-a", "demo", "--", "sh", "-c", script]).output().expect("runs")
    }

    /// The hub's pods that run: name and uid.
    fn pods(&self) -> Vec<(String, String)> {
        let labels = format!("app.kubernetes.io/instance={}", self.cluster.release);
        let list = self.cluster.kubectl(&["get", "pods", "-n", &self.cluster.hub, "-l", &labels, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let pods = list["items"].as_array().expect("pods").iter();
        pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect()
    }

    /// Pods of runs that are there.
    pub(crate) fn run_pods(&self) -> Vec<String> {
        let names = self.cluster.kubectl(&["get", "pods", "-n", &self.cluster.apps, "-o", "name", "-l", "!tests/app"]);
        names.lines().map(str::to_owned).collect()
    }

    fn upgrade(&self, values: &Value) {
        let (name, namespace) = (&self.cluster.release, &self.cluster.hub);
        let request = json!({"name": name, "namespace": namespace, "values": values, "wait": true, "upgrade": true});
        self.helm.ask("install", request).unwrap_or_else(|refused| panic!("{refused}: {}", log(&self.cluster)));
    }

    /// Uninstalls it, and holds that nothing is left.
    pub(crate) fn uninstall(self) {
        until("the pods of runs are gone", || self.run_pods().is_empty().then_some(()));
        let request = json!({"name": self.cluster.release, "namespace": self.cluster.hub});
        self.helm.ask("uninstall", request).expect("uninstalls");
        until("the hub's pod is gone", || self.pods().is_empty().then_some(()));
        let labels = format!("app.kubernetes.io/instance={}", self.cluster.release);
        self.cluster.keeps(&labels, &[]);
        // Helm's own record of the release went too.
        self.cluster.keeps(&format!("owner=helm,name={}", self.cluster.release), &[]);
        self.volume.remove(&self.cluster);
    }
}

/// What the hub says, and what the cluster says of it.
fn log(cluster: &Cluster) -> String {
    let said = |args: &[&str]| {
        let output = cluster.kubectl_may(args, "");
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    let deployment = format!("deploy/{}", cluster.release);
    let hub = ["-n", &cluster.hub];
    let log = said(&[&["logs", "--tail=50", &deployment], &hub[..]].concat());
    let pods = said(&[&["get", "pods,events"], &hub[..]].concat());
    let apps = said(&["get", "pods,events", "-n", &cluster.apps]);
    format!("{log}\n{pods}\n{apps}")
}

/// The app: a Deployment as a platform would make it.
fn app(cluster: &Cluster) -> Value {
    let labels = json!({
        "app.kubernetes.io/instance": "demo", "app.kubernetes.io/component": "web", "tests/app": "demo",
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "demo-web", "namespace": cluster.apps, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "web", "image": BASH, "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "echo up; exec sleep 1000000"],
                        "env": [{"name": "GREETING", "value": "hello"}],
                    }],
                },
            },
        },
    })
}

/// A folder of a node as the hub's volume, so that it outlives pods on a cluster that has no storage to give.
struct Volume {
    claim: String,
    folder: String,
}

impl Volume {
    fn make(cluster: &Cluster) -> Self {
        let claim = format!("{}-state", cluster.release);
        let volume = Self { folder: format!("/var/tmp/{claim}"), claim };
        let labels = json!({"tests/of": cluster.release});
        let spec =
            |more: Value| crate::helm::over(&json!({"accessModes": ["ReadWriteOnce"], "storageClassName": ""}), &more);
        cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume.claim, "labels": labels},
                "spec": spec(json!({
                    "capacity": {"storage": "1Gi"},
                    "hostPath": {"path": volume.folder, "type": "DirectoryOrCreate"},
                    "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": volume.claim, "namespace": cluster.hub},
                })),
            }),
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": volume.claim, "namespace": cluster.hub},
                "spec": spec(json!({"resources": {"requests": {"storage": "1Gi"}}, "volumeName": volume.claim})),
            }),
        ]);
        volume.on_the_node(cluster, &format!("mkdir -p /host{0} && chown 65532:65532 /host{0}", volume.folder));
        volume
    }

    /// A script as root, with the node's files at /host.
    fn on_the_node(&self, cluster: &Cluster, script: &str) {
        let name = format!("{}-{}", self.claim, script.len());
        cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": cluster.hub},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "root", "image": BASH, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "host", "mountPath": "/host/var/tmp"}],
                }],
                "volumes": [{"name": "host", "hostPath": {"path": "/var/tmp"}}],
            },
        })]);
        until("the node's folder is ready", || {
            let args = ["get", "pod", &name, "-n", &cluster.hub, "-o", "jsonpath={.status.phase}"];
            match cluster.kubectl(&args).as_str() {
                "Succeeded" => Some(()),
                "Failed" => panic!("{script}: {}", cluster.kubectl(&["logs", &name, "-n", &cluster.hub])),
                _ => None,
            }
        });
        cluster.kubectl(&["delete", "pod", &name, "-n", &cluster.hub]);
    }

    fn remove(&self, cluster: &Cluster) {
        self.on_the_node(cluster, &format!("rm -rf /host{}", self.folder));
        cluster.kubectl(&["delete", "pvc", &self.claim, "-n", &cluster.hub]);
        cluster.kubectl(&["delete", "pv", &self.claim]);
    }
}

/// A port of this machine that leads to whichever hub runs: `kubectl port-forward`, begun again when its pod is gone.
struct Forward {
    port: u16,
    over: Arc<AtomicBool>,
    child: Arc<Mutex<Option<Child>>>,
    keeper: Option<JoinHandle<()>>,
}

impl Forward {
    fn to(cluster: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").port();
        let (target, ports) = (format!("deploy/{}", cluster.release), format!("{port}:7300"));
        let mut command = cluster.command(&["port-forward", "-n", &cluster.hub, &target, &ports]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (over, child) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<Child>)));
        let (is_over, holds) = (over.clone(), child.clone());
        let keeper = std::thread::spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                let mut held = holds.lock().unwrap_or_else(PoisonError::into_inner);
                let runs = held.as_mut().is_some_and(|child| child.try_wait().expect("waits").is_none());
                if !runs {
                    *held = Some(command.spawn().expect("kubectl"));
                }
                drop(held);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let forward = Self { port, over, child, keeper: Some(keeper) };
        until("the port leads to the hub", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        forward
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = self.keeper.take().map(JoinHandle::join);
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Holds that a client ended with this, and says everything where not.
fn ended(hub: &Installed, output: &Output, status: i32, stdout: &str) {
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let as_it_should = output.status.code() == Some(status) && said == stdout;
    assert!(as_it_should, "{:?}, {said:?}, {told}\n{}", output.status, log(&hub.cluster));
}

#[test]
fn a_hub_in_the_cluster_serves_a_run_survives_an_upgrade_and_leaves_nothing() {
    let Some(hub) = Installed::new() else { return };

    // From outside, with a token of the hub's own.
    let output = hub.run(TOKEN, "echo $GREETING; echo e >&2; exit 7");
    ended(&hub, &output, 7, "hello\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("e\n"));

    // The hub's pod is replaced while a run goes on: its client sees every line once, and the end.
    let before = hub.pods();
    let script = "i=0; while [ ! -e /tmp/over ]; do i=$((i + 1)); echo line $i; sleep 0.1; done; exit 9";
    let (out, err) = (hub.home.path().join("out"), hub.home.path().join("err"));
    let create = |path| std::fs::File::create(path).expect("creates");
    let mut client = hub.client(TOKEN, &["run", "-a", "demo", "--", "sh", "-c", script]);
    let mut client = client.stdout(create(&out)).stderr(create(&err)).spawn().expect("runs");
    let said = |path| std::fs::read_to_string(path).expect("reads");
    until("it has begun", || said(&out).contains("line 9\n").then_some(()));
    let mut values = hub.values.clone();
    values["podAnnotations"] = json!({"tests/upgraded": "yes"});
    hub.upgrade(&values);
    until("the pod of before is gone", || hub.pods().iter().all(|pod| !before.contains(pod)).then_some(()));
    let waits = client.try_wait().expect("waits").is_none();
    assert!(waits, "{} {}\n{}", said(&out), said(&err), log(&hub.cluster));
    let lines = said(&out).lines().count();
    until("it goes on", || (said(&out).lines().count() > lines).then_some(()));
    let pod = hub.run_pods().pop().expect("a pod");
    hub.cluster.kubectl(&["exec", "-n", &hub.cluster.apps, &pod, "-c", "web", "--", "touch", "/tmp/over"]);
    let status = client.wait().expect("waits");
    let lines = said(&out).lines().count();
    let output = Output { status, stdout: said(&out).into(), stderr: said(&err).into() };
    ended(&hub, &output, 9, &(1..=lines).map(|line| format!("line {line}\n")).collect::<String>());

    // What was recorded is still known to the next hub.
    let sessions = hub.client(TOKEN, &["sessions", "-a", "demo", "-o", "json"]).output().expect("runs");
    let sessions: Value = serde_json::from_slice(&sessions.stdout).expect("JSON");
    assert_eq!(sessions.as_array().map(Vec::len), Some(2), "{sessions}");

    hub.uninstall();
}

#[test]
fn a_token_of_the_cluster_has_the_rights_that_its_owner_has_there() {
    let Some(hub) = Installed::new() else { return };
    let role = |resources: &[&str], verb: &str| json!([{"apiGroups": [""], "resources": resources, "verbs": [verb]}]);
    let may_run = account(&hub.cluster, "may-run", &role(&["pods", "pods/exec"], "create"));
    let output = hub.run(&may_run, "echo $GREETING");
    ended(&hub, &output, 0, "hello\n");
    let may_read = account(&hub.cluster, "may-read", &role(&["pods/log"], "get"));
    for token in [&*may_read, "none-of-the-cluster"] {
        let output = hub.run(token, "echo $GREETING");
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    hub.uninstall();
}

/// A service account of the apps' namespace with these rules; its token.
pub(crate) fn account(cluster: &Cluster, name: &str, rules: &Value) -> String {
    let meta = json!({"name": name, "namespace": cluster.apps});
    let rbac = "rbac.authorization.k8s.io";
    cluster.apply(&[
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": meta, "rules": rules}),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": cluster.apps}],
        }),
    ]);
    // The cluster's judge hears of a rule some time after it was made.
    let of = format!("--as=system:serviceaccount:{}:{name}", cluster.apps);
    until("the account has its rights", || {
        cluster.kubectl(&["auth", "can-i", "--list", &of, "-n", &cluster.apps]).contains("pods").then_some(())
    });
    cluster.kubectl(&["create", "token", name, "-n", &cluster.apps]).trim().to_owned()
}
