//! Counting: how full a pool is, by its spans and by every slot word. Nothing is kept in
//! counters that a crash or a client's free could make wrong.

use std::time::Instant;

use goumem_alloc::SessionNumber;
use goumem_proto::model::PoolStat;
use goumem_shm::records::RecordKind;
use goumem_shm::slot::SlotState;

use super::Pool;
use crate::session::Caller;

impl Pool {
    /// Returns how full the pool is. It looks at every slot of every span.
    pub fn stat(&self, caller: &Caller, now: Instant) -> PoolStat {
        let mut state = self.lock();
        let _ = now;
        self.drop_stale_keeps(&mut state);
        self.return_idle(&mut state);
        let mut stat = PoolStat {
            pool: self.info_with(state.heap.quota_pages().bytes()),
            requested_bytes: 0,
            used_bytes: 0,
            leased_bytes: 0,
            abandoned_bytes: 0,
            free_committed_bytes: state.heap.free_committed_pages().bytes(),
            committed_bytes: state.heap.committed_pages().bytes(),
            table_bytes: state.data_tables.bytes() + state.control_tables.bytes(),
            largest_free_bytes: self.largest_free_bytes(&state),
            blocks: 0,
            kept_blocks: 0,
            named_blocks: 0,
            pins: state.records.of_kind(RecordKind::Pin).count() as u64,
            condemned_blocks: 0,
            sessions: u32::try_from(state.mapped_by.len()).unwrap_or(u32::MAX),
            top_holders: self.top_holders(&state, caller),
        };
        for (_, record) in state.records.of_kind(RecordKind::Keep) {
            stat.kept_blocks += 1;
            stat.named_blocks += u64::from(!record.name.is_empty());
        }
        for (&first, span) in &state.spans {
            if span.lessee == SessionNumber::NOBODY {
                stat.abandoned_bytes += span.pages.bytes();
            } else {
                stat.leased_bytes += span.pages.bytes();
            }
            let Some(words) = self.memory.slot_run(first, span.class, span.pages) else { continue };
            let used = if span.class.is_large() {
                span.pages.bytes()
            } else {
                span.class.stride_bytes()
            };
            for slot in 0..span.class.slots(span.pages) {
                match words.word(slot).load().state() {
                    Some(SlotState::Shared | SlotState::Kept | SlotState::Taken) => {}
                    Some(SlotState::Condemned) => {
                        stat.condemned_blocks += 1;
                        continue;
                    }
                    Some(SlotState::Free) | None => continue,
                }
                let start = self.memory.geometry().page_offset(first).get();
                let offset = goumem_alloc::Offset::new(start + span.class.offset_of_slot(slot));
                stat.blocks += 1;
                stat.used_bytes += used;
                stat.requested_bytes += self
                    .memory
                    .block_at(offset)
                    .and_then(|at| self.memory.checked_shape(&at).ok())
                    .map_or(0, |shape| shape.length_bytes);
            }
        }
        stat
    }
}
