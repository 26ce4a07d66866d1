//! The dashboard and the page for operators name metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::support::server::Server;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("reads")
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("foghorn_").map(|(at, _)| &text[at..]);
    let names = starts.map(|rest| {
        rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect::<String>()
    });
    names.collect()
}

/// All queries of a dashboard, at whatever depth.
fn queries(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => out.push(text.clone()),
                    _ => queries(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, out)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_and_the_page_for_operators_name_metrics_that_there_are() {
    let mut server = Server::start("").await;
    let id = server.run_detached("true").await;
    server.stored(&id).await;
    // So that requests were counted before the metrics are read.
    get(&format!("{}/healthz", server.url())).await;
    let (_, text) = server.bytes_as(&server.token(), "GET", "/metrics", None).await;
    let text = String::from_utf8(text.to_vec()).expect("text");
    let samples: BTreeSet<String> = text.lines().filter(|line| !line.starts_with('#')).flat_map(named).collect();

    let dashboard: Value = serde_json::from_str(&file("docs/grafana-dashboard.json")).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 39));
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has a number of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        assert!(!panel["targets"].as_array().expect("queries").is_empty(), "{title} shows nothing");
        assert!(panel["gridPos"]["w"].as_u64().is_some_and(|width| width <= 24), "{title}");
        assert_eq!(panel["datasource"]["type"], "prometheus", "{title}");
    }
    let mut all = Vec::new();
    queries(&dashboard, &mut all);
    let shown: BTreeSet<String> = all.iter().flat_map(|query| named(query)).collect();
    assert!(shown.len() > 10, "{shown:?}");
    for name in &shown {
        assert!(samples.contains(name), "the dashboard shows {name}, which is not there: {samples:?}");
    }

    // The page has each family, by the name that a query uses, and no others.
    let page = named(&file("docs/operation.md"));
    let families: BTreeSet<String> = samples
        .iter()
        .filter(|name| !name.ends_with("_bucket") && !name.ends_with("_sum"))
        .map(|name| name.strip_suffix("_count").unwrap_or(name).to_owned())
        .collect();
    assert_eq!(page, families);
}
