//! The words that only a daemon writes, ROOT's rows before all: what can be read of them is what
//! the same daemon would have written.

use goumem_alloc::SessionNumber;
use goumem_shm::header::{HeaderPage, SegmentRole};
use goumem_shm::member::MemberWord;
use goumem_shm::page_map::PageEntry;
use goumem_shm::records::RecordSlot;
use goumem_shm::root::{ROW_WORDS, RootHeader, Row};
use goumem_shm::sync::{AtomicU64, Ordering};

use super::Input;

/// Where a row of ROOT lies in the words of this target; a header page lies before it.
const ROW: usize = 512;
const RECORD: usize = ROW + ROW_WORDS;
const WORDS: usize = RECORD + 16;

/// Lays any words under a header page, a row of ROOT and a record: a u16 says where, and the next
/// eight bytes are the word.
///
/// # Panics
/// When something that was read says something else when it is written again.
pub fn words(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let number = SessionNumber::new(input.u16());
    let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let blank: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    while !input.is_empty() {
        let at = usize::from(input.u16()) % WORDS;
        words[at].store(input.u64(), Ordering::Relaxed);
    }
    root(&words, &blank, number);
    header(&words[..ROW], &blank[..ROW]);
    record(&words[RECORD..], &blank[RECORD..]);
    let member = MemberWord::new(&words[ROW]);
    if let Some(found) = member.load() {
        member.store(Some(found));
        assert_eq!(member.load(), Some(found));
    }
    for bits in words.iter().map(|word| word.load(Ordering::Relaxed)) {
        if let Some(entry) = PageEntry::from_bits(bits) {
            assert_eq!(PageEntry::from_bits(entry.to_bits()), Some(entry));
        }
    }
}

fn root(words: &[AtomicU64], blank: &[AtomicU64], number: SessionNumber) {
    let of_root = RootHeader::new(words).unwrap();
    if let Ok(info) = of_root.load() {
        let (first, second) = (of_root.next_pool_id(), of_root.next_pool_id());
        assert_ne!(first, second, "an id was given away twice");
        assert_ne!(of_root.next_serial(), of_root.next_serial());
        assert_eq!(of_root.load(), Ok(info), "ids say nothing about the run");
    }
    let row = Row::new(&words[ROW..RECORD]).unwrap();
    let other = Row::new(&blank[ROW..RECORD]).unwrap();
    if let Ok(Some(session)) = row.session().load(number) {
        assert_eq!(session.number, number);
        assert!(session.serial != 0 && number.is_client());
        other.session().commit(&session);
        assert_eq!(other.session().load(number), Ok(Some(session)));
    }
    for request in row.requests() {
        let Ok(Some(found)) = request.load() else {
            continue;
        };
        let slot = other.request(found.id);
        slot.begin(&found);
        if found.done {
            slot.finish(found.op, found.outcome);
            assert_eq!(slot.load(), Ok(Some(found)));
        }
    }
}

fn header(words: &[AtomicU64], blank: &[AtomicU64]) {
    let (page, other) = (
        HeaderPage::new(words).unwrap(),
        HeaderPage::new(blank).unwrap(),
    );
    for role in [SegmentRole::Control, SegmentRole::Data] {
        if let Ok(found) = page.load(role) {
            other.publish(role, &found);
            assert_eq!(other.load(role), Ok(found));
        }
    }
}

fn record(words: &[AtomicU64], blank: &[AtomicU64]) {
    let (slot, other) = (
        RecordSlot::new(words).unwrap(),
        RecordSlot::new(blank).unwrap(),
    );
    if let Ok(Some(found)) = slot.load() {
        other.commit(&found);
        assert_eq!(other.load(), Ok(Some(found)));
        other.settle();
        other.drop_pin();
        assert!(matches!(other.load(), Ok(Some(unpinned)) if unpinned.replaces.is_none()));
        other.clear();
        assert_eq!(other.load(), Ok(None));
    }
}
