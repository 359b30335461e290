//! A session's row in ROOT: who it is, and how it proves it.
//!
//! ```text
//! word 0   commit: state:8 (63..56) | flags:8 | label length:8 | 0:24 | number:16    0 = empty
//!          state 1 live, 2 dead (its sweep is under way); flags bit 0 may map, bit 1 local
//!      1   serial        2  uid:32 | gid:32     3  pid       4  start time of the process, ticks
//!      5   inode of its pidfd, 0 for none       6  ttl in ms, 0 for none            7  zero
//!      8…11  SHA-256 of the token               12, 13  nonce of its Open, 0 for none
//!      16…23  label, 64 bytes, zero-padded      the rest zero
//! ```

use goumem_alloc::SessionNumber;

use crate::records::MAX_NAME_BYTES;
use crate::sync::{AtomicU64, Ordering, load_acquire};

const LABEL_WORD: usize = 16;
const MAY_MAP: u64 = 1;
const LOCAL: u64 = 2;

/// Whether a session in ROOT is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRowState {
    /// It is, as far as the daemon knows.
    Live,
    /// It has ended; what it held is being taken back. Its number is nobody else's yet.
    Dead,
}

/// One session, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Live or dead.
    pub state: SessionRowState,
    /// Its number, which is also where its row lies.
    pub number: SessionNumber,
    /// Never repeats.
    pub serial: u64,
    /// Its user.
    pub uid: u32,
    /// Its group when it was opened.
    pub gid: u32,
    /// Its process as the daemon sees it, 0 if it does not.
    pub pid: u32,
    /// When that process started, in clock ticks since boot, 0 if that is not known.
    pub start_time: u64,
    /// The inode of its pidfd, where the kernel gives pidfds inodes of their own.
    pub pidfd_inode: Option<u64>,
    /// Whether it called over a Unix socket.
    pub local: bool,
    /// Whether it may be handed memory.
    pub may_map: bool,
    /// Lifetime past the last call in milliseconds; none if it ends with its process.
    pub ttl_ms: Option<u64>,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// The nonce of its Open.
    pub nonce: Option<[u8; 16]>,
    /// What it calls itself; at most [`MAX_NAME_BYTES`].
    pub label: String,
}

/// The words of a session in its row.
#[derive(Debug, Clone, Copy)]
pub struct SessionSlot<'a>(&'a [AtomicU64]);

impl<'a> SessionSlot<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// Returns the session, `None` when the row is empty, and the commit word when nobody could
    /// have written what stands there. `number` is where the row lies.
    ///
    /// # Errors
    /// The commit word of an unbelievable row.
    pub fn load(self, number: SessionNumber) -> Result<Option<SessionRecord>, u64> {
        // ORDERING: pairs with the Release store in `commit`.
        let commit = load_acquire(&self.0[0]);
        if commit == 0 {
            return Ok(None);
        }
        self.parse(commit, number).map(Some).ok_or(commit)
    }

    fn parse(self, commit: u64, number: SessionNumber) -> Option<SessionRecord> {
        let word = |i: usize| self.0[i].load(Ordering::Relaxed);
        let high = |i: usize| u32::try_from(word(i) >> 32).expect("32 bits are left");
        let low = |i: usize| u32::try_from(word(i) & 0xffff_ffff).expect("masked");
        let state = match commit >> 56 {
            1 => SessionRowState::Live,
            2 => SessionRowState::Dead,
            _ => return None,
        };
        let flags = commit >> 48 & 0xff;
        if commit & 0xffff != u64::from(number.get()) || !number.is_client() {
            return None;
        }
        let label_len = usize::try_from(commit >> 40 & 0xff).ok()?;
        let label = bytes_of(&self.0[LABEL_WORD..LABEL_WORD + MAX_NAME_BYTES / 8]);
        let label = label.get(..label_len)?.to_vec();
        let nonce = bytes_of(&self.0[12..14]);
        Some(SessionRecord {
            state,
            number,
            serial: Some(word(1)).filter(|&serial| serial != 0)?,
            uid: high(2),
            gid: low(2),
            pid: u32::try_from(word(3)).ok()?,
            start_time: word(4),
            pidfd_inode: Some(word(5)).filter(|&inode| inode != 0),
            local: flags & LOCAL != 0,
            may_map: flags & MAY_MAP != 0,
            ttl_ms: Some(word(6)).filter(|&ttl_ms| ttl_ms != 0),
            token_hash: bytes_of(&self.0[8..12]).try_into().ok()?,
            nonce: nonce.try_into().ok().filter(|nonce| *nonce != [0; 16]),
            label: String::from_utf8(label).ok()?,
        })
    }

    /// Writes a session into an empty row; the last store commits it.
    ///
    /// # Panics
    /// When the label is longer than [`MAX_NAME_BYTES`]: labels are checked at the edge.
    pub fn commit(self, record: &SessionRecord) {
        let label = record.label.as_bytes();
        assert!(label.len() <= MAX_NAME_BYTES, "a label too long");
        let set = |i: usize, value: u64| self.0[i].store(value, Ordering::Relaxed);
        set(1, record.serial);
        set(2, u64::from(record.uid) << 32 | u64::from(record.gid));
        set(3, u64::from(record.pid));
        set(4, record.start_time);
        set(5, record.pidfd_inode.unwrap_or(0));
        set(6, record.ttl_ms.unwrap_or(0));
        set(7, 0);
        self.set_token_hash(&record.token_hash);
        self.set_bytes(12, &record.nonce.unwrap_or_default());
        let mut padded = [0u8; MAX_NAME_BYTES];
        padded[..label.len()].copy_from_slice(label);
        self.set_bytes(LABEL_WORD, &padded);
        let may_map = if record.may_map { MAY_MAP } else { 0 };
        let local = if record.local { LOCAL } else { 0 };
        let commit = state_bits(record.state) << 56
            | (may_map | local) << 48
            | (label.len() as u64) << 40
            | u64::from(record.number.get());
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: before this store the row is empty, and the pidfd that was stored for it is
        // closed at the next start; after it the session stands.
        self.0[0].store(commit, Ordering::Release);
    }

    /// Writes another token's hash.
    ///
    /// CRASH: a hash of which a part was written fits no token. Nobody was told the new one, and
    /// whoever asked for it asks again with its nonce.
    pub fn set_token_hash(self, hash: &[u8; 32]) {
        self.set_bytes(8, hash);
    }

    /// Says that the session has ended: from here on it is swept, by this daemon or the next.
    pub fn mark_dead(self) {
        let commit = self.0[0].load(Ordering::Relaxed);
        let dead = commit & !(0xff << 56) | state_bits(SessionRowState::Dead) << 56;
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: one step. The sweep that follows is repeated as a whole.
        self.0[0].store(dead, Ordering::Release);
    }

    /// Empties the row, after the sweep of every pool: the number may be another's now.
    pub fn clear(self) {
        // ORDERING: pairs with the Acquire in `load`.
        // CRASH: one step.
        self.0[0].store(0, Ordering::Release);
    }

    fn set_bytes(self, word: usize, bytes: &[u8]) {
        for (i, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.0[word + i].store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

fn state_bits(state: SessionRowState) -> u64 {
    match state {
        SessionRowState::Live => 1,
        SessionRowState::Dead => 2,
    }
}

fn bytes_of(words: &[AtomicU64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .collect()
}
