//! What the chart refuses, and that it says why.

use serde_json::json;

use crate::helm::{Helm, over};

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let Some(helm) = Helm::find() else { return };
    let good = helm.set("cluster");
    for (values, reason) in [
        (json!({"replicaCount": 2}), "sessions are not shared between hubs"),
        (json!({"replicas": 1}), "additional properties 'replicas' not allowed"),
        (json!({"limits": {"grase": "3s"}}), "additional properties 'grase' not allowed"),
        (json!({"limits": {"drain": "3s"}}), "additional properties 'drain' not allowed"),
        (json!({"limits": {"grace": "soon"}}), "at '/limits/grace'"),
        (json!({"auth": "none"}), "at '/auth'"),
        (json!({"kubernetes": {"runner": "magic"}}), "at '/kubernetes/runner'"),
        (json!({"kubernetes": {"selector": "app=blog"}}), "at '/kubernetes/selector'"),
        (json!({"database": {"url": "mysql://db"}}), "at '/database/url'"),
        (json!({"tokens": {"entries": [{"name": "ann", "role": "user", "token": "short"}]}}), "at '/tokens/entries/0"),
        (json!({"tokens": {"entries": [{"name": "ann", "role": "king", "sha256": "00"}]}}), "at '/tokens/entries/0"),
        (json!({"auth": "tokens"}), "auth is tokens, and there are none"),
        (json!({"auth": "webhook"}), "webhook.url is not set"),
        (json!({"auth": "webhook", "webhook": {"url": "http://controller/x"}}), "tokens would go there unencrypted"),
        (json!({"watch": "everyone"}), "at '/watch'"),
        (json!({"kubernetes": {"namespaces": []}}), "name those of your apps in kubernetes.namespaces"),
        (json!({"kubernetes": {"namespace": ""}}), "which namespace an app is in is not said"),
        (json!({"kubernetes": {"namespaces": ["blog", "foghorn"]}}), "where the hub itself is"),
        (json!({"kubernetes": {"namespaces": ["kube-system"]}}), "the cluster's own namespaces have no apps"),
        (json!({"kubernetes": {"namespaces": ["Blog"]}}), "at '/kubernetes/namespaces/0'"),
        (json!({"database": {"url": "postgres://db/x", "existingSecret": "x"}}), "exclude each other"),
        (json!({"ingress": {"enabled": true}}), "ingress.enabled needs ingress.hosts"),
        (json!({"httpRoute": {"enabled": true}}), "the gateway that it belongs to"),
        (json!({"metrics": {"serviceMonitor": {"enabled": true}}}), "needs metrics.enabled"),
    ] {
        let refused = helm.render(&over(&good, &values)).err().unwrap_or_else(|| panic!("{values} is not refused"));
        assert!(refused.contains(reason), "{values}: {refused}");
    }
    assert!(helm.render(&over(&good, &json!({"replicaCount": 0}))).is_ok(), "a hub may be paused");
}
