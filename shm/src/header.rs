//! The first page of a segment: what it is, for which pool, with which geometry. Magic is
//! written last and checked first, so a half-made segment is refused as such. Everything in it
//! but state, capacity, epoch and instance is fixed at creation.
//!
//! ```text
//! word 0 magic   1 layout version:32 | kind:32   2 pool id   3 state   4 daemon epoch
//!      5 pages or arenas      6 capacity in bytes, or bytes of an arena
//!      7 uid:32 | gid:32      8 mode:32 | backing:32     9 DATA length in bytes
//!      10 name length    11 serial of the session that made it   12 its request id, 0 for none
//!      13 instance of the daemon's ROOT      16…23 name, 64 bytes, zero-padded
//!      511 (DATA of an arena pool) waiters: somebody waits for an arena
//! ```

use goumem_alloc::PoolId;

use crate::error::SegmentRefusal;
use crate::records::MAX_NAME_BYTES;
use crate::sync::{AtomicU64, Ordering, load_acquire};

/// The layout this library reads and writes. Another number is refused, the segment untouched.
pub const LAYOUT_VERSION: u32 = 1;
/// Words in a header page.
pub(crate) const HEADER_WORDS: usize = 512;
/// Where in an arena pool's DATA the word lies that says whether somebody waits: the header's last.
pub(crate) const WAITERS_OFFSET_BYTES: u64 = 8 * 511;
const NAME_WORD: usize = 16;

/// Which half of a pool a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentRole {
    /// Written by the daemon alone.
    Control,
    /// Written by everyone who may write the pool.
    Data,
}

impl SegmentRole {
    fn magic(self) -> u64 {
        u64::from_le_bytes(match self {
            Self::Control => *b"goumemCT",
            Self::Data => *b"goumemDT",
        })
    }
}

/// What kind of pool a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// Blocks of any size.
    Blocks,
    /// N arenas of one size.
    Arenas,
}

/// Whether a pool may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// In use.
    Live,
    /// Its name is gone; no new opens, leases or allocations.
    Destroying,
}

/// The header, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Blocks or arenas.
    pub kind: PoolKind,
    /// The pool's id.
    pub pool_id: PoolId,
    /// Live or destroying.
    pub state: PoolState,
    /// Which run of the daemon wrote it last.
    pub epoch: u64,
    /// Pages of payload, or arenas.
    pub units: u32,
    /// The quota in bytes, or the bytes of an arena.
    pub unit_bytes: u64,
    /// The pool's owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode bits.
    pub mode: u32,
    /// What backs it, as a number of the protocol.
    pub backing: u32,
    /// Length of DATA in bytes, for a cross-check.
    pub data_bytes: u64,
    /// Which ROOT it belongs to.
    pub instance: u64,
    /// Which request made it, so that a retry finds it.
    pub made_by: MadeBy,
    /// The pool's name.
    pub name: String,
}

/// The request that made a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MadeBy {
    /// The serial of its session.
    pub serial: u64,
    /// Its id; 0 for none.
    pub request_id: u64,
}

/// The words of a header page.
#[derive(Debug, Clone, Copy)]
pub struct HeaderPage<'a>(&'a [AtomicU64]);

impl<'a> HeaderPage<'a> {
    /// Returns the header laid over `words`; `None` unless they are a whole page.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() == HEADER_WORDS).then_some(Self(words))
    }

    /// Writes the header of a new segment; the magic, written last, commits it.
    ///
    /// # Panics
    /// When the name is longer than 64 bytes: names are checked at the edge.
    pub fn publish(self, role: SegmentRole, header: &Header) {
        let name = header.name.as_bytes();
        assert!(
            name.len() <= MAX_NAME_BYTES,
            "a name of {} bytes",
            name.len()
        );
        let set = |i: usize, value: u64| self.0[i].store(value, Ordering::Relaxed);
        let kind = match header.kind {
            PoolKind::Blocks => 1u64,
            PoolKind::Arenas => 2,
        };
        set(1, u64::from(LAYOUT_VERSION) << 32 | kind);
        set(2, u64::from(header.pool_id.get()));
        self.set_state(header.state);
        set(4, header.epoch);
        set(5, u64::from(header.units));
        set(6, header.unit_bytes);
        set(7, u64::from(header.uid) << 32 | u64::from(header.gid));
        set(8, u64::from(header.mode) << 32 | u64::from(header.backing));
        set(9, header.data_bytes);
        set(10, name.len() as u64);
        set(11, header.made_by.serial);
        set(12, header.made_by.request_id);
        set(13, header.instance);
        let mut padded = [0u8; MAX_NAME_BYTES];
        padded[..name.len()].copy_from_slice(name);
        for (i, bytes) in padded.as_chunks::<8>().0.iter().enumerate() {
            set(NAME_WORD + i, u64::from_le_bytes(*bytes));
        }
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: without the magic the segment is half made, and nobody opens it.
        self.0[0].store(role.magic(), Ordering::Release);
    }

    /// Returns the header after checking it as outside data.
    ///
    /// # Errors
    /// `NotReady` without magic, `Version`, and `Corrupt` for fields nobody writes.
    pub fn load(self, role: SegmentRole) -> Result<Header, SegmentRefusal> {
        // ORDERING: pairs with the Release store in `publish`.
        let magic = load_acquire(&self.0[0]);
        if magic != role.magic() {
            return Err(SegmentRefusal::NotReady { magic });
        }
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        let high = |i: usize| u32::try_from(word(i) >> 32).expect("32 bits are left");
        let low = |i: usize| u32::try_from(word(i) & 0xffff_ffff).expect("masked");
        if high(1) != LAYOUT_VERSION {
            return Err(SegmentRefusal::Version {
                found: high(1),
                expected: LAYOUT_VERSION,
            });
        }
        let corrupt = |field: &'static str, i: usize| SegmentRefusal::Corrupt {
            field,
            value: word(i),
        };
        let kind = match low(1) {
            1 => PoolKind::Blocks,
            2 => PoolKind::Arenas,
            _ => return Err(corrupt("kind", 1)),
        };
        let mut name = Vec::with_capacity(MAX_NAME_BYTES);
        for i in NAME_WORD..NAME_WORD + MAX_NAME_BYTES / 8 {
            name.extend_from_slice(&word(i).to_le_bytes());
        }
        let name_len = usize::try_from(word(10)).map_err(|_| corrupt("name length", 10))?;
        let name = name
            .get(..name_len)
            .ok_or_else(|| corrupt("name length", 10))?
            .to_vec();
        Ok(Header {
            kind,
            pool_id: u32::try_from(word(2))
                .ok()
                .and_then(PoolId::new)
                .ok_or_else(|| corrupt("pool id", 2))?,
            state: self.state().ok_or_else(|| corrupt("state", 3))?,
            epoch: word(4),
            units: u32::try_from(word(5)).map_err(|_| corrupt("units", 5))?,
            unit_bytes: word(6),
            uid: high(7),
            gid: low(7),
            mode: high(8),
            backing: low(8),
            data_bytes: word(9),
            instance: word(13),
            made_by: MadeBy {
                serial: word(11),
                request_id: word(12),
            },
            name: String::from_utf8(name).map_err(|_| corrupt("name", NAME_WORD))?,
        })
    }

    /// Returns the pool's state, which changes while the segment is in use.
    pub fn state(self) -> Option<PoolState> {
        // ORDERING: pairs with the Release in `set_state`.
        match load_acquire(&self.0[3]) {
            1 => Some(PoolState::Live),
            2 => Some(PoolState::Destroying),
            _ => None,
        }
    }

    /// Commits the pool's state.
    pub fn set_state(self, state: PoolState) {
        let bits = match state {
            PoolState::Live => 1,
            PoolState::Destroying => 2,
        };
        // ORDERING: pairs with the Acquire in `state`. CRASH: one step.
        self.0[3].store(bits, Ordering::Release);
    }

    /// Records the quota in bytes.
    ///
    /// CRASH: one step.
    pub fn set_unit_bytes(self, bytes: u64) {
        self.0[6].store(bytes, Ordering::Relaxed);
    }

    /// Records which run of the daemon has it now, of which ROOT.
    ///
    /// CRASH: both are compared with ROOT at the next start; of an older epoch nothing follows.
    pub fn set_run(self, instance: u64, epoch: u64) {
        self.0[13].store(instance, Ordering::Relaxed);
        self.0[4].store(epoch, Ordering::Relaxed);
    }

    /// Returns the request that made the pool.
    pub fn made_by(self) -> MadeBy {
        MadeBy {
            serial: self.0[11].load(Ordering::Relaxed),
            request_id: self.0[12].load(Ordering::Relaxed),
        }
    }
}

/// Reads the header of a mapped segment, checked as outside data.
///
/// # Errors
/// Any [`SegmentRefusal`].
#[cfg(not(loom))]
pub fn read(mapping: &crate::os::Mapping, role: SegmentRole) -> Result<Header, SegmentRefusal> {
    crate::pool_memory::read_header(mapping, role)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: PoolKind::Blocks,
            pool_id: PoolId::new(77).unwrap(),
            state: PoolState::Live,
            epoch: 3,
            units: 16,
            unit_bytes: 1 << 20,
            uid: 1000,
            gid: 100,
            mode: 0o640,
            backing: 1,
            data_bytes: 1 << 24,
            instance: 5,
            made_by: MadeBy {
                serial: 9,
                request_id: 1,
            },
            name: "frames".to_owned(),
        }
    }

    #[test]
    fn a_header_reads_back_and_refuses_what_it_is_not() {
        let words: Vec<AtomicU64> = (0..HEADER_WORDS).map(|_| AtomicU64::new(0)).collect();
        let page = HeaderPage::new(&words).unwrap();
        assert_eq!(
            page.load(SegmentRole::Data),
            Err(SegmentRefusal::NotReady { magic: 0 })
        );
        page.publish(SegmentRole::Data, &header());
        assert_eq!(page.load(SegmentRole::Data), Ok(header()));
        assert!(matches!(
            page.load(SegmentRole::Control),
            Err(SegmentRefusal::NotReady { .. })
        ));
        page.set_state(PoolState::Destroying);
        assert_eq!(page.state(), Some(PoolState::Destroying));

        words[1].store(2 << 32 | 1, Ordering::Relaxed);
        assert_eq!(
            page.load(SegmentRole::Data),
            Err(SegmentRefusal::Version {
                found: 2,
                expected: LAYOUT_VERSION
            })
        );
        for (word, value) in [
            (1, 1 << 32 | 9),
            (2, 0),
            (3, 7),
            (5, 1 << 40),
            (10, 65),
            (16, !0),
        ] {
            page.publish(SegmentRole::Data, &header());
            words[word].store(value, Ordering::Relaxed);
            assert!(
                matches!(
                    page.load(SegmentRole::Data),
                    Err(SegmentRefusal::Corrupt { .. })
                ),
                "word {word}"
            );
        }
    }
}
