//! Names that would be paths, or more than a name, in an address of the API server.

use serde_json::json;
use uuid::Uuid;

use super::channels::{V5, hub};
use crate::support::channels::{NAMESPACE, POD};

const ODD: [&str; 13] = [
    "../../shop/pods/b1",
    "b1?x=y",
    "b1#",
    "b1/attach",
    "x/../b1",
    "../pods/b1",
    "b1%2fexec",
    "b1?/../../../shop/pods/b1",
    "B1/",
    "b1/log",
    "b1/status",
    "b1?watch=1",
    "b1\n",
];

#[tokio::test]
async fn a_name_that_is_a_path_is_refused_and_not_asked_for() {
    let (channels, hub, _dir) = hub(V5).await;
    let command = json!(["true"]);
    for odd in ODD {
        for source in [
            json!({ "kind": "pod", "namespace": NAMESPACE, "pod": odd }),
            json!({ "kind": "pod", "namespace": NAMESPACE, "pod": odd, "app": "demo", "delete": true }),
            json!({ "kind": "pod", "namespace": odd, "pod": POD }),
            json!({ "kind": "pod", "namespace": NAMESPACE, "pod": POD, "container": odd }),
            json!({ "kind": "exec", "app": "demo", "pod": odd, "command": command }),
            json!({ "kind": "exec", "app": "demo", "pod": POD, "container": odd, "command": command }),
            json!({ "kind": "run", "app": "demo", "from": format!("deploy/{odd}"), "command": command }),
            json!({ "kind": "run", "app": "demo", "container": odd, "command": command }),
            json!({ "kind": "run", "app": odd, "command": command }),
        ] {
            let mut body = json!({ "source": source });
            if source["kind"] == "pod" {
                body["id"] = json!(Uuid::new_v4());
            }
            let (status, problem) = hub.ask("POST", "/v1/sessions", Some(body)).await;
            assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{source}: {problem}");
        }
    }
    let (_, list) = hub.ask("GET", "/v1/sessions", None).await;
    assert_eq!(list["sessions"], json!([]));
    let asked = channels.asked();
    assert!(!asked.iter().any(|target| target.to_lowercase().contains("b1")), "{asked:?}");
    // One that is a name is asked for.
    let source = json!({ "kind": "pod", "namespace": NAMESPACE, "pod": "b1.x" });
    hub.ask("POST", "/v1/sessions", Some(json!({ "id": Uuid::new_v4(), "source": source }))).await;
    assert!(channels.asked().iter().any(|target| target.contains(&format!("/namespaces/{NAMESPACE}/pods/b1.x"))));
}
