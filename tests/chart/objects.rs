//! What the chart renders.

use std::collections::BTreeSet;

use foghorn::config::server::{ServeArgs, Server};
use serde_json::{Value, json};

use crate::helm::{Helm, NAME, SETS, over};
use crate::root;

/// Versions of Kubernetes whose schemas the objects are checked by.
const VERSIONS: [&str; 2] = ["1.25", "1.37"];

/// Kinds that belong to no namespace.
const OF_THE_CLUSTER: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];

#[test]
fn all_that_is_rendered_is_valid() {
    let Some(helm) = Helm::find() else { return };
    for set in SETS {
        let values = helm.set(set);
        let rendered = helm.render(&values).expect("renders");
        for version in VERSIONS {
            let wrong = helm.ask("validate", json!({ "objects": rendered.objects, "version": version }));
            assert_eq!(wrong, Ok(json!([])), "{set}, {version}");
        }
        assert_eq!(helm.ask("lint", json!({ "values": values })), Ok(json!([])), "{set}");
        for object in &rendered.objects {
            let (kind, meta) = (object["kind"].as_str().expect("a kind"), &object["metadata"]);
            assert_eq!(meta["labels"]["app.kubernetes.io/instance"], NAME, "{kind}");
            assert_eq!(meta["labels"]["app.kubernetes.io/managed-by"], "Helm", "{kind}");
            assert_eq!(meta["namespace"].is_null(), OF_THE_CLUSTER.contains(&kind), "{kind}");
        }
        let names: BTreeSet<String> = rendered.objects.iter().map(name).collect();
        assert_eq!(names.len(), rendered.objects.len(), "{set}: two objects of one name");
    }
}

#[test]
fn the_schemas_refuse_what_is_wrong() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render(&helm.set("full")).expect("renders");
    for (kind, place) in [
        ("Deployment", "/spec/template/spec/containers/0/resources/limitz"),
        ("HTTPRoute", "/spec/rules/0/timeout"),
        ("ServiceMonitor", "/spec/endpoints/0/ports"),
        ("NetworkPolicy", "/spec/egres"),
    ] {
        let mut object = rendered.one(kind).clone();
        let (above, key) = place.rsplit_once('/').expect("a place");
        object.pointer_mut(above).expect("a place")[key] = json!({});
        let wrong = helm.ask("validate", json!({ "objects": [object], "version": "1.37" })).expect("an answer");
        assert!(wrong[0].as_str().is_some_and(|wrong| wrong.contains(key)), "{kind}: {wrong}");
    }
}

/// What tells an object from all others.
fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    format!("{} {} {}", object["kind"], meta["namespace"], meta["name"])
}

#[test]
fn the_settings_are_toml_and_say_what_the_values_say() {
    let Some(helm) = Helm::find() else { return };
    for set in SETS {
        let rendered = helm.render(&helm.set(set)).expect("renders");
        let settings: toml::Table = rendered.settings().parse().expect("TOML");
        assert_eq!(settings["backend"].as_str(), Some("kubernetes"), "{set}");
    }
    let rendered = helm.render(&helm.set("full")).expect("renders");
    let settings: toml::Table = rendered.settings().parse().expect("TOML");
    assert_eq!(settings["metrics_listen"].as_str(), Some("0.0.0.0:7301"));
    assert_eq!(settings["limits"]["drain"].as_str(), Some("5s"));
    assert_eq!(settings["limits"]["live_per_app"].as_integer(), Some(20));
    assert_eq!(settings["apps"]["shop.old"]["namespace"].as_str(), Some("shop"));
    let kubernetes = &settings["kubernetes"];
    assert_eq!(kubernetes["patch"]["spec"]["tolerations"][0]["operator"].as_str(), Some("Exists"));
    assert_eq!(kubernetes["image"].as_str(), rendered.pod()["spec"]["containers"][0]["image"].as_str());
    assert_eq!(kubernetes["max_cpu"].as_str(), Some("2"));
    // Where there is only one namespace, apps are in it.
    let values = over(&helm.set("cluster"), &json!({"kubernetes": {"namespaces": ["apps"], "namespace": ""}}));
    let settings: toml::Table = helm.render(&values).expect("renders").settings().parse().expect("TOML");
    assert_eq!(settings["kubernetes"]["namespace"].as_str(), Some("apps"));
    // A token may have any characters.
    let tokens: Vec<&Value> = rendered.all("Secret");
    let tokens = tokens.iter().find_map(|secret| secret["stringData"]["tokens.toml"].as_str()).expect("tokens");
    let tokens: toml::Table = tokens.parse().expect("TOML");
    assert_eq!(tokens["token"][1]["token"].as_str(), Some("a \"quoted\" \\ <token>"));
    // What is said last wins.
    let values = over(&helm.set("cluster"), &json!({"extraConfig": {"log": "debug", "kubernetes": {"context": "x"}}}));
    let settings: toml::Table = helm.render(&values).expect("renders").settings().parse().expect("TOML");
    assert_eq!((settings["log"].as_str(), settings["kubernetes"]["context"].as_str()), (Some("debug"), Some("x")));
    assert!(settings["kubernetes"]["image"].is_str());
}

/// The hub itself reads what the chart writes for it.
#[test]
fn the_hub_takes_its_settings() {
    let Some(helm) = Helm::find() else { return };
    for set in SETS {
        let rendered = helm.render(&helm.set(set)).expect("renders");
        let home = tempfile::tempdir().expect("a directory");
        let config = home.path().join("foghorn.toml");
        std::fs::write(&config, rendered.settings()).expect("writes");
        let args = ServeArgs { config: Some(config), home: Some(home.path().to_owned()), ..ServeArgs::default() };
        let server = Server::read(args).unwrap_or_else(|error| panic!("{set}: {error}\n{}", rendered.settings()));
        assert!(server.kubernetes.is_some() && !server.listen.ip().is_loopback(), "{set}");
    }
}

#[test]
fn a_changed_setting_restarts_the_hub_and_a_changed_token_does_not() {
    let Some(helm) = Helm::find() else { return };
    let values = helm.set("full");
    let pod = |other: Value| helm.render(&over(&values, &other)).expect("renders").pod().clone();
    let before = pod(json!({}));
    assert_eq!(before, pod(json!({})));
    assert_ne!(before, pod(json!({"limits": {"time": "9h"}})));
    assert_ne!(before, pod(json!({"database": {"url": "postgres://elsewhere/foghorn"}})));
    let tokens = json!([{"name": "ann", "role": "user", "token": "at-least-16-letters-long"}]);
    assert_eq!(before, pod(json!({"tokens": {"entries": tokens}})));
}

#[test]
fn the_pod_has_as_long_as_the_hub_takes_to_stop() {
    let Some(helm) = Helm::find() else { return };
    for (drain, at_least) in [(0, 10), (30, 40)] {
        let values = over(&helm.set("cluster"), &json!({ "drainSeconds": drain }));
        let rendered = helm.render(&values).expect("renders");
        let grace = rendered.pod()["spec"]["terminationGracePeriodSeconds"].as_i64().expect("a number");
        assert!((at_least + 1..at_least + 20).contains(&grace), "{grace} for a drain of {drain}");
    }
}

#[test]
fn the_state_is_kept_where_no_database_keeps_it() {
    let Some(helm) = Helm::find() else { return };
    let state = |set: &str, other: Value| {
        let rendered = helm.render(&over(&helm.set(set), &other)).expect("renders");
        let volumes = rendered.pod()["spec"]["volumes"].as_array().expect("volumes");
        let state = volumes.iter().find(|volume| volume["name"] == "state").expect("a volume");
        (state["persistentVolumeClaim"]["claimName"].clone(), rendered.all("PersistentVolumeClaim").len())
    };
    assert_eq!(state("cluster", json!({})), (json!(NAME), 1));
    assert_eq!(state("cluster", json!({"persistence": {"existingClaim": "mine"}})), (json!("mine"), 0));
    assert_eq!(state("cluster", json!({"persistence": {"enabled": false}})), (json!(null), 0));
    assert_eq!(state("postgres", json!({})), (json!(null), 0));
    assert_eq!(state("postgres", json!({"persistence": {"enabled": true}})), (json!(NAME), 1));
    let forgets =
        |values: &Value| helm.render(values).expect("renders").notes.contains("are forgotten with the hub's pod");
    assert!(forgets(&helm.set("tokens")) && !forgets(&helm.set("cluster")) && !forgets(&helm.set("postgres")));
}

#[test]
fn every_value_has_a_schema_and_every_schema_a_value() {
    let Some(helm) = Helm::find() else { return };
    let values = helm.ask("values", json!({"file": "charts/foghorn/values.yaml"})).expect("values");
    let schema = std::fs::read_to_string(root().join("charts/foghorn/values.schema.json")).expect("reads");
    same(&values, &serde_json::from_str(&schema).expect("JSON"), "");
}

/// All limits but what the chart sets by itself: how long the hub takes to stop.
#[test]
fn every_limit_of_the_hubs_can_be_set() {
    let settings = std::fs::read_to_string(root().join("src/config/server.rs")).expect("reads");
    let (_, limits) = settings.split_once("struct FileLimits {").expect("the limits");
    let (limits, _) = limits.split_once('}').expect("their end");
    let names = limits.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, _)| name.to_owned());
    let schema = std::fs::read_to_string(root().join("charts/foghorn/values.schema.json")).expect("reads");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let known = schema["properties"]["limits"]["properties"].as_object().expect("limits").keys().cloned();
    assert_eq!(known.collect::<BTreeSet<_>>(), names.filter(|name| name != "drain").collect());
}

/// Holds that an object's keys are those of its schema, and says where not.
fn same(values: &Value, schema: &Value, place: &str) {
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else { return };
    if values.is_empty() {
        return;
    }
    assert_eq!(schema["additionalProperties"], false, "{place}");
    let own = |key: &&String| *key != "global" && *key != "claims";
    let known: BTreeSet<&String> = properties.keys().filter(own).collect();
    assert_eq!(values.keys().collect::<BTreeSet<_>>(), known, "{place}");
    for (key, value) in values {
        same(value, &properties[key], &format!("{place}.{key}"));
    }
}
