//! Retention: what ended goes, what lives stays.

use foghorn::record::Cause;
use foghorn::store::{Clock, Extent, Retention, SessionRow};
use uuid::Uuid;

use crate::bed::{Bed, all, line, records, screen, session, ticket, whole};

const A_DAY: i64 = 86_400_000_000;
const NOTHING: Retention = Retention { ended_before: i64::MIN, audit_before: i64::MIN, total_bytes: u64::MAX };

/// A session made at `created_at`, with 30 bytes stored, that ended at `ended_at` if at all.
async fn made(bed: &Bed, created_at: i64, ended_at: Option<i64>) -> Uuid {
    let id = bed.make(SessionRow { created_at, ..session() }).await.id;
    bed.store.append(id, &[records(0, 0, 25), screen(25)]).await.unwrap();
    bed.store.create_ticket(&ticket(id)).await.unwrap();
    if let Some(ended_at) = ended_at {
        bed.store.end_session(id, &Cause::Exited { status: 0 }.into(), ended_at).await.unwrap();
    }
    id
}

async fn left(bed: &Bed) -> Vec<Uuid> {
    let mut ids: Vec<_> = bed.store.sessions(&all()).await.unwrap().rows.into_iter().map(|row| row.id).collect();
    ids.sort();
    ids
}

async fn partitions(bed: &Bed) -> i64 {
    bed.number("SELECT COUNT(*) FROM pg_inherits WHERE inhparent = 'chunks'::regclass").await
}

pub(crate) async fn what_ended_long_ago_goes(bed: &Bed) {
    let old = made(bed, 10 * A_DAY, Some(10 * A_DAY + 5)).await;
    let newer = made(bed, 11 * A_DAY, Some(11 * A_DAY + 5)).await;
    let exact = made(bed, 11 * A_DAY, Some(11 * A_DAY + 4)).await;
    if bed.is_postgres() {
        assert_eq!(partitions(bed).await, 2);
    }

    let retention = Retention { ended_before: 11 * A_DAY + 4, ..NOTHING };
    assert_eq!(bed.store.retain(&retention).await.unwrap(), 1);
    assert_eq!(bed.store.retain(&retention).await.unwrap(), 0);

    assert_eq!(left(bed).await, {
        let mut ids = [newer, exact];
        ids.sort();
        ids
    });
    assert_eq!(bed.store.chunks(old, 0, 1000).await.unwrap(), []);
    assert_eq!(bed.store.tickets(old).await.unwrap().rows, []);
    assert_eq!(bed.store.chunks(newer, 0, 1000).await.unwrap().len(), 1);
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 4);
    if bed.is_postgres() {
        assert_eq!(partitions(bed).await, 1, "the day went whole");
    }
}

pub(crate) async fn what_lives_stays(bed: &Bed) {
    let live = made(bed, 10 * A_DAY, None).await;
    let ended = made(bed, 10 * A_DAY, Some(11 * A_DAY)).await;
    let before = bed.store.extent(live).await.unwrap();

    let all_of_it = Retention { ended_before: i64::MAX, audit_before: i64::MAX, total_bytes: 0 };
    assert_eq!(bed.store.retain(&all_of_it).await.unwrap(), 1);

    assert_eq!(left(bed).await, [live]);
    assert_eq!(bed.store.extent(live).await.unwrap(), before);
    assert_eq!(bed.store.chunks(live, 0, 1000).await.unwrap().len(), 1);
    assert_eq!(bed.store.chunks(ended, 0, 1000).await.unwrap(), []);
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 2, "a live session does not keep what went");
}

pub(crate) async fn too_much_takes_the_journals_that_ended_first(bed: &Bed) {
    let live = made(bed, A_DAY, None).await;
    let last = made(bed, A_DAY, Some(30)).await;
    let first = made(bed, 2 * A_DAY, Some(10)).await;
    let second = made(bed, 2 * A_DAY, Some(20)).await;

    let stored = async || {
        let mut bytes = Vec::new();
        for id in [live, first, second, last] {
            bytes.push(bed.store.extent(id).await.unwrap().stored_bytes);
        }
        bytes
    };
    bed.store.retain(&Retention { total_bytes: 120, ..NOTHING }).await.unwrap();
    assert_eq!(stored().await, [30, 30, 30, 30]);
    assert_eq!(bed.store.retain(&Retention { total_bytes: 119, ..NOTHING }).await.unwrap(), 0);
    assert_eq!(stored().await, [30, 0, 30, 30]);
    bed.store.retain(&Retention { total_bytes: 60, ..NOTHING }).await.unwrap();
    assert_eq!(stored().await, [30, 0, 0, 30]);
    bed.store.retain(&Retention { total_bytes: 0, ..NOTHING }).await.unwrap();
    assert_eq!(stored().await, [30, 0, 0, 0]);

    assert_eq!(left(bed).await.len(), 4, "only journals went");
    let extent = bed.store.extent(first).await.unwrap();
    assert_eq!(extent, Extent { from: 25, to: 25, next_seq: 1, stored_bytes: 0 });
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 2);
}

pub(crate) async fn old_audit_lines_go(bed: &Bed) {
    for time in [10, 20, 30] {
        bed.store.add_audit(&line(time, "ada", None)).await.unwrap();
    }
    bed.store.retain(&Retention { audit_before: 20, ..NOTHING }).await.unwrap();
    assert_eq!(bed.store.audit(&whole()).await.unwrap().rows.len(), 2);
}

pub(crate) async fn the_latest_time_is_kept(bed: &Bed) {
    assert_eq!(bed.store.clock().await.unwrap(), Clock::default());
    // What a hub that noted no time has stored tells it.
    bed.make(SessionRow { created_at: 7, ..session() }).await;
    assert_eq!(bed.store.clock().await.unwrap(), Clock { seen: Some(7), doubted: None });
    bed.store.add_audit(&line(20, "ada", None)).await.unwrap();
    assert_eq!(bed.store.clock().await.unwrap(), Clock { seen: Some(20), doubted: None });
    for clock in [Clock { seen: Some(30), doubted: Some(90) }, Clock { seen: Some(100), doubted: None }] {
        bed.store.set_clock(&clock).await.unwrap();
        assert_eq!(bed.store.clock().await.unwrap(), clock);
    }
    assert_eq!(bed.open().await.unwrap().clock().await.unwrap().seen, Some(100));
}

pub(crate) async fn a_day_that_is_used_again_works(bed: &Bed) {
    for _ in 0..2 {
        made(bed, 10 * A_DAY, Some(10 * A_DAY + 5)).await;
        assert_eq!(bed.store.retain(&Retention { ended_before: i64::MAX, ..NOTHING }).await.unwrap(), 1);
        assert!(left(bed).await.is_empty());
    }
    made(bed, 10 * A_DAY, None).await;
    made(bed, -A_DAY, None).await;
}

/// Sessions come and go, by two hubs, on days that are dropped beneath them.
pub(crate) async fn retention_disturbs_nobody(bed: &Bed) {
    let other = bed.open().await.unwrap();
    let hubs = (0..4i64).map(|hub| {
        let store = if hub % 2 == 0 { bed.store.clone() } else { other.clone() };
        tokio::spawn(async move {
            for turn in 0..15i64 {
                let row = SessionRow { created_at: (turn % 3) * A_DAY, ..session() };
                let id = row.id;
                store.create_session(row).await.unwrap();
                store.append(id, &[records(0, 0, 25)]).await.unwrap();
                assert_eq!(store.chunks(id, 0, 1000).await.unwrap().len(), 1);
                store.append(id, &[records(1, 25, 30), screen(30)]).await.unwrap();
                store.end_session(id, &Cause::Idle.into(), 5).await.unwrap();
            }
        })
    });
    let reaper = other.clone();
    let reaper = tokio::spawn(async move {
        let mut gone = 0;
        while gone < 60 {
            gone += reaper.retain(&Retention { ended_before: i64::MAX, ..NOTHING }).await.unwrap();
        }
    });
    for hub in futures_util::future::join_all(hubs).await {
        hub.unwrap();
    }
    reaper.await.unwrap();
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 0);
    other.close().await;
}

pub(crate) async fn one_hub_at_a_time_is_alone(bed: &Bed) {
    let other = bed.open().await.unwrap();
    let alone = bed.store.alone().await.unwrap();
    assert!(alone.is_some());
    // The hub that has the folder has the file: there is no other one.
    if bed.url().is_some() {
        assert!(other.alone().await.unwrap().is_none());
    }
    drop(alone);
    until_alone(&other).await;
    other.close().await;
}

/// The server hears of a connection that is gone in its own time.
async fn until_alone(store: &foghorn::store::SharedStore) {
    let since = std::time::Instant::now();
    while store.alone().await.unwrap().is_none() {
        assert!(since.elapsed() < std::time::Duration::from_secs(60));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
