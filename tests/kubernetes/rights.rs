//! Who may do what, by the cluster's own word: ServiceAccounts with Roles come to every door.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use foghorn::protocol::{ClientMessage, HubMessage, Role, Secret};
use foghorn::record::Size;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::doors::{start, walk};
use crate::support::server::{Hello, Server, until};

/// Within how long a right that was taken away has to end a stream.
const TAKEN: Duration = Duration::from_secs(60);

/// A rule of a Role: verbs, resource.
type Rule<'a> = (&'a str, &'a str);

/// People, as ServiceAccounts of the test's namespace, and what is cluster-wide of them.
struct People<'a> {
    cluster: &'a Cluster,
    everywhere: Vec<String>,
}

impl<'a> People<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, everywhere: Vec::new() }
    }

    /// An account that may do this in the namespace, and its token.
    fn add(&self, name: &str, rules: &[Rule<'_>]) -> String {
        self.cluster.kubectl(&["create", "serviceaccount", name]);
        for (number, (verbs, resource)) in rules.iter().enumerate() {
            let role = format!("{name}-{number}");
            self.cluster.kubectl(&["create", "role", &role, &format!("--verb={verbs}"), "--resource", resource]);
            let account = format!("--serviceaccount={}:{name}", self.cluster.namespace);
            self.cluster.kubectl(&["create", "rolebinding", &role, &format!("--role={role}"), &account]);
        }
        self.token(name)
    }

    /// An account that may do this with the app `demo`, in Foghorn's own words, and its token.
    fn add_in_own_words(&self, name: &str, verbs: &[&str]) -> String {
        self.cluster.kubectl(&["create", "serviceaccount", name]);
        self.cluster.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name },
            "rules": [{
                "apiGroups": ["foghorn.dev"], "resources": ["sessions"], "resourceNames": ["demo"], "verbs": verbs,
            }],
        }));
        let account = format!("--serviceaccount={}:{name}", self.cluster.namespace);
        self.cluster.kubectl(&["create", "rolebinding", name, &format!("--role={name}"), &account]);
        self.token(name)
    }

    /// Another token of an account's.
    fn token(&self, name: &str) -> String {
        self.cluster.kubectl(&["create", "token", name]).trim().to_owned()
    }

    /// Gives an account a ClusterRole in all namespaces.
    fn bind_everywhere(&mut self, name: &str, role: &str) {
        let binding = format!("{}-{name}", self.cluster.namespace);
        let account = format!("--serviceaccount={}:{name}", self.cluster.namespace);
        self.cluster.kubectl(&["create", "clusterrolebinding", &binding, &format!("--clusterrole={role}"), &account]);
        self.everywhere.push(format!("clusterrolebinding/{binding}"));
    }

    /// An account that has the rights of Foghorn's admin, and its token.
    fn admin(&mut self, name: &str) -> String {
        let token = self.add(name, &[]);
        let role = format!("{}-{name}", self.cluster.namespace);
        self.cluster.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": role },
            "rules": [{ "apiGroups": ["foghorn.dev"], "resources": ["sessions"], "verbs": ["*"] }],
        }));
        self.everywhere.push(format!("clusterrole/{role}"));
        self.bind_everywhere(name, &role);
        token
    }

    /// A kubeconfig with an account's token.
    fn kubeconfig(&self, dir: &tempfile::TempDir, token: &str) -> PathBuf {
        let view = self.cluster.kubectl(&["config", "view", "--raw", "-o", "json"]);
        let mut view: Value = serde_json::from_str(&view).expect("JSON");
        view["users"] = json!([{ "name": "account", "user": { "token": token } }]);
        view["contexts"][0]["context"]["user"] = json!("account");
        view["current-context"] = view["contexts"][0]["name"].clone();
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, view.to_string()).expect("writes");
        path
    }
}

impl Drop for People<'_> {
    fn drop(&mut self) {
        for object in &self.everywhere {
            let _ = self.cluster.try_kubectl(&["delete", object]);
        }
    }
}

const RUNS: &[Rule<'_>] = &[("create", "pods"), ("create", "pods/exec")];
const EXECS: &[Rule<'_>] = &[("create", "pods/exec")];
const READS: &[Rule<'_>] = &[("get", "pods/log")];

/// A hub that asks the cluster, and runs commands on this machine: who may do what does not depend on where.
async fn hub(cluster: &Cluster, settings: &str, rights: &str) -> Server {
    let env = [("FOGHORN_AUTH", "kubernetes"), ("FOGHORN_RIGHTS", rights)];
    Server::start_with(&format!("{}{settings}", cluster.settings()), &env).await
}

async fn stop(server: &Server, id: &str) {
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(id).await;
}

#[tokio::test]
async fn rights_let_accounts_in_at_every_door_as_their_roles_say() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut people = People::new(&cluster);
    let ria = people.add("ria", RUNS);
    let (nora, leo, rob, eli) =
        (people.add("nora", &[]), people.add("leo", READS), people.add("rob", RUNS), people.add("eli", EXECS));
    let ada = people.admin("ada");
    let forged = format!("{}x", ria.rsplit_once('.').expect("a JWT").0);
    let settings = format!("[apps.system]\nnamespace = \"kube-system\"\n[apps.other]\nnamespace = \"{}\"\n", "default");
    let server = hub(&cluster, &settings, "pods").await;
    walk(&server, "demo", [&forged, &nora, &leo, &ria, &rob, &eli, &ada]).await;
    // A right in one namespace is none in another; and nobody has one in the cluster's own.
    let run = |app: &str| json!({"source": {"kind": "run", "app": app, "command": ["true"], "detached": true}});
    for (token, app, status) in [(&ria, "other", 403), (&leo, "other", 403), (&ada, "system", 403)] {
        assert_eq!(server.ask_as(token, "POST", "/v1/sessions", Some(run(app))).await.0, status, "{app}");
        assert_eq!(server.ask_as(token, "GET", &format!("/v1/apps/{app}/logs"), None).await.0, status, "{app}");
    }
    // Which apps there are is told as far as one may do something with them.
    let session = start(&server, "demo", &ria).await;
    for (token, apps) in [(&nora, 0), (&leo, 1), (&eli, 1), (&ria, 1)] {
        let (_, list) = server.ask_as(token, "GET", "/v1/apps", None).await;
        assert_eq!(list["apps"].as_array().map(Vec::len), Some(apps), "{list}");
    }
    let (_, shown) = server.ask_as(&ria, "GET", &format!("/v1/sessions/{session}"), None).await;
    assert_eq!(shown["owner"], format!("system:serviceaccount:{}:ria", cluster.namespace));
    stop(&server, &session).await;
}

#[tokio::test]
async fn rights_to_read_let_nobody_type_resize_signal_or_stop() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let (ria, leo) = (people.add("ria", RUNS), people.add("leo", READS));
    let server = hub(&cluster, "[apps.demo]\nwatch = \"log\"\n", "pods").await;
    let size = Size { cols: 90, rows: 30 };
    let body = json!({"source": {"kind": "run", "app": "demo", "command": ["cat"], "tty": true, "stdin": true,
        "keep": true, "size": size}});
    let (_, session) = server.ask_as(&ria, "POST", "/v1/sessions", Some(body)).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut driver = server.attach_as(&ria, &id, Hello { size: Some(size), ..Hello::drive(1) }).await.expect("drives");
    driver.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    let path = format!("/v1/sessions/{id}");
    let (_, ticket) = server.ask_as(&ria, "POST", &format!("{path}/tickets"), Some(json!({"right": "read"}))).await;
    let ticket = ticket["secret"].as_str().expect("a secret").to_owned();
    let watching = Hello { writer: Some(2), ..Hello::watch() };
    // By a ticket, and by what the app allows.
    for token in [&ticket, &leo] {
        let mut watcher = server.attach_as(token, &id, watching.clone()).await.expect("watches");
        let is = |code: &'static str| move |message: &HubMessage| matches!(message, HubMessage::Error { code: told, .. } if told == code);
        watcher.say(&ClientMessage::Resize { size: Size { cols: 33, rows: 11 } }).await;
        watcher.type_at(0, "intruder\n").await;
        watcher.hears(is("not_driving")).await;
        for message in [ClientMessage::Take, ClientMessage::Signal { signal: 15 }, ClientMessage::Stop] {
            watcher.say(&message).await;
            watcher.hears(is("forbidden")).await;
        }
        let mut takes =
            server.attach_as(token, &id, Hello { role: Role::Take, ..Hello::drive(3) }).await.expect("comes");
        assert_eq!(takes.rest().await, 4403);
        assert_eq!(server.ask_as(token, "DELETE", &path, None).await.0, 403);
    }
    driver.type_at(0, "mine\n").await;
    driver.shows("mine").await;
    assert!(!driver.has("intruder"));
    stop(&server, &id).await;
}

#[tokio::test]
async fn rights_that_are_taken_away_end_what_is_open() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let (ria, rob) = (people.add("ria", RUNS), people.add("rob", RUNS));
    let leo = people.add("leo", READS);
    let server = hub(&cluster, "", "pods").await;
    let (hers, his) = (start(&server, "demo", &ria).await, start(&server, "demo", &rob).await);
    let tickets = format!("/v1/sessions/{hers}/tickets");
    let make = async || {
        let (_, ticket) = server.ask_as(&ria, "POST", &tickets, Some(json!({"right": "read"}))).await;
        let text = |name: &str| ticket[name].as_str().expect("a text").to_owned();
        (text("id"), text("secret"))
    };
    let ((_, ticket), (revoked_id, revoked)) = (make().await, make().await);
    let mut viewers = Vec::new();
    for (token, session) in [(&ria, &hers), (&ticket, &hers), (&revoked, &hers), (&rob, &his)] {
        let mut viewer = server.attach_as(token, session, Hello::watch()).await.expect("watches");
        viewer.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
        viewers.push(viewer);
    }
    let log = server.open_as(&leo, "/v1/apps/demo/logs?follow=true").await;
    // A binding; a ticket; an account, whose tokens end with it.
    let since = Instant::now();
    assert_eq!(server.ask_as(&ria, "DELETE", &format!("{tickets}/{revoked_id}"), None).await.0, 204);
    cluster.kubectl(&["delete", "rolebinding", "ria-1", "leo-0"]);
    cluster.kubectl(&["delete", "serviceaccount", "rob"]);
    let [a, b, c, d] = &mut viewers[..] else { panic!("four") };
    let (a, b, c, d, _) = tokio::join!(a.rest(), b.rest(), c.rest(), d.rest(), log);
    assert_eq!([a, b, c, d], [4401; 4]);
    assert!(since.elapsed() < TAKEN, "{:?}", since.elapsed());
    assert_eq!(server.ask_as(&ticket, "GET", &format!("/v1/sessions/{hers}"), None).await.0, 404);
    assert_eq!(server.ask_as(&rob, "GET", "/v1/sessions", None).await.0, 401);
    stop(&server, &hers).await;
    stop(&server, &his).await;
}

#[tokio::test]
async fn rights_in_foghorns_own_words_need_none_on_pods() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let (ria, leo) = (people.add("ria", RUNS), people.add_in_own_words("leo", &["create", "logs"]));
    let server = hub(&cluster, "", "foghorn").await;
    let run = |app: &str| json!({"source": {"kind": "run", "app": app, "command": ["true"], "detached": true}});
    assert_eq!(server.ask_as(&ria, "POST", "/v1/sessions", Some(run("demo"))).await.0, 403);
    assert_eq!(server.ask_as(&leo, "POST", "/v1/sessions", Some(run("other"))).await.0, 403, "another app");
    assert_eq!(server.ask_as(&leo, "GET", "/v1/apps/demo/logs", None).await.0, 200);
    let session = start(&server, "demo", &leo).await;
    stop(&server, &session).await;
}

#[tokio::test]
async fn rights_in_foghorns_own_words_to_exec_let_one_exec_and_watch() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let leo = people.add_in_own_words("leo", &["create", "logs"]);
    let (eva, eli) = (people.add_in_own_words("eva", &["exec"]), people.add("eli", EXECS));
    cluster.deploy("demo");
    let settings = format!("{}[apps.demo]\nwatch = \"exec\"\n", cluster.settings());
    let env = [("FOGHORN_BACKEND", "kubernetes"), ("FOGHORN_AUTH", "kubernetes"), ("FOGHORN_RIGHTS", "foghorn")];
    let server = Server::start_with(&settings, &env).await;
    let of = |kind: &str, command: &[&str]| json!({"source": {"kind": kind, "app": "demo", "command": command}});
    let mut exec = of("exec", &["sh", "-c", "echo $GREETING; sleep 600"]);
    exec["source"]["pod"] = json!("web.1");
    let own = until("the app is up", async || {
        let (status, session) = server.ask_as(&eva, "POST", "/v1/sessions", Some(exec.clone())).await;
        assert!([201, 400, 503].contains(&status), "{session}");
        let id = session["id"].as_str()?.to_owned();
        let mut viewer = server.attach_as(&eva, &id, Hello::watch()).await.ok()?;
        viewer.come().await;
        (server.ask_as(&eva, "GET", &format!("/v1/sessions/{id}"), None).await.1["state"] == "running").then_some(id)
    })
    .await;
    let run = of("run", &["sleep", "600"]);
    let (status, session) = server.ask_as(&leo, "POST", "/v1/sessions", Some(run.clone())).await;
    assert_eq!(status, 201, "{session}");
    let his = session["id"].as_str().expect("an id").to_owned();
    // To exec is neither to run nor to read the log, nor the other way round; a right on pods is none.
    for (token, wish, expected) in [(&eva, &run, 403), (&leo, &exec, 403), (&eli, &exec, 403)] {
        assert_eq!(server.ask_as(token, "POST", "/v1/sessions", Some(wish.clone())).await.0, expected);
    }
    let logs = async |token: &str| server.ask_as(token, "GET", "/v1/apps/demo/logs?tail=1", None).await.0;
    assert_eq!((logs(&eva).await, logs(&leo).await, logs(&eli).await), (403, 200, 403));
    // Who may exec watches what others run, and no more.
    let seen = async |token: &str, id: &str| server.ask_as(token, "GET", &format!("/v1/sessions/{id}"), None).await.0;
    assert_eq!((seen(&eva, &his).await, seen(&leo, &own).await, seen(&eli, &his).await), (200, 404, 404));
    assert_eq!(server.ask_as(&eva, "DELETE", &format!("/v1/sessions/{his}"), None).await.0, 403);
    stop(&server, &his).await;
    stop(&server, &own).await;
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn rights_are_asked_by_a_hub_that_may_ask_and_no_more() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut people = People::new(&cluster);
    let (ria, own) = (people.add("ria", RUNS), people.add("foghorn", &[]));
    let dir = tempfile::tempdir().expect("a directory");
    let path = people.kubeconfig(&dir, &own);
    let settings =
        format!("[kubernetes]\nkubeconfig = \"{}\"\nnamespace = \"{}\"\n", path.display(), cluster.namespace);
    let server = Server::start_with(&settings, &[("FOGHORN_AUTH", "kubernetes")]).await;
    let (status, problem) = server.ask_as(&ria, "GET", "/v1/sessions", None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("authorizer_unavailable")));
    assert!(server.log().contains("tokenreviews"), "the log says what it may not do");
    // What every delegating server has: create tokenreviews and subjectaccessreviews.
    people.bind_everywhere("foghorn", "system:auth-delegator");
    until("it may ask", async || (server.ask_as(&ria, "GET", "/v1/sessions", None).await.0 == 200).then_some(())).await;
    let session = start(&server, "demo", &ria).await;
    // On the open stream, the account's next token goes on where the one before ends.
    let mut viewer = server.attach_as(&ria, &session, Hello::watch()).await.expect("watches");
    viewer.say(&ClientMessage::Renew { token: Secret::new(people.token("ria")) }).await;
    viewer.hears(|message| matches!(message, HubMessage::Renewed)).await;
    viewer.say(&ClientMessage::Renew { token: Secret::new(own.as_str()) }).await;
    viewer.hears(|message| matches!(message, HubMessage::Error { code, .. } if code == "forbidden")).await;
    stop(&server, &session).await;
}

#[tokio::test]
async fn rights_of_a_login_are_those_of_its_context() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let (ria, dir) = (people.add("ria", RUNS), tempfile::tempdir().expect("a directory"));
    let (path, server) = (people.kubeconfig(&dir, &ria), hub(&cluster, "", "pods").await);
    let foghorn = |kubeconfig: &PathBuf, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.args(args).env("FOGHORN_URL", server.url()).env("FOGHORN_HOME", dir.path().join("state"));
        let output = command.env("KUBECONFIG", kubeconfig).env_remove("FOGHORN_TOKEN").output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, said) = foghorn(&cluster.kubeconfig, &["login"]);
    assert_eq!((status, said.contains("kubectl create token")), (Some(2), true), "a certificate alone: {said}");
    assert_eq!(foghorn(&path, &["login"]).0, Some(0));
    let (status, said) = foghorn(&path, &["run", "-a", "demo", "--", "sh", "-c", "echo hello; exit 7"]);
    assert_eq!((status, said.contains("hello")), (Some(7), true), "{said}");
    let (status, said) = foghorn(&path, &["logs", "-a", "demo"]);
    assert_eq!((status, said.contains("forbidden")), (Some(1), true), "{said}");
}

#[tokio::test]
async fn rights_on_pods_let_a_run_be_a_pod_and_a_reader_read() {
    let Some(cluster) = Cluster::start().await else { return };
    let people = People::new(&cluster);
    let (ria, leo, eli) = (people.add("ria", RUNS), people.add("leo", READS), people.add("eli", EXECS));
    cluster.deploy("demo");
    let env = [("FOGHORN_BACKEND", "kubernetes"), ("FOGHORN_AUTH", "kubernetes")];
    let server = Server::start_with(&cluster.settings_with_agent(), &env).await;
    let body = json!({"source": {"kind": "run", "app": "demo", "command": ["sh", "-c", "echo $GREETING; exit 7"],
        "detached": true}});
    assert_eq!(server.ask_as(&leo, "POST", "/v1/sessions", Some(body.clone())).await.0, 403);
    assert!(cluster.runs().is_empty());
    let (status, session) = server.ask_as(&ria, "POST", "/v1/sessions", Some(body)).await;
    assert_eq!(status, 201, "{session}");
    let id = session["id"].as_str().expect("an id");
    let mut viewer = server.attach_as(&ria, id, Hello::watch()).await.expect("watches");
    viewer.rest().await;
    assert_eq!(
        (String::from_utf8_lossy(&viewer.output).as_ref(), server.ended(id).await["exit_status"].as_u64()),
        ("hello\n", Some(7))
    );
    assert_eq!(server.ask_as(&leo, "GET", &format!("/v1/sessions/{id}"), None).await.0, 404);
    let (_, list) = server.ask_as(&leo, "GET", "/v1/sessions", None).await;
    assert_eq!(list["sessions"], json!([]));
    assert_eq!(server.ask_as(&leo, "GET", "/v1/apps/demo/logs?tail=5", None).await.0, 200);
    // To exec is less than to run, and a session of somebody who may do more is no business of theirs.
    let exec =
        json!({"source": {"kind": "exec", "app": "demo", "pod": "web.1", "command": ["sh", "-c", "echo $GREETING"]}});
    until("the app is up", async || {
        let (status, session) = server.ask_as(&eli, "POST", "/v1/sessions", Some(exec.clone())).await;
        assert!([201, 400, 503].contains(&status), "{session}");
        let id = session["id"].as_str()?.to_owned();
        let (_, output) = server.bytes_as(&eli, "GET", &format!("/v1/sessions/{id}/output?follow=true"), None).await;
        (output == "hello\n").then_some(())
    })
    .await;
    assert_eq!(server.ask_as(&leo, "POST", "/v1/sessions", Some(exec)).await.0, 403);
    assert_eq!(server.ask_as(&eli, "GET", &format!("/v1/sessions/{id}"), None).await.0, 404);
    cluster.has_runs(0).await;
}
