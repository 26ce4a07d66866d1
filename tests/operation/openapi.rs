//! `/openapi.json` describes every door, and what doors answer is as it says.

use std::collections::BTreeSet;

use foghorn::http::routes::{DOORS, Rule};
use serde_json::{Value, json};

use super::schema::check;
use super::*;
use crate::support::server::Server;

/// The name of the schema that a door's answer with this status is of.
fn schema_of(document: &Value, method: &str, path: &str, status: u16, kind: &str) -> String {
    let answer = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
    let reference = &answer["content"][kind]["schema"]["$ref"];
    let reference =
        reference.as_str().unwrap_or_else(|| panic!("{method} {path} does not say what {status} is: {answer}"));
    reference.trim_start_matches("#/components/schemas/").to_owned()
}

#[tokio::test]
async fn every_door_is_described_and_nothing_else() {
    let server = Server::start("").await;
    let answer = get(&format!("{}/openapi.json", server.url())).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let document: Value = serde_json::from_slice(answer.body()).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = 0;
    for path in document["paths"].as_object().expect("paths").values() {
        described += path.as_object().expect("operations").len();
    }
    assert_eq!(described, DOORS.len());
    for door in DOORS {
        let operation = &document["paths"][door.path][door.method.to_lowercase()];
        let what = format!("{} {}", door.method, door.path);
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{what}: {operation}");
        let parameters = operation["parameters"].as_array().expect("parameters");
        let named = |place: &str| -> BTreeSet<&str> {
            let of = parameters.iter().filter(|parameter| parameter["in"] == place);
            of.map(|parameter| parameter["name"].as_str().expect("a name")).collect()
        };
        let in_path = door.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(named("path"), in_path.collect(), "{what}");
        assert_eq!(named("query").len(), (door.query)().len(), "{what}");
        for parameter in parameters {
            assert!(parameter["schema"].is_object(), "{what}: {parameter}");
            let said = parameter["in"] == "path" || parameter["description"].is_string();
            assert!(said, "{what}: nothing says what {} is for", parameter["name"]);
        }
        let responses = operation["responses"].as_object().expect("responses");
        for answer in door.answers {
            assert!(responses.contains_key(&answer.status.to_string()), "{what}: {} is missing", answer.status);
        }
        for (status, code) in door.errors {
            let response = &responses[&status.to_string()];
            assert!(response["description"].as_str().is_some_and(|text| text.contains(code)), "{what}: {code}");
            assert_eq!(schema_of(&document, door.method, door.path, *status, "application/problem+json"), "Problem");
        }
        assert_eq!(operation["requestBody"].is_object(), door.body.is_some(), "{what}");
        assert_eq!(operation["security"] == json!([]), door.rule == Rule::Everyone, "{what}");
        if door.rule != Rule::Everyone {
            assert!(responses.contains_key("401"), "{what} asks who comes");
        }
    }
}

#[tokio::test]
async fn examples_of_bodies_are_as_their_schemas_say() {
    let document = foghorn::http::openapi::document();
    for door in DOORS {
        let Some((_, example)) = door.body else { continue };
        let body =
            &document["paths"][door.path][door.method.to_lowercase()]["requestBody"]["content"]["application/json"];
        let reference = body["schema"]["$ref"].as_str().expect("a schema");
        let example: Value = serde_json::from_str(example).expect("JSON");
        check(&document, reference.trim_start_matches("#/components/schemas/"), &example).expect(door.path);
        assert_eq!(body["example"], example);
    }
}

#[tokio::test]
async fn real_answers_are_as_the_description_says() {
    let mut server = Server::start("").await;
    let document: Value =
        serde_json::from_slice(get(&format!("{}/openapi.json", server.url())).await.body()).expect("JSON");
    let ended = server.run_detached("exit 3").await;
    let killed = server.run_detached("kill -9 $$").await;
    let lost = server.run(&["no-such-command"], json!({"detached": true})).await["id"].clone();
    for id in [&ended, &killed, &lost.as_str().expect("an id").to_owned()] {
        server.ended(id).await;
    }
    let source = json!({"kind": "run", "app": "a", "command": ["sleep", "600"], "detached": true, "tty": true,
        "size": {"cols": 80, "rows": 24}, "env": {"A": "b"}, "timeout": "1h", "idempotency_key": "k"});
    let start = json!({ "source": source });
    check(&document, "NewSession", &start).expect("a full request");
    let mut asked = Vec::new();
    let mut ask = async |method: &'static str, door: &'static str, path: String, body: Option<Value>| {
        let (status, answer) = server.ask(method, &path, body).await;
        let kind = if status < 400 { "application/json" } else { "application/problem+json" };
        let schema = schema_of(&document, method, door, status, kind);
        check(&document, &schema, &answer).unwrap_or_else(|wrong| panic!("{method} {path}: {status}: {wrong}"));
        asked.push((method, door, status));
        answer
    };
    let session = ask("POST", "/v1/sessions", "/v1/sessions".into(), Some(start.clone())).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    ask("POST", "/v1/sessions", "/v1/sessions".into(), Some(start)).await;
    ask("POST", "/v1/sessions", "/v1/sessions".into(), Some(json!({}))).await;
    for of in [&id, &ended, &killed] {
        ask("GET", "/v1/sessions/{id}", format!("/v1/sessions/{of}"), None).await;
    }
    ask("GET", "/v1/sessions/{id}", format!("/v1/sessions/{}", lost.as_str().expect("an id")), None).await;
    ask("GET", "/v1/sessions/{id}", "/v1/sessions/none".into(), None).await;
    ask("GET", "/v1/sessions", "/v1/sessions?limit=2".into(), None).await;
    ask("GET", "/v1/sessions", "/v1/sessions?state=odd".into(), None).await;
    let tickets = format!("/v1/sessions/{id}/tickets");
    ask("POST", "/v1/sessions/{id}/tickets", tickets.clone(), Some(json!({"right": "read", "one_use": true}))).await;
    ask("GET", "/v1/sessions/{id}/tickets", tickets, None).await;
    ask("POST", "/v1/sessions/{id}/signal", format!("/v1/sessions/{id}/signal"), Some(json!({"signal": 0}))).await;
    ask("GET", "/v1/sessions/{id}/output", format!("/v1/sessions/{ended}/output?from=99"), None).await;
    ask("GET", "/v1/audit", "/v1/audit".into(), None).await;
    ask("GET", "/v1/apps", "/v1/apps".into(), None).await;
    ask("GET", "/readyz", "/readyz".into(), None).await;
    // Each door that answers with JSON was asked.
    for door in DOORS.iter().filter(|door| door.answers.iter().any(|answer| answer.shape_name().is_some())) {
        assert!(asked.iter().any(|(method, path, _)| (*method, *path) == (door.method, door.path)), "{}", door.path);
    }
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(&id).await;
}
