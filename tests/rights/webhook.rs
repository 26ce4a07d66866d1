//! People whom a webhook vouches for.

use std::time::{Duration, Instant};

use foghorn::protocol::{ClientMessage, HubMessage, Secret};
use serde_json::json;

use super::*;
use crate::support::authorizer::{Authorizer, Mood};
use crate::support::doors::{start, walk};
use crate::support::server::Hello;

/// Tokens, in the order of [`crate::support::doors::PEOPLE`].
pub(crate) const TOKENS: [&str; 7] = [
    "header.nobody-at-all.signature",
    "header.of-nora.signature",
    "header.of-leo.signature",
    "header.of-ria.signature",
    "header.of-rob.signature",
    "header.of-eli.signature",
    "header.of-ada.signature",
];

const NORA: &str = TOKENS[1];
const LEO: &str = TOKENS[2];
const RIA: &str = TOKENS[3];
const ROB: &str = TOKENS[4];
const ELI: &str = TOKENS[5];
const ADA: &str = TOKENS[6];

/// Within how long a right that was taken away has to end a stream.
const TAKEN: Duration = Duration::from_secs(60);

/// A hub with a webhook that knows them and their rights on an app; more settings, and variables.
pub(crate) async fn hub(app: &str, settings: &str, env: &[(&str, &str)]) -> (Server, Authorizer) {
    hub_with(app, settings, "", env).await
}

/// The same, with more settings of the webhook.
pub(crate) async fn hub_with(app: &str, settings: &str, webhook: &str, env: &[(&str, &str)]) -> (Server, Authorizer) {
    let authorizer = Authorizer::start().await;
    for (token, name) in TOKENS.into_iter().zip(["", "nora", "leo", "ria", "rob", "eli", "ada"]).skip(1) {
        authorizer.knows(token, name);
    }
    for runs in ["ria", "rob"] {
        authorizer.allows(&format!("{runs} create pods {app}"));
        authorizer.allows(&format!("{runs} create pods/exec {app}"));
    }
    authorizer.allows(&format!("leo get pods/log {app}"));
    authorizer.allows(&format!("eli create pods/exec {app}"));
    authorizer.allows("ada admin sessions");
    let settings = format!("{settings}\n[webhook]\nurl = \"{}\"\ntimeout = \"1s\"\n{webhook}", authorizer.url);
    let env: Vec<_> = [("FOGHORN_AUTH", "webhook")].into_iter().chain(env.to_vec()).collect();
    (Server::start_with(&settings, &env).await, authorizer)
}

async fn listed(server: &Server, token: &str) -> Vec<String> {
    let (status, list) = server.ask_as(token, "GET", "/v1/sessions", None).await;
    assert_eq!(status, 200, "{list}");
    list["sessions"].as_array().expect("a list").iter().map(|session| text(&session["id"])).collect()
}

#[tokio::test]
async fn every_door_lets_in_whom_the_authorizer_allows_and_nobody_else() {
    let (server, _authorizer) = hub("blog", "", &[]).await;
    walk(&server, "blog", TOKENS).await;
    stop_all(&server).await;
}

#[tokio::test]
async fn the_two_objects_are_kubernetes_own_and_a_persons_token_is_in_the_first_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "the-hubs-own\n").expect("writes");
    let (server, authorizer) = hub("blog", "", &[]).await;
    let authorizer_of = |rights: &'static str| {
        let settings =
            format!("[webhook]\nurl = \"{}\"\ntoken_file = \"{}\"\n[apps.blog]\n", authorizer.url, file.display());
        async move { Server::start_with(&settings, &[("FOGHORN_AUTH", "webhook"), ("FOGHORN_RIGHTS", rights)]).await }
    };
    drop(server);
    let server = authorizer_of("pods").await;
    authorizer.mind().asked.clear();
    let session = start(&server, "blog", RIA).await;
    let asked = std::mem::take(&mut authorizer.mind().asked);
    assert!(asked.iter().all(|(_, shown)| shown.as_deref() == Some("Bearer the-hubs-own")));
    let asked: Vec<_> = asked.into_iter().map(|(review, _)| review).collect();
    assert_eq!(asked[0]["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!((&asked[0]["kind"], &asked[0]["spec"]["token"]), (&json!("TokenReview"), &json!(RIA)));
    for (review, subresource) in asked[1..3].iter().zip([json!(null), json!("exec")]) {
        assert_eq!(review["apiVersion"], "authorization.k8s.io/v1");
        assert_eq!((&review["spec"]["user"], &review["spec"]["groups"]), (&json!("ria"), &json!(["developers"])));
        let attributes = &review["spec"]["resourceAttributes"];
        assert_eq!((&attributes["verb"], &attributes["resource"]), (&json!("create"), &json!("pods")));
        assert_eq!((&attributes["namespace"], &attributes["subresource"]), (&json!("blog"), &subresource));
        assert!(!review.to_string().contains(RIA), "a token is where it need not be");
    }
    // Asked again a moment later, it is remembered.
    assert_eq!(asked.len(), 3);
    assert_eq!(listed(&server, RIA).await, [session]);
    assert!(authorizer.mind().asked.iter().all(|(review, _)| review["spec"]["token"] == json!(null)));
    stop_all(&server).await;
    drop(server);

    let server = authorizer_of("foghorn").await;
    authorizer.allows("ria logs sessions blog");
    authorizer.mind().asked.clear();
    assert_eq!(server.ask_as(RIA, "GET", "/v1/apps/blog/logs", None).await.0, 200);
    let attributes = authorizer.mind().asked[1].0["spec"]["resourceAttributes"].clone();
    let expected =
        json!({"group": "foghorn.dev", "resource": "sessions", "verb": "logs", "namespace": "blog", "name": "blog"});
    assert_eq!(attributes, expected);
    let body = json!({"source": {"kind": "run", "app": "blog", "command": ["true"], "detached": true}});
    let (status, problem) = server.ask_as(RIA, "POST", "/v1/sessions", Some(body.clone())).await;
    assert_eq!(status, 403);
    let needed = "it needs `create sessions.foghorn.dev` in the namespace blog";
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with(needed)), "{problem}");
    authorizer.allows("rob create sessions blog");
    assert_eq!(server.ask_as(ROB, "POST", "/v1/sessions", Some(body)).await.0, 201);
    stop_all(&server).await;
}

#[tokio::test]
async fn an_app_may_let_others_watch_and_they_do_no_more_than_that() {
    let settings = "[apps.blog]\nwatch = \"log\"\n[apps.shop]\nwatch = \"exec\"\n";
    let (server, authorizer) = hub("blog", settings, &[]).await;
    for what in ["ria create pods", "ria create pods/exec", "eli create pods/exec", "leo get pods/log"] {
        ["shop", "wiki"].iter().for_each(|app| authorizer.allows(&format!("{what} {app}")));
    }
    let [blog, shop, wiki] =
        [start(&server, "blog", RIA).await, start(&server, "shop", RIA).await, start(&server, "wiki", RIA).await];
    assert_eq!(listed(&server, NORA).await, [""; 0]);
    assert_eq!(listed(&server, LEO).await, [&*blog]);
    assert_eq!(listed(&server, ELI).await, [&*shop]);
    assert_eq!(listed(&server, RIA).await, [&*wiki, &shop, &blog]);
    assert_eq!(listed(&server, ADA).await, [&*wiki, &shop, &blog]);
    for (token, session, seen) in [(LEO, &blog, true), (ELI, &shop, true), (LEO, &shop, false), (ELI, &wiki, false)] {
        let path = |door: &str| format!("/v1/sessions/{session}{door}");
        let (see, act) = if seen { (200, 403) } else { (404, 404) };
        assert_eq!(server.ask_as(token, "GET", &path("/output"), None).await.0, see);
        assert_eq!(server.ask_as(token, "GET", &path(""), None).await.0, see);
        assert_eq!(server.ask_as(token, "POST", &path("/signal"), Some(json!({"signal": 28}))).await.0, act);
        assert_eq!(server.ask_as(token, "POST", &path("/tickets"), Some(json!({"right": "read"}))).await.0, act);
        assert_eq!(server.ask_as(token, "DELETE", &path(""), None).await.0, act);
        assert_eq!(server.attach_as(token, session, Hello::watch()).await.is_ok(), seen);
        if seen {
            let mut driver = server.attach_as(token, session, Hello::drive(1)).await.expect("connects");
            assert_eq!(driver.rest().await, 4403);
        }
    }
    // What their terminals show stands in the log of the app for those.
    for (app, seen) in [("blog", true), ("wiki", false)] {
        let body =
            json!({"source": {"kind": "run", "app": app, "command": ["echo", "shown"], "tty": true, "detached": true}});
        let (status, session) = server.ask_as(RIA, "POST", "/v1/sessions", Some(body)).await;
        assert_eq!(status, 201, "{session}");
        server.ended(session["id"].as_str().expect("an id")).await;
        let (status, log) = server.bytes_as(LEO, "GET", &format!("/v1/apps/{app}/logs"), None).await;
        let log = String::from_utf8_lossy(&log).into_owned();
        assert!(status == 200 && log.contains("Process exited"), "{log}");
        assert_eq!(log.contains(": shown"), seen, "{log}");
    }
    // One's own as long as one may start one like it.
    authorizer.allows("ria get pods/log wiki");
    let shown = async || {
        let (status, log) = server.bytes_as(RIA, "GET", "/v1/apps/wiki/logs", None).await;
        let log = String::from_utf8_lossy(&log).into_owned();
        assert!(status == 200 && log.contains("Process exited"), "{log}");
        log.contains(": shown")
    };
    assert!(shown().await);
    authorizer.takes("ria create pods wiki");
    until("it is not shown any more", async || (!shown().await).then_some(())).await;
    stop_all(&server).await;
}

#[tokio::test]
async fn an_authorizer_that_is_away_lets_nobody_new_in_and_takes_nobodys_right() {
    let (server, authorizer) = hub("blog", "", &[]).await;
    let session = start(&server, "blog", RIA).await;
    let path = format!("/v1/sessions/{session}");
    for mood in [Mood::Hangs, Mood::Fails, Mood::Babbles, Mood::Shrugs] {
        authorizer.mind().mood = mood;
        let fresh = format!("header.{mood:?}.signature");
        let since = Instant::now();
        let (status, problem) = server.ask_as(&fresh, "GET", &path, None).await;
        assert_eq!((status, &problem["code"]), (503, &json!("authorizer_unavailable")), "{mood:?}");
        assert!(since.elapsed() < Duration::from_secs(20), "{mood:?}");
        let (_, metrics) = server.bytes_as(&server.token(), "GET", "/metrics", None).await;
        let zero = b"foghorn_reviews_total{outcome=\"away\"} 0";
        assert!(!metrics.windows(zero.len()).any(|part| part == zero), "{mood:?}");
        assert_eq!(server.ask_as(RIA, "GET", &path, None).await.0, 200, "{mood:?}");
        assert_eq!(server.ask_as(OWNER, "GET", &path, None).await.0, 503, "{mood:?}");
        assert_eq!(server.ask("GET", &path, None).await.0, 200, "a static token needs nobody, {mood:?}");
    }
    // Past the time for which an answer is believed without asking, too, and on what is open.
    authorizer.mind().mood = Mood::Hangs;
    let mut viewer = server.attach_as(RIA, &session, Hello::watch()).await.expect("watches");
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(server.ask_as(RIA, "GET", &path, None).await.0, 200);
    viewer.say(&ClientMessage::Stop).await;
    assert_eq!(viewer.rest().await, 1000, "nobody asked for another token, and the stream went on");
    assert!(viewer.seen.iter().all(|message| !matches!(message, HubMessage::Renew | HubMessage::Error { .. })));
    authorizer.mind().mood = Mood::Denies;
    let problem = server.ask_as(ELI, "GET", "/v1/apps/blog/logs", None).await;
    assert_eq!((problem.0, &problem.1["code"]), (403, &json!("forbidden")), "denied outranks allowed");
    stop_all(&server).await;
}

#[tokio::test]
async fn a_name_of_the_tokens_file_is_nobody_elses() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = tokens(dir.path(), &[("ria", "user", OWNER)]);
    let (server, _authorizer) = hub("blog", "", &[("FOGHORN_TOKENS", file.to_str().expect("a path"))]).await;
    let session = start(&server, "blog", OWNER).await;
    assert_eq!(server.ask_as(RIA, "GET", &format!("/v1/sessions/{session}"), None).await.0, 403);
    assert_eq!(server.ask_as(ROB, "GET", &format!("/v1/sessions/{session}"), None).await.0, 404);
    stop_all(&server).await;
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_what_it_opened_and_a_ticket_with_it() {
    let (server, authorizer) = hub("blog", "[apps.blog]\nwatch = \"log\"\n", &[]).await;
    let session = start(&server, "blog", RIA).await;
    let (_, ticket) = {
        let path = format!("/v1/sessions/{session}/tickets");
        let (status, ticket) = server.ask_as(RIA, "POST", &path, Some(json!({"right": "read"}))).await;
        assert_eq!(status, 201);
        (text(&ticket["id"]), text(&ticket["secret"]))
    };
    let mut owner = server.attach_as(RIA, &session, Hello::drive(1)).await.expect("drives");
    let mut guest = server.attach_as(&ticket, &session, Hello::watch()).await.expect("watches");
    let mut reader = server.attach_as(LEO, &session, Hello::watch()).await.expect("watches");
    let mut admin = server.attach_as(ADA, &session, Hello::watch()).await.expect("watches");
    for viewer in [&mut owner, &mut guest, &mut reader, &mut admin] {
        viewer.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    }
    let log = server.open_as(LEO, "/v1/apps/blog/logs?follow=true").await;
    let output = server.open_as(&ticket, &format!("/v1/sessions/{session}/output?follow=true")).await;
    let since = Instant::now();
    authorizer.takes("ria create pods/exec blog");
    authorizer.takes("leo get pods/log blog");
    let (owner, guest, reader, _, whole) = tokio::join!(owner.rest(), guest.rest(), reader.rest(), log, output);
    assert_eq!([owner, guest, reader], [4401; 3]);
    assert!(!whole, "a part is not taken for the whole");
    assert!(since.elapsed() < TAKEN, "{:?}", since.elapsed());
    assert_eq!(server.ask_as(&ticket, "GET", &format!("/v1/sessions/{session}"), None).await.0, 404);
    admin.say(&ClientMessage::Signal { signal: 28 }).await;
    admin.say(&ClientMessage::Stop).await;
    assert_eq!(admin.rest().await, 1000, "who has lost nothing stays to the end");
    stop_all(&server).await;
}

#[tokio::test]
async fn a_token_that_ends_is_renewed_on_the_open_stream_by_the_same_person_alone() {
    let (server, authorizer) = hub("blog", "", &[]).await;
    let session = start(&server, "blog", RIA).await;
    let is_renew = |message: &HubMessage| matches!(message, HubMessage::Renew);
    let mut renews = server.attach_as(RIA, &session, Hello::drive(1)).await.expect("drives");
    let mut leaves = server.attach_as(RIA, &session, Hello::watch()).await.expect("watches");
    let (since, later) = (Instant::now(), "header.of-ria-later.signature");
    authorizer.mind().people.remove(RIA);
    authorizer.knows(later, "ria");
    let renewed = async {
        renews.hears(is_renew).await;
        for (wrong, code) in [(ROB, "forbidden"), (RIA, "unauthorized"), (NORA, "forbidden")] {
            renews.say(&ClientMessage::Renew { token: Secret::new(wrong) }).await;
            let HubMessage::Error { code: told, .. } =
                renews.hears(|message| matches!(message, HubMessage::Error { .. })).await
            else {
                panic!("no error")
            };
            assert_eq!(told, code);
        }
        renews.say(&ClientMessage::Renew { token: Secret::new(later) }).await;
        renews.hears(|message| matches!(message, HubMessage::Renewed)).await;
    };
    let (_, code) = tokio::join!(renewed, leaves.rest());
    assert_eq!(code, 4401);
    assert!(since.elapsed() < TAKEN, "{:?}", since.elapsed());
    // It stays for longer than it would have without.
    tokio::time::sleep(Duration::from_secs(20)).await;
    renews.say(&ClientMessage::Stop).await;
    assert_eq!(renews.rest().await, 1000);
    // Who came with a ticket, or a static token, has nothing to renew.
    let other = start(&server, "blog", later).await;
    let mut admin = server.attach(&other, Hello::watch()).await;
    admin.say(&ClientMessage::Renew { token: Secret::new(later) }).await;
    admin.hears(|message| matches!(message, HubMessage::Error { code, .. } if code == "invalid_request")).await;
    stop_all(&server).await;
}
