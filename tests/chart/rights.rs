//! The rights that the hub gets: these, and no others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::helm::{Helm, NAME, over};

/// In each namespace of apps: the resource, the verbs, and what they are for.
pub(crate) const IN_NAMESPACES: [(&str, &[&str], &str); 7] = [
    ("pods", &["create", "delete", "get", "list", "watch"], "runs' pods, and those whose log is read"),
    ("pods/log", &["get"], "the log of an app; the output from before an attach"),
    ("pods/exec", &["create", "get"], "exec, and the way to a run's agent"),
    ("pods/attach", &["create", "get"], "runs without an agent, and pods that a controller hands over"),
    ("events", &["list", "watch"], "why a pod does not start"),
    ("services", &["list"], "that a run's pod gets no traffic"),
    ("apps/deployments", &["get", "list"], "what a run's pod is made from, and which apps there are"),
];

/// In the cluster, where the callers are the cluster's.
pub(crate) const REVIEWS: [(&str, &[&str], &str); 2] = [
    ("authentication.k8s.io/tokenreviews", &["create"], "whose a token is"),
    ("authorization.k8s.io/subjectaccessreviews", &["create"], "what its owner may do"),
];

/// Verbs on resources, with their group.
pub(crate) type Rights = BTreeMap<String, BTreeSet<String>>;

/// What the table says.
pub(crate) fn expected(table: &[(&str, &[&str], &str)]) -> Rights {
    let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    table.iter().map(|(resource, list, _)| ((*resource).to_owned(), verbs(list))).collect()
}

/// What rules give.
pub(crate) fn given(rules: &[Value]) -> Rights {
    let mut rights = Rights::new();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    for rule in rules {
        assert_eq!(rule.as_object().expect("a rule").len(), 3, "{rule}");
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                let name = if group.is_empty() { resource } else { format!("{group}/{resource}") };
                rights.entry(name).or_default().extend(words(&rule["verbs"]));
            }
        }
    }
    rights
}

fn rules(role: &Value) -> &[Value] {
    role["rules"].as_array().expect("rules")
}

/// Where a binding's subject is, and that it is the hub.
fn binds_the_hub(binding: &Value, role: &Value) {
    assert_eq!(binding["roleRef"]["kind"], role["kind"]);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["metadata"]["namespace"], role["metadata"]["namespace"]);
    assert_eq!(binding["subjects"], json!([{"kind": "ServiceAccount", "name": NAME, "namespace": NAME}]));
}

#[test]
fn the_hub_gets_the_rights_of_the_table_in_the_namespaces_that_are_named() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render(&helm.set("cluster")).expect("renders");
    let (roles, bindings) = (rendered.all("Role"), rendered.all("RoleBinding"));
    assert_eq!((roles.len(), bindings.len()), (2, 2));
    for ((role, binding), namespace) in roles.iter().zip(bindings).zip(["blog", "shop"]) {
        assert_eq!(role["metadata"]["namespace"], namespace);
        assert_eq!(given(rules(role)), expected(&IN_NAMESPACES));
        binds_the_hub(binding, role);
    }
    let role = rendered.one("ClusterRole");
    assert_eq!(given(rules(role)), expected(&REVIEWS));
    binds_the_hub(rendered.one("ClusterRoleBinding"), role);
}

#[test]
fn the_whole_cluster_only_where_asked_and_reviews_only_where_needed() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render(&helm.set("postgres")).expect("renders");
    assert!(rendered.all("Role").is_empty());
    let roles = rendered.all("ClusterRole");
    assert_eq!(
        roles.iter().map(|role| given(rules(role))).collect::<Vec<_>>(),
        [expected(&IN_NAMESPACES), expected(&REVIEWS)]
    );
    for (binding, role) in rendered.all("ClusterRoleBinding").into_iter().zip(roles) {
        binds_the_hub(binding, role);
    }
    for set in ["tokens", "webhook"] {
        assert!(helm.render(&helm.set(set)).expect("renders").all("ClusterRole").is_empty(), "{set}");
    }
    let values = over(&helm.set("cluster"), &json!({"rbac": {"create": false}}));
    let rendered = helm.render(&values).expect("renders");
    assert!(rendered.objects.iter().all(|object| !object["kind"].as_str().is_some_and(|kind| kind.contains("Role"))));
}

/// The page for operators has the same table.
#[test]
fn the_table_of_rights_is_documented() {
    let page = std::fs::read_to_string(crate::root().join("docs/kubernetes.md")).expect("reads");
    for (resource, verbs, _) in IN_NAMESPACES.iter().chain(&REVIEWS) {
        let verbs = verbs.iter().map(|verb| format!("`{verb}`")).collect::<Vec<_>>().join(", ");
        let row = format!("| `{resource}` | {verbs} |");
        assert!(page.contains(&row), "docs/kubernetes.md has no row that begins with {row}");
    }
}
