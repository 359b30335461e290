//! Records of CONTROL: what the daemon must not forget about a block or an arena: that it is
//! kept (and under which name), pinned, or held. 128 bytes each; the first word is the commit.
//!
//! ```text
//! word 0   commit: kind:8 (63..56) | name length:8 | access:8 | 0:24 | session:16   0 = empty
//!      1   generation        2  offset in DATA      3  request id
//!      4   uid               5  session serial      6  index + 1 of the record it replaces
//!      7   keep: 1 once the block's word says so too
//!      8…15  name, 64 bytes, zero-padded
//! ```

use goumem_alloc::{GRAIN_BYTES, Generation, Offset, SessionNumber};

use crate::sync::{AtomicU64, Ordering, load_acquire};

/// Words in a record.
pub(crate) const RECORD_WORDS: usize = 16;
const NAME_WORD: usize = 8;
/// Where offsets end that a handle can name.
const OFFSET_LIMIT: u64 = 1 << 52;
/// Bytes of the longest name.
pub const MAX_NAME_BYTES: usize = 64;

/// What a record says about its block or arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The block outlives its owner; it may have a name.
    Keep,
    /// A session holds the block's bytes in place.
    Pin,
    /// A session holds a named arena.
    Holder,
    /// A pin that was dropped; the block's bit may be set still.
    Unpinned,
}

impl RecordKind {
    fn to_bits(self) -> u64 {
        match self {
            Self::Keep => 1,
            Self::Pin => 2,
            Self::Holder => 3,
            Self::Unpinned => 4,
        }
    }

    fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            1 => Some(Self::Keep),
            2 => Some(Self::Pin),
            3 => Some(Self::Holder),
            4 => Some(Self::Unpinned),
            _ => None,
        }
    }
}

/// One record, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: RecordKind,
    /// Who pins or holds; nobody for a keep.
    pub session: SessionNumber,
    /// The serial of its session, which never repeats; of a keep, that of whoever kept it.
    pub serial: u64,
    /// The block's or arena's generation.
    pub generation: Generation,
    /// Where the block or arena starts.
    pub offset: Offset,
    /// The request that made it, 0 for none.
    pub request_id: u64,
    /// The user it counts against.
    pub uid: u32,
    /// Whether a holder may write.
    pub writable: bool,
    /// The record whose name it takes over: that one is void, and its block to be freed.
    pub replaces: Option<u32>,
    /// Of a keep: the block's word says so too, or has moved on since.
    pub done: bool,
    /// The name, empty for none; at most [`MAX_NAME_BYTES`].
    pub name: String,
}

/// The words of one record.
#[derive(Debug, Clone, Copy)]
pub struct RecordSlot<'a>(&'a [AtomicU64]);

impl<'a> RecordSlot<'a> {
    /// Returns the record laid over `words`; `None` unless there are exactly 16.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() == RECORD_WORDS).then_some(Self(words))
    }

    /// Returns the record, `None` when empty, and the commit word when nobody could have
    /// written what stands there.
    ///
    /// # Errors
    /// The commit word of an unbelievable record.
    pub fn load(self) -> Result<Option<Record>, u64> {
        // ORDERING: pairs with the Release store in `commit`.
        let commit = load_acquire(&self.0[0]);
        if commit == 0 {
            return Ok(None);
        }
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        let byte = |shift: u32| usize::try_from(commit >> shift & 0xff).expect("a byte");
        let parse = || {
            let name_len = byte(48);
            let mut name = Vec::with_capacity(MAX_NAME_BYTES);
            for i in NAME_WORD..RECORD_WORDS {
                name.extend_from_slice(&word(i).to_le_bytes());
            }
            let name = name.get(..name_len)?.to_vec();
            Some(Record {
                kind: RecordKind::from_bits(commit >> 56)?,
                session: SessionNumber::new(u16::try_from(commit & 0xffff).ok()?),
                serial: word(5),
                generation: Generation::new(word(1))?,
                offset: Some(word(2))
                    .filter(|&offset| offset < OFFSET_LIMIT && offset.is_multiple_of(GRAIN_BYTES))
                    .map(Offset::new)?,
                request_id: word(3),
                uid: u32::try_from(word(4)).ok()?,
                writable: byte(40) != 0,
                replaces: match word(6) {
                    0 => None,
                    index => Some(u32::try_from(index - 1).ok()?),
                },
                done: word(7) != 0,
                name: String::from_utf8(name).ok()?,
            })
        };
        parse().map(Some).ok_or(commit)
    }

    /// Writes a record into an empty slot; the last store commits it.
    ///
    /// # Panics
    /// When the name is longer than [`MAX_NAME_BYTES`]: names are checked at the edge.
    pub fn commit(self, record: &Record) {
        let name = record.name.as_bytes();
        assert!(
            name.len() <= MAX_NAME_BYTES,
            "a name of {} bytes",
            name.len()
        );
        let set = |i: usize, value: u64| self.0[i].store(value, Ordering::Relaxed);
        set(1, record.generation.get());
        set(2, record.offset.get());
        set(3, record.request_id);
        set(4, u64::from(record.uid));
        set(5, record.serial);
        set(6, record.replaces.map_or(0, |index| u64::from(index) + 1));
        set(7, u64::from(record.done));
        let mut padded = [0u8; MAX_NAME_BYTES];
        padded[..name.len()].copy_from_slice(name);
        for (i, bytes) in padded.as_chunks::<8>().0.iter().enumerate() {
            set(NAME_WORD + i, u64::from_le_bytes(*bytes));
        }
        let commit = record.kind.to_bits() << 56
            | (name.len() as u64) << 48
            | u64::from(record.writable) << 40
            | u64::from(record.session.get());
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: before this store the slot is empty; after it the record stands.
        self.0[0].store(commit, Ordering::Release);
    }

    /// Notes that the record it replaced is gone, whose place may be another's soon.
    ///
    /// CRASH: one step. Until then recovery drops the replaced record, if it has the same name.
    pub fn settle(self) {
        self.0[6].store(0, Ordering::Relaxed);
    }

    /// Notes that the block's word has become what a keep says.
    ///
    /// CRASH: one step. Until then recovery keeps the block again if it is its maker's: the record
    /// came first. From then on such a block is known to have been adopted since.
    pub fn finish_keep(self) {
        self.0[7].store(1, Ordering::Relaxed);
    }

    /// Makes a pin one that was dropped: from here on it holds nothing, and what is left to do is
    /// found.
    pub fn drop_pin(self) {
        let commit = self.0[0].load(Ordering::Relaxed) & !(0xff << 56);
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: one step. Recovery clears the bit, unless another record pins the block, and then
        // the slot.
        self.0[0].store(
            commit | RecordKind::Unpinned.to_bits() << 56,
            Ordering::Release,
        );
    }

    /// Empties the slot.
    ///
    /// CRASH: one step.
    pub fn clear(self) {
        // ORDERING: pairs with the Acquire in `load`.
        self.0[0].store(0, Ordering::Release);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..RECORD_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn record() -> Record {
        Record {
            kind: RecordKind::Keep,
            session: SessionNumber::new(7),
            serial: 99,
            generation: Generation::new(5).unwrap(),
            offset: Offset::new(4096),
            request_id: 3,
            uid: 1000,
            writable: true,
            replaces: Some(0),
            done: false,
            name: "weights/layer.0".to_owned(),
        }
    }

    #[test]
    fn a_record_reads_back_as_written_and_a_cleared_one_is_empty() {
        let words = words();
        let slot = RecordSlot::new(&words).unwrap();
        assert_eq!(slot.load(), Ok(None));
        slot.commit(&record());
        assert_eq!(slot.load(), Ok(Some(record())));
        slot.settle();
        assert_eq!(slot.load().unwrap().unwrap().replaces, None);
        slot.finish_keep();
        assert!(slot.load().unwrap().unwrap().done);
        slot.clear();
        assert_eq!(slot.load(), Ok(None));
    }

    #[test]
    fn a_dropped_pin_says_what_it_pinned() {
        let words = words();
        let slot = RecordSlot::new(&words).unwrap();
        let pin = Record {
            kind: RecordKind::Pin,
            ..record()
        };
        slot.commit(&pin);
        slot.drop_pin();
        let dropped = Record {
            kind: RecordKind::Unpinned,
            ..pin
        };
        assert_eq!(slot.load(), Ok(Some(dropped)));
    }

    #[test]
    fn a_name_of_the_longest_length_fits() {
        let words = words();
        let slot = RecordSlot::new(&words).unwrap();
        let long = Record {
            name: "n".repeat(MAX_NAME_BYTES),
            ..record()
        };
        slot.commit(&long);
        assert_eq!(slot.load(), Ok(Some(long)));
    }

    #[test]
    fn nonsense_is_reported_and_not_believed() {
        let words = words();
        let slot = RecordSlot::new(&words).unwrap();
        for commit in [9 << 56, u64::MAX, 1 << 56 | 65 << 48, 1] {
            words[0].store(commit, Ordering::Relaxed);
            assert_eq!(slot.load(), Err(commit));
        }
        slot.commit(&record());
        words[NAME_WORD].store(u64::MAX, Ordering::Relaxed);
        assert!(slot.load().is_err(), "a name that is not UTF-8");
        for offset in [8, 1 << 52] {
            slot.commit(&record());
            words[2].store(offset, Ordering::Relaxed);
            assert!(
                slot.load().is_err(),
                "offset {offset}, which no handle names"
            );
        }
    }
}
