//! A session's death, as one pool sees it. Every store of it is a commit or can be done again,
//! so a sweep may be interrupted anywhere and repeated from the start.

use std::time::Instant;

use goumem_alloc::{Offset, PageCount, PageIndex, SessionNumber};
use goumem_shm::records::RecordKind;
use goumem_shm::slot::SlotState;

use super::{Charge, Pool, PoolState, Span};
use crate::session::Session;

/// What a sweep looks at before others have their turn: a fraction of a millisecond's work.
const WORDS_A_TURN: u32 = 1 << 14;
/// The same for charges, each of which is looked up.
const CHARGES_A_TURN: usize = 1 << 12;
/// What a span costs beside its words, in words.
const WORDS_A_SPAN: u32 = 64;
/// As if free since the beginning, so that the purge at the end of the sweep finds it; by then it
/// is in long runs, and a punch of one costs little more than that of a page.
const AT_ONCE: Option<u64> = Some(0);

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
    ///
    /// Others have their turns in between. Whatever they do, no word names the dead session that
    /// did not before, and no span is hers that was not: only she could do that.
    pub fn sweep(&self, dead: &Session, now: Instant) -> u64 {
        debug_assert!(!dead.is_live(), "sessions are marked before they are swept");
        let mut state = self.lock();
        if !state.mapped_by.may_hold(dead.number) {
            return 0;
        }
        let before = state.heap.granted_pages();
        let pins: Vec<_> = state.records.pins_of(dead.number).collect();
        for index in pins {
            self.drop_pin(&mut state, index, now);
        }
        let mut reclaimed = before.get() - state.heap.granted_pages().get();
        let looked_at: Vec<PageIndex> = state
            .spans
            .iter()
            .filter(|&(&first, span)| self.may_hold(first, span, dead.number))
            .map(|(&first, _)| first)
            .collect();
        drop(state);
        self.in_turns(&looked_at, |_, first, span| {
            self.sweep_words(first, span, dead.number);
        });
        // The second pass decides what becomes of the dead session's own spans: a block that
        // changed hands during the first is seen now.
        reclaimed += self.in_turns(&looked_at, |state, first, span| {
            self.settle(state, first, span, dead.number);
        });
        let mut state = self.lock();
        self.drop_stale_keeps(&mut state);
        let abandoned: Vec<PageIndex> = state.abandoned.iter().copied().collect();
        let charged: Vec<Offset> = state.charges.offsets().collect();
        drop(state);
        for some in charged.chunks(CHARGES_A_TURN) {
            let mut state = self.lock_after_others();
            self.drop_charges_of_freed(&mut state, some.iter().copied());
        }
        reclaimed += self.in_turns(&abandoned, |state, first, span| {
            if span.lessee == SessionNumber::NOBODY {
                self.return_abandoned(state, first, span, AT_ONCE);
            }
        });
        let mut state = self.lock_after_others();
        for lease in state.local.take_empty() {
            reclaimed += lease.pages.get();
            self.take_back(&mut state, lease.first_page, AT_ONCE);
        }
        drop(state);
        // What was free for a millisecond at the first: nothing else was given back before that.
        self.purge_idle(1, 1);
        let mut state = self.lock();
        state.mapped_by.remove_all(dead.number);
        self.write_member(&state, dead);
        PageCount::new(reclaimed).bytes()
    }

    /// Works on spans, and lets others have their turn after every few. Those that are gone are
    /// passed over. Returns how many pages came back.
    fn in_turns(
        &self,
        spans: &[PageIndex],
        mut work: impl FnMut(&mut PoolState, PageIndex, Span),
    ) -> u32 {
        let mut reclaimed = 0;
        let mut left = spans.iter();
        while !left.as_slice().is_empty() {
            let mut state = self.lock_after_others();
            let before = state.heap.granted_pages();
            let mut words = 0;
            while words < WORDS_A_TURN
                && let Some(&first) = left.next()
            {
                if let Some(span) = state.spans.get(&first).copied() {
                    words += span.class.slots(span.pages) + WORDS_A_SPAN;
                    work(&mut state, first, span);
                }
            }
            reclaimed += before.get() - state.heap.granted_pages().get();
        }
        reclaimed
    }

    /// The second look at a span after the death of a session, which decides what becomes of it.
    fn settle(&self, state: &mut PoolState, first: PageIndex, span: Span, dead: SessionNumber) {
        let is_hers = span.lessee == dead;
        let mut alive = self.survivors(first, span);
        if alive > 0 {
            self.sweep_words(first, span, dead);
            if is_hers || span.lessee == SessionNumber::DAEMON {
                let freed = self.reconcile(state, first, span);
                self.say_forged(first, freed);
            }
            alive = self.survivors(first, span);
        }
        match (is_hers, alive) {
            (false, _) => {}
            (true, 0) => self.take_back(state, first, AT_ONCE),
            (true, _) => self.abandon(state, first, span),
        }
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
        state.vain_looks = 0;
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
        let charged: Vec<Offset> = state.charges.offsets().collect();
        self.drop_charges_of_freed(state, charged);
    }

    fn drop_charges_of_freed(
        &self,
        state: &mut PoolState,
        offsets: impl IntoIterator<Item = Offset>,
    ) {
        for offset in offsets {
            let is_free = self
                .memory
                .block_at(offset)
                .is_none_or(|at| self.memory.slot(&at).load().state() == Some(SlotState::Free));
            if is_free {
                self.discharge(state, offset);
            }
        }
    }
}
