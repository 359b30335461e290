//! A pool at rest, against its words: every invariant of docs/design.md that shared memory has.

use goumem_alloc::Offset;
use goumem_shm::page_map::PageEntry;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::slot::SlotState;

use super::*;

/// How many records a test may have.
const RECORDS: u32 = 64;

impl Pool {
    /// Returns the daemon's view of it.
    pub(crate) fn memory(&self) -> &Arc<PoolMemory> {
        &self.memory
    }

    /// Sweeps a session that was swept before.
    pub(crate) fn sweep_again(&self, dead: &Session, now: Instant) {
        // Otherwise it would be taken for one that never came here.
        self.lock().mapped_by.note_use(dead.number);
        self.sweep(dead, now);
    }

    /// Asserts that records, page map and slot words agree. `classes` are those that free pages
    /// have had: with any of them, their words must be below the floor.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn check_words(&self, classes: &[SizeClass]) {
        let state = self.lock();
        for index in 0..RECORDS {
            let stands = self.memory.record(index).unwrap().load();
            let known = state.records.get(index).cloned();
            assert_eq!(stands, Ok(known), "record {index}");
        }
        for (_, record) in state.records.of_kind(RecordKind::Keep) {
            assert!(self.is_kept(record), "kept by its record alone: {record:?}");
        }
        for (_, record) in state.records.of_kind(RecordKind::Pin) {
            let holds = state.mapped_by.may_hold(record.session);
            assert!(holds, "pinned by the dead: {record:?}");
        }
        let mut covered = BTreeSet::new();
        for (&first, &span) in &state.spans {
            covered.extend(self.pages_of(first, span.pages).map(|(page, _)| page));
            self.check_span(&state, first, span);
        }
        let n_pages = self.memory.geometry().n_pages().get();
        let free = (0..n_pages)
            .map(PageIndex::new)
            .filter(|page| !covered.contains(page));
        for page in free {
            self.check_free_page(page, classes);
        }
    }

    fn check_span(&self, state: &PoolState, first: PageIndex, span: Span) {
        let by_client = span.lessee.is_client();
        assert!(
            !by_client || state.mapped_by.may_hold(span.lessee),
            "span {first} is leased to the dead {}",
            span.lessee
        );
        for (page, _) in self.pages_of(first, span.pages).skip(1) {
            let back = page.pages_since(first).unwrap();
            let entry = self.memory.entry(page);
            let fits = matches!(entry, Some(PageEntry::Interior { class, back: b, .. })
                if class == span.class && b == back);
            assert!(fits, "page {page} of span {first} is {entry:?}");
        }
        let words = self.memory.slot_run(first, span.class, span.pages).unwrap();
        let floors = self
            .pages_of(first, span.pages)
            .map(|(_, record)| record.floor());
        let floor = floors.max().unwrap();
        let start = self.memory.geometry().page_offset(first).get();
        let mut survivors = 0;
        for slot in 0..span.class.slots(span.pages) {
            let word = words.word(slot).load();
            let offset = Offset::new(start + span.class.offset_of_slot(slot));
            let pinned = state.records.at(offset, RecordKind::Pin).next().is_some();
            assert!(
                word.generation() >= floor,
                "{offset}: {word:?} is below {floor}"
            );
            assert_eq!(word.is_pinned(), pinned, "{offset}: the pin records decide");
            let word_state = word.state().expect("a state that somebody writes");
            survivors += u32::from(word_state != SlotState::Free);
            match word_state {
                SlotState::Free => {}
                SlotState::Shared | SlotState::Taken => {
                    let (owner, note) = (word.owner(), self.memory.note(first));
                    let found = owner == span.lessee
                        || span.lessee == SessionNumber::DAEMON
                        || note.holds_adopted();
                    assert!(
                        state.mapped_by.may_hold(owner),
                        "{offset} is of the dead {owner}"
                    );
                    assert!(
                        found,
                        "{offset}: a sweep of {owner} would not look into the span"
                    );
                }
                SlotState::Kept => {
                    let mut records = state.records.at(offset, RecordKind::Keep);
                    let kept = records.any(|(_, record)| record.generation == word.generation());
                    assert!(kept, "{offset} is kept without a record");
                }
                SlotState::Condemned => assert!(pinned, "{offset} is condemned without a pin"),
            }
        }
        let abandoned = span.lessee == SessionNumber::NOBODY;
        assert!(
            !abandoned || survivors > 0,
            "span {first} is abandoned and empty"
        );
    }

    fn check_free_page(&self, page: PageIndex, classes: &[SizeClass]) {
        let start = self.memory.geometry().page_offset(page);
        let entry = self
            .memory
            .entry(page)
            .expect("an entry that a daemon writes");
        assert!(
            !matches!(entry, PageEntry::Head { .. }),
            "page {page} is granted to nobody"
        );
        assert_eq!(
            self.memory.block_at(start),
            None,
            "a block in free page {page}"
        );
        let floor = self.memory.page_record(page).unwrap().floor();
        for &class in classes {
            let words = self.memory.slot_run(page, class, PageCount::ONE).unwrap();
            for word in words.words().map(goumem_shm::slot::SlotWord::load) {
                let is_below = word.state() == Some(SlotState::Free) && word.generation() <= floor;
                assert!(is_below, "free page {page} of floor {floor} has {word:?}");
            }
        }
    }

    /// Returns everything that the pool has in shared memory but contents, to be compared. Epochs
    /// count how often an entry was written, and may be left out.
    pub(crate) fn image(&self, with_epochs: bool) -> (Vec<Option<Record>>, Vec<u64>) {
        let state = self.lock();
        let record = |index| self.memory.record(index).unwrap().load().unwrap();
        let records = (0..RECORDS).map(record).collect();
        let mut words = Vec::new();
        for (&first, span) in &state.spans {
            words.extend(
                [first.get(), span.pages.get(), u32::from(span.class.index())].map(u64::from),
            );
            words.push(u64::from(span.lessee.get()));
            let run = self.memory.slot_run(first, span.class, span.pages).unwrap();
            words.extend(run.words().map(|word| word.load().raw()));
        }
        for page in (0..self.memory.geometry().n_pages().get()).map(PageIndex::new) {
            words.push(self.memory.page_record(page).unwrap().floor().get());
            if with_epochs {
                words.push(self.memory.entry(page).unwrap().to_bits());
            }
        }
        (records, words)
    }
}
