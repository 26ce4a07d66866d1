//! The *restricted* pod security standard, as <https://kubernetes.io/docs/concepts/security/pod-security-standards/> has
//! it, for pods of Linux. Clusters have a judge of their own from 1.23 on only.

use serde_json::{Value, json};

/// Kinds of volumes that are allowed.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// What is wrong with a pod's spec; empty where it passes.
pub(crate) fn violations(spec: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let pod = &spec["securityContext"];
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        hold(spec[shared] != true, shared.into());
    }
    hold(pod["sysctls"].as_array().is_none_or(Vec::is_empty), "sysctls".into());
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds: Vec<&String> = volume.as_object().expect("a volume").keys().filter(|key| *key != "name").collect();
        hold(kinds.iter().all(|kind| VOLUMES.contains(&kind.as_str())), format!("the volume {volume}"));
    }
    for container in ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| spec[*list].as_array().into_iter().flatten())
    {
        let name = container["name"].as_str().expect("a name");
        let own = &container["securityContext"];
        // A container's own word counts before its pod's.
        let said = |key: &str| if own[key].is_null() { &pod[key] } else { &own[key] };
        let seccomp = &said("seccompProfile")["type"];
        hold(seccomp == "RuntimeDefault" || seccomp == "Localhost", format!("{name}: seccompProfile"));
        hold(said("runAsNonRoot") == true, format!("{name}: runAsNonRoot"));
        hold(said("runAsUser") != 0, format!("{name}: runAsUser"));
        hold(own["privileged"] != true, format!("{name}: privileged"));
        hold(own["allowPrivilegeEscalation"] == false, format!("{name}: allowPrivilegeEscalation"));
        hold(own["procMount"].is_null() || own["procMount"] == "Default", format!("{name}: procMount"));
        hold(said("appArmorProfile")["type"] != "Unconfined", format!("{name}: appArmorProfile"));
        let list = |key: &str| own["capabilities"][key].as_array().cloned().unwrap_or_default();
        hold(list("drop").contains(&json!("ALL")), format!("{name}: capabilities are not dropped"));
        hold(list("add").iter().all(|added| added == "NET_BIND_SERVICE"), format!("{name}: capabilities are added"));
        let host_port = container["ports"].as_array().into_iter().flatten().any(|port| !port["hostPort"].is_null());
        hold(!host_port, format!("{name}: hostPort"));
    }
    wrong
}
