//! The bits of an arena word, packed and taken apart.

use goumem_alloc::{Generation, SessionNumber};

const GENERATION_SHIFT: u32 = 20;
const OWNER_SHIFT: u32 = 4;
const STATE_SHIFT: u32 = 1;

/// Who may use an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArenaState {
    /// Nobody: to be had by `claim`.
    Free,
    /// One session, without asking the daemon.
    Exclusive,
    /// The sessions in its holder records, by name.
    Named,
}

/// One reading of an arena word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaSnapshot(pub(super) u64);

impl ArenaSnapshot {
    #[inline]
    pub(super) fn pack(generation: Generation, owner: SessionNumber, state: ArenaState) -> Self {
        let state = match state {
            ArenaState::Free => 0u64,
            ArenaState::Exclusive => 4,
            ArenaState::Named => 5,
        };
        Self(
            generation.get() << GENERATION_SHIFT
                | u64::from(owner.get()) << OWNER_SHIFT
                | state << STATE_SHIFT,
        )
    }

    /// The word of an arena that `owner` holds alone.
    #[inline]
    pub(crate) fn exclusive(generation: Generation, owner: SessionNumber) -> Self {
        Self::pack(generation, owner, ArenaState::Exclusive)
    }

    /// Returns which life of the arena this is.
    #[inline]
    pub fn generation(self) -> Generation {
        Generation::new(self.0 >> GENERATION_SHIFT).expect("44 bits are left after the shift")
    }

    /// Returns the exclusive holder, else nobody.
    #[inline]
    pub fn owner(self) -> SessionNumber {
        let bits = self.0 >> OWNER_SHIFT & 0xffff;
        SessionNumber::new(u16::try_from(bits).expect("masked to 16 bits"))
    }

    /// Returns the state, or `None` for bits that no transition writes.
    #[inline]
    pub fn state(self) -> Option<ArenaState> {
        match self.0 >> STATE_SHIFT & 0b111 {
            0 => Some(ArenaState::Free),
            4 => Some(ArenaState::Exclusive),
            5 => Some(ArenaState::Named),
            _ => None,
        }
    }

    /// The word after this life: FREE in the next one. A generation at its maximum stays there;
    /// such an arena is never claimed again.
    #[inline]
    pub(super) fn next_life(self) -> Self {
        let generation = self.generation().next().unwrap_or(Generation::MAX);
        Self::pack(generation, SessionNumber::NOBODY, ArenaState::Free)
    }

    /// Returns whether a handle of `generation` names a held arena here.
    #[inline]
    pub fn is_held(self, generation: Generation) -> bool {
        self.generation() == generation
            && matches!(
                self.state(),
                Some(ArenaState::Exclusive | ArenaState::Named)
            )
    }
}
