//! Sessions: made once, named, listed, ended, deleted.

use std::collections::HashSet;

use foghorn::record::{Cause, Exit};
use foghorn::store::{Created, SessionFilter, SessionRow, State};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::bed::{Bed, all, line, records, session, ticket, whole};

pub(crate) async fn a_session_comes_back_as_it_was_made(bed: &Bed) {
    let mut row = session();
    row.idempotency_key = Some("k".into());
    row.request_hash = Some("h".into());
    let made = bed.make(row.clone()).await;
    row.name = made.name.clone();

    assert_eq!(made, row);
    assert_eq!(bed.store.session(row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(bed.store.session_by_name(&row.name).await.unwrap(), Some(row));
    assert_eq!(bed.store.session(Uuid::new_v4()).await.unwrap(), None);
    assert_eq!(bed.store.session_by_name("run.0").await.unwrap(), None);
}

pub(crate) async fn names_are_counted_and_never_given_twice(bed: &Bed) {
    let first = bed.make(SessionRow { name: "mine".into(), ..session() }).await;
    let second = bed.make(session()).await;
    assert_eq!((&first.name[..], &second.name[..]), ("run.1", "run.2"));

    bed.store.delete_session(second.id).await.unwrap();
    let existing = bed.store.create_session(first).await.unwrap();
    assert!(matches!(existing, Created::Existing(_)));
    assert_eq!(bed.make(session()).await.name, "run.3");
}

pub(crate) async fn sessions_made_at_once_have_different_names(bed: &Bed) {
    let other = bed.open().await.unwrap();
    let made = join_all((0..16).map(|turn| {
        let store = if turn % 2 == 0 { bed.store.clone() } else { other.clone() };
        tokio::spawn(async move { store.create_session(session()).await.unwrap() })
    }))
    .await;
    other.close().await;

    let names: HashSet<_> = made
        .into_iter()
        .map(|made| match made.unwrap() {
            Created::New(row) | Created::Existing(row) => row.name,
        })
        .collect();
    assert_eq!(names, (1..=16).map(|number| format!("run.{number}")).collect());
}

fn keyed(owner: &str) -> SessionRow {
    SessionRow {
        owner: owner.into(),
        idempotency_key: Some("deploy-7".into()),
        request_hash: Some("h1".into()),
        ..session()
    }
}

pub(crate) async fn a_repeated_key_is_the_same_start(bed: &Bed) {
    let first = bed.make(keyed("ada")).await;
    let again = bed.store.create_session(SessionRow { request_hash: Some("h2".into()), ..keyed("ada") }).await.unwrap();

    assert!(matches!(again, Created::Existing(row) if *row == first));
    assert_eq!(bed.store.sessions(&all()).await.unwrap().rows.len(), 1);
    assert_eq!(bed.store.session_by_key("ada", "deploy-7").await.unwrap(), Some(first));
    for (owner, key) in [("ada", "deploy-8"), ("bob", "deploy-7")] {
        assert_eq!(bed.store.session_by_key(owner, key).await.unwrap(), None, "{owner}, {key}");
    }
}

pub(crate) async fn a_repeated_id_is_the_same_start(bed: &Bed) {
    let first = bed.make(session()).await;
    let again = bed.store.create_session(SessionRow { app: "other".into(), ..first.clone() }).await.unwrap();

    assert!(matches!(again, Created::Existing(row) if *row == first));
}

pub(crate) async fn two_starts_with_one_key_at_once_make_one_session(bed: &Bed) {
    let made = join_all((0..8).map(|_| {
        let store = bed.store.clone();
        tokio::spawn(async move { store.create_session(keyed("ada")).await.unwrap() })
    }))
    .await;

    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|made| matches!(made, Created::New(_))).count(), 1);
    let ids: HashSet<_> = made
        .into_iter()
        .map(|made| match made {
            Created::New(row) | Created::Existing(row) => row.id,
        })
        .collect();
    assert_eq!(ids.len(), 1);
}

pub(crate) async fn a_key_is_the_owners_own(bed: &Bed) {
    let ada = bed.make(keyed("ada")).await;
    let eve = bed.make(keyed("eve")).await;
    assert_ne!(ada.id, eve.id);
    bed.make(session()).await;
    bed.make(session()).await;
}

pub(crate) async fn the_list_is_newest_first_and_filtered(bed: &Bed) {
    let one = bed.make(session()).await;
    let two = bed.make(SessionRow { app: "shop".into(), ..session() }).await;
    let three = bed.make(SessionRow { owner: "eve".into(), ..session() }).await;
    bed.store.end_session(one.id, &Cause::Idle.into(), 9).await.unwrap();
    let names = async |filter: SessionFilter| -> Vec<String> {
        bed.store.sessions(&filter).await.unwrap().rows.into_iter().map(|row| row.name).collect()
    };

    assert_eq!(names(all()).await, ["run.3", "run.2", "run.1"]);
    assert_eq!(names(SessionFilter { limit: 2, ..all() }).await, ["run.3", "run.2"]);
    assert_eq!(names(SessionFilter { app: Some("blog".into()), ..all() }).await, ["run.3", "run.1"]);
    assert_eq!(names(SessionFilter { owner: Some("ada".into()), ..all() }).await, ["run.2", "run.1"]);
    assert_eq!(names(SessionFilter { live: Some(true), ..all() }).await, ["run.3", "run.2"]);
    assert_eq!(names(SessionFilter { live: Some(false), ..all() }).await, ["run.1"]);
    assert_eq!(names(SessionFilter { before: Some(three.created_at), ..all() }).await, ["run.2", "run.1"]);
    let narrow =
        SessionFilter { app: Some("shop".into()), live: Some(true), before: Some(two.created_at + 1), ..all() };
    assert_eq!(names(narrow).await, ["run.2"]);
}

pub(crate) async fn each_app_is_named_once(bed: &Bed) {
    assert!(bed.store.apps().await.unwrap().is_empty());
    for app in ["shop", "blog", "shop", "blog", "blog"] {
        bed.make(SessionRow { app: app.into(), ..session() }).await;
    }
    let mut apps = bed.store.apps().await.unwrap();
    apps.sort();
    assert_eq!(apps, ["blog", "shop"]);
}

pub(crate) async fn live_sessions_are_counted_by_owner_and_by_app(bed: &Bed) {
    bed.make(session()).await;
    bed.make(SessionRow { app: "shop".into(), ..session() }).await;
    bed.make(SessionRow { owner: "eve".into(), ..session() }).await;
    let ended = bed.make(session()).await;
    bed.store.end_session(ended.id, &Cause::Idle.into(), 9).await.unwrap();

    assert_eq!(bed.store.count_live("ada", "blog").await.unwrap(), (2, 2));
    assert_eq!(bed.store.count_live("eve", "shop").await.unwrap(), (1, 1));
    assert_eq!(bed.store.count_live("bob", "wiki").await.unwrap(), (0, 0));
}

pub(crate) async fn running_is_noted_until_the_end(bed: &Bed) {
    let id = bed.any().await;
    bed.store.set_running(id, 5).await.unwrap();
    let running = bed.store.session(id).await.unwrap().unwrap();
    assert_eq!((running.state, running.started_at), (State::Running, Some(5)));

    bed.store.end_session(id, &Cause::Idle.into(), 9).await.unwrap();
    bed.store.set_running(id, 10).await.unwrap();
    let ended = bed.store.session(id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.started_at), (State::Ended, Some(5)));
}

pub(crate) async fn the_first_end_stands(bed: &Bed) {
    let id = bed.any().await;
    let first = Exit::from(Cause::Exited { status: 3 });
    bed.store.end_session(id, &first, 9).await.unwrap();
    bed.store.end_session(id, &Cause::Lost { reason: "gone".into() }.into(), 12).await.unwrap();

    let row = bed.store.session(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.exit, row.ended_at), (State::Ended, Some(first), Some(9)));
}

pub(crate) async fn a_place_is_noted(bed: &Bed) {
    let id = bed.any().await;
    let place = serde_json::json!({"pod": "run-4821", "ports": [1, 2], "none": null});
    bed.store.set_place(id, &place).await.unwrap();
    assert_eq!(bed.store.session(id).await.unwrap().unwrap().place, place);
}

pub(crate) async fn deleting_takes_chunks_and_tickets_but_not_the_audit_trail(bed: &Bed) {
    let (id, other) = (bed.any().await, bed.any().await);
    for session in [id, other] {
        bed.store.append(session, &[records(0, 0, 10)]).await.unwrap();
        bed.store.create_ticket(&ticket(session)).await.unwrap();
        bed.store.add_audit(&line(1, "ada", Some(session))).await.unwrap();
    }

    assert!(bed.store.delete_session(id).await.unwrap());
    assert!(!bed.store.delete_session(id).await.unwrap());

    assert_eq!(bed.store.session(id).await.unwrap(), None);
    assert_eq!(bed.store.chunks(id, 0, 1000).await.unwrap(), []);
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 1);
    assert_eq!(bed.number("SELECT COUNT(*) FROM tickets").await, 1);
    assert_eq!(bed.store.chunks(other, 0, 1000).await.unwrap().len(), 1);
    assert_eq!(bed.store.tickets(other).await.unwrap().rows.len(), 1);
    assert_eq!(bed.store.audit(&whole()).await.unwrap().rows.len(), 2);
}

pub(crate) async fn a_session_that_an_older_copy_does_not_know_is_put_back_under_its_name(bed: &Bed) {
    bed.make(session()).await;
    let unknown = SessionRow { name: "run.7".into(), state: State::Running, started_at: Some(5), ..keyed("ada") };

    assert_eq!(bed.store.restore_session(unknown.clone()).await.unwrap(), unknown);
    assert_eq!(bed.store.session_by_name("run.7").await.unwrap(), Some(unknown.clone()));
    let again = bed.store.restore_session(SessionRow { app: "other".into(), ..unknown.clone() }).await.unwrap();
    assert_eq!(again, unknown, "what is there stays as it is");
    assert_eq!(bed.make(session()).await.name, "run.8", "the numbers go on behind it");
    bed.store.append(unknown.id, &[records(0, 1000, 1010)]).await.unwrap();
    let same = bed.store.create_session(keyed("ada")).await.unwrap();
    assert!(matches!(same, Created::Existing(row) if row.id == unknown.id));
}

pub(crate) async fn a_name_and_a_key_that_were_taken_in_between_stay_with_their_new_owners(bed: &Bed) {
    let taken = bed.make(keyed("ada")).await;
    let unknown = SessionRow { name: taken.name.clone(), ..keyed("ada") };

    let restored = bed.store.restore_session(unknown.clone()).await.unwrap();

    let expected = SessionRow { name: "run.2".into(), idempotency_key: None, request_hash: None, ..unknown };
    assert_eq!(restored, expected);
    assert_eq!(bed.store.session(taken.id).await.unwrap(), Some(taken));
}
