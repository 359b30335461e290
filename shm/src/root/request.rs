//! A recent request of a session, in its row of ROOT: written before its effect, so that a retry
//! after a restart of the daemon is answered and not repeated. Calls whose effect carries the
//! request id in a record of its own (leases, pins, keeps, holders, new pools) need none.
//!
//! ```text
//! word 0   request id: the commit of its beginning; 0 = empty
//!      1   what: op:8 (63..56) | 0:55 | done:1: the commit of its end
//!      2   pool id      3, 4  handle, high and low      5, 6  outcome      7  one more number
//! ```

use crate::sync::{AtomicU64, Ordering, load_acquire};

macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident = $number:literal,)*) => {
        /// What a request is about to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum RequestOp {
            $($(#[$doc])* $op = $number,)*
        }

        impl RequestOp {
            /// Returns the op of that number.
            fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$op),)*
                    _ => None,
                }
            }
        }
    };
}
ops! {
    /// Allocate the block of the handle, of the extra number's length.
    Alloc = 1,
    /// Allocate many blocks.
    AllocBatch = 2,
    /// Free the block of the handle.
    Free = 3,
    /// Free many blocks.
    FreeBatch = 4,
    /// Change the size of the handle's block; the outcome, once it is there, is where it moves to.
    Realloc = 5,
    /// Own the handle's block.
    Adopt = 6,
    /// Own the handle's block under a new handle.
    Take = 7,
    /// Drop the pin record whose index is the extra number.
    Unpin = 8,
    /// Take the name of the handle's block away.
    Withdraw = 9,
    /// Return leased spans.
    ReturnSpans = 10,
    /// Get the arena of the handle; the extra number is that of the grant.
    GetArena = 11,
    /// Return the arena of the handle.
    ReturnArena = 12,
    /// Bump the arena of the handle.
    ArenaAlloc = 13,
    /// Free the handle's allocation in an arena.
    ArenaFree = 14,
    /// Empty the arena of the handle.
    ResetArena = 15,
    /// Stop holding the arena of the handle.
    Detach = 16,
    /// Destroy the pool.
    DestroyPool = 17,
}

/// One request, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its id, not 0.
    pub id: u64,
    /// What it is about to do, or has done.
    pub op: RequestOp,
    /// Whether it came to its end, and not by a refusal.
    pub done: bool,
    /// In which pool.
    pub pool_id: u32,
    /// To which block or arena, as the words of a handle; 0 for none.
    pub handle: (u64, u64),
    /// What came of it, once it is done; of some ops, what is to come of it.
    pub outcome: [u64; 2],
    /// One more number, by `op`.
    pub extra: u64,
}

/// The words of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestSlot<'a>(&'a [AtomicU64]);

impl<'a> RequestSlot<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// Returns the id of the request that stands there, 0 for none.
    pub fn id(self) -> u64 {
        load_acquire(&self.0[0])
    }

    /// Returns the request, `None` when there is none, and its id when nobody could have written
    /// what stands there.
    ///
    /// # Errors
    /// The id of an unbelievable request.
    pub fn load(self) -> Result<Option<RequestRecord>, u64> {
        // ORDERING: pairs with the Release store in `begin`.
        let id = load_acquire(&self.0[0]);
        if id == 0 {
            return Ok(None);
        }
        // ORDERING: pairs with the Release store in `finish`.
        let what = load_acquire(&self.0[1]);
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        let op = RequestOp::from_number(what >> 56).ok_or(id)?;
        Ok(Some(RequestRecord {
            id,
            op,
            done: what & 1 != 0,
            pool_id: u32::try_from(word(2)).map_err(|_| id)?,
            handle: (word(3), word(4)),
            outcome: [word(5), word(6)],
            extra: word(7),
        }))
    }

    /// Writes what a request is about to do; the last store commits that it has begun.
    pub fn begin(self, record: &RequestRecord) {
        let set = |i: usize, value: u64| self.0[i].store(value, Ordering::Relaxed);
        self.clear();
        set(1, (record.op as u64) << 56);
        set(2, u64::from(record.pool_id));
        set(3, record.handle.0);
        set(4, record.handle.1);
        set(5, 0);
        set(6, 0);
        set(7, record.extra);
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: before this store the request has not begun, and a retry does it. After it, the
        // pool's records and words say whether its effect came; see the daemon's recovery.
        self.0[0].store(record.id, Ordering::Release);
    }

    /// Writes what is going to come of it, just before the store that others can see: whether it
    /// has come, the pool's words say.
    pub fn expect(self, outcome: [u64; 2]) {
        self.0[5].store(outcome[0], Ordering::Relaxed);
        // CRASH: what is half written names nothing that this request has made.
        self.0[6].store(outcome[1], Ordering::Relaxed);
    }

    /// Says that the request came to its end, and what came of it.
    pub fn finish(self, op: RequestOp, outcome: [u64; 2]) {
        self.0[5].store(outcome[0], Ordering::Relaxed);
        self.0[6].store(outcome[1], Ordering::Relaxed);
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: without this store the request is found begun, and its effect there.
        self.0[1].store((op as u64) << 56 | 1, Ordering::Release);
    }

    /// Forgets the request: another takes its place, or it changed nothing.
    ///
    /// CRASH: one step.
    pub fn clear(self) {
        // ORDERING: pairs with the Acquire in `load`.
        self.0[0].store(0, Ordering::Release);
    }
}
