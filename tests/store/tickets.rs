//! Tickets, and the audit trail.

use foghorn::store::{AuditFilter, Right, StoreError, TicketRow};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::bed::{Bed, line, ticket, whole};

pub(crate) async fn a_ticket_comes_back_as_it_was_made(bed: &Bed) {
    let id = bed.any().await;
    let made: Vec<_> = [Right::Read, Right::Write, Right::Control]
        .map(|right| TicketRow { right, one_use: right != Right::Read, ..ticket(id) })
        .into();
    for ticket in &made {
        bed.store.create_ticket(ticket).await.unwrap();
        assert_eq!(bed.store.ticket(&ticket.hash).await.unwrap().as_ref(), Some(ticket));
    }
    assert_eq!(bed.store.ticket("no such hash").await.unwrap(), None);

    let mut found = bed.store.tickets(id).await.unwrap().rows;
    found.sort_by_key(|ticket| ticket.right);
    assert_eq!(found, made);
    assert_eq!(bed.store.tickets(Uuid::new_v4()).await.unwrap().rows, []);
}

pub(crate) async fn a_ticket_needs_its_session(bed: &Bed) {
    let gone = Uuid::now_v7();
    let made = bed.store.create_ticket(&ticket(gone)).await;
    assert!(matches!(made, Err(StoreError::NoSession(id)) if id == gone), "{made:?}");
}

pub(crate) async fn a_one_use_ticket_is_used_once_by_sixteen_at_once(bed: &Bed) {
    let made = ticket(bed.any().await);
    bed.store.create_ticket(&made).await.unwrap();
    let used = join_all((0..16).map(|turn| {
        let (store, id) = (bed.store.clone(), made.id);
        tokio::spawn(async move { store.use_ticket(id, turn, &format!("resume {turn}")).await.unwrap() })
    }))
    .await;

    let winners: Vec<_> = used.into_iter().map(Result::unwrap).enumerate().filter(|(_, used)| *used).collect();
    let [(winner, _)] = winners[..] else { panic!("{winners:?}") };
    let kept = bed.store.ticket(&made.hash).await.unwrap().unwrap();
    assert_eq!(kept.resume_hash, Some(format!("resume {winner}")));
    assert_eq!(kept.used_at, i64::try_from(winner).ok());
}

pub(crate) async fn a_ticket_for_many_uses_keeps_its_first_resume_secret(bed: &Bed) {
    let made = TicketRow { one_use: false, ..ticket(bed.any().await) };
    bed.store.create_ticket(&made).await.unwrap();

    assert!(bed.store.use_ticket(made.id, 5, "first").await.unwrap());
    assert!(bed.store.use_ticket(made.id, 6, "second").await.unwrap());
    assert!(!bed.store.use_ticket(Uuid::new_v4(), 6, "third").await.unwrap());
    let kept = bed.store.ticket(&made.hash).await.unwrap().unwrap();
    assert_eq!((kept.used_at, kept.resume_hash.as_deref()), (Some(5), Some("first")));
}

pub(crate) async fn a_revoked_ticket_is_not_used(bed: &Bed) {
    let (session, other) = (bed.any().await, bed.any().await);
    let made = TicketRow { one_use: false, ..ticket(session) };
    bed.store.create_ticket(&made).await.unwrap();

    assert!(!bed.store.revoke_ticket(other, made.id, 7).await.unwrap(), "of another session");
    assert!(!bed.store.revoke_ticket(session, Uuid::new_v4(), 7).await.unwrap());
    assert!(bed.store.revoke_ticket(session, made.id, 7).await.unwrap());
    assert!(!bed.store.revoke_ticket(session, made.id, 8).await.unwrap(), "was revoked");

    assert!(!bed.store.use_ticket(made.id, 9, "r").await.unwrap());
    let kept = bed.store.ticket(&made.hash).await.unwrap().unwrap();
    assert_eq!((kept.revoked_at, kept.used_at, kept.resume_hash), (Some(7), None, None));
}

pub(crate) async fn the_resume_secret_finds_the_ticket(bed: &Bed) {
    let made = ticket(bed.any().await);
    bed.store.create_ticket(&made).await.unwrap();
    bed.store.create_ticket(&ticket(made.session)).await.unwrap();
    assert_eq!(bed.store.ticket("resume").await.unwrap(), None);

    assert!(bed.store.use_ticket(made.id, 5, "resume").await.unwrap());
    assert_eq!(bed.store.ticket("resume").await.unwrap().unwrap().id, made.id);
}

pub(crate) async fn the_audit_trail_is_newest_first_and_filtered(bed: &Bed) {
    let session = Uuid::now_v7();
    let lines =
        [line(10, "ada", Some(session)), line(20, "eve", Some(session)), line(30, "ada", None), line(30, "eve", None)];
    for line in &lines {
        bed.store.add_audit(line).await.unwrap();
    }
    let [one, two, three, four] = lines;
    let read = async |filter: AuditFilter| bed.store.audit(&filter).await.unwrap().rows;

    assert_eq!(read(whole()).await, [four.clone(), three.clone(), two.clone(), one.clone()]);
    assert_eq!(read(AuditFilter { limit: 2, ..whole() }).await, [four, three.clone()]);
    assert_eq!(read(AuditFilter { session: Some(session), ..whole() }).await, [two.clone(), one.clone()]);
    assert_eq!(read(AuditFilter { actor: Some("ada".into()), ..whole() }).await, [three, one.clone()]);
    assert_eq!(read(AuditFilter { before: Some(20), ..whole() }).await, [one]);
}
