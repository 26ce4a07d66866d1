use super::*;
use crate::record::{Cause, Size};

fn spool(limit: u64) -> Spool {
    Spool::new(&std::env::temp_dir(), limit)
}

/// Output that tells where it stands.
fn fill(spool: &mut Spool, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let head = spool.head();
        let len = left.min(5000);
        spool
            .append(Stream::Stdout, head, |buffer| {
                (0..len).for_each(|at| buffer[at] = byte_at(head + at as u64));
                Ok(len)
            })
            .expect("appends");
        left -= len;
    }
}

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

/// Reads all from `offset`; checks each byte; returns the ranges that were dropped.
fn check(spool: &Spool, offset: u64) -> Vec<(u64, u64)> {
    let mut cursor = spool.seek(offset);
    let (mut at, mut gaps) = (offset, Vec::new());
    loop {
        let parts = spool.read(&mut cursor, 100_000);
        if parts.is_empty() {
            break;
        }
        for mut part in parts {
            while let Some(record) = Record::decode(&mut part).expect("whole records") {
                assert_eq!(record.offset, at);
                at = record.end();
                match record.payload {
                    Payload::Output(_, data) => {
                        assert!(data.iter().enumerate().all(|(i, byte)| *byte == byte_at(record.offset + i as u64)));
                    }
                    Payload::Dropped { to, .. } => gaps.push((record.offset, to)),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(at, spool.head());
    gaps
}

#[test]
fn what_does_not_fit_in_memory_is_read_back_from_the_file() {
    let mut spool = spool(64 << 20);
    fill(&mut spool, 30 << 20);
    assert!(spool.memory_bytes <= MEMORY_LIMIT);
    for offset in [0, 1, 4_999, 5_000, 1 << 20, (20 << 20) + 3, (30 << 20) - 1, 30 << 20] {
        assert_eq!(check(&spool, offset), []);
    }
}

#[test]
fn above_the_limit_the_oldest_go_and_the_range_is_told() {
    let mut spool = spool(8 << 20);
    fill(&mut spool, 30 << 20);
    let oldest = spool.oldest();
    assert!(oldest > 20 << 20 && oldest < 24 << 20, "{oldest}");
    assert_eq!(check(&spool, 17), [(17, oldest)]);
    assert_eq!(check(&spool, oldest), []);
}

#[test]
fn acknowledged_records_go_first_and_leave_room() {
    let mut spool = spool(8 << 20);
    for _ in 0..10 {
        fill(&mut spool, 3 << 20);
        let head = spool.head();
        assert_eq!(check(&spool, head - (3 << 20)), []);
        spool.acknowledge(head - 100);
        assert_eq!(check(&spool, head - 100), []);
    }
    assert!(spool.places <= 4);
}

#[test]
fn a_full_disk_drops_the_oldest_and_keeps_what_is_in_memory() {
    let mut spool = spool(64 << 20);
    spool.file = Some(File::open("/dev/null").expect("opens"));
    fill(&mut spool, 10 << 20);
    let oldest = spool.oldest();
    assert!(spool.head() - oldest > (MEMORY_LIMIT / 2) as u64);
    assert_eq!(check(&spool, 0), [(0, oldest)]);
}

#[test]
fn what_a_hub_had_and_what_did_not_fit_are_told_apart() {
    let mut spool = spool(4 << 20);
    fill(&mut spool, 3 << 20);
    spool.acknowledge(2 << 20);
    fill(&mut spool, 5 << 20);
    let oldest = spool.oldest();
    assert!(oldest > 3 << 20, "{oldest}");
    let reasons = |mut cursor: Cursor| -> Vec<_> {
        let mut gaps = std::iter::from_fn(|| Some(spool.read(&mut cursor, 1).concat()));
        std::iter::from_fn(|| match Record::decode(&mut gaps.next()?.into()) {
            Ok(Some(Record { payload: Payload::Dropped { to, reason }, .. })) => Some((to, reason)),
            _ => None,
        })
        .collect()
    };
    let all = [(2 << 20, Reason::Acknowledged), (oldest, Reason::SpoolFull)];
    assert_eq!(reasons(spool.seek(5)), all);
    assert_eq!(reasons(spool.seek(2 << 20)), all[1..]);
    assert_eq!(reasons(spool.seek(5).for_version_1()), all[1..]);
}

#[test]
fn a_live_cursor_passes_each_record_without_length_once() {
    let mut spool = spool(1 << 20);
    let mut cursor = spool.seek(0);
    let mut seen = Vec::new();
    let sizes = [80, 100, 80].map(|cols| Size { cols, rows: 24 });
    for size in sizes {
        spool.mark(1, Payload::Resize(size));
        for mut part in spool.read(&mut cursor, 1000) {
            seen.extend(Record::decode(&mut part).expect("whole").map(|record| record.payload));
        }
    }
    assert_eq!(seen, sizes.map(Payload::Resize));
}

#[test]
fn marks_at_the_acknowledged_offset_stay_and_are_sent_again() {
    let mut spool = spool(1 << 20);
    fill(&mut spool, 10);
    spool.mark(1, Payload::Resize(Size::DEFAULT));
    spool.mark(1, Payload::Exit(Cause::Idle.into()));
    spool.acknowledge(10);
    let bytes: BytesMut = spool.read(&mut spool.seek(10), 1000).concat().as_slice().into();
    assert_eq!(Batch::parse(bytes.freeze()).expect("whole").records().count(), 2);
}

#[test]
fn time_never_goes_back() {
    let mut spool = spool(1 << 20);
    spool.mark(9, Payload::Resize(Size::DEFAULT));
    spool.mark(3, Payload::Resize(Size::DEFAULT));
    assert_eq!(spool.memory[1].first_time, 9);
}
