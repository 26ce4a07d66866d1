//! Starts in places that are small, strict, or not there: each has its right end, within seconds, and leaves nothing.

use std::time::{Duration, Instant};

use foghorn::protocol::{ClientMessage, HubMessage};
use serde_json::{Value, json};

use crate::standard::violations;
use crate::support::cluster::{BASH, Cluster, agent_image};
use crate::support::server::{Hello, Server, until};

/// Within how long a start that cannot be is known to have failed; a pod's start on a busy machine is in it.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Runs a command of an app to its end.
pub(crate) async fn run(hub: &mut Server, app: &str, command: &[&str]) -> Value {
    let started = hub.run(command, json!({ "app": app, "detached": true })).await;
    hub.ended(started["id"].as_str().expect("an id")).await
}

/// The end says this, and nothing is left.
pub(crate) async fn is(cluster: &Cluster, ended: &Value, status: i64, words: &[&str]) {
    let text = ended["exit_text"].as_str().expect("a sentence");
    assert_eq!(ended["exit_status"], status, "{text}");
    words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_run_needs_no_shell_no_root_and_no_writable_files() {
    let Some(cluster) = Cluster::start().await else { return };
    // An image with one program and nothing else.
    let image = agent_image();
    cluster.deploy_with("bare", json!({}), json!({
        "image": image, "command": ["/usr/local/bin/foghorn-agent", "serve", "--dir", "/x", "--session", "x", "--pod", ""],
    }));
    let restricted = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
    });
    let pod = json!({
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 1234, "runAsGroup": 1234, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [{
            "name": "web", "image": "docker.io/rig/bash:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"],
            "securityContext": restricted,
        }],
    });
    cluster.deploy_with("strict", pod, json!({}));
    let mut hub = cluster.hub().await;
    let bare = run(&mut hub, "bare", &["/usr/local/bin/foghorn-agent"]).await;
    is(&cluster, &bare, 2, &[]).await;
    let missing = run(&mut hub, "bare", &["sh"]).await;
    is(&cluster, &missing, 127, &["command not found"]).await;
    let strict = run(&mut hub, "strict", &["sh", "-c", "id -u; touch /x || exit 9"]).await;
    is(&cluster, &strict, 9, &[]).await;
    assert!(hub.output(strict["id"].as_str().expect("an id"), false).await.starts_with(b"1234\n"));
    // All of the pod, with what brings the agent, is as restricted as the app's own.
    let started = hub.run(&["sleep", "600"], json!({ "app": "strict", "detached": true })).await;
    cluster.has_runs(1).await;
    assert_eq!(violations(&cluster.lasting_runs()[0]["spec"]), [""; 0]);
    hub.ask("DELETE", &format!("/v1/sessions/{}", started["id"].as_str().expect("an id")), None).await;
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_quota_of_cpu_and_memory_has_room_for_a_run() {
    let Some(cluster) = Cluster::start().await else { return };
    let amounts = json!({ "cpu": "100m", "memory": "64Mi" });
    cluster.deploy_with("sized", json!({}), json!({ "resources": { "requests": amounts, "limits": amounts } }));
    // It takes no pod with a container that does not say what it needs.
    let hard = json!({ "requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "1", "limits.memory": "1Gi" });
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "amounts" }, "spec": { "hard": hard },
    }));
    let silent = ["run", "probe", "--image=none", "--dry-run=server"];
    until("the quota holds", async || cluster.try_kubectl(&silent).err()?.contains("amounts").then_some(())).await;
    let mut hub = cluster.hub().await;
    // Many at a time: each changes how much of the quota is used.
    let mut ids = Vec::new();
    for _ in 0..5 {
        let started = hub.run(&["sh", "-c", "exit 4"], json!({ "app": "sized", "detached": true })).await;
        ids.push(started["id"].as_str().expect("an id").to_owned());
    }
    for id in ids {
        is(&cluster, &hub.ended(&id).await, 4, &[]).await;
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why_within_seconds() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    cluster.deploy_with("missing", json!({}), json!({ "image": "docker.io/rig/no-such-image:1" }));
    cluster.deploy_with("huge", json!({}), json!({ "resources": { "requests": { "cpu": "5000" } } }));
    cluster.deploy_with("secret", json!({}), json!({ "envFrom": [{ "secretRef": { "name": "not-there" } }] }));
    let mut hub = cluster.hub().await;
    for (app, words) in [
        ("missing", &["no-such-image", "Image"][..]),
        ("huge", &["no node has room", "cpu"]),
        ("secret", &["not-there"]),
        ("nobody", &["has no Deployment"]),
    ] {
        let since = Instant::now();
        let ended = run(&mut hub, app, &["true"]).await;
        assert!(since.elapsed() < SOON, "{app}: {:?}", since.elapsed());
        is(&cluster, &ended, 125, words).await;
    }
    for (with, words) in [
        (json!({ "from": "deploy/huge-web" }), &["does not belong to the app demo"][..]),
        (json!({ "from": "deploy/none" }), &["not found"]),
        (json!({ "container": "none" }), &["no container none", "web"]),
        (json!({ "memory": "much" }), &["not a quantity"]),
    ] {
        let mut source = json!({ "app": "demo", "detached": true });
        with.as_object().into_iter().flatten().for_each(|(name, value)| source[name] = value.clone());
        let started = hub.run(&["true"], source).await;
        let ended = hub.ended(started["id"].as_str().expect("an id")).await;
        is(&cluster, &ended, 125, words).await;
    }
}

#[tokio::test]
async fn a_quota_a_missing_namespace_and_a_reserved_one_are_told_of() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let apps = "[apps.away]\nnamespace = \"fh-not-there\"\n[apps.system]\nnamespace = \"kube-system\"\n";
    let settings = format!("{}{apps}", cluster.settings_with_agent());
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    until("the app has its pod", async || {
        cluster.kubectl(&["get", "pods", "-o", "name"]).contains("demo-web").then_some(())
    })
    .await;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "none-more" },
        "spec": { "hard": { "pods": "1" } },
    }));
    // It holds once the cluster has counted.
    let counted = ["get", "resourcequota", "none-more", "-o", "jsonpath={.status.used.pods}"];
    until("the cluster counts", async || (cluster.kubectl(&counted) == "1").then_some(())).await;
    let ended = run(&mut hub, "demo", &["true"]).await;
    is(&cluster, &ended, 125, &["exceeded quota", "none-more"]).await;
    let ended = run(&mut hub, "away", &["true"]).await;
    is(&cluster, &ended, 125, &["fh-not-there"]).await;
    for (app, words) in [("system", "not for apps"), ("No_Such", "lower-case")] {
        let source = json!({ "kind": "run", "app": app, "command": ["true"] });
        let (status, problem) = hub.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{problem}");
        assert!(problem["detail"].as_str().expect("text").contains(words), "{problem}");
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_while_it_starts_leaves_nothing() {
    let Some(cluster) = Cluster::start().await else { return };
    // Nobody looks for a node for it: it would wait for ever.
    cluster.deploy_with("slow", json!({ "schedulerName": "nobody" }), json!({}));
    let mut hub = cluster.hub().await;
    let source = json!({ "kind": "run", "app": "slow", "command": ["true"], "detached": true, "idempotency_key": "k" });
    let body = json!({ "source": source });
    let starting = hub.ask("POST", "/v1/sessions", Some(body));
    let stop = async {
        until("the pod is made", async || (!cluster.runs().is_empty()).then_some(())).await;
        assert_eq!(hub.ask("DELETE", "/v1/sessions/run.1", None).await.0, 202);
    };
    let ((status, started), ()) = tokio::join!(starting, stop);
    assert_eq!(status, 201, "{started}");
    let ended = hub.ended(started["id"].as_str().expect("an id")).await;
    is(&cluster, &ended, 143, &["stopped by tester"]).await;
    // By who holds it, and, once another hub has taken it up, by whoever may.
    for killed in [false, true] {
        let started = hub.run(&["true"], json!({ "app": "slow" })).await;
        let id = started["id"].as_str().expect("an id").to_owned();
        if killed {
            hub.kill();
            hub.again().await;
        }
        let mut driver = hub.attach(&id, Hello::drive(1)).await;
        driver.say(&ClientMessage::Stop).await;
        driver.rest().await;
        let ended = hub.ended(&id).await;
        is(&cluster, &ended, 143, &["stopped by tester"]).await;
    }
    hub.terminate().await;
}

/// What the cluster says of a pod that is like a run's; nothing is made.
fn probe(cluster: &Cluster) -> Result<String, String> {
    let container = json!({ "name": "probe", "image": "none", "resources": { "limits": { "cpu": "1" } } });
    let overrides = json!({ "apiVersion": "v1", "spec": { "containers": [container] } });
    let overrides = format!("--overrides={overrides}");
    let labels = "--labels=foghorn.dev/session=probe";
    cluster.try_kubectl(&["run", "probe", "--image=none", labels, "--dry-run=server", &overrides])
}

/// Waits until the cluster refuses a run's pod with these words: it hears of a rule some time after it was made.
async fn refuses(cluster: &Cluster, words: &str) {
    until(words, async || probe(cluster).err()?.contains(words).then_some(())).await;
}

/// The end says this, within seconds, and nothing is left.
async fn is_soon(cluster: &Cluster, hub: &mut Server, app: &str, words: &[&str]) {
    let since = Instant::now();
    let ended = run(hub, app, &["true"]).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert_eq!(ended["exit"]["cause"], "start_failed", "{ended}");
    is(cluster, &ended, 125, words).await;
}

#[tokio::test]
async fn an_admission_that_refuses_is_told_of_in_its_own_words() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "small" },
        "spec": { "limits": [{ "type": "Container", "max": { "cpu": "10m" } }] },
    }));
    refuses(&cluster, "maximum cpu usage per Container is 10m").await;
    is_soon(&cluster, &mut hub, "demo", &["forbidden", "maximum cpu usage per Container is 10m"]).await;
    cluster.kubectl(&["delete", "limitrange", "small"]);
    // Its connections come to be, and nobody reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    for port in [1, silent.local_addr().expect("an address").port()] {
        let _webhook = Webhook::at(&cluster, port);
        refuses(&cluster, "nobody.foghorn.dev").await;
        is_soon(&cluster, &mut hub, "demo", &["failed calling webhook", "nobody.foghorn.dev"]).await;
    }
    until("the rules are gone", async || probe(&cluster).ok()).await;
    is(&cluster, &run(&mut hub, "demo", &["true"]).await, 0, &[]).await;
}

/// A webhook that has to be asked whether a run's pod may be, and that nobody answers.
struct Webhook<'a>(&'a Cluster);

impl<'a> Webhook<'a> {
    fn at(cluster: &'a Cluster, port: u16) -> Self {
        let name = &cluster.namespace;
        cluster.kubectl(&["label", "--overwrite", "namespace", name, &format!("foghorn-test={name}")]);
        cluster.apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": name },
            "webhooks": [{
                "name": "nobody.foghorn.dev", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 10,
                "admissionReviewVersions": ["v1"], "clientConfig": { "url": format!("https://127.0.0.1:{port}/") },
                "namespaceSelector": { "matchLabels": { "foghorn-test": name } },
                "objectSelector": { "matchExpressions": [{ "key": "foghorn.dev/session", "operator": "Exists" }] },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }],
            }],
        }));
        Self(cluster)
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_kubectl(&["delete", "validatingwebhookconfiguration", &self.0.namespace]);
    }
}

#[tokio::test]
async fn a_start_is_told_as_it_goes_on() {
    let Some(cluster) = Cluster::start().await else { return };
    let init = json!({
        "name": "slow", "image": BASH, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "sleep 8"],
    });
    cluster.deploy_with("demo", json!({ "initContainers": [init] }), json!({}));
    let mut hub = cluster.hub_with("[apps.demo]\nkeep_containers = [\"slow\"]\n").await;
    let started = hub.run(&["sh", "-c", "sleep 1; echo up"], json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id");
    let mut viewer = hub.attach(id, Hello::watch()).await;
    let tells = |message: &HubMessage| matches!(message, HubMessage::Notice { text, .. } if text.contains("Successfully assigned"));
    viewer.hears(tells).await;
    let is_up =
        |message: &HubMessage| matches!(message, HubMessage::Notice { text, .. } if text.starts_with("up, run."));
    viewer.hears(is_up).await;
    viewer.rest().await;
    assert_eq!(viewer.output, b"up\n");
    assert_eq!(hub.ended(id).await["exit_status"], 0);
}

#[tokio::test]
async fn an_init_container_that_fails_is_named() {
    let Some(cluster) = Cluster::start().await else { return };
    let init = json!({
        "name": "migrate", "image": BASH, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "exit 3"],
    });
    cluster.deploy_with("demo", json!({ "initContainers": [init] }), json!({}));
    let mut hub = cluster.hub_with("[apps.demo]\nkeep_containers = [\"migrate\"]\n").await;
    is_soon(&cluster, &mut hub, "demo", &["migrate ended with status 3"]).await;
}
