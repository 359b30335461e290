//! The bits of a slot word, packed and taken apart.

use std::fmt;

use goumem_alloc::{Generation, SessionNumber};

use super::Freed;

const GENERATION_SHIFT: u32 = 20;
const OWNER_SHIFT: u32 = 4;
const STATE_SHIFT: u32 = 1;
const OWNER_MASK: u64 = 0xffff;
const STATE_MASK: u64 = 0b111;
const PINNED: u64 = 1;

/// What a block is, as its slot word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Not exported: free, or private to the agent of its span.
    Free,
    /// Exported, and freed with its owner's session.
    Shared,
    /// Exported, and outlives every session.
    Kept,
    /// Freed while pinned: stale for every handle, its bytes left alone until the last unpin.
    Condemned,
    /// Its owner's alone, who took it over: no handle names it; freed with its owner's session.
    Taken,
}

/// One reading of a [`SlotWord`](super::SlotWord).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SlotSnapshot(u64);

impl SlotSnapshot {
    #[inline]
    pub(super) fn pack(
        generation: Generation,
        owner: SessionNumber,
        state: SlotState,
        pinned: bool,
    ) -> Self {
        let state = match state {
            SlotState::Free => 0u64,
            SlotState::Shared => 1,
            SlotState::Kept => 2,
            SlotState::Condemned => 3,
            SlotState::Taken => 4,
        };
        Self(
            generation.get() << GENERATION_SHIFT
                | u64::from(owner.get()) << OWNER_SHIFT
                | state << STATE_SHIFT
                | u64::from(pinned),
        )
    }

    /// Takes a word apart, whatever stands in it.
    #[inline]
    pub(super) fn from_raw(word: u64) -> Self {
        Self(word)
    }

    /// The word with the pinned bit set or clear.
    #[inline]
    pub(super) fn with_pin(self, pinned: bool) -> Self {
        Self(self.0 & !PINNED | u64::from(pinned))
    }

    /// Returns the word as it was read.
    #[inline]
    pub fn raw(self) -> u64 {
        self.0
    }

    /// Returns which reuse of the slot this is.
    #[inline]
    pub fn generation(self) -> Generation {
        Generation::new(self.0 >> GENERATION_SHIFT).expect("44 bits are left after the shift")
    }

    /// Returns the owner: nobody unless the state is SHARED or TAKEN.
    #[inline]
    pub fn owner(self) -> SessionNumber {
        let bits = self.0 >> OWNER_SHIFT & OWNER_MASK;
        SessionNumber::new(u16::try_from(bits).expect("masked to 16 bits"))
    }

    /// Returns the state, or `None` for bits that no transition writes.
    #[inline]
    pub fn state(self) -> Option<SlotState> {
        match self.0 >> STATE_SHIFT & STATE_MASK {
            0 => Some(SlotState::Free),
            1 => Some(SlotState::Shared),
            2 => Some(SlotState::Kept),
            3 => Some(SlotState::Condemned),
            4 => Some(SlotState::Taken),
            _ => None,
        }
    }

    /// Returns whether a pin record stands behind the block (a projection: the table decides).
    #[inline]
    pub fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    /// Returns whether a handle of `generation` names a living block here.
    #[inline]
    pub fn is_live(self, generation: Generation) -> bool {
        self.generation() == generation
            && matches!(self.state(), Some(SlotState::Shared | SlotState::Kept))
    }

    /// Returns whether the block is freed when the session `owner` ends.
    #[inline]
    pub fn goes_with(self, owner: SessionNumber) -> bool {
        self.owner() == owner && matches!(self.state(), Some(SlotState::Shared | SlotState::Taken))
    }

    /// The word after the block is freed: stale for every handle of this generation.
    ///
    /// A generation at its maximum stays there; such a slot is never exported again.
    #[inline]
    pub(super) fn freed(self) -> (Self, Freed) {
        let generation = self.generation().next().unwrap_or(Generation::MAX);
        let (state, freed) = if self.is_pinned() {
            (SlotState::Condemned, Freed::Condemned)
        } else {
            (SlotState::Free, Freed::Free)
        };
        let word = Self::pack(generation, SessionNumber::NOBODY, state, self.is_pinned());
        (word, freed)
    }
}

impl fmt::Debug for SlotSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotSnapshot")
            .field("generation", &self.generation())
            .field("owner", &self.owner())
            .field("state", &self.state())
            .field("pinned", &self.is_pinned())
            .finish()
    }
}
