//! The slot word: the one `u64` of a block that says what the block is. Every transition of it
//! is a method here; nobody outside this file sees a bit or an `Ordering`.
//!
//! ```text
//!  63                                          20 19            4 3   1  0
//! ┌──────────────────────────────────────────────┬───────────────┬─────┬──┐
//! │ generation : 44                              │ owner : 16    │state│p │   p = pinned
//! └──────────────────────────────────────────────┴───────────────┴─────┴──┘
//! ```
//!
//! All transitions but [`SlotWord::export`] and [`SlotWord::initialise`] are read-modify-writes,
//! which establishes one modification order for each word (tokio `runtime/task/state.rs`). Those
//! two are plain stores because nobody else may write then: a FREE word belongs to the agent of
//! its span (docs/layout.md, "Slot word").
//!
//! A TAKEN block is its owner's alone, and no handle names it, not even one that somebody made up
//! with the right generation: [`SlotWord::free`] and its like refuse it. Otherwise a guess would
//! be enough to have a block handed out while its holder has `&mut` to it.

use goumem_alloc::{Generation, SessionNumber};

use crate::sync::{AtomicU64, Ordering, fence, load_acquire};

mod snapshot;

pub use snapshot::{SlotSnapshot, SlotState};

/// How many races in a row a transition may lose. Whoever wins one has changed the word, and no
/// use of this library changes one word that often: more is malice, which must not stall us.
const MAX_LOST_RACES: u32 = 1 << 16;
/// The same for the daemon's sweep, which goes over many words and overwrites the word in the end.
const MAX_LOST_RACES_OF_SWEEP: u32 = 100;

/// Why a transition was refused. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRefusal {
    /// The generation or the state is not the handle's: freed, reused or never exported.
    Stale,
    /// The block was freed once already and not reused since.
    DoubleFree,
    /// Another session owns the block.
    NotOwner(SessionNumber),
    /// The block is pinned, so that nobody may have it alone.
    Pinned,
    /// The slot has used up its generations.
    GenerationsSpent,
}

/// What a free did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Freed {
    /// The slot is free: tell the span's agent by the hint.
    Free,
    /// The block was pinned and is now condemned: the last unpin frees it.
    Condemned,
}

/// What an unpin found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Unpinned {
    /// The block lives on.
    Alive,
    /// The block was condemned and is free now: tell the span's agent by the hint.
    Freed,
    /// The bit was not set, or the word is not one that can carry it.
    Nothing,
}

/// The shared word of one block.
#[derive(Debug)]
#[repr(transparent)]
pub struct SlotWord(AtomicU64);

impl SlotWord {
    /// Returns a FREE word, for models and tests; production words lie in a mapping.
    pub fn new(generation: Generation) -> Self {
        let word = SlotSnapshot::pack(generation, SessionNumber::NOBODY, SlotState::Free, false);
        Self(AtomicU64::new(word.raw()))
    }

    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn from_atomic(word: &AtomicU64) -> &Self {
        // SAFETY:
        // - SlotWord is repr(transparent) over AtomicU64, so layout and validity are the same;
        // - the lifetime of the result is that of the argument.
        unsafe { &*std::ptr::from_ref(word).cast::<Self>() }
    }

    /// Returns what the word says now.
    ///
    /// # Memory ordering
    /// Acquire: what the last transition's author wrote before it is visible after.
    #[inline]
    pub fn load(&self) -> SlotSnapshot {
        // ORDERING: pairs with the Release store in `export` and the AcqRel in `attempt`.
        SlotSnapshot::from_raw(load_acquire(&self.0))
    }

    /// Writes {floor, FREE}: the word of a span about to be granted, that nobody can reach yet.
    ///
    /// CRASH: the head entry is not committed, so the span is still free; the next grant writes
    /// the word again.
    pub fn initialise(&self, floor: Generation) {
        let word = SlotSnapshot::pack(floor, SessionNumber::NOBODY, SlotState::Free, false);
        // ORDERING: Relaxed; pairs with nothing. The page map's Release store publishes it.
        self.0.store(word.raw(), Ordering::Relaxed);
    }

    /// Makes a private block visible: FREE → SHARED(owner). The caller owns the block, has
    /// written its shape word, and calls this once; it returns the generation for the handle.
    ///
    /// # Errors
    /// `GenerationsSpent` when the slot may not be exported any more, and `Stale` when the word
    /// is not FREE, which only a writer outside this library can have caused.
    ///
    /// # Memory ordering
    /// Release: payload and shape written before are visible to whoever loads the word.
    #[inline]
    pub fn export(&self, owner: SessionNumber) -> Result<Generation, SlotRefusal> {
        // ORDERING: Relaxed; pairs with nothing: the caller's own claim on the slot came with
        // an Acquire (page map, or the agent's re-read).
        let found = SlotSnapshot::from_raw(self.0.load(Ordering::Relaxed));
        if found.state() != Some(SlotState::Free) {
            return Err(SlotRefusal::Stale);
        }
        let generation = found.generation();
        if generation == Generation::MAX {
            return Err(SlotRefusal::GenerationsSpent);
        }
        let word = SlotSnapshot::pack(generation, owner, SlotState::Shared, false);
        // ORDERING: pairs with the Acquire in `load` and `attempt`.
        // CRASH: the block is SHARED by a dead session; the sweep frees it. The private exported
        // bit died with the process.
        self.0.store(word.raw(), Ordering::Release);
        Ok(generation)
    }

    /// Frees an exported block: SHARED or KEPT → FREE, or CONDEMNED when pinned.
    ///
    /// # Errors
    /// `DoubleFree` when the slot is just past this generation and free, else `Stale`.
    #[inline]
    pub fn free(&self, generation: Generation) -> Result<Freed, SlotRefusal> {
        // CRASH: one step; only the hint may be missing, and the agent re-reads without it.
        self.transition(|word| {
            if !word.is_live(generation) {
                let freed_last =
                    matches!(word.state(), Some(SlotState::Free | SlotState::Condemned))
                        && Some(word.generation()) == generation.next();
                return Err(if freed_last {
                    SlotRefusal::DoubleFree
                } else {
                    SlotRefusal::Stale
                });
            }
            Ok(word.freed())
        })
    }

    /// Frees a block that `holder` took over: TAKEN(holder) → FREE.
    ///
    /// # Errors
    /// `Stale`, which only a writer outside this library can have caused.
    #[inline]
    pub fn free_taken(&self, holder: SessionNumber) -> Result<Freed, SlotRefusal> {
        // CRASH: one step, as in `free`.
        self.transition(|word| {
            if word.state() != Some(SlotState::Taken) || word.owner() != holder {
                return Err(SlotRefusal::Stale);
            }
            Ok(word.freed())
        })
    }

    /// Makes a block that `holder` took over visible: TAKEN(holder) → SHARED(owner). The caller
    /// has written its shape word; it returns the generation for the handle, the first of it.
    ///
    /// # Errors
    /// `Stale`, which only a writer outside this library can have caused.
    #[inline]
    pub fn export_taken(
        &self,
        holder: SessionNumber,
        owner: SessionNumber,
    ) -> Result<Generation, SlotRefusal> {
        // CRASH: one step, from a word that the sweep frees to another.
        self.transition(|word| {
            if word.state() != Some(SlotState::Taken) || word.owner() != holder {
                return Err(SlotRefusal::Stale);
            }
            let next = SlotSnapshot::pack(word.generation(), owner, SlotState::Shared, false);
            Ok((next, word.generation()))
        })
    }

    /// Makes a block outlive its owner: SHARED(owner) → KEPT. The daemon writes the keep record
    /// before. Keeping a KEPT block again is no error.
    ///
    /// # Errors
    /// `NotOwner`, `Stale`.
    pub fn keep(&self, generation: Generation, owner: SessionNumber) -> Result<(), SlotRefusal> {
        // CRASH: the record stands; recovery redoes this or drops the record.
        self.transition(|word| {
            if !word.is_live(generation) {
                return Err(SlotRefusal::Stale);
            }
            if word.state() == Some(SlotState::Shared) && word.owner() != owner {
                return Err(SlotRefusal::NotOwner(word.owner()));
            }
            let next = SlotSnapshot::pack(
                generation,
                SessionNumber::NOBODY,
                SlotState::Kept,
                word.is_pinned(),
            );
            Ok((next, ()))
        })
    }

    /// Changes the owner, the handle stays good: SHARED or KEPT → SHARED(new owner). The caller
    /// has set the span's "holds adopted" flag first. Returns the state before.
    ///
    /// # Errors
    /// `Stale`.
    #[inline]
    pub fn adopt(
        &self,
        generation: Generation,
        new_owner: SessionNumber,
    ) -> Result<SlotSnapshot, SlotRefusal> {
        // CRASH: the flag is set, so the sweep of the new owner finds the word.
        self.transition(|word| {
            if !word.is_live(generation) {
                return Err(SlotRefusal::Stale);
            }
            let next =
                SlotSnapshot::pack(generation, new_owner, SlotState::Shared, word.is_pinned());
            Ok((next, word))
        })
    }

    /// Changes the owner and the handle, so that every handle but the new owner's is stale:
    /// SHARED or KEPT → SHARED(new owner) with the generation raised. The caller has set the
    /// span's "holds adopted" flag first. Returns the new generation and the state before.
    ///
    /// # Errors
    /// `Stale`, `Pinned`, `GenerationsSpent`.
    pub fn take(
        &self,
        generation: Generation,
        new_owner: SessionNumber,
    ) -> Result<(Generation, SlotSnapshot), SlotRefusal> {
        self.take_as(SlotState::Shared, generation, new_owner)
    }

    /// As [`take`](Self::take), for a new owner who wants the block alone: SHARED or KEPT →
    /// TAKEN(new owner).
    ///
    /// # Errors
    /// As `take`.
    #[inline]
    pub fn take_over(
        &self,
        generation: Generation,
        new_owner: SessionNumber,
    ) -> Result<(Generation, SlotSnapshot), SlotRefusal> {
        self.take_as(SlotState::Taken, generation, new_owner)
    }

    fn take_as(
        &self,
        state: SlotState,
        generation: Generation,
        new_owner: SessionNumber,
    ) -> Result<(Generation, SlotSnapshot), SlotRefusal> {
        // CRASH: the flag is set, so the sweep of the new owner finds the word.
        let taken = self.transition(|word| {
            if !word.is_live(generation) {
                return Err(SlotRefusal::Stale);
            }
            if word.is_pinned() {
                return Err(SlotRefusal::Pinned);
            }
            let raised = generation.next().ok_or(SlotRefusal::GenerationsSpent)?;
            let next = SlotSnapshot::pack(raised, new_owner, state, false);
            Ok((next, (raised, word)))
        })?;
        fence_before_reuse();
        Ok(taken)
    }

    /// Sets the pinned bit of a living block. The daemon has written the pin record before.
    ///
    /// # Errors
    /// `Stale`: the daemon drops the record again.
    pub fn pin(&self, generation: Generation) -> Result<(), SlotRefusal> {
        // CRASH: the record stands; reconciling sets or clears the bit by the table.
        self.transition(|word| {
            if !word.is_live(generation) {
                return Err(SlotRefusal::Stale);
            }
            Ok((word.with_pin(true), ()))
        })
    }

    /// Clears the pinned bit after the last record of this block is gone; frees it if condemned.
    pub fn unpin(&self) -> Unpinned {
        // CRASH: no record stands; reconciling clears the bit.
        let outcome = self.transition(|word| {
            if !word.is_pinned() {
                return Err(SlotRefusal::Stale);
            }
            match word.state() {
                Some(SlotState::Condemned) => {
                    let (generation, nobody) = (word.generation(), SessionNumber::NOBODY);
                    let next = SlotSnapshot::pack(generation, nobody, SlotState::Free, false);
                    Ok((next, Unpinned::Freed))
                }
                Some(SlotState::Shared | SlotState::Kept) => {
                    Ok((word.with_pin(false), Unpinned::Alive))
                }
                // A FREE word is its agent's to write, a TAKEN one its owner's.
                Some(SlotState::Free | SlotState::Taken) | None => Err(SlotRefusal::Stale),
            }
        });
        outcome.unwrap_or(Unpinned::Nothing)
    }

    /// Frees the block if `dead` owns it; returns what that did.
    ///
    /// After a hundred lost races against a word that somebody keeps flipping, the word is
    /// overwritten: a sweep never stalls, and only that pool's contents suffer.
    pub fn sweep(&self, dead: SessionNumber) -> Option<Freed> {
        // CRASH: one step; the next sweep does the rest of the span.
        let outcome = self.attempt(MAX_LOST_RACES_OF_SWEEP, |word| {
            if word.goes_with(dead) {
                Ok(word.freed())
            } else {
                Err(SlotRefusal::Stale)
            }
        });
        match outcome {
            Ok(freed) => Some(freed),
            Err(Lost::Races(seen)) if seen.goes_with(dead) => {
                let (next, freed) = seen.freed();
                // ORDERING: as in `attempt`.
                self.0.swap(next.raw(), Ordering::AcqRel);
                Some(freed)
            }
            Err(Lost::Races(_) | Lost::Refused(_)) => None,
        }
    }

    /// Frees whatever the word says, for recovery of words that nothing vouches for: {at least
    /// the next generation, FREE}.
    pub fn force_free(&self) {
        let free = |word: SlotSnapshot| {
            let next = word.generation().next().unwrap_or(Generation::MAX);
            SlotSnapshot::pack(next, SessionNumber::NOBODY, SlotState::Free, false)
        };
        // CRASH: one step, redone by the next recovery.
        let outcome = self.attempt(MAX_LOST_RACES_OF_SWEEP, |word| Ok((free(word), ())));
        if let Err(Lost::Races(seen)) = outcome {
            // ORDERING: as in `attempt`.
            self.0.swap(free(seen).raw(), Ordering::AcqRel);
        }
    }

    /// As `attempt`, for those who may give up: whoever loses that many races finds the block
    /// changed for good.
    #[inline]
    fn transition<R>(
        &self,
        step: impl FnMut(SlotSnapshot) -> Result<(SlotSnapshot, R), SlotRefusal>,
    ) -> Result<R, SlotRefusal> {
        self.attempt(MAX_LOST_RACES, step)
            .map_err(|lost| match lost {
                Lost::Refused(refusal) => refusal,
                Lost::Races(_) => SlotRefusal::Stale,
            })
    }

    /// The one loop every transition goes through.
    #[inline]
    fn attempt<R>(
        &self,
        max_lost_races: u32,
        mut step: impl FnMut(SlotSnapshot) -> Result<(SlotSnapshot, R), SlotRefusal>,
    ) -> Result<R, Lost> {
        // ORDERING: Relaxed, here and where the exchange fails: only a successful exchange tells
        // the caller anything that data hangs on.
        let mut current = self.0.load(Ordering::Relaxed);
        for _ in 0..max_lost_races {
            let (next, outcome) = step(SlotSnapshot::from_raw(current)).map_err(Lost::Refused)?;
            // ORDERING: AcqRel; pairs with itself, with `load` and with the store in `export`.
            // Release publishes what this process wrote to the block to the next reader's
            // Acquire; Acquire shows us what its last writer published.
            match self.0.compare_exchange_weak(
                current,
                next.raw(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(outcome),
                Err(seen) => current = seen,
            }
        }
        Err(Lost::Races(SlotSnapshot::from_raw(current)))
    }
}

/// Why an attempt at a transition wrote nothing.
enum Lost {
    Refused(SlotRefusal),
    /// Too many races; what the word said last.
    Races(SlotSnapshot),
}

/// Stands between learning that a block's bytes are ours and the first write to them.
///
/// Reading FREE with Acquire, or raising the generation by an exchange, keeps our writes behind
/// the *load* of the word. A reader who copies one of those writes must see more: that the word
/// had changed before (the writer's fence of a seqlock).
#[inline]
pub(crate) fn fence_before_reuse() {
    // ORDERING: pairs with the Acquire fences between copy and second look, in
    // `PoolMemory::read_resolved` and `ArenaMemory::read`.
    fence(Ordering::Release);
}

#[cfg(test)]
mod tests;
