//! ROOT: the segment that only the daemon maps, so that the next daemon knows what this one did:
//! which run it was, which ids were given away, and every session. Pools are not in it: the header
//! of a pool's CONTROL commits the pool, and a second list could contradict it.
//!
//! ```text
//! header, 4 KiB    0 magic   1 layout version:32 | 0:32   2 instance   3 epoch
//!                  4 last pool id   5 last session serial
//! row n, 8 KiB     at 4096 + n × 8192: the session with the number n, 1 … 65 534
//!                  words 0 … 31 the session (see [`session`]), then 64 requests of 8 words, then 60
//!                  grants of the same form
//! ```
//!
//! Rows are sparse: one is committed while its session lives, and punched after.

use goumem_alloc::{PoolId, SessionNumber};

use crate::error::SegmentRefusal;
use crate::header::LAYOUT_VERSION;
use crate::sync::{AtomicU64, Ordering, load_acquire};

pub mod request;
pub mod session;

pub use request::{RequestOp, RequestRecord, RequestSlot};
pub use session::{SessionRecord, SessionRowState, SessionSlot};

/// Bytes of the header.
pub const ROOT_HEADER_BYTES: u64 = 4096;
/// Bytes of a session's row.
pub const ROW_BYTES: u64 = 8192;
/// Rows, those of the numbers 0 and 65 535 unused among them.
pub const ROWS: u64 = 1 << 16;
/// Bytes of the whole segment.
pub const ROOT_BYTES: u64 = ROOT_HEADER_BYTES + ROWS * ROW_BYTES;
/// Words of a row that say who the session is.
const SESSION_WORDS: usize = 32;
/// Words of a request.
const REQUEST_WORDS: usize = 8;
/// How many requests a row has room for: an id lies at its remainder by this.
pub const REQUESTS: u64 = 64;
/// How many grants a row has room for beside them. Whoever waits for an arena may have an id that is far behind
/// those of later calls when it gets it; so grants lie in their own order.
pub const GRANTS: u64 = 60;
/// Words of a row.
pub const ROW_WORDS: usize = 1024;
const _: () = assert!(SESSION_WORDS + (64 + 60) * REQUEST_WORDS == ROW_WORDS);
const _: () = assert!(ROW_WORDS * 8 == 8192);

const MAGIC: u64 = u64::from_le_bytes(*b"goumemRT");

/// Where the row of a session starts.
pub const fn row_start(number: SessionNumber) -> u64 {
    ROOT_HEADER_BYTES + number.get() as u64 * ROW_BYTES
}

/// The words of ROOT's header.
#[derive(Debug, Clone, Copy)]
pub struct RootHeader<'a>(&'a [AtomicU64]);

/// What ROOT's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootInfo {
    /// Chosen at random when ROOT was made; pools carry it too.
    pub instance: u64,
    /// Which run of the daemon wrote it last; never 0.
    pub epoch: u64,
}

impl<'a> RootHeader<'a> {
    /// Returns the header laid over `words`; `None` when they are too few.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() >= 8).then_some(Self(words))
    }

    /// Writes the header of a new ROOT; the magic, written last, commits it.
    pub fn publish(self, info: RootInfo, last_pool_id: u32, last_serial: u64) {
        let set = |i: usize, value: u64| self.0[i].store(value, Ordering::Relaxed);
        set(1, u64::from(LAYOUT_VERSION) << 32);
        set(2, info.instance);
        set(3, info.epoch);
        set(4, u64::from(last_pool_id));
        set(5, last_serial);
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: without the magic there is no ROOT, and nothing was promised to anybody yet.
        self.0[0].store(MAGIC, Ordering::Release);
    }

    /// Returns what it says, checked as outside data.
    ///
    /// # Errors
    /// `NotReady` without magic; `Version`; `Corrupt`.
    pub fn load(self) -> Result<RootInfo, SegmentRefusal> {
        // ORDERING: pairs with the Release in `publish`.
        let magic = load_acquire(&self.0[0]);
        if magic != MAGIC {
            return Err(SegmentRefusal::NotReady { magic });
        }
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        let version = u32::try_from(word(1) >> 32).expect("32 bits are left");
        if version != LAYOUT_VERSION {
            return Err(SegmentRefusal::Version {
                found: version,
                expected: LAYOUT_VERSION,
            });
        }
        let corrupt = |field, i: usize| SegmentRefusal::Corrupt {
            field,
            value: word(i),
        };
        if word(3) == 0 {
            return Err(corrupt("daemon epoch", 3));
        }
        if u32::try_from(word(4)).is_err() {
            return Err(corrupt("last pool id", 4));
        }
        Ok(RootInfo {
            instance: word(2),
            epoch: word(3),
        })
    }

    /// Says which run of the daemon this is.
    ///
    /// CRASH: one step.
    pub fn set_epoch(self, epoch: u64) {
        self.0[3].store(epoch, Ordering::Relaxed);
    }

    /// Takes the next pool id. The ids begin anywhere, and none comes a second time before 2^32
    /// others. The daemon serialises its callers.
    pub fn next_pool_id(self) -> PoolId {
        loop {
            let last = self.0[4].load(Ordering::Relaxed) & 0xffff_ffff;
            let next = (last + 1) & 0xffff_ffff;
            // CRASH: an id that nobody got is skipped.
            self.0[4].store(next, Ordering::Relaxed);
            if let Some(id) = u32::try_from(next).ok().and_then(PoolId::new) {
                return id;
            }
        }
    }

    /// Takes the next session serial. The daemon serialises its callers.
    pub fn next_serial(self) -> u64 {
        let next = self.0[5].load(Ordering::Relaxed).wrapping_add(1);
        // CRASH: a serial that nobody got is skipped.
        self.0[5].store(next, Ordering::Relaxed);
        next
    }
}

/// The words of one session's row, taken apart.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Row<'a> {
    /// Returns the row laid over `words`; `None` unless they are a whole row.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() == ROW_WORDS).then_some(Self { words })
    }

    /// Returns the part that says who the session is.
    pub fn session(self) -> SessionSlot<'a> {
        SessionSlot::new(&self.words[..SESSION_WORDS])
    }

    /// Returns the place of the request with that id.
    pub fn request(self, id: u64) -> RequestSlot<'a> {
        self.request_at(id % REQUESTS)
    }

    /// Returns the place of the grant with that number, of all that the session has got.
    pub fn grant(self, number: u64) -> RequestSlot<'a> {
        self.request_at(REQUESTS + number % GRANTS)
    }

    /// Returns the place of every request, those of the grants among them.
    pub fn requests(self) -> impl Iterator<Item = RequestSlot<'a>> {
        (0..REQUESTS + GRANTS).map(move |index| self.request_at(index))
    }

    fn request_at(self, index: u64) -> RequestSlot<'a> {
        let index = usize::try_from(index).expect("below 124");
        let start = SESSION_WORDS + index * REQUEST_WORDS;
        RequestSlot::new(&self.words[start..start + REQUEST_WORDS])
    }
}

/// ROOT, mapped.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct RootMemory(crate::os::Mapping);

#[cfg(not(loom))]
impl RootMemory {
    /// Puts it over a mapping.
    ///
    /// # Errors
    /// `Truncated`.
    pub fn new(mapping: crate::os::Mapping) -> Result<Self, SegmentRefusal> {
        let found_bytes = mapping.len_bytes();
        if found_bytes < ROOT_BYTES {
            return Err(SegmentRefusal::Truncated {
                expected_bytes: ROOT_BYTES,
                found_bytes,
            });
        }
        // INVARIANT: the whole of ROOT is mapped, without a guard.
        Ok(Self(mapping))
    }

    /// Returns the header.
    pub fn header(&self) -> RootHeader<'_> {
        let words = self.0.atomic_slice_u64(0, 8);
        words
            .ok()
            .and_then(RootHeader::new)
            .expect("ROOT is mapped whole")
    }

    /// Returns the row of a session.
    pub fn row(&self, number: SessionNumber) -> Row<'_> {
        let words = self.0.atomic_slice_u64(row_start(number), ROW_WORDS);
        words.ok().and_then(Row::new).expect("ROOT is mapped whole")
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
