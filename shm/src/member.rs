//! The member word: one `u64` of CONTROL for each session number, which says whether that session
//! uses the pool and how often it was handed the memory. Without it a restarted daemon would not
//! know whom to sweep here, nor when a destroyed pool may go.
//!
//! ```text
//!  63                      32 31                        1  0
//! ┌──────────────────────────┬───────────────────────────┬───┐
//! │ low half of the serial   │ mappings : 31             │use│   0 = no member
//! └──────────────────────────┴───────────────────────────┴───┘
//! ```

use crate::sync::{AtomicU64, Ordering, load_acquire};

/// The most mappings that are counted; more of them count as so many.
const MAX_MAPPINGS: u32 = (1 << 31) - 1;

/// What a pool knows of a session that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The low half of the session's serial, so that the next session of the same number is not
    /// taken for it.
    pub serial_low: u32,
    /// How often it was handed the memory and has not unmapped it.
    pub mappings: u32,
}

/// The shared word that holds a [`Member`].
#[derive(Debug, Clone, Copy)]
pub struct MemberWord<'a>(&'a AtomicU64);

impl<'a> MemberWord<'a> {
    /// Returns the member word that `word` is.
    pub fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// Returns the member, if there is one.
    pub fn load(self) -> Option<Member> {
        // ORDERING: pairs with the Release in `store`.
        let bits = load_acquire(self.0);
        (bits & 1 != 0).then(|| Member {
            serial_low: u32::try_from(bits >> 32).expect("32 bits are left"),
            mappings: u32::try_from(bits >> 1 & u64::from(MAX_MAPPINGS)).expect("31 bits"),
        })
    }

    /// Writes the member, or that there is none.
    pub fn store(self, member: Option<Member>) {
        let bits = member.map_or(0, |member| {
            u64::from(member.serial_low) << 32
                | u64::from(member.mappings.min(MAX_MAPPINGS)) << 1
                | 1
        });
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: one step, before the memory is handed out or anything is held; a member too many
        // is swept with its session.
        self.0.store(bits, Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn member_reads_back_and_zero_is_nobody() {
        let word = AtomicU64::new(0);
        assert_eq!(MemberWord::new(&word).load(), None);
        for mappings in [0, 1, MAX_MAPPINGS] {
            let member = Member {
                serial_low: u32::MAX,
                mappings,
            };
            MemberWord::new(&word).store(Some(member));
            assert_eq!(MemberWord::new(&word).load(), Some(member));
        }
        MemberWord::new(&word).store(None);
        assert_eq!(MemberWord::new(&word).load(), None);
    }
}
