//! A refusal advises what would help: a ticket for a session alone.

use super::*;

#[tokio::test]
async fn a_refusal_advises_a_ticket_only_where_one_would_help() {
    let (server, _dir) = server("", &[]).await;
    let (id, _) = start(&server, OWNER).await;
    let (_, reader) = ticket(&server, &id, json!({"right": "read"})).await;
    let session = format!("/v1/sessions/{id}");
    let new = json!({"source": {"kind": "run", "app": "blog", "command": ["true"]}});
    for (token, method, path, body, advice) in [
        (OTHER, "GET", "/metrics", None, "read the hub's metrics; it takes the token of an admin"),
        (OTHER, "GET", "/v1/audit", None, "read the audit trail; it takes the token of an admin"),
        (
            WATCHER,
            "POST",
            "/v1/sessions",
            Some(new),
            "start sessions of blog; ask the hub's operator for one that does",
        ),
        (&reader, "DELETE", &session, None, "stop this session; ask the session's owner for a ticket"),
    ] {
        let (status, problem) = server.ask_as(token, method, path, body).await;
        let detail = text(&problem["detail"]);
        assert_eq!((status, detail), (403, format!("this token does not allow to {advice}")), "{method} {path}");
    }
    stop_all(&server).await;
}
