//! A session's death, as one pool sees it. Every store of it is a commit or can be done again,
//! so a sweep may be interrupted anywhere and repeated from the start.

use std::time::Instant;

use goumem_alloc::{Offset, PageIndex, SessionNumber};
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
        if !state.mapped_by.may_hold(dead.number) {
            return 0;
        }
        let before = state.heap.granted_pages().bytes();
        let pins: Vec<_> = state.records.pins_of(dead.number).collect();
        for index in pins {
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
            if span.lessee == dead.number || span.lessee == SessionNumber::DAEMON {
                let freed = self.reconcile(&state, first, span);
                self.say_forged(first, freed);
            }
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
        self.write_member(&state, dead);
        before.saturating_sub(state.heap.granted_pages().bytes())
    }

    /// Returns what a session holds.
    pub fn holdings(&self, session: &Session) -> Holdings {
        let state = self.lock();
        if !state.mapped_by.may_hold(session.number) {
            return Holdings::default();
        }
        let mut holdings = Holdings {
            maps: state.mapped_by.contains(session.number),
            pins: state.records.pins_of(session.number).count() as u64,
            ..Holdings::default()
        };
        for (&first, span) in &state.spans {
            if span.lessee == session.number {
                holdings.leased_bytes += span.pages.bytes();
            }
            if !self.may_hold(first, span, session.number) {
                continue;
            }
            let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
                continue;
            };
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
        let mut lessees: Vec<SessionNumber> = state
            .spans
            .values()
            .map(|span| span.lessee)
            .filter(|n| n.is_client())
            .collect();
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
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return;
        };
        let freed = words.words().filter_map(|word| word.sweep(dead)).count();
        if freed > 0 && span.lessee != dead {
            self.memory.note(first).hint_free();
        }
    }

    /// Leaves a span with living blocks without a lessee. The pool's owner pays for it, who let
    /// their users in: whose they are, only words say that anybody may write.
    fn abandon(&self, state: &mut PoolState, first: PageIndex, span: Span) {
        let epoch = self.epoch_of(first).next();
        // Survivors may belong to sessions that took them over. The flag first: after a crash in
        // between, their sweeps must find the span all the same.
        self.memory.note(first).set_holds_adopted();
        self.publish_head(first, span.class, span.pages, SessionNumber::NOBODY, epoch);
        let owner = self.permissions.uid;
        self.shared.quotas.discharge(span.uid, span.pages.bytes());
        self.shared.quotas.record(owner, span.pages.bytes());
        let ownerless = Span {
            lessee: SessionNumber::NOBODY,
            serial: 0,
            uid: owner,
            ..span
        };
        state.spans.insert(first, ownerless);
        state.abandoned.insert(first);
    }

    /// Charges the pool's owner for the blocks of an abandoned span that the daemon leases.
    pub(super) fn charge_survivors(&self, state: &mut PoolState, first: PageIndex, span: Span) {
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return;
        };
        let start = self.memory.geometry().page_offset(first).get();
        let charge = Charge {
            uid: self.permissions.uid,
            bytes: span.class.stride_bytes(),
        };
        for slot in 0..span.class.slots(span.pages) {
            if words.word(slot).load().state() == Some(SlotState::Free) {
                continue;
            }
            let offset = Offset::new(start + span.class.offset_of_slot(slot));
            self.shared.quotas.record(charge.uid, charge.bytes);
            self.replace_charge(state, offset, charge);
        }
    }

    /// Frees the words of a span without a living agent that no record and no session can vouch
    /// for: forged, or what a crash left half done. Else nobody would ever free them.
    /// Returns how many.
    pub(super) fn reconcile(&self, state: &PoolState, first: PageIndex, span: Span) -> u32 {
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return 0;
        };
        let mut freed = 0;
        let start = self.memory.geometry().page_offset(first).get();
        for slot in 0..span.class.slots(span.pages) {
            let word = words.word(slot);
            let found = word.load();
            if found.state() == Some(SlotState::Free) {
                continue;
            }
            let offset = Offset::new(start + span.class.offset_of_slot(slot));
            let pinned = state.records.at(offset, RecordKind::Pin).next().is_some();
            if !pinned && found.is_pinned() {
                let _ = word.unpin();
            }
            let vouched_for = match found.state() {
                Some(SlotState::Shared | SlotState::Taken) => {
                    state.mapped_by.may_hold(found.owner())
                }
                Some(SlotState::Kept) => state
                    .records
                    .at(offset, RecordKind::Keep)
                    .any(|(_, record)| record.generation == found.generation()),
                Some(SlotState::Condemned) => pinned,
                Some(SlotState::Free) | None => false,
            };
            if !vouched_for && word.load().state() != Some(SlotState::Free) {
                word.force_free();
                freed += 1;
            }
        }
        freed
    }

    /// Says that words were overwritten which nobody who keeps to the rules has written.
    pub(super) fn say_forged(&self, first: PageIndex, words: u32) {
        if words > 0 {
            tracing::warn!(pool = %self.name, page = %first, words, "forged words overwritten");
        }
    }

    /// Takes back the charges for blocks that were freed through a mapping.
    pub(super) fn drop_stale_charges(&self, state: &mut PoolState) {
        let stale: Vec<_> = state
            .charges
            .offsets()
            .filter(|&offset| {
                self.memory
                    .block_at(offset)
                    .is_none_or(|at| self.memory.slot(&at).load().state() == Some(SlotState::Free))
            })
            .collect();
        for offset in stale {
            self.discharge(state, offset);
        }
    }
}
