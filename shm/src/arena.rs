//! The words of one arena: who holds it, and how far it is filled.
//!
//! ```text
//! arena word   generation:44 | owner:16 | state:3 | 0      FREE 0, EXCLUSIVE 4, NAMED 5
//! cursor       low 32 bits of the generation | next free offset, in 16-byte units
//! live         low 32 bits of the generation | allocations alive, counted by an exclusive holder
//! ```
//!
//! The cursor carries the life it belongs to, so a holder of an earlier life cannot bump the
//! next one (but for one that was stopped for exactly 2^32 lives); so does the count. A return
//! resets the cursor first and frees the word last, so a FREE arena always has an empty cursor of
//! its own life. Both are exchanges from what the returner's life left there, so that an arena
//! that is given back twice at once is given back once.

use goumem_alloc::{Generation, SessionNumber};

use crate::slot::fence_before_reuse;
use crate::sync::{AtomicU64, Ordering, load_acquire};

pub(crate) mod private_bump;
mod snapshot;
mod waiters;

pub use snapshot::{ArenaSnapshot, ArenaState};
pub use waiters::WaitersFlag;

/// How many races in a row the daemon loses against a cursor that somebody keeps bumping, before
/// it overwrites it: so many are malice, which must not stall a sweep.
const MAX_LOST_RACES: u32 = 100;

/// Why a transition of an arena was refused. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaRefusal {
    /// Another life, or not held.
    Stale,
    /// Somebody else holds it alone.
    NotOwner(SessionNumber),
    /// It is shared by name.
    Shared,
    /// Its generations are spent.
    GenerationsSpent,
}

/// The words of one arena, 128 bytes apart from the next one's.
#[derive(Debug, Clone, Copy)]
pub struct ArenaWords<'a> {
    word: &'a AtomicU64,
    cursor: &'a AtomicU64,
    live: &'a AtomicU64,
}

/// Units of 16 bytes, the grain of a cursor.
pub(crate) type Units = u32;

/// What a private holder's reservations count for among the allocations alive: as long as it is
/// there nobody who frees by the shared words takes theirs for the last, and empties the arena
/// under it.
const PRIVATE: u32 = 1;

impl<'a> ArenaWords<'a> {
    /// Returns the arena whose words these are.
    #[inline]
    pub fn new(word: &'a AtomicU64, cursor: &'a AtomicU64, live: &'a AtomicU64) -> Self {
        Self { word, cursor, live }
    }

    /// Returns what the arena word says now.
    #[inline]
    pub fn load(self) -> ArenaSnapshot {
        // ORDERING: pairs with the Release of every transition below.
        ArenaSnapshot(load_acquire(self.word))
    }

    /// Claims a free arena: FREE → EXCLUSIVE(owner). Returns its generation, or `None` when it
    /// is not free or its generations are spent.
    #[inline]
    pub fn claim(self, owner: SessionNumber) -> Option<Generation> {
        self.claim_with(owner, 0)
    }

    /// As `claim`, for a holder that bumps privately: what it reserves counts as one allocation
    /// from the start.
    #[inline]
    pub fn claim_privately(self, owner: SessionNumber) -> Option<Generation> {
        self.claim_with(owner, PRIVATE)
    }

    #[inline]
    fn claim_with(self, owner: SessionNumber, live: u32) -> Option<Generation> {
        let found = self.load();
        let generation = found.generation();
        if found.state() != Some(ArenaState::Free) || generation == Generation::MAX {
            return None;
        }
        let next = ArenaSnapshot::pack(generation, owner, ArenaState::Exclusive);
        // ORDERING: Relaxed; `load` has acquired what the last holder released, its empty cursor
        // among it, and a word of this life that reads FREE is not written but by a claim.
        // CRASH: the sweep of `owner` finds the word and gives the arena back.
        self.word
            .compare_exchange(found.0, next.0, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        let empty = join(generation.low32(), 0);
        // ORDERING: Relaxed; from here on both words are this holder's.
        self.live
            .store(join(generation.low32(), live), Ordering::Relaxed);
        if self.cursor.load(Ordering::Relaxed) != empty {
            // Only a writer outside this library leaves another: the holder's must work all the
            // same.
            self.cursor.store(empty, Ordering::Relaxed);
        }
        fence_before_reuse();
        Some(generation)
    }

    /// Hands an arena that the daemon claimed to the session it is for: EXCLUSIVE(daemon) →
    /// EXCLUSIVE(to).
    ///
    /// The daemon gets an arena for somebody in these two steps, with a record of the request in
    /// between: the session itself may claim an arena at any time, and after a crash the two could
    /// not be told apart.
    ///
    /// # Errors
    /// `Stale`, `NotOwner`, `Shared`.
    pub fn hand_over(self, generation: Generation, to: SessionNumber) -> Result<(), ArenaRefusal> {
        let found = self.exclusive(generation, SessionNumber::DAEMON)?;
        let next = ArenaSnapshot::pack(generation, to, ArenaState::Exclusive);
        // ORDERING: AcqRel, pairs with `load`.
        // CRASH: before it the arena is the daemon's, and recovery hands it over if the request
        // stands in ROOT, else frees it; after it the sweep of `to` finds the word.
        self.word
            .compare_exchange(found.0, next.0, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
            .map_err(|_| ArenaRefusal::Stale)
    }

    /// Gives an arena back: EXCLUSIVE(owner) → FREE with the next generation.
    ///
    /// # Errors
    /// `Stale`, `NotOwner`, `Shared`.
    #[inline]
    pub fn give_back(
        self,
        generation: Generation,
        owner: SessionNumber,
    ) -> Result<(), ArenaRefusal> {
        let found = self.exclusive(generation, owner)?;
        self.free_last(found)
    }

    /// Names the arena: EXCLUSIVE(owner) → NAMED. The daemon has written the holder record.
    ///
    /// # Errors
    /// `Stale`, `NotOwner`, `Shared`.
    pub fn share(self, generation: Generation, owner: SessionNumber) -> Result<(), ArenaRefusal> {
        let found = self.exclusive(generation, owner)?;
        let next = ArenaSnapshot::pack(generation, SessionNumber::NOBODY, ArenaState::Named);
        // ORDERING: AcqRel, pairs with `load`. CRASH: the record stands; recovery redoes this.
        self.word
            .compare_exchange(found.0, next.0, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| ())
            .map_err(|_| ArenaRefusal::Stale)
    }

    /// Frees a named arena after its last holder record is gone: NAMED → FREE.
    ///
    /// # Errors
    /// `Stale` unless it is named in this life.
    pub fn release_named(self, generation: Generation) -> Result<(), ArenaRefusal> {
        let found = self.load();
        if found.generation() != generation || found.state() != Some(ArenaState::Named) {
            return Err(ArenaRefusal::Stale);
        }
        self.free_last(found)
    }

    /// Gives the arena back if `dead` holds it alone; returns whether it did.
    pub fn sweep(self, dead: SessionNumber) -> bool {
        let found = self.load();
        if found.state() != Some(ArenaState::Exclusive) || found.owner() != dead {
            return false;
        }
        self.free_last_of_nobody(found);
        true
    }

    /// Frees an arena whatever its word says, for recovery and for words that nothing vouches
    /// for.
    pub fn force_free(self) {
        let found = self.load();
        if found.state() != Some(ArenaState::Free) || self.used(found.generation()) != 0 {
            self.free_last_of_nobody(found);
        }
    }

    /// Empties an arena one holds alone and raises its generation, so that every handle into it
    /// is stale. Returns the new generation.
    ///
    /// # Errors
    /// `Stale`, `NotOwner`, `Shared`, `GenerationsSpent`.
    pub fn reset(
        self,
        generation: Generation,
        owner: SessionNumber,
    ) -> Result<Generation, ArenaRefusal> {
        self.reset_with(generation, owner, 0)
    }

    /// As `reset`, for a holder that bumps privately.
    ///
    /// # Errors
    /// As `reset`.
    pub fn reset_privately(
        self,
        generation: Generation,
        owner: SessionNumber,
    ) -> Result<Generation, ArenaRefusal> {
        self.reset_with(generation, owner, PRIVATE)
    }

    fn reset_with(
        self,
        generation: Generation,
        owner: SessionNumber,
        live: u32,
    ) -> Result<Generation, ArenaRefusal> {
        let found = self.exclusive(generation, owner)?;
        let raised = generation.next().ok_or(ArenaRefusal::GenerationsSpent)?;
        let next = ArenaSnapshot::pack(raised, owner, ArenaState::Exclusive);
        self.empty_cursor(generation, raised);
        // ORDERING: AcqRel, pairs with `load`. CRASH: cursor of the next life, word of this one:
        // nobody can bump, and the sweep gives the arena back.
        self.word
            .compare_exchange(found.0, next.0, Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| ArenaRefusal::Stale)?;
        // ORDERING: Relaxed; nobody but us knows the new generation yet.
        self.live
            .store(join(raised.low32(), live), Ordering::Relaxed);
        fence_before_reuse();
        Ok(raised)
    }

    /// Advances the cursor by `size` units from the next multiple of `align` units, a power of two,
    /// and returns where the allocation starts.
    ///
    /// # Errors
    /// `Err(None)` when the cursor belongs to another life; `Err(Some(units left))` when full.
    #[inline]
    pub fn bump(
        self,
        generation: Generation,
        size: Units,
        align: Units,
        limit: Units,
    ) -> Result<Units, Option<Units>> {
        // ORDERING: Relaxed; pairs with nothing. The cursor carries no data: bytes are published
        // by whatever passes the handle on.
        let mut current = self.cursor.load(Ordering::Relaxed);
        loop {
            let (life, next) = split(current);
            if life != generation.low32() {
                return Err(None);
            }
            // A mask, since a division would take longer than the exchange.
            let mask = align.saturating_sub(1);
            let start = next.checked_add(mask).map(|start| start & !mask);
            let end = start
                .and_then(|s| s.checked_add(size))
                .filter(|&e| e <= limit);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(Some(limit.saturating_sub(next)));
            };
            // ORDERING: AcqRel; pairs with the Acquire loads in `free_newest`: who sees the
            // exchange sees the count that came before it.
            // CRASH: the bytes belong to this life and go with it.
            match self.cursor.compare_exchange_weak(
                current,
                join(life, end),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(start),
                Err(seen) => current = seen,
            }
        }
    }

    /// Moves the cursor from where the holder alone has put it last: forward, to reserve what lies
    /// between for its private bumps, or back, to give the unused end of that up.
    ///
    /// An exchange, not a store: the life may be over, and the cursor the next holder's; or
    /// another thread of the session, or the daemon for it, has bumped meanwhile.
    ///
    /// # Errors
    /// `Err(None)` when the cursor belongs to another life; `Err(Some(where))` when it is
    /// elsewhere.
    #[inline]
    pub(crate) fn move_cursor(
        self,
        generation: Generation,
        from: Units,
        to: Units,
    ) -> Result<(), Option<Units>> {
        let life = generation.low32();
        // ORDERING: AcqRel as in `bump`.
        // CRASH: the bytes belong to this life and go with it.
        match self.cursor.compare_exchange(
            join(life, from),
            join(life, to),
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            Ok(_) => Ok(()),
            Err(seen) => {
                let (seen_life, next) = split(seen);
                Err((seen_life == life).then_some(next))
            }
        }
    }

    /// Counts an allocation that an exclusive holder is about to bump for: before the bump, so
    /// that a free on another thread does not take an earlier one for the last.
    pub fn count_alloc(self, generation: Generation) {
        // ORDERING: Relaxed; the exchange decides.
        let mut current = self.live.load(Ordering::Relaxed);
        loop {
            let (life, live) = split(current);
            if life != generation.low32() {
                return;
            }
            let next = join(life, live.saturating_add(1));
            // ORDERING: Relaxed; the exchange of the bump, which follows, publishes it.
            // CRASH: a count without its bump goes with the arena, as its holder does.
            match self.live.compare_exchange_weak(
                current,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => current = seen,
            }
        }
    }

    /// Takes back a count whose bump failed.
    pub fn uncount_alloc(self, generation: Generation) {
        self.free_newest(generation, Units::MAX, 0);
    }

    /// Frees an allocation of an exclusive holder: the newest one's bytes come back, and the
    /// last living one empties the arena.
    ///
    /// While our own count stands nobody else takes theirs for the last, so the cursor cannot be
    /// emptied and filled again to the value that was read; and a bump that is not in that value
    /// makes the exchange fail, where one that is in it was counted before.
    pub fn free_newest(self, generation: Generation, start: Units, size: Units) {
        let life = generation.low32();
        let mut given = false;
        loop {
            // ORDERING: Acquire; pairs with the exchange in `bump`, which comes after its count:
            // cursor first, count second, so that the count has whatever the cursor has.
            let cursor = self.cursor.load(Ordering::Acquire);
            // ORDERING: Acquire; pairs with the Release below: what the others did with their
            // bytes comes before whoever gets them after the arena is emptied.
            let live = self.live.load(Ordering::Acquire);
            let ((cursor_life, next), (live_life, count)) = (split(cursor), split(live));
            if cursor_life != life || live_life != life || count == 0 {
                return;
            }
            let newest = !given && start.checked_add(size) == Some(next);
            if newest || count == 1 {
                let to = join(life, if count == 1 { 0 } else { start });
                // ORDERING: AcqRel as in `bump`. CRASH: one step.
                let outcome = self.cursor.compare_exchange_weak(
                    cursor,
                    to,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                if outcome.is_err() {
                    continue;
                }
                given = true;
            }
            // ORDERING: Release; pairs with the Acquire above, in whoever is the last.
            let outcome = self.live.compare_exchange_weak(
                live,
                join(life, count - 1),
                Ordering::Release,
                Ordering::Relaxed,
            );
            if outcome.is_ok() {
                return;
            }
        }
    }

    /// Says whether the arena word is `expected`.
    #[inline]
    pub(crate) fn is_still(self, expected: ArenaSnapshot) -> bool {
        // ORDERING: Relaxed; pairs with nothing. What a holder has reserved is its own, and whoever
        // ends its life does not wait for it.
        self.word.load(Ordering::Relaxed) == expected.0
    }

    /// Returns how many units of this life are filled; readers bound it by the arena's size.
    pub fn used(self, generation: Generation) -> Units {
        let (life, next) = split(self.cursor.load(Ordering::Relaxed));
        if life == generation.low32() { next } else { 0 }
    }

    #[inline]
    fn exclusive(
        self,
        generation: Generation,
        owner: SessionNumber,
    ) -> Result<ArenaSnapshot, ArenaRefusal> {
        let found = self.load();
        match found.state() {
            _ if found.generation() != generation => Err(ArenaRefusal::Stale),
            Some(ArenaState::Exclusive) if found.owner() == owner => Ok(found),
            Some(ArenaState::Exclusive) => Err(ArenaRefusal::NotOwner(found.owner())),
            Some(ArenaState::Named) => Err(ArenaRefusal::Shared),
            Some(ArenaState::Free) | None => Err(ArenaRefusal::Stale),
        }
    }

    /// Cursor first, word last; only whoever's exchange of the word succeeds has freed it.
    #[inline]
    fn free_last(self, found: ArenaSnapshot) -> Result<(), ArenaRefusal> {
        let next = found.next_life();
        self.empty_cursor(found.generation(), next.generation());
        // ORDERING: Release; pairs with the Acquire in `load`: whoever sees FREE sees the cursor.
        // SeqCst for `WaitersFlag::is_set`, which follows.
        // CRASH: one step.
        self.word
            .compare_exchange(found.0, next.0, Ordering::SeqCst, Ordering::Relaxed)
            .map(|_| ())
            .map_err(|_| ArenaRefusal::Stale)
    }

    /// As `free_last`, for an arena that nobody who keeps to the rules holds: a word that changes
    /// all the same is overwritten.
    fn free_last_of_nobody(self, found: ArenaSnapshot) {
        if self.free_last(found).is_err() {
            // ORDERING: as in `free_last`. CRASH: one step.
            self.word.store(found.next_life().0, Ordering::Release);
        }
    }

    /// Hands the cursor from one life to the next, unless that was done before.
    #[inline]
    fn empty_cursor(self, from: Generation, to: Generation) {
        let empty = join(to.low32(), 0);
        // ORDERING: Relaxed, all of it: the value alone makes a bump of the old life fail, and the
        // exchange of the word, which follows, publishes it to the next holder.
        let mut current = self.cursor.load(Ordering::Relaxed);
        for _ in 0..MAX_LOST_RACES {
            if split(current).0 != from.low32() {
                return;
            }
            // CRASH: the word still names the holder; the sweep gives the arena back.
            match self.cursor.compare_exchange_weak(
                current,
                empty,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => current = seen,
            }
        }
        self.cursor.store(empty, Ordering::Relaxed);
    }
}

#[inline]
fn split(cursor: u64) -> (u32, Units) {
    let high = u32::try_from(cursor >> 32).expect("32 bits are left after the shift");
    let low = u32::try_from(cursor & 0xffff_ffff).expect("masked to 32 bits");
    (high, low)
}

#[inline]
fn join(life: u32, next: Units) -> u64 {
    u64::from(life) << 32 | u64::from(next)
}

#[cfg(test)]
mod tests;
