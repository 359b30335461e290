//! An arena pool at rest, against its words.

use goumem_shm::records::{Record, RecordKind};

use super::*;

/// How many records a test may have.
const RECORDS: u32 = 64;

impl ArenaPool {
    /// Sweeps a session that was swept before.
    pub(crate) fn sweep_again(self: &Arc<Self>, dead: &Session) {
        // Otherwise it would be taken for one that never came here.
        self.lock().mapped_by.note_use(dead.number);
        self.sweep(dead);
    }

    /// Asserts that records and arena words agree, that nothing is of the dead, and that nobody
    /// waits beside a free arena.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn check_words(&self) {
        let state = self.lock();
        let mut holders = 0;
        for record in (0..RECORDS).filter_map(|index| self.record_at(index)) {
            assert_eq!(record.kind, RecordKind::Holder);
            let place = self.memory.geometry().arena_of(record.offset);
            let (index, inside) = place.expect("an arena that there is");
            let named = state
                .holders
                .of(index)
                .expect("a record of an arena with a name");
            let access = named.access(record.session);
            assert_eq!((inside, named.name().as_str()), (0, record.name.as_str()));
            assert_eq!(access == Some(Access::ReadWrite), record.writable);
            assert!(
                access.is_some() && state.mapped_by.may_hold(record.session),
                "{record:?}"
            );
            holders += 1;
        }
        let mut known = 0;
        for index in 0..self.memory.geometry().arenas() {
            let word = self.memory.words(index).unwrap().load();
            match word.state().expect("a state that somebody writes") {
                ArenaState::Free => {
                    let empty = u64::from(word.generation().low32()) << 32;
                    assert_eq!(
                        self.cursor_of(index),
                        empty,
                        "arena {index} is free and empty"
                    );
                    assert!(
                        state.waiters.is_empty(),
                        "somebody waits beside arena {index}"
                    );
                }
                ArenaState::Exclusive => {
                    let owner = word.owner();
                    assert!(
                        state.mapped_by.may_hold(owner),
                        "arena {index} is of the dead {owner}"
                    );
                }
                ArenaState::Named => {
                    let named = state.holders.of(index).expect("named arenas have holders");
                    let n_holders = named.iter().count();
                    assert!(n_holders > 0, "arena {index} is named and held by nobody");
                    known += n_holders;
                }
            }
        }
        assert_eq!(known, holders, "each holder has one record");
        let flag = self.memory.somebody_waits();
        assert!(
            flag || state.waiters.is_empty(),
            "those who return would not tell the daemon"
        );
    }

    /// Returns everything that the arena pool has in shared memory but contents, to be compared.
    pub(crate) fn image(&self) -> (Vec<Option<Record>>, Vec<u64>) {
        let _state = self.lock();
        let records = (0..RECORDS).map(|index| self.record_at(index)).collect();
        let arenas = 0..self.memory.geometry().arenas();
        let words = arenas.flat_map(|index| self.words_at(index));
        (records, words.collect())
    }

    fn record_at(&self, index: u32) -> Option<Record> {
        self.memory.record(index).unwrap().load().unwrap()
    }

    fn cursor_of(&self, index: u32) -> u64 {
        self.words_at(index)[1]
    }

    fn words_at(&self, index: u32) -> [u64; 3] {
        let offset = self.memory.geometry().arena_slot_offset(index);
        let words = self.memory.data().atomic_slice_u64(offset, 3).unwrap();
        [0, 1, 2].map(|i: usize| words[i].load(std::sync::atomic::Ordering::Acquire))
    }
}
