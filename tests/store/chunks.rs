//! Journals: contiguous, all or none, read from anywhere, trimmed.

use bytes::Bytes;
use foghorn::store::{Chunk, Extent, StoreError};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::bed::{Bed, records, screen};

/// Of chunks, their `seq`s.
fn seqs(chunks: &[Chunk]) -> Vec<i64> {
    chunks.iter().map(|chunk| chunk.seq).collect()
}

async fn refused(bed: &Bed, session: Uuid, chunks: &[Chunk], at: u64, end_is: u64) {
    match bed.store.append(session, chunks).await {
        Err(StoreError::NotContiguous { from, end }) => assert_eq!((from, end), (at, end_is)),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn chunks_come_back_as_they_were_appended(bed: &Bed) {
    let id = bed.any().await;
    let chunks = [records(0, 0, 10), records(1, 10, 10), records(2, 10, 25)];
    bed.store.append(id, &chunks[..1]).await.unwrap();
    bed.store.append(id, &chunks[1..]).await.unwrap();
    bed.store.append(id, &[]).await.unwrap();

    assert_eq!(bed.store.chunks(id, 0, 1000).await.unwrap(), chunks);
    assert_eq!(bed.store.chunk(id, 1).await.unwrap().as_ref(), Some(&chunks[1]));
    assert_eq!(bed.store.chunk(id, 3).await.unwrap(), None);
}

pub(crate) async fn a_chunk_of_a_mebibyte_of_any_bytes_is_kept(bed: &Bed) {
    let id = bed.any().await;
    let data: Bytes = (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let chunk = Chunk { data, to: u64::from(u32::MAX) * 1000, ..records(0, 0, 1) };
    bed.store.append(id, std::slice::from_ref(&chunk)).await.unwrap();

    assert!(bed.store.chunk(id, 0).await.unwrap() == Some(chunk));
}

pub(crate) async fn what_does_not_continue_the_journal_is_refused(bed: &Bed) {
    let id = bed.any().await;
    refused(bed, id, &[records(1, 0, 10)], 0, 0).await;
    bed.store.append(id, &[records(0, 0, 10)]).await.unwrap();

    refused(bed, id, &[records(1, 11, 20)], 11, 10).await;
    refused(bed, id, &[records(1, 9, 20)], 9, 10).await;
    refused(bed, id, &[records(0, 10, 20)], 10, 10).await;
    refused(bed, id, &[records(2, 10, 20)], 10, 10).await;
    refused(bed, id, &[records(0, 0, 10)], 0, 10).await;
    refused(bed, id, &[Chunk { from: 10, to: 9, ..records(1, 10, 20) }], 10, 10).await;
    assert_eq!(bed.store.extent(id).await.unwrap(), Extent { from: 0, to: 10, next_seq: 1, stored_bytes: 10 });
}

pub(crate) async fn an_append_is_all_or_none(bed: &Bed) {
    let id = bed.any().await;
    let torn = [records(0, 0, 10), screen(10), records(1, 10, 20), records(2, 21, 30)];
    refused(bed, id, &torn, 21, 20).await;

    assert_eq!(bed.store.extent(id).await.unwrap(), Extent::default());
    assert_eq!(bed.store.chunks(id, 0, 1000).await.unwrap(), []);
    assert_eq!(bed.store.screen(id, 1000).await.unwrap(), None);
    bed.store.append(id, &torn[..3]).await.unwrap();
}

pub(crate) async fn two_hubs_cannot_append_the_same_place(bed: &Bed) {
    let id = bed.any().await;
    let other = bed.open().await.unwrap();
    let appended = join_all((0..16).map(|turn| {
        let store = if turn % 2 == 0 { bed.store.clone() } else { other.clone() };
        tokio::spawn(async move { store.append(id, &[records(0, 0, 10), screen(10)]).await })
    }))
    .await;

    assert_eq!(appended.into_iter().filter(|appended| matches!(appended, Ok(Ok(())))).count(), 1);
    assert_eq!(bed.store.extent(id).await.unwrap(), Extent { from: 0, to: 10, next_seq: 1, stored_bytes: 15 });
    assert_eq!(bed.number("SELECT COUNT(*) FROM chunks").await, 2);
    other.close().await;
}

pub(crate) async fn a_journal_without_chunks_takes_any_start(bed: &Bed) {
    let id = bed.any().await;
    bed.store.append(id, &[screen(3)]).await.unwrap();
    bed.store.append(id, &[records(0, 500, 510), records(1, 510, 512)]).await.unwrap();

    let extent = bed.store.extent(id).await.unwrap();
    assert_eq!(extent, Extent { from: 500, to: 512, next_seq: 2, stored_bytes: 25 });
}

pub(crate) async fn a_session_that_is_gone_takes_no_chunks(bed: &Bed) {
    let id = bed.any().await;
    bed.store.delete_session(id).await.unwrap();

    let appended = bed.store.append(id, &[records(0, 0, 10)]).await;
    assert!(matches!(appended, Err(StoreError::NoSession(gone)) if gone == id), "{appended:?}");
    assert_eq!(bed.store.extent(id).await.unwrap(), Extent::default());
    bed.store.trim(id, 0).await.unwrap();
}

/// 100 to 130, in three chunks.
async fn from_a_hundred(bed: &Bed) -> Uuid {
    let id = bed.any().await;
    let chunks = [records(0, 100, 110), records(1, 110, 120), records(2, 120, 130), screen(115)];
    bed.store.append(id, &chunks).await.unwrap();
    id
}

pub(crate) async fn reading_starts_at_the_chunk_that_holds_the_offset(bed: &Bed) {
    let id = from_a_hundred(bed).await;
    for (offset, expected) in [
        (0, &[0, 1, 2][..]),
        (99, &[0, 1, 2]),
        (100, &[0, 1, 2]),
        (109, &[0, 1, 2]),
        (110, &[1, 2]),
        (115, &[1, 2]),
        (129, &[2]),
        (130, &[2]),
        (131, &[]),
    ] {
        assert_eq!(seqs(&bed.store.chunks(id, offset, 1000).await.unwrap()), expected, "from {offset}");
    }
    assert_eq!(bed.store.chunks(Uuid::new_v4(), 0, 1000).await.unwrap(), []);
}

pub(crate) async fn reading_at_the_end_finds_the_last_records_without_length(bed: &Bed) {
    let id = from_a_hundred(bed).await;
    bed.store.append(id, &[records(3, 130, 130)]).await.unwrap();

    assert_eq!(seqs(&bed.store.chunks(id, 130, 1000).await.unwrap()), [3]);
    assert_eq!(seqs(&bed.store.chunks(id, 129, 1000).await.unwrap()), [2, 3]);
    bed.store.append(id, &[records(4, 130, 140)]).await.unwrap();
    assert_eq!(seqs(&bed.store.chunks(id, 130, 1000).await.unwrap()), [3, 4]);
    assert_eq!(seqs(&bed.store.chunks(id, 130, 1).await.unwrap()), [3, 4], "what moves a reader on is among them");
    assert_eq!(seqs(&bed.store.chunks(id, 0, 1000).await.unwrap()), [0, 1, 2, 3, 4]);
}

pub(crate) async fn reading_stops_when_enough_was_read(bed: &Bed) {
    let id = from_a_hundred(bed).await;
    for (max_bytes, expected) in
        [(0, &[0][..]), (1, &[0]), (10, &[0]), (11, &[0, 1]), (20, &[0, 1]), (21, &[0, 1, 2]), (u64::MAX, &[0, 1, 2])]
    {
        assert_eq!(seqs(&bed.store.chunks(id, 0, max_bytes).await.unwrap()), expected, "{max_bytes} bytes");
    }
}

pub(crate) async fn the_extent_tells_what_is_there(bed: &Bed) {
    let id = bed.any().await;
    assert_eq!(bed.store.extent(id).await.unwrap(), Extent::default());
    assert_eq!(bed.store.extent(Uuid::new_v4()).await.unwrap(), Extent::default());

    let id = from_a_hundred(bed).await;
    let extent = bed.store.extent(id).await.unwrap();
    assert_eq!(extent, Extent { from: 100, to: 130, next_seq: 3, stored_bytes: 35 });
}

pub(crate) async fn a_screen_is_the_last_at_or_before_an_offset(bed: &Bed) {
    let id = bed.any().await;
    let later = Chunk { data: Bytes::from_static(b"later"), ..screen(20) };
    bed.store.append(id, &[records(0, 0, 30), screen(10), screen(20)]).await.unwrap();
    bed.store.append(id, std::slice::from_ref(&later)).await.unwrap();

    assert_eq!(bed.store.screen(id, 9).await.unwrap(), None);
    assert_eq!(bed.store.screen(id, 10).await.unwrap(), Some(screen(10)));
    assert_eq!(bed.store.screen(id, 19).await.unwrap(), Some(screen(10)));
    assert_eq!(bed.store.screen(id, 20).await.unwrap(), Some(Chunk { seq: 2, ..later.clone() }));
    assert_eq!(bed.store.screen(id, 1000).await.unwrap(), Some(Chunk { seq: 2, ..later }));
}

pub(crate) async fn trimming_takes_the_oldest_chunks_and_their_screens(bed: &Bed) {
    let id = bed.any().await;
    let chunks: Vec<_> = (0..5u8).map(|n| records(n.into(), u64::from(n) * 10, u64::from(n) * 10 + 10)).collect();
    bed.store.append(id, &chunks).await.unwrap();
    bed.store.append(id, &[screen(5), screen(15), screen(45)]).await.unwrap();

    bed.store.trim(id, 65).await.unwrap();
    assert_eq!(bed.store.extent(id).await.unwrap().stored_bytes, 65, "it was enough");

    // Two chunks have to go; of the screens before 20 the one at 15 stays, since it leads up to what is left.
    bed.store.trim(id, 40).await.unwrap();
    let extent = bed.store.extent(id).await.unwrap();
    assert_eq!(extent, Extent { from: 20, to: 50, next_seq: 5, stored_bytes: 40 });
    assert_eq!(seqs(&bed.store.chunks(id, 0, 1000).await.unwrap()), [2, 3, 4]);
    assert_eq!(bed.store.screen(id, 14).await.unwrap(), None);
    assert_eq!(bed.store.screen(id, 25).await.unwrap().unwrap().from, 15);
    bed.store.append(id, &[records(5, 50, 60)]).await.unwrap();
}

pub(crate) async fn trimming_to_nothing_keeps_the_place(bed: &Bed) {
    let id = from_a_hundred(bed).await;
    bed.store.trim(id, 0).await.unwrap();

    let extent = bed.store.extent(id).await.unwrap();
    assert_eq!(extent, Extent { from: 130, to: 130, next_seq: 3, stored_bytes: 5 }, "the newest screen stays");
    assert_eq!(bed.store.chunks(id, 0, 1000).await.unwrap(), []);
    refused(bed, id, &[records(0, 130, 140)], 130, 130).await;
    bed.store.append(id, &[records(3, 130, 140)]).await.unwrap();
}
