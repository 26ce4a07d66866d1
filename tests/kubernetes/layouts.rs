//! Apps as platforms lay them out.

use serde_json::{Value, json};

use crate::home::{Home, eventually};
use crate::support::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_deis_is_listed_run_and_read() {
    let Some(cluster) = Cluster::start().await else { return };
    // An app has the namespace of its name there.
    let app = &*cluster.namespace;
    let deploys = |(name, app, process, heritage): (&str, &str, &str, &str), container: Value| {
        let labels = json!({ "app": app, "type": process, "version": "v3", "heritage": heritage });
        cluster.deploy_labelled(name, &labels, json!({}), container);
    };
    let asleep = json!({ "command": ["sleep", "1000"], "env": [{ "name": "GREETING", "value": "another" }] });
    deploys(("worker", app, "worker", "deis"), asleep);
    deploys(("web", app, "web", "deis"), json!({}));
    // Somebody else's with the same name, and an app in a namespace that is not its own.
    deploys(("strange", app, "cron", "helm"), json!({}));
    deploys(("misplaced", "misplaced", "web", "deis"), json!({}));
    let settings = cluster.settings_with_agent();
    let settings = settings.replace(&format!("namespace = \"{app}\"\n"), "layout = \"deis\"\n");
    let home = Home::with_settings(&format!("backend = \"kubernetes\"\n{settings}"));

    let apps = home.run(&["apps", "-o", "json"]);
    let apps: Vec<Value> = serde_json::from_slice(&apps.stdout).expect("JSON");
    let here: Vec<_> = apps.iter().filter(|found| found["namespace"] == app).collect();
    assert_eq!(here, [&json!({ "app": app, "namespace": app, "processes": { "web": 1, "worker": 1 } })]);

    let lines = eventually("the web process has its lines", || {
        let logs = home.run(&["logs", "-a", app, "-n", "3", "-o", "json"]).text();
        let lines: Vec<Value> = logs.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        (lines.len() == 3).then_some(lines)
    });
    for line in lines {
        let (process, message) =
            (line["process"].as_str().expect("a process"), line["message"].as_str().expect("text"));
        assert!(process.starts_with("web.") && message.starts_with("line "), "{line}");
    }

    let run = home.run(&["run", "-a", app, "--", "sh", "-c", "echo $GREETING"]);
    assert_eq!((run.status, run.text().as_str()), (0, "hello\n"), "{}", run.stderr);
    let missing = home.run(&["run", "-a", "misplaced", "--", "true"]);
    assert_eq!(missing.status, 125, "{}", missing.stderr);
    eventually("the pod is gone", || cluster.runs().is_empty().then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_made_from_the_process_the_object_and_the_container_that_are_named() {
    let Some(cluster) = Cluster::start().await else { return };
    let container = |name: &str| {
        json!({
            "name": name, "image": "docker.io/rig/bash:1", "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "1000"], "env": [{ "name": "WHO", "value": name }],
        })
    };
    for (app, process, containers) in [
        ("processes", "web", &["web"][..]),
        ("processes", "worker", &["worker"]),
        ("objects", "web", &["web"]),
        ("objects", "other", &["other"]),
        ("containers", "web", &["web", "side"]),
    ] {
        let labels = json!({ "app.kubernetes.io/instance": app, "app.kubernetes.io/component": process });
        let containers = containers.iter().map(|name| container(name)).collect::<Vec<_>>();
        let spec = json!({ "containers": containers });
        cluster.deploy_labelled(&format!("{app}-{process}"), &labels, spec, json!({}));
    }
    let settings = format!(
        "backend = \"kubernetes\"\n{}[apps.processes]\nprocess = \"worker\"\n[apps.objects]\nfrom = \"deploy/objects-other\"\n\
         [apps.containers]\ncontainer = \"side\"\n",
        cluster.settings_with_agent()
    );
    let home = Home::with_settings(&settings);
    for (options, who) in [
        (&["-a", "processes"][..], "worker"),
        (&["-a", "processes", "--from", "deploy/processes-web"], "web"),
        (&["-a", "objects"], "other"),
        (&["-a", "objects", "--from", "deploy/objects-web"], "web"),
        (&["-a", "containers"], "side"),
        (&["-a", "containers", "--container", "web"], "web"),
    ] {
        let run = home.run(&[&["run"], options, &["--", "sh", "-c", "echo $WHO"]].concat());
        assert_eq!((run.status, run.text().trim()), (0, who), "{options:?}: {}", run.stderr);
    }
    for (options, says) in [
        (&["-a", "containers", "--container", "none"][..], "none"),
        (&["-a", "containers", "--from", "deploy/objects-web"], "objects-web"),
    ] {
        let run = home.run(&[&["run"], options, &["--", "true"]].concat());
        assert!(run.status == 125 && run.stderr.contains(says), "{options:?}: {} {}", run.status, run.stderr);
    }
    eventually("the pods are gone", || cluster.runs().is_empty().then_some(()));
}
