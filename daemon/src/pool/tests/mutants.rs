//! Known ways to get a pool wrong, to show that the walks and checks catch them. docs/testing.md
//! lists them.

use goumem_proto::model::RequestId;
use goumem_shm::records::{Record, RecordKind};

use super::*;
use crate::pool::span::{Lessee, Want};

impl Pool {
    /// Pins a block, and has the record in private memory alone.
    pub(crate) fn pin_in_memory_only(&self, session: &Session, handle: goumem_alloc::Handle) {
        let mut state = self.lock();
        let index = state.records.next_index().unwrap();
        let record = Record {
            kind: RecordKind::Pin,
            session: session.number,
            serial: session.serial,
            generation: handle.generation(),
            offset: handle.offset(),
            request_id: 0,
            uid: session.uid,
            writable: false,
            replaces: None,
            done: false,
            name: String::new(),
        };
        state.records.insert(index, record);
        let at = self.memory.locate(handle).unwrap();
        self.memory.slot(&at).pin(handle.generation()).unwrap();
    }

    /// Decides what becomes of a dead session's spans in the same pass in which it frees their
    /// words: what is not the dead session's when it looks survives.
    pub(crate) fn sweep_in_one_pass(&self, dead: &Session, now: Instant) {
        let mut state = self.lock();
        let spans: Vec<(PageIndex, Span)> = state
            .spans
            .iter()
            .filter(|(_, span)| span.lessee == dead.number)
            .map(|(&first, &span)| (first, span))
            .collect();
        for (first, span) in spans {
            let words = self.memory.slot_run(first, span.class, span.pages).unwrap();
            let mut survivors = 0;
            for word in words.words() {
                let found = word.load();
                let is_free = found.state() == Some(goumem_shm::slot::SlotState::Free);
                survivors += u32::from(!is_free && !found.goes_with(dead.number));
            }
            for word in words.words() {
                let _ = word.sweep(dead.number);
            }
            if survivors == 0 {
                self.take_back(&mut state, first, None);
            }
        }
        drop(state);
        // What is abandoned, and the rest.
        self.sweep(dead, now);
    }

    /// Leases a span without a look whether the session lives.
    pub(crate) fn lease_to_anybody(&self, session: &Session, class: SizeClass, now: Instant) {
        let lessee = Lessee {
            number: session.number,
            serial: session.serial,
            uid: session.uid,
            request_id: RequestId::NONE,
        };
        let mut state = self.lock();
        self.grant(&mut state, Want::class(class), lessee, now)
            .unwrap();
    }

    /// Takes a span back without a look at its epoch.
    pub(crate) fn return_of_any_epoch(&self, first: PageIndex) {
        let mut state = self.lock();
        self.take_back(&mut state, first, None);
    }
}
