//! A real Kubernetes for tests, with a namespace for each test.
//!
//! `FOGHORN_TEST_KUBECONFIG` is an administrator's kubeconfig, and `FOGHORN_TEST_IMAGE_IMPORT` a command that brings an
//! image to the nodes, which gets the path of its archive. Dropping it deletes the namespace.

use std::fs;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::proxy::{Proxy, Target};
use super::server::{DEADLINE, Server, until};

/// Images that the cluster has.
pub(crate) const BASH: &str = "docker.io/rig/bash:1";

/// See the module's documentation.
pub(crate) struct Cluster {
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The test's own namespace.
    pub(crate) namespace: String,
}

/// The administrator's kubeconfig; none, with a loud line, where there is no cluster.
pub(crate) fn kubeconfig() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FOGHORN_TEST_KUBECONFIG") {
        return Some(path.into());
    }
    assert!(std::env::var_os("FOGHORN_TEST_REQUIRE_CLUSTER").is_none(), "FOGHORN_TEST_KUBECONFIG is not set");
    let line = b"SKIPPED: no cluster; set FOGHORN_TEST_KUBECONFIG and FOGHORN_TEST_IMAGE_IMPORT\n";
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
    None
}

impl Cluster {
    /// A namespace of its own in the cluster, ready for pods; none where there is no cluster.
    pub(crate) async fn start() -> Option<Self> {
        let kubeconfig = kubeconfig()?;
        let namespace = format!("fh-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let cluster = Self { kubeconfig, namespace };
        cluster.kubectl(&["create", "namespace", &cluster.namespace]);
        let account = ["get", "serviceaccount", "default", "-o", "jsonpath={.secrets[0].name}{.metadata.uid}"];
        until("the namespace has its account", async || {
            cluster.try_kubectl(&account).ok().filter(|found| !found.is_empty())
        })
        .await;
        Some(cluster)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("-n").arg(&self.namespace).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// `kubectl` in the test's namespace: what it printed, or what it complained of.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().expect("kubectl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// `kubectl` that has to succeed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// Applies an object.
    pub(crate) fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), object.to_string()).expect("writes");
        self.kubectl(&["apply", "-f", &file.path().display().to_string()]);
    }

    /// An app with one process of type `web`, which prints a line a second, and a variable `GREETING`.
    pub(crate) fn deploy(&self, app: &str) {
        self.deploy_with(app, json!({}), json!({}));
    }

    /// The same, with fields of its pods' spec, and of its container, set or replaced.
    pub(crate) fn deploy_with(&self, app: &str, spec: Value, container: Value) {
        let labels = json!({ "app.kubernetes.io/instance": app, "app.kubernetes.io/component": "web" });
        self.deploy_labelled(&format!("{app}-web"), &labels, spec, container);
    }

    /// The same, as a Deployment of this name whose pods it knows by these labels.
    pub(crate) fn deploy_labelled(&self, name: &str, labels: &Value, spec: Value, container: Value) {
        let mut own = json!({
            "name": "web", "image": BASH, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 1 & wait $!; done"],
            "env": [{ "name": "GREETING", "value": "hello" }],
        });
        merge(&mut own, &container);
        let mut pod = json!({ "terminationGracePeriodSeconds": 1, "containers": [own] });
        merge(&mut pod, &spec);
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": pod },
            },
        }));
    }

    /// Settings of a hub with this cluster: what goes behind `[kubernetes]`, without the agent's image.
    pub(crate) fn settings(&self) -> String {
        format!("[kubernetes]\nkubeconfig = \"{}\"\nnamespace = \"{}\"\n", self.kubeconfig.display(), self.namespace)
    }

    /// The same, with the agent's image.
    pub(crate) fn settings_with_agent(&self) -> String {
        format!("{}image = \"{}\"\nimage_pull_policy = \"IfNotPresent\"\n", self.settings(), agent_image())
    }

    /// A way to the API server that fails on demand, and a kubeconfig for it.
    pub(crate) fn behind_a_proxy(&self) -> (Proxy, tempfile::NamedTempFile) {
        let text = fs::read_to_string(&self.kubeconfig).expect("a kubeconfig");
        let server = self.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let address = server.trim_start_matches("https://").to_socket_addrs().expect("an address").next();
        let proxy = Proxy::start(move || address.map(Target::Tcp));
        let file = tempfile::NamedTempFile::new().expect("a file");
        // The certificate is for the name, whatever the port is.
        let host = server.rsplit_once(':').expect("a port").0;
        fs::write(file.path(), text.replace(&server, &format!("{host}:{}", proxy.address().port()))).expect("writes");
        (proxy, file)
    }

    /// A hub that brings its agent.
    pub(crate) async fn hub(&self) -> Server {
        self.hub_with("").await
    }

    /// The same, with more settings: lines of `[kubernetes]`, then other tables.
    pub(crate) async fn hub_with(&self, more: &str) -> Server {
        let settings = format!("{}{more}", self.settings_with_agent());
        Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await
    }

    /// The pods of runs that there are, as JSON.
    pub(crate) fn runs(&self) -> Vec<Value> {
        let list = self.kubectl(&["get", "pods", "-l", "foghorn.dev/session", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Those that nobody has deleted. How soon a busy node lets go of a deleted one is its own.
    pub(crate) fn lasting_runs(&self) -> Vec<Value> {
        let mut runs = self.runs();
        runs.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        runs
    }

    /// Waits until there are so many that nobody has deleted.
    pub(crate) async fn has_runs(&self, count: usize) {
        let since = Instant::now();
        loop {
            let runs = self.lasting_runs();
            if runs.len() == count {
                return;
            }
            if since.elapsed() > DEADLINE {
                let of = |pod: &Value| json!([pod["metadata"]["name"], pod["status"]]);
                panic!("{} runs and not {count}: {:#}", runs.len(), Value::from_iter(runs.iter().map(of)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "namespace", &self.namespace, "--wait=false"]).output();
    }
}

fn merge(target: &mut Value, with: &Value) {
    for (name, value) in with.as_object().into_iter().flatten() {
        target[name] = value.clone();
    }
}

/// The agent's image, brought to the cluster once.
pub(crate) fn agent_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let agent = root.join("target-agent/foghorn-agent");
        if !agent.exists() {
            assert!(Command::new(root.join("scripts/agent")).status().expect("scripts/agent").success());
        }
        let dir = tempfile::tempdir().expect("a directory");
        let tag = format!("docker.io/foghorn/agent:{}", &hash(&fs::read(&agent).expect("an agent"))[..12]);
        let archive = archive(dir.path(), &agent, &tag);
        import(&archive);
        tag
    })
}

/// Brings an image's archive to the cluster's nodes.
pub(crate) fn import(archive: &Path) {
    let command = std::env::var("FOGHORN_TEST_IMAGE_IMPORT").expect("FOGHORN_TEST_IMAGE_IMPORT");
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).arg(archive).output().expect("imports");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An image with nothing but the agent, as an archive.
fn archive(dir: &Path, agent: &Path, tag: &str) -> PathBuf {
    let bin = dir.join("root/usr/local/bin");
    fs::create_dir_all(&bin).expect("a directory");
    fs::copy(agent, bin.join("foghorn-agent")).expect("copies");
    let tar = |args: &[&str]| {
        assert!(Command::new("tar").arg("-C").arg(dir).args(args).status().expect("tar").success());
    };
    tar(&["--owner=0", "--group=0", "-cf", &dir.join("layer.tar").display().to_string(), "-C", "root", "usr"]);
    let layer = hash(&fs::read(dir.join("layer.tar")).expect("a layer"));
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    fs::write(dir.join("config.json"), config.to_string()).expect("writes");
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"] }]);
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("writes");
    let archive = dir.join("image.tar");
    tar(&["-cf", &archive.display().to_string(), "manifest.json", "config.json", "layer.tar"]);
    archive
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
