//! A kubeconfig and nothing else: no settings, no image with the agent, nothing of ours in the cluster.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::home::Home;
use crate::runs::is_a_shell;
use crate::support::cluster::Cluster;
use crate::terminal::Terminal;

/// A person's home: a kubeconfig whose context has a plugin for the token of an account that may edit the namespace.
fn home(cluster: &Cluster) -> (Home, String) {
    let home = Home::new();
    let token = cluster.kubectl(&["create", "token", "dev"]);
    let plugin = home.path().join("plugin");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": { "token": token.trim() },
    });
    std::fs::write(&plugin, format!("#!/bin/sh\necho '{credential}'\n")).expect("writes");
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("may");
    let config = cluster.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "args": [], "interactiveMode": "Never",
    });
    config["users"] = json!([{ "name": "dev", "user": { "exec": exec } }]);
    config["contexts"][0]["context"]["user"] = "dev".into();
    config["contexts"][0]["context"]["namespace"] = cluster.namespace.as_str().into();
    let path = home.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("writes");
    (home, path.display().to_string())
}

fn cluster_with_account(cluster: &Cluster) {
    cluster.deploy("demo");
    cluster.kubectl(&["create", "serviceaccount", "dev"]);
    let account = format!("--serviceaccount={}:dev", cluster.namespace);
    cluster.kubectl(&["create", "rolebinding", "dev", "--clusterrole=edit", &account]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_alone_gives_a_shell() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster_with_account(&cluster);
    let (home, kubeconfig) = home(&cluster);
    let args = ["run", "-a", "demo", "-e", "PS1=at $ ", "bash", "--norc", "--noprofile"];
    let env = [("KUBECONFIG", &*kubeconfig), ("FOGHORN_BACKEND", "kubernetes")];
    let mut terminal = Terminal::start_with(&home, &args, (90, 30), &env);
    // Nothing was typed.
    terminal.sees("at $ ");
    terminal.press("echo $GREETING\r");
    terminal.sees("hello");
    is_a_shell(&mut terminal);
    cluster.has_runs(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_says_that_its_app_is_in_the_cluster() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster_with_account(&cluster);
    let (home, kubeconfig) = home(&cluster);
    std::fs::write(home.path().join(".foghorn.toml"), "app = \"demo\"\nbackend = \"kubernetes\"\n").expect("writes");
    let run = |args: &[&str], input: &[u8]| {
        let mut command = home.command(args);
        command.env("KUBECONFIG", &kubeconfig).env_remove("FOGHORN_APP");
        let file = home.path().join("input");
        std::fs::write(&file, input).expect("writes");
        command.stdin(std::fs::File::open(&file).expect("opens"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        crate::home::finish(command.spawn().expect("starts"))
    };
    // The end of an input may break the connection, and the log, which has what follows, does not tell stderr from stdout.
    let ended = run(&["run", "--", "sh", "-c", "read x; echo $x $GREETING; exit 7"], b"go\n");
    assert_eq!((ended.status, ended.text().as_str()), (7, "go hello\n"), "{}", ended.stderr);
    let counted = run(&["run", "--", "wc", "-l"], b"a\nb\n");
    assert_eq!((counted.status, counted.text().trim()), (0, "2"), "{}", counted.stderr);
    let log = run(&["logs", "-n", "100"], b"");
    assert_eq!(log.status, 0, "{}", log.stderr);
    let text = log.text();
    assert!(text.contains("app[run.1]: go hello") && text.contains("Process exited with status 7"), "{text}");
    cluster.has_runs(0).await;
}
