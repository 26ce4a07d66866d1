//! `foghorn login`: the token of a kubeconfig's context, and what is remembered of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;

use super::webhook::{TOKENS, hub};
use super::*;
use crate::support::authorizer::Authorizer;
use crate::support::doors::start;
use crate::support::program::Program;

const RIA: &str = TOKENS[3];
const ROB: &str = TOKENS[4];

/// A person at a machine: a folder with a kubeconfig, and a hub that knows them.
struct Person {
    dir: tempfile::TempDir,
    server: Server,
    authorizer: Authorizer,
}

impl Person {
    async fn new() -> Self {
        let (server, authorizer) = hub("blog", "", &[]).await;
        let person = Self { dir: tempfile::tempdir().expect("a directory"), server, authorizer };
        fs::write(person.path("token"), format!("{RIA}\n")).expect("writes");
        let script = format!(
            "#!/bin/sh\necho $KUBERNETES_EXEC_INFO >> {}\necho '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \
             \"kind\": \"ExecCredential\", \"status\": {{\"token\": \"'$(cat {})'\"}}}}'\n",
            person.path("asked").display(),
            person.path("token").display()
        );
        person.script("plugin", &script);
        person.script("broken", &format!("#!/bin/sh\necho {RIA}\necho it cannot >&2\nexit 3\n"));
        person.kubeconfig();
        person
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writes");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("may");
    }

    fn kubeconfig(&self) {
        let exec = |script: &str| {
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": self.path(script),
                "interactiveMode": "IfAvailable"}})
        };
        let users = [
            ("inline", json!({"token": RIA})),
            // As kubectl has it, relative to the kubeconfig.
            ("file", json!({"tokenFile": "token"})),
            ("plugin", exec("plugin")),
            ("broken", exec("broken")),
            ("certificate", json!({"client-certificate-data": "eA==", "client-key-data": "eA=="})),
            ("nothing", json!({})),
        ];
        let named = |(name, user): &(&str, Value)| json!({"name": name, "user": user});
        let context = |(name, _): &(&str, Value)| json!({"name": name, "context": {"cluster": "c", "user": name}});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "inline",
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": users.iter().map(named).collect::<Vec<_>>(),
            "contexts": users.iter().map(context).collect::<Vec<_>>(),
        });
        fs::write(self.path("config"), config.to_string()).expect("writes");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.args(args).env("FOGHORN_URL", self.server.url()).env("FOGHORN_HOME", self.path("state"));
        command.env("KUBECONFIG", self.path("config")).env_remove("FOGHORN_TOKEN").current_dir(self.dir.path());
        command
    }

    fn foghorn(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("runs")
    }

    fn logins(&self) -> PathBuf {
        self.path("state").join("logins.json")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).expect("reads").contains(text)
}

// The authorizer answers while a program is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_remembers_where_the_token_comes_from_and_never_the_token() {
    let person = Person::new().await;
    start(&person.server, "blog", RIA).await;
    assert_eq!(person.foghorn(&["sessions"]).status.code(), Some(1), "nobody is logged in");
    for context in ["inline", "file", "plugin"] {
        let output = person.foghorn(&["login", "--context", context]);
        assert!(output.status.success(), "{context}: {}", said(&output));
        assert!(said(&output).contains(context) && !said(&output).contains(RIA));
        assert_eq!(fs::metadata(person.logins()).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(!has(&person.logins(), RIA) && has(&person.logins(), context));
        let output = person.foghorn(&["sessions", "-o", "json"]);
        assert!(output.status.success(), "{context}: {}", said(&output));
        let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{context}");
    }
    // A command's plugin may not take what is typed for it; `login` is there to be spoken with.
    let asked = fs::read_to_string(person.path("asked")).expect("reads");
    let interactive: Vec<bool> = asked.lines().map(|line| line.contains("\"interactive\":true")).collect();
    assert_eq!(interactive, [true, false]);
    // The current context, where none is named.
    assert!(person.foghorn(&["login"]).status.success());
    assert!(has(&person.logins(), "inline"));
    stop_all(&person.server).await;
}

// The authorizer answers while a program is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_without_a_token_is_refused_with_the_way_out() {
    let person = Person::new().await;
    for (context, words) in [
        ("certificate", "kubectl create token"),
        ("nothing", "has no token"),
        ("broken", "it cannot"),
        ("elsewhere", "kubeconfig"),
    ] {
        let output = person.foghorn(&["login", "--context", context]);
        assert_eq!(output.status.code(), Some(2), "{context}: {}", said(&output));
        assert!(said(&output).contains(words), "{context}: {}", said(&output));
        assert!(!said(&output).contains(RIA), "{context}: {}", said(&output));
    }
    person.authorizer.mind().people.clear();
    let output = person.foghorn(&["login", "--context", "inline"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("does not know"), "{}", said(&output));
    assert!(!person.logins().exists());
    let mut elsewhere = person.command(&["login"]);
    let output = elsewhere.env_remove("FOGHORN_URL").output().expect("runs");
    assert_eq!((output.status.code(), said(&output).contains("which hub")), (Some(2), true), "{}", said(&output));
    let output = person.command(&["login"]).env("FOGHORN_URL", "http://hub.example").output().expect("runs");
    assert_eq!((output.status.code(), said(&output).contains("unencrypted")), (Some(2), true), "{}", said(&output));
}

// The authorizer answers while a program is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_renews_its_token_from_where_it_comes() {
    let person = Person::new().await;
    let session = start(&person.server, "blog", RIA).await;
    assert!(person.foghorn(&["login", "--context", "plugin"]).status.success());
    let watcher = Program::run(person.command(&["watch", &session]));
    until("it watches", async || {
        let (_, shown) = person.server.ask("GET", &format!("/v1/sessions/{session}"), None).await;
        (shown["viewers"] == 1).then_some(())
    })
    .await;
    let later = "header.of-ria-later.signature";
    fs::write(person.path("token"), later).expect("writes");
    person.authorizer.mind().people.remove(RIA);
    person.authorizer.knows(later, "ria");
    until("the plugin is asked again", async || {
        let asked = fs::read_to_string(person.path("asked")).expect("reads");
        (asked.lines().count() == 3).then_some(())
    })
    .await;
    // Longer than the hub would wait.
    tokio::time::sleep(Duration::from_secs(22)).await;
    let (_, shown) = person.server.ask("GET", &format!("/v1/sessions/{session}"), None).await;
    assert_eq!(shown["viewers"], 1);
    // A person's own session, with whatever token is theirs.
    assert!(person.foghorn(&["stop", &session]).status.success());
    let (status, _, stderr) = watcher.ends().await;
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!stderr.contains("lost"), "{stderr}");
    // Another person's token is not taken for the one before.
    let other = start(&person.server, "blog", ROB).await;
    assert_eq!(person.foghorn(&["show", &other]).status.code(), Some(1));
    stop_all(&person.server).await;
}
