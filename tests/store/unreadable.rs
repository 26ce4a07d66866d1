//! Rows that cannot be read, damaged or of a later version: they cost nothing but themselves.

use foghorn::record::Cause;
use foghorn::store::{Retention, SessionFilter, SessionRow, StoreError};

use crate::bed::{Bed, all, records, session, ticket};

/// What can be wrong with a session's row.
const DAMAGES: [&str; 7] = [
    "UPDATE sessions SET kind = 'teleport' WHERE name = 'run.2'",
    "UPDATE sessions SET state = 'dreaming' WHERE name = 'run.3'",
    "UPDATE sessions SET command = '[\"ls\"' WHERE name = 'run.4'",
    "UPDATE sessions SET place = 'nowhere' WHERE name = 'run.5'",
    "UPDATE sessions SET exit = '{' WHERE name = 'run.6'",
    "UPDATE sessions SET exit = '{\"cause\":\"abducted\"}' WHERE name = 'run.7'",
    "UPDATE sessions SET command = '7' WHERE name = 'run.8'",
];

/// Nine sessions, of which the first and the last can be read.
async fn damaged(bed: &Bed) -> Vec<SessionRow> {
    let mut rows = Vec::new();
    for _ in 0..9 {
        rows.push(bed.make(session()).await);
    }
    for damage in DAMAGES {
        bed.execute(damage).await;
    }
    rows
}

pub(crate) async fn a_session_that_cannot_be_read_is_left_out_of_lists_and_counted(bed: &Bed) {
    let rows = damaged(bed).await;

    let found = bed.store.sessions(&all()).await.unwrap();
    assert_eq!((found.rows, found.unreadable, found.next), (vec![rows[8].clone(), rows[0].clone()], 7, None));
    for row in &rows[1..8] {
        for alone in [bed.store.session(row.id).await, bed.store.session_by_name(&row.name).await] {
            let Err(StoreError::Row { table: "sessions", row: named, .. }) = alone else { panic!("{alone:?}") };
            assert!(named.contains(&row.id.to_string()), "{named}");
        }
    }
    assert_eq!(bed.store.count_live("ada", "blog").await.unwrap(), (9, 9), "they are there");
}

pub(crate) async fn pages_go_on_across_sessions_that_cannot_be_read(bed: &Bed) {
    let rows = damaged(bed).await;

    let (mut found, mut unreadable, mut pages) = (Vec::new(), 0, 0);
    let mut filter = SessionFilter { limit: 2, ..all() };
    loop {
        let page = bed.store.sessions(&filter).await.unwrap();
        found.extend(page.rows);
        (unreadable, pages, filter.before) = (unreadable + page.unreadable, pages + 1, page.next);
        if filter.before.is_none() {
            break;
        }
    }
    assert_eq!((found, unreadable, pages), (vec![rows[8].clone(), rows[0].clone()], 7, 5));
}

pub(crate) async fn a_session_that_cannot_be_read_is_no_other_start_and_not_put_back_twice(bed: &Bed) {
    let row = bed.make(SessionRow { idempotency_key: Some("k".into()), ..session() }).await;
    bed.execute("UPDATE sessions SET kind = 'teleport'").await;

    let again = bed.store.create_session(SessionRow { idempotency_key: Some("k".into()), ..session() }).await;
    assert!(matches!(again, Err(StoreError::Row { .. })), "{again:?}");
    assert_eq!(bed.store.restore_session(row.clone()).await.unwrap(), row);
    let other = SessionRow { name: "run.7".into(), idempotency_key: Some("k".into()), ..session() };
    assert_eq!(bed.store.restore_session(other).await.unwrap().idempotency_key, None);
}

pub(crate) async fn a_session_that_cannot_be_read_expires(bed: &Bed) {
    for row in damaged(bed).await {
        bed.store.end_session(row.id, &Cause::Idle.into(), 9).await.unwrap();
    }
    let retention = Retention { ended_before: 10, audit_before: 0, total_bytes: u64::MAX };
    assert_eq!(bed.store.retain(&retention).await.unwrap(), 9);
}

pub(crate) async fn a_ticket_that_cannot_be_read_is_left_out_and_counted(bed: &Bed) {
    let (good, bad) = (ticket(bed.any().await), ticket(bed.any().await));
    let bad = foghorn::store::TicketRow { session: good.session, issuer: "eve".into(), ..bad };
    for ticket in [&good, &bad] {
        bed.store.create_ticket(ticket).await.unwrap();
    }
    bed.execute("UPDATE tickets SET access = 'everything' WHERE issuer = 'eve'").await;

    let found = bed.store.tickets(good.session).await.unwrap();
    assert_eq!((found.rows, found.unreadable), (vec![good], 1));
    let alone = bed.store.ticket(&bad.hash).await;
    let Err(StoreError::Row { table: "tickets", row, .. }) = alone else { panic!("{alone:?}") };
    assert!(row.contains(&bad.id.to_string()), "{row}");
}

pub(crate) async fn a_chunk_whose_row_cannot_be_read_has_no_data(bed: &Bed) {
    let id = bed.any().await;
    let chunks = [records(0, 0, 10), records(1, 10, 20), records(2, 20, 30)];
    bed.store.append(id, &chunks).await.unwrap();
    bed.execute("UPDATE chunks SET from_offset = -10 WHERE seq = 1").await;

    let found = bed.store.chunks(id, 0, 1000).await.unwrap();
    let bad = &found[1];
    assert_eq!((bad.seq, bad.from, bad.to, bad.data.len()), (1, 0, 20, 0));
    assert_eq!((&found[0], &found[2]), (&chunks[0], &chunks[2]));
}

pub(crate) async fn sizes_that_cannot_be_keep_retention_from_nothing(bed: &Bed) {
    let old = bed.any().await;
    bed.store.append(old, &[records(0, 0, 10)]).await.unwrap();
    bed.store.end_session(old, &Cause::Idle.into(), 9).await.unwrap();
    bed.execute("UPDATE sessions SET stored_bytes = -5; UPDATE chunks SET kind = -1, bytes = -7").await;

    let retention = Retention { ended_before: 10, audit_before: 0, total_bytes: 0 };
    assert_eq!(bed.store.retain(&retention).await.unwrap(), 1);
}
