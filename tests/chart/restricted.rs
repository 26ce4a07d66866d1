//! The hub's pod against the *restricted* pod security standard, and the checker against what the standard refuses.

use serde_json::json;

use crate::helm::{Helm, SETS};
use crate::standard::violations;

#[test]
fn the_hubs_pod_passes_restricted() {
    let Some(helm) = Helm::find() else { return };
    for set in SETS {
        let rendered = helm.render(&helm.set(set)).expect("renders");
        let spec = &rendered.pod()["spec"];
        assert_eq!(violations(spec), [""; 0], "{set}");
        // Beyond what the standard asks for.
        assert_eq!(spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    }
}

#[test]
fn the_checker_refuses_what_the_standard_refuses() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render(&helm.set("full")).expect("renders");
    let good = &rendered.pod()["spec"];
    assert_eq!(violations(good), [""; 0]);
    for (place, value) in [
        ("/hostNetwork", json!(true)),
        ("/volumes/0", json!({"name": "host", "hostPath": {"path": "/"}})),
        ("/securityContext/runAsNonRoot", json!(false)),
        ("/securityContext/runAsUser", json!(0)),
        ("/securityContext/seccompProfile", json!({"type": "Unconfined"})),
        ("/securityContext/seccompProfile", json!(null)),
        ("/securityContext/sysctls", json!([{"name": "kernel.shm_rmid_forced", "value": "0"}])),
        ("/containers/0/securityContext", json!({})),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
        ("/containers/0/securityContext/privileged", json!(true)),
        ("/containers/0/securityContext/runAsNonRoot", json!(false)),
        ("/containers/0/securityContext/runAsUser", json!(0)),
        ("/containers/0/securityContext/seccompProfile", json!({"type": "Unconfined"})),
        ("/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"])),
        ("/containers/0/securityContext/capabilities/add", json!(["SYS_ADMIN"])),
        ("/containers/0/securityContext/procMount", json!("Unmasked")),
        ("/containers/0/ports/0/hostPort", json!(80)),
        ("/initContainers", json!([{"name": "bare"}])),
    ] {
        let mut bad = good.clone();
        let (above, key) = place.rsplit_once('/').expect("a place");
        let above = bad.pointer_mut(above).expect("a place");
        match key.parse::<usize>() {
            Ok(index) => above[index] = value,
            Err(_) => above[key] = value,
        }
        assert!(!violations(&bad).is_empty(), "{place} is not refused");
    }
}
