use super::*;
use crate::backend::What;

fn deployment() -> Deployment {
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": "blog-web", "namespace": "blog", "uid": "u-1" },
        "spec": {
            "selector": { "matchLabels": { "app": "blog", "type": "web" } },
            "template": {
                "metadata": { "labels": { "app": "blog", "type": "web", "net": "db" } },
                "spec": {
                    "serviceAccountName": "blog",
                    "securityContext": { "runAsNonRoot": true, "runAsUser": 1000 },
                    "initContainers": [{ "name": "migrate", "image": "blog:1" }, { "name": "mesh", "image": "mesh:1" }],
                    "containers": [
                        {
                            "name": "web", "image": "blog:1", "args": ["serve"], "ports": [{ "containerPort": 80 }],
                            "env": [{ "name": "A", "value": "1" }], "envFrom": [{ "secretRef": { "name": "s" } }],
                            "livenessProbe": { "httpGet": { "port": 80 } },
                            "lifecycle": { "preStop": { "exec": { "command": ["x"] } } },
                            "securityContext": { "allowPrivilegeEscalation": false },
                            "resources": { "limits": { "memory": "1Gi" } }
                        },
                        { "name": "proxy", "image": "proxy:1", "readinessProbe": { "httpGet": { "port": 81 } } },
                        { "name": "exporter", "image": "exporter:1" }
                    ],
                    "volumes": [{ "name": "data", "emptyDir": {} }],
                    "nodeSelector": { "disk": "fast" },
                    "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }],
                    "affinity": {
                        "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [] },
                        "podAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [] },
                        "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                            { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "blog" } } }
                        ] }
                    }
                }
            }
        }
    }))
    .expect("a Deployment")
}

fn settings(toml: &str) -> Kubernetes {
    let file = format!("[kubernetes]\nimage = \"agent:1\"\n{toml}");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("foghorn.toml"), format!("backend = \"kubernetes\"\n{file}")).expect("writes");
    let args = crate::config::server::ServeArgs {
        home: Some(home.path().to_owned()),
        ..crate::config::server::ServeArgs::default()
    };
    crate::config::server::Server::read(args).expect("settings").kubernetes.expect("kubernetes")
}

fn made(settings: &Kubernetes, app: &App, run: &Run) -> Result<Pod, String> {
    made_from(deployment(), settings, app, run)
}

fn made_from(deployment: Deployment, settings: &Kubernetes, app: &App, run: &Run) -> Result<Pod, String> {
    let order = Order {
        session: Uuid::nil(),
        app: "blog".into(),
        owner: "ann@example.com".into(),
        tty: false,
        stdin: true,
        lifetime: Duration::from_secs(3600),
        what: What::Run(Box::default()),
        card: serde_json::json!({ "name": "run.1" }),
    };
    let making = Making {
        order: &order,
        run,
        settings,
        app,
        installation: Uuid::nil(),
        name: "blog-run-x7k2p",
        end_wait: Duration::from_secs(15),
    };
    making.pod(&deployment)
}

#[test]
fn a_run_is_the_app_without_what_makes_it_a_server() {
    let pod = made(&settings(""), &App::default(), &Run { launcher: true, ..Run::default() }).expect("a pod");
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!(spec.containers.len(), 1);
    let own = &spec.containers[0];
    assert_eq!((own.image.as_deref(), own.args.as_ref(), own.ports.as_ref()), (Some("blog:1"), None, None));
    assert!(own.liveness_probe.is_none() && own.lifecycle.is_none());
    assert_eq!(own.env.as_ref().map(Vec::len), Some(1));
    assert_eq!(own.env_from.as_ref().map(Vec::len), Some(1));
    let inits = spec.init_containers.as_ref().expect("the agent's");
    assert_eq!(inits.iter().map(|init| &*init.name).collect::<Vec<_>>(), [NAME]);
    assert_eq!(inits[0].security_context, own.security_context, "as restricted as the command");
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    assert_eq!(spec.active_deadline_seconds, Some(3600 + 15 * 60));
    assert_eq!(spec.service_account_name.as_deref(), Some("blog"));
    assert_eq!(spec.node_selector.as_ref().map(|labels| &*labels["disk"]), Some("fast"));
    let affinity = spec.affinity.as_ref().expect("the app's");
    assert!(affinity.node_affinity.is_some() && affinity.pod_affinity.is_some());
    assert!(affinity.pod_anti_affinity.is_none() && spec.topology_spread_constraints.is_none(), "it stands alone");
    let amounts = inits[0].resources.as_ref().expect("a quota accepts it");
    for amounts in [&amounts.requests, &amounts.limits] {
        let amounts = amounts.as_ref().expect("amounts");
        assert!(["cpu", "memory"].iter().all(|name| amounts.contains_key(*name)), "{amounts:?}");
    }
    let owner = &pod.metadata.owner_references.as_ref().expect("an owner")[0];
    assert_eq!((&*owner.kind, owner.controller), ("Deployment", Some(true)));
    assert!(!is_selected(&deployment(), pod.labels()));
    assert!(!pod.labels().contains_key("app"));
}

#[test]
fn what_is_named_is_kept() {
    let app = App { keep_containers: vec!["proxy".into()], keep_labels: vec!["net".into()], ..App::default() };
    let pod = made(&settings(""), &app, &Run::default()).expect("a pod");
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!(spec.containers.iter().map(|other| &*other.name).collect::<Vec<_>>(), ["web", "proxy"]);
    assert!(spec.containers[1].readiness_probe.is_none());
    assert_eq!(pod.labels().get("net").map(String::as_str), Some("db"));
    let all = App { keep_labels: vec!["app".into(), "type".into()], ..App::default() };
    let pod = made(&settings(""), &all, &Run::default()).expect("a pod");
    assert!(is_selected(&deployment(), pod.labels()));
}

#[test]
fn a_run_gets_what_it_asks_for_up_to_the_most() {
    let settings = settings("max_memory = \"2Gi\"");
    let asks = |cpu: Option<&str>, memory: Option<&str>| Run {
        cpu: cpu.map(Into::into),
        memory: memory.map(Into::into),
        ..Run::default()
    };
    let pod = made(&settings, &App::default(), &asks(Some("500m"), Some("2Gi"))).expect("a pod");
    let resources = pod.spec.expect("a spec").containers[0].resources.clone().expect("resources");
    assert_eq!(resources.limits.expect("limits")["memory"].0, "2Gi");
    assert_eq!(resources.requests.expect("requests")["cpu"].0, "500m");
    let refused = |run| made(&settings, &App::default(), &run).expect_err("refused");
    assert!(refused(asks(None, Some("2049Mi"))).contains("more than the 2Gi"));
    assert!(refused(asks(Some("much"), None)).contains("not a quantity"));
}

#[test]
fn without_an_agent_the_command_is_the_containers_own() {
    let run = Run {
        command: vec!["rake".into(), "db:migrate".into()],
        env: BTreeMap::from([("A".to_owned(), "2".to_owned())]),
        ..Run::default()
    };
    let pod = made(&settings("runner = \"attach\""), &App::default(), &run).expect("a pod");
    let own = &pod.spec.expect("a spec").containers[0];
    assert_eq!(own.command.as_deref(), Some(&["rake".to_owned(), "db:migrate".to_owned()][..]));
    assert_eq!((own.stdin, own.tty), (Some(true), Some(false)));
    let env = own.env.as_ref().expect("variables");
    assert_eq!((env.len(), env[0].value.as_deref()), (1, Some("2")));
}

#[test]
fn a_patch_has_the_last_word() {
    let settings = settings("[kubernetes.patch.spec]\npriorityClassName = \"low\"\nnodeSelector = { disk = \"slow\" }");
    let pod = made(&settings, &App::default(), &Run::default()).expect("a pod");
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.priority_class_name.as_deref(), Some("low"));
    assert_eq!(spec.node_selector.map(|labels| labels["disk"].clone()).as_deref(), Some("slow"));
}

#[test]
fn quantities() {
    for (text, number) in
        [("2", Some(2.0)), ("500m", Some(0.5)), ("1Ki", Some(1024.0)), ("1.5G", Some(1.5e9)), ("x", None)]
    {
        assert_eq!(quantity(text), number, "{text}");
    }
}

#[test]
fn a_pod_without_an_agent_says_itself_who_its_session_is() {
    let card = |settings: &str| {
        let pod = made(&self::settings(settings), &App::default(), &Run::default()).expect("a pod");
        pod.annotations().get(CARD).cloned()
    };
    assert_eq!(card(""), None);
    assert_eq!(card("runner = \"attach\"").as_deref(), Some(r#"{"name":"run.1"}"#));
}

#[test]
fn what_confines_the_app_confines_its_runs_and_what_brings_their_agent() {
    let mut deployment = deployment();
    let template = &mut deployment.spec.as_mut().expect("a spec").template;
    let armor = |container: &str| format!("container.apparmor.security.beta.kubernetes.io/{container}");
    let all = [armor("web"), armor("proxy"), armor("exporter"), "seccomp.security.alpha.kubernetes.io/pod".into()];
    let annotations = all.iter().map(|name| (name.clone(), "runtime/default".to_owned()));
    let meta = template.metadata.as_mut().expect("metadata");
    meta.annotations = Some(annotations.chain([("team".to_owned(), "blue".to_owned())]).collect());
    let app = App { keep_containers: vec!["proxy".into()], ..App::default() };
    for (runner, brought) in [("", true), ("runner = \"attach\"\n", false)] {
        let pod = made_from(deployment.clone(), &settings(runner), &app, &Run::default()).expect("a pod");
        let kept = |name: &str| pod.annotations().contains_key(name);
        assert!(kept(&all[0]) && kept(&all[1]) && kept(&all[3]), "{:?}", pod.annotations());
        assert_eq!(kept(&armor(NAME)), brought);
        assert!(!kept(&all[2]) && !kept("team"));
    }
}

#[test]
fn what_brings_the_agent_has_room_in_a_quota_of_storage_that_the_app_has_room_in() {
    let brings = |deployment: Deployment| {
        let pod = made_from(deployment, &settings(""), &App::default(), &Run::default()).expect("a pod");
        pod.spec.expect("a spec").init_containers.expect("one").remove(0).resources.expect("resources")
    };
    assert!(!brings(deployment()).limits.expect("limits").contains_key(STORAGE));
    let mut of_app = deployment();
    let spec = of_app.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("a spec");
    let own = spec.containers[0].resources.as_mut().expect("resources");
    own.limits.as_mut().expect("limits").insert(STORAGE.into(), Quantity("1Gi".into()));
    own.requests = Some([(STORAGE.into(), Quantity("10Mi".into()))].into());
    let amounts = brings(of_app);
    assert_eq!(amounts.limits.expect("limits")[STORAGE].0, "1Gi");
    assert_eq!(amounts.requests.expect("requests")[STORAGE].0, "10Mi");
}
