//! Counting: how full a pool is, by its spans and by every slot word, and who holds most of it.
//! Nothing is kept in counters that a crash or a client's free could make wrong.

use std::time::Instant;

use goumem_alloc::{SessionNumber, SizeClass};
use goumem_proto::model::{Holder, PoolStat};
use goumem_shm::records::RecordKind;
use goumem_shm::slot::SlotState;

use super::{Pool, PoolState};
use crate::error::Error;
use crate::permission;
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
            pins: state.records.pin_count() as u64,
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
            let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
                continue;
            };
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

    /// Returns the largest block an alloc could get now, in bytes.
    pub(super) fn largest_free_bytes(&self, state: &PoolState) -> u64 {
        let pages = state.heap.largest_free_pages();
        let of_class = SizeClass::all()
            .filter(|class| !class.is_large() && class.min_span_pages() <= pages)
            .map(SizeClass::usable_bytes)
            .max();
        let large = SizeClass::LARGE.usable_in(pages);
        if large > goumem_alloc::MAX_CLASS_BYTES {
            large
        } else {
            of_class.unwrap_or(0)
        }
    }

    /// Fills in who holds most, as far as the caller may know.
    pub(super) fn with_holders(&self, state: &PoolState, caller: &Caller, error: Error) -> Error {
        match error {
            Error::PoolExhausted {
                pool,
                requested_bytes,
                largest_free_bytes,
                granted_bytes,
                capacity_bytes,
                ..
            } => Error::PoolExhausted {
                pool,
                requested_bytes,
                largest_free_bytes,
                granted_bytes,
                capacity_bytes,
                top_holders: self.top_holders(state, caller),
            },
            other => other,
        }
    }

    /// Returns the sessions that hold most, the caller's own alone unless it owns the pool.
    pub(super) fn top_holders(&self, state: &PoolState, caller: &Caller) -> Vec<Holder> {
        const MOST: usize = 8;
        let sees_all = permission::owns(caller, &self.permissions);
        let mut holders: Vec<Holder> = Vec::new();
        for span in state.spans.values() {
            if !sees_all && span.uid != caller.uid {
                continue;
            }
            match holders
                .iter_mut()
                .find(|holder| holder.session == span.lessee)
            {
                Some(holder) => holder.bytes += span.pages.bytes(),
                None => holders.push(Holder {
                    session: span.lessee,
                    uid: span.uid,
                    pid: 0,
                    bytes: span.pages.bytes(),
                }),
            }
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
        holders.truncate(MOST);
        holders
    }
}
