//! What is written to ROOT reads back, and what nobody writes is not believed.

use super::*;
use crate::sync::AtomicU64;

fn words(n: usize) -> Vec<AtomicU64> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

fn session() -> SessionRecord {
    SessionRecord {
        state: SessionRowState::Live,
        number: SessionNumber::new(7),
        serial: 99,
        uid: 1000,
        gid: 100,
        pid: 4242,
        start_time: 88_123,
        pidfd_inode: Some(5),
        local: true,
        may_map: true,
        ttl_ms: None,
        token_hash: [0xab; 32],
        nonce: Some([3; 16]),
        label: "trainer".to_owned(),
    }
}

#[test]
fn header_reads_back_and_counts_on_from_where_it_was() {
    let words = words(512);
    let header = RootHeader::new(&words).unwrap();
    assert_eq!(header.load(), Err(SegmentRefusal::NotReady { magic: 0 }));
    let info = RootInfo {
        instance: 11,
        epoch: 3,
    };
    header.publish(info, u32::MAX, 40);
    assert_eq!(header.load(), Ok(info));
    assert_eq!(header.next_pool_id().get(), 1, "0 is no pool");
    assert_eq!(header.next_pool_id().get(), 2);
    assert_eq!(header.next_serial(), 41);
    header.set_epoch(4);
    assert_eq!(header.load().unwrap().epoch, 4);
}

#[test]
fn header_that_nobody_writes_is_refused_by_field() {
    let words = words(512);
    let header = RootHeader::new(&words).unwrap();
    let info = RootInfo {
        instance: 1,
        epoch: 1,
    };
    header.publish(info, 0, 0);
    words[1].store(2 << 32, Ordering::Relaxed);
    assert_eq!(
        header.load(),
        Err(SegmentRefusal::Version {
            found: 2,
            expected: LAYOUT_VERSION
        })
    );
    for (word, value) in [(3, 0), (4, 1 << 32)] {
        header.publish(info, 0, 0);
        words[word].store(value, Ordering::Relaxed);
        assert!(matches!(header.load(), Err(SegmentRefusal::Corrupt { .. })));
    }
}

#[test]
fn session_reads_back_and_dies_and_goes() {
    let words = words(ROW_WORDS);
    let slot = Row::new(&words).unwrap().session();
    let number = SessionNumber::new(7);
    assert_eq!(slot.load(number), Ok(None));
    slot.commit(&session());
    assert_eq!(slot.load(number), Ok(Some(session())));
    slot.mark_dead();
    let dead = slot.load(number).unwrap().unwrap();
    assert_eq!(dead.state, SessionRowState::Dead);
    assert_eq!(dead.label, "trainer");
    slot.clear();
    assert_eq!(slot.load(number), Ok(None));
    let bare = SessionRecord {
        pidfd_inode: None,
        nonce: None,
        ttl_ms: Some(30_000),
        local: false,
        may_map: false,
        label: "l".repeat(64),
        ..session()
    };
    slot.commit(&bare);
    assert_eq!(slot.load(number), Ok(Some(bare)));
}

#[test]
fn session_that_nobody_writes_is_not_believed() {
    let words = words(ROW_WORDS);
    let slot = Row::new(&words).unwrap().session();
    let number = SessionNumber::new(7);
    // Another row's number, no state, a label too long, a label that is no text, no serial.
    for (word, value) in [
        (0, 1 << 56 | 8),
        (0, 9 << 56 | 7),
        (0, 1 << 56 | 65 << 40 | 7),
        (16, u64::MAX),
        (1, 0),
        (3, 1 << 32),
    ] {
        slot.commit(&session());
        words[word].store(value, Ordering::Relaxed);
        assert!(slot.load(number).is_err(), "word {word}");
    }
}

#[test]
fn request_is_known_from_its_beginning_and_answered_after_its_end() {
    let words = words(ROW_WORDS);
    let row = Row::new(&words).unwrap();
    let record = RequestRecord {
        id: 300,
        op: RequestOp::Take,
        done: false,
        pool_id: 5,
        handle: (1, 2),
        outcome: [0, 0],
        extra: 9,
    };
    row.request(300).begin(&record);
    assert_eq!(row.request(300).load(), Ok(Some(record)));
    assert_eq!(row.requests().filter(|slot| slot.id() != 0).count(), 1);
    row.request(300).finish(RequestOp::Take, [7, 8]);
    let done = RequestRecord {
        done: true,
        outcome: [7, 8],
        ..record
    };
    assert_eq!(row.request(300).load(), Ok(Some(done)));
    // The id 64 later lies in the same place, and no grant does.
    assert_eq!(row.request(300 + REQUESTS).id(), 300);
    assert!((0..GRANTS).all(|number| row.grant(number).id() == 0));
    words[32 + 8 * (300 % 64) + 1].store(99 << 56, Ordering::Relaxed);
    assert_eq!(row.request(300).load(), Err(300), "no such op");
    row.request(300).clear();
    assert_eq!(row.request(300).load(), Ok(None));
}
