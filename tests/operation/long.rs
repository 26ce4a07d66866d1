//! Commands as long as a request may be: whoever starts them fills neither lists nor the audit trail nor the log.

use serde_json::json;

use super::metrics::samples;
use crate::support::server::{Server, until};

/// Seven arguments of so many bytes: each one can be passed to a program.
const ARGUMENT_BYTES: usize = 120_000;

/// How many of them are started.
const STARTS: usize = 30;

/// The memory of a process that is resident, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

#[tokio::test]
async fn long_commands_run_whole_and_are_shown_by_their_start() {
    let mut server = Server::start("").await;
    let long = "x".repeat(ARGUMENT_BYTES);
    let mut command = vec!["true"];
    command.extend([&long[..]; 7]);
    let mut ids = Vec::new();
    for _ in 0..STARTS {
        let answer = server.run(&command, json!({"detached": true})).await;
        ids.push(answer["id"].as_str().expect("an id").to_owned());
    }
    // Refused, and as long.
    let refused = json!({"source": {"kind": "run", "app": "no app", "command": command}});
    for _ in 0..STARTS {
        assert_eq!(server.ask("POST", "/v1/sessions", Some(refused.clone())).await.0, 400);
    }
    for id in &ids {
        assert_eq!(server.ended(id).await["exit_status"], 0, "it was passed whole");
        server.stored(id).await;
    }
    // Each lets its own go a while after its end.
    until("no session is in memory", async || {
        let samples = samples(&server).await;
        let live: f64 = samples.iter().filter(|(name, _)| name.starts_with("foghorn_sessions{")).map(|(_, n)| n).sum();
        (live == 0.0).then_some(())
    })
    .await;

    let (pid, before) = (server.pid(), resident(server.pid()));
    let (_, list) = server.bytes_as(&server.token(), "GET", "/v1/sessions?limit=1000", None).await;
    assert!(list.len() < STARTS * 2500, "a list of {} bytes", list.len());
    let list: serde_json::Value = serde_json::from_slice(&list).expect("JSON");
    for session in list["sessions"].as_array().expect("a list") {
        let cut = format!("{}…", &long[..1019]);
        assert_eq!((&session["command"], &session["command_cut"]), (&json!(["true", cut]), &json!(true)));
    }
    let (_, whole) = server.ask("GET", &format!("/v1/sessions/{}", ids[0]), None).await;
    assert_eq!((&whole["command"], whole["command_cut"].is_null()), (&json!(command), true));
    let (_, audit) = server.bytes_as(&server.token(), "GET", "/v1/audit?limit=1000", None).await;
    assert!(audit.len() < 3 * STARTS * 1500, "a trail of {} bytes", audit.len());
    let audit: serde_json::Value = serde_json::from_slice(&audit).expect("JSON");
    let lines: Vec<_> = audit["lines"].as_array().expect("lines").iter().collect();
    let count =
        |outcome: &str| lines.iter().filter(|line| line["action"] == "start" && line["outcome"] == outcome).count();
    assert_eq!((count("ok"), count("invalid_request")), (STARTS, 20), "what was refused has a budget");
    for line in lines.iter().filter(|line| line["action"] == "start") {
        assert!(line["detail"].as_str().is_some_and(|detail| detail.ends_with("x…") && detail.len() == 1027), "{line}");
    }
    assert_eq!(server.ask("GET", "/v1/apps", None).await.1["apps"], json!([{"app": "test"}]));
    let (_, log) = server.bytes_as(&server.token(), "GET", "/v1/apps/test/logs?tail=1000", None).await;
    assert!(log.len() < 2 * STARTS * 2000, "an app's log of {} bytes", log.len());
    let own = server.log().len();
    assert!(own < 400_000, "the hub's log has {own} bytes");
    // One list would have been 25 MB, held as rows, as JSON and on its way.
    let grown = resident(pid).saturating_sub(before);
    assert!(grown < 40 << 20, "grew by {grown} bytes");

    let name = "no-such-program-".to_owned() + &long;
    let answer = server.run(&[&name], json!({"detached": true})).await;
    server.ended(answer["id"].as_str().expect("an id")).await;
    let (_, list) = server.bytes_as(&server.token(), "GET", "/v1/sessions?limit=1", None).await;
    assert!(list.len() < 4000, "the reason why it did not start is short: {} bytes", list.len());
}
