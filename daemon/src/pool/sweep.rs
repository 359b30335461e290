//! A session's death, as one pool sees it. Every store of it is a commit or can be done again,
//! so a sweep may be interrupted anywhere and repeated from the start.

use std::time::Instant;

use goumem_alloc::{PageIndex, SessionNumber};
use goumem_shm::records::RecordKind;
use goumem_shm::slot::SlotState;

use super::{Charge, Pool, PoolState, Span};
use crate::session::Session;

/// What a session holds in a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Exported blocks it owns.
    pub blocks: u64,
    /// Bytes of the spans it leases.
    pub leased_bytes: u64,
    /// Bytes of the blocks it allocated by RPC.
    pub rpc_bytes: u64,
    /// Pins.
    pub pins: u64,
    /// Whether it was handed the memory.
    pub maps: bool,
}

impl Pool {
    /// Frees what a dead session held and forgets it; returns the bytes that came back. The
    /// session is marked dead before, so that no call of it can take effect after.
    pub fn sweep(&self, dead: &Session, now: Instant) -> u64 {
        let mut state = self.lock();
        debug_assert!(!dead.is_live(), "sessions are marked before they are swept");
        let before = state.heap.granted_pages().bytes();
        for index in state.records.of_session(RecordKind::Pin, dead.number) {
            self.drop_pin(&mut state, index, now);
        }
        let looked_at: Vec<(PageIndex, Span)> = state
            .spans
            .iter()
            .filter(|&(&first, span)| self.may_hold(first, span, dead.number))
            .map(|(&first, &span)| (first, span))
            .collect();
        for &(first, span) in &looked_at {
            self.sweep_words(first, span, dead.number);
        }
        // The second pass decides what becomes of the dead session's own spans: a block that
        // changed hands during the first is seen now.
        for &(first, span) in &looked_at {
            self.sweep_words(first, span, dead.number);
            if span.lessee != dead.number {
                continue;
            }
            if self.survivors(first, span) == 0 {
                self.take_back(&mut state, first, None);
            } else {
                self.abandon(&mut state, first, span);
            }
        }
        self.drop_stale_keeps(&mut state);
        self.drop_stale_charges(&mut state);
        self.return_idle(&mut state);
        state.mapped_by.remove_all(dead.number);
        before.saturating_sub(state.heap.granted_pages().bytes())
    }

    /// Returns what a session holds.
    pub fn holdings(&self, session: &Session) -> Holdings {
        let state = self.lock();
        let mut holdings = Holdings {
            maps: state.mapped_by.contains(session.number),
            pins: state.records.of_session(RecordKind::Pin, session.number).len() as u64,
            ..Holdings::default()
        };
        for (&first, span) in &state.spans {
            if span.lessee == session.number {
                holdings.leased_bytes += span.pages.bytes();
            }
            if !self.may_hold(first, span, session.number) {
                continue;
            }
            let Some(words) = self.memory.slot_run(first, span.class, span.pages) else { continue };
            let owned = words
                .words()
                .filter(|word| {
                    let word = word.load();
                    matches!(word.state(), Some(SlotState::Shared | SlotState::Taken))
                        && word.owner() == session.number
                })
                .count() as u64;
            holdings.blocks += owned;
            if span.lessee == SessionNumber::DAEMON {
                let bytes = if span.class.is_large() {
                    span.pages.bytes()
                } else {
                    span.class.stride_bytes()
                };
                holdings.rpc_bytes += owned * bytes;
            }
        }
        holdings
    }

    /// Returns the sessions that lease spans.
    pub fn lessees(&self) -> Vec<SessionNumber> {
        let state = self.lock();
        let mut lessees: Vec<SessionNumber> =
            state.spans.values().map(|span| span.lessee).filter(|n| n.is_client()).collect();
        lessees.sort_unstable();
        lessees.dedup();
        lessees
    }

    /// Whether words of a span may name a session: it leases the span, the span holds adopted
    /// blocks, or the daemon allocated in it.
    fn may_hold(&self, first: PageIndex, span: &Span, session: SessionNumber) -> bool {
        span.lessee == session
            || span.lessee == SessionNumber::DAEMON
            || self.memory.note(first).holds_adopted()
    }

    fn sweep_words(&self, first: PageIndex, span: Span, dead: SessionNumber) {
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else { return };
        let freed = words.words().filter_map(|word| word.sweep(dead)).count();
        if freed > 0 && span.lessee != dead {
            self.memory.note(first).hint_free();
        }
    }

    /// Leaves a span with living blocks without a lessee. Those that are kept are paid for by
    /// whoever kept them.
    fn abandon(&self, state: &mut PoolState, first: PageIndex, span: Span) {
        let epoch = self.epoch_of(first).next();
        self.publish_head(first, span.class, span.pages, SessionNumber::NOBODY, epoch);
        // Survivors may belong to sessions that took them over.
        self.memory.note(first).set_holds_adopted();
        self.shared.quotas.discharge(span.uid, span.pages.bytes());
        let ownerless = Span { lessee: SessionNumber::NOBODY, serial: 0, uid: 0, ..span };
        state.spans.insert(first, ownerless);
        state.abandoned.insert(first);
        let start = self.memory.geometry().page_offset(first).get();
        let in_span = start..start + span.pages.bytes();
        let bytes = if span.class.is_large() {
            span.pages.bytes()
        } else {
            span.class.stride_bytes()
        };
        let kept: Vec<_> = state
            .records
            .of_kind(RecordKind::Keep)
            .filter(|(_, record)| in_span.contains(&record.offset.get()))
            .map(|(_, record)| (record.offset, record.uid))
            .collect();
        for (offset, uid) in kept {
            self.shared.quotas.record(uid, bytes);
            state.charges.insert(offset, Charge { uid, bytes });
        }
    }

    /// Takes back the charges for blocks that were freed through a mapping.
    fn drop_stale_charges(&self, state: &mut PoolState) {
        let stale: Vec<_> = state
            .charges
            .keys()
            .copied()
            .filter(|&offset| {
                self.memory.block_at(offset).is_none_or(|at| {
                    self.memory.slot(&at).load().state() == Some(SlotState::Free)
                })
            })
            .collect();
        for offset in stale {
            self.discharge(state, offset);
        }
    }
}
