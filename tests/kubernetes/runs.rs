//! Runs: each is a pod that is made as the app's own are.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::home::Home;
use crate::support::cluster::Cluster;
use crate::support::server::{Hello, until};
use crate::terminal::Terminal;

/// Within how long a pod is gone once its session has ended: 2 s, and 5 s where the machine has time; here tests of other
/// things start pods at the same time.
const GONE: Duration = Duration::from_secs(5);

/// A state folder whose hub works in this cluster.
fn home(cluster: &Cluster) -> Home {
    Home::with_settings(&format!("backend = \"kubernetes\"\n{}", cluster.settings_with_agent()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_the_apps_environment_streams_apart_and_its_status() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let home = home(&cluster);
    let script = "echo $GREETING; echo e >&2; exit 7";
    let mut gone = Vec::new();
    // A hub that lets pods lie is never in time; a kubelet that is busy with others is, the next time or the one after.
    while gone.last().is_none_or(|after| *after >= GONE) {
        assert!(gone.len() < 3, "pods are gone after {gone:?}");
        let ended = home.run(&["run", "-a", "demo", "--", "sh", "-c", script]);
        assert_eq!((ended.status, ended.text().as_str()), (7, "hello\n"), "{}", ended.stderr);
        assert_eq!(ended.command_stderr(), ["e"]);
        let since = Instant::now();
        until("the pod is gone", async || cluster.runs().is_empty().then_some(())).await;
        gone.push(since.elapsed());
    }
    println!("pods are gone after {gone:?}");

    let counted = home.run_with(&["run", "-a", "demo", "--", "wc", "-l"], b"a\nb\n");
    assert_eq!((counted.status, counted.text().trim()), (0, "2"), "{}", counted.stderr);

    let named = home.run(&["run", "-a", "demo", "-e", "A=b c", "--", "sh", "-c", "echo $A; pwd; id -u"]);
    assert_eq!(named.text(), "b c\n/\n0\n", "{}", named.stderr);
    let missing = home.run(&["run", "-a", "demo", "--", "no-such-program"]);
    assert_eq!(missing.status, 127, "{}", missing.stderr);

    let apps = home.run(&["apps", "-o", "json"]);
    let expected = json!([{ "app": "demo", "namespace": cluster.namespace, "processes": { "web": 1 } }]);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&apps.stdout).expect("JSON"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_ones_own_is_of_the_context_that_it_was_started_with() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    // Neither the kubeconfig nor the namespace is in its settings.
    let settings = cluster.settings_with_agent();
    let own = settings.lines().filter(|line| !line.starts_with("kubeconfig") && !line.starts_with("namespace"));
    let home = Home::with_settings(&own.map(|line| format!("{line}\n")).collect::<String>());
    let use_namespace = |namespace: &str| {
        let config = cluster.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"]);
        let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
        config["contexts"][0]["context"]["namespace"] = namespace.into();
        std::fs::write(home.path().join("config"), config.to_string()).expect("writes");
    };
    let run = || {
        let mut command = home.command(&["run", "-a", "demo", "-n", "--", "sh", "-c", "echo $GREETING"]);
        // As a person writes it: from where he works.
        command.env("KUBECONFIG", "config").env("FOGHORN_BACKEND", "kubernetes");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        crate::home::finish(command.spawn().expect("starts"))
    };
    use_namespace(&cluster.namespace);
    let ended = run();
    assert_eq!((ended.status, ended.text().as_str()), (0, "hello\n"), "{}", ended.stderr);
    use_namespace("fh-elsewhere");
    let refused = run();
    assert_ne!(refused.status, 0);
    for word in ["fh-elsewhere", &cluster.namespace, "foghorn server stop"] {
        assert!(refused.stderr.contains(word), "no {word} in {}", refused.stderr);
    }
    use_namespace(&cluster.namespace);
    assert_eq!(run().status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_runs_ten_at_a_time_lose_no_output_and_no_status() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let home = Arc::new(home(&cluster));
    home.run(&["sessions"]);
    let workers: Vec<_> = (0..10)
        .map(|worker| {
            let home = home.clone();
            std::thread::spawn(move || {
                for turn in 0..5 {
                    let status = worker * 5 + turn;
                    let script = format!("seq 1 1000; echo of {status}; exit {status}");
                    let mut child = home.spawn(&["run", "-a", "demo", "-n", "--", "sh", "-c", &script]);
                    drop(child.stdin.take());
                    let ended = crate::home::finish(child);
                    let expected: String = (1..=1000).map(|line| format!("{line}\n")).collect();
                    assert_eq!(ended.status, status, "{}", ended.stderr);
                    assert!(ended.text() == format!("{expected}of {status}\n"), "{}", ended.text().len());
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("all runs are right"));
    cluster.has_runs(0).await;
}

/// Tries a shell whose prompt is there, at a terminal of 90 columns and 30 rows: its size, keys that signal, and its jobs.
pub(crate) fn is_a_shell(terminal: &mut Terminal) {
    terminal.press("stty size\r");
    terminal.sees("30 90");
    terminal.resize(100, 40);
    terminal.press("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo re''sized\r");
    terminal.sees("resized");
    // What says so is in the foreground then.
    let waits = "sh -c 'echo rea''dy; exec sleep 1000'\r";
    terminal.press(waits);
    terminal.sees("ready");
    terminal.press("\u{3}");
    terminal.sees("^C");
    terminal.press(waits);
    terminal.sees("ready");
    terminal.press("\u{1a}");
    terminal.sees("Stopped");
    terminal.press("bg; jobs\r");
    terminal.sees("Running");
    terminal.press("kill %1; exit 3\r");
    assert_eq!(terminal.ends(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_in_a_terminal_is_a_shell() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let home = home(&cluster);
    let args = ["run", "-a", "demo", "-e", "PS1=at $ ", "bash", "--norc", "--noprofile"];
    let mut terminal = Terminal::start(&home, &args, (90, 30));
    terminal.sees("at $ ");
    let watchers: Vec<_> = (0..3).map(|_| home.spawn(&["logs", "-f", "-s", "run.1"])).collect();
    is_a_shell(&mut terminal);
    let seen: Vec<_> = watchers.into_iter().map(|watcher| crate::home::finish(watcher).stdout).collect();
    let recorded = home.run(&["export", "run.1", "--format", "raw"]).stdout;
    assert!(!recorded.is_empty() && seen.iter().all(|seen| *seen == recorded), "{seen:?}");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn twenty_megabytes_are_the_same_for_all() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    let script = "sleep 1; head -c 20000000 /dev/urandom | tee /tmp/all; sha256sum /tmp/all >&2";
    let started = hub.run(&["sh", "-c", script], json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id");
    let mut viewers = vec![hub.attach(id, Hello::watch()).await, hub.attach(id, Hello::watch()).await];
    for viewer in &mut viewers {
        viewer.rest().await;
    }
    assert_eq!(hub.ended(id).await["exit_status"], 0);
    let recorded = hub.output(id, false).await;
    for bytes in viewers.iter().map(|viewer| &viewer.output[..]).chain([&recorded[..]]) {
        assert!(bytes.len() > 20_000_000, "{}", bytes.len());
        let (data, said) = bytes.split_at(20_000_000);
        let hash: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(String::from_utf8_lossy(said).starts_with(&hash), "{hash}");
    }
}

#[tokio::test]
async fn a_hub_that_is_killed_costs_no_line() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    let script = "for i in $(seq 0 399); do seq $((i*1000+1)) $(((i+1)*1000)); sleep 0.03; done";
    let started = hub.run(&["sh", "-c", script], json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let expected: Vec<u8> = (1..=400_000).flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let mut output = Vec::new();
    for _ in 0..2 {
        let mut viewer = hub.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::watch() }).await;
        viewer.gets(200_000).await;
        hub.kill();
        viewer.rest().await;
        output.extend_from_slice(&viewer.output);
        hub.again().await;
    }
    let mut viewer = hub.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::watch() }).await;
    viewer.rest().await;
    output.extend_from_slice(&viewer.output);
    assert!(output == expected && viewer.gaps.is_empty(), "{} of {}", output.len(), expected.len());
    assert_eq!(hub.ended(&id).await["exit_status"], 0);
    assert!(hub.output(&id, false).await == expected, "the journal");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_run_is_no_servers_and_goes_with_its_app() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "demo" },
        "spec": { "selector": { "app.kubernetes.io/instance": "demo" }, "ports": [{ "port": 80 }] },
    }));
    let mut hub = cluster.hub().await;
    let started = hub.run(&["sh", "-c", "echo hi; sleep 600"], json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    // Whoever collects the logs of pods has those of runs.
    let logs = ["logs", "-l", "foghorn.dev/session"];
    until("kubectl has its output", async || (cluster.try_kubectl(&logs).ok()? == "hi\n").then_some(())).await;
    let run = cluster.runs().remove(0);
    let name = run["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("demo-run-"), "{name}");
    assert_eq!(run["metadata"]["annotations"]["foghorn.dev/owner"], "tester");
    assert_eq!(run["metadata"]["labels"]["foghorn.dev/app"], "demo");
    assert_eq!(run["metadata"]["labels"]["foghorn.dev/session"], json!(id));
    // Neither the ReplicaSet nor the Service has it.
    assert_eq!(run["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    let address = run["status"]["podIP"].as_str().expect("an address");
    assert!(!cluster.kubectl(&["get", "endpoints", "demo", "-o", "json"]).contains(address));
    let drained = cluster.try_kubectl(&[
        "drain",
        "--dry-run=client",
        &format!("--pod-selector=foghorn.dev/session={id}"),
        "--delete-emptydir-data",
        run["spec"]["nodeName"].as_str().expect("a node"),
    ]);
    assert!(drained.is_ok(), "{drained:?}");

    cluster.kubectl(&["delete", "deployment", "demo-web", "--wait=false"]);
    let ended = hub.ended(&id).await;
    assert_eq!((&ended["exit"]["cause"], &ended["exit_status"]), (&json!("evicted"), &json!(125)), "{ended}");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn labels_that_would_make_a_run_a_server_are_refused() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "all-of-demo" },
        "spec": { "selector": { "app.kubernetes.io/instance": "demo" }, "ports": [{ "port": 80 }] },
    }));
    for (labels, word) in [
        (r#"["app.kubernetes.io/instance", "app.kubernetes.io/component"]"#, "demo-web selects"),
        (r#"["app.kubernetes.io/instance"]"#, "Service all-of-demo"),
    ] {
        let settings = format!("{}keep_labels = {labels}\n", cluster.settings_with_agent());
        let mut hub = crate::support::server::Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
        let started = hub.run(&["true"], json!({ "app": "demo", "detached": true })).await;
        let ended = hub.ended(started["id"].as_str().expect("an id")).await;
        let text = ended["exit_text"].as_str().expect("a sentence");
        assert!(text.contains(word) && text.contains("keep fewer labels"), "{text}");
        assert!(cluster.runs().is_empty());
    }
}

#[tokio::test]
async fn a_run_is_started_by_its_images_launcher_beside_the_containers_that_are_kept() {
    let Some(cluster) = Cluster::start().await else { return };
    let launcher = "#!/bin/sh\nexport BY=the-launcher\nexec \"$@\"\n";
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "launcher" }, "data": { "launcher": launcher },
    }));
    let (image, never) = ("docker.io/rig/bash:1", "IfNotPresent");
    let pod = json!({
        "containers": [
            {
                "name": "web", "image": image, "imagePullPolicy": never, "command": ["sleep", "1000"],
                "volumeMounts": [{ "name": "launcher", "mountPath": "/cnb/lifecycle" }],
            },
            { "name": "proxy", "image": image, "imagePullPolicy": never, "command": ["sleep", "1000"] },
            { "name": "exporter", "image": image, "imagePullPolicy": never, "command": ["sleep", "1000"] },
        ],
        "volumes": [{ "name": "launcher", "configMap": { "name": "launcher", "defaultMode": 493 } }],
    });
    cluster.deploy_with("built", pod, json!({}));
    let settings = format!("{}[apps.built]\nkeep_containers = [\"proxy\"]\n", cluster.settings_with_agent());
    let mut hub = crate::support::server::Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    for (launcher, says) in [(true, "by the-launcher\n"), (false, "by nobody\n")] {
        let script = "echo by ${BY:-nobody}; sleep 1";
        let source = json!({ "app": "built", "detached": true, "launcher": launcher });
        let started = hub.run(&["sh", "-c", script], source).await;
        let run = cluster.runs().remove(0);
        let names: Vec<_> = run["spec"]["containers"].as_array().expect("containers").iter().collect();
        assert_eq!(names.iter().map(|own| own["name"].as_str().expect("a name")).collect::<Vec<_>>(), ["web", "proxy"]);
        let id = started["id"].as_str().expect("an id");
        assert_eq!(hub.ended(id).await["exit_status"], 0);
        assert_eq!(hub.output(id, false).await, says);
        // What stands beside the command does not hold up its end.
        cluster.has_runs(0).await;
    }
}
