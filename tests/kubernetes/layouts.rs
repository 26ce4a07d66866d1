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
