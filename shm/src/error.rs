//! What the word half of this crate refuses, with the numbers.

use goumem_alloc::{Handle, PoolId, SessionNumber, TypeTag};

/// Why a handle could not be used. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The handle names another pool.
    #[error("handle {handle} belongs to pool {}, not to pool {expected}", handle.pool())]
    WrongPool {
        /// The handle.
        handle: Handle,
        /// The pool it was used with.
        expected: PoolId,
    },
    /// The handle names another kind of thing (a block, an arena, an allocation in one).
    #[error("handle {handle} is not of the kind {expected}")]
    WrongKind {
        /// The handle.
        handle: Handle,
        /// What was wanted.
        expected: &'static str,
    },
    /// The block or arena was freed, reused, or never exported.
    #[error("handle {handle} is stale: what it named is gone")]
    Stale {
        /// The handle.
        handle: Handle,
    },
    /// The block was freed already.
    #[error("handle {handle} was freed already")]
    DoubleFree {
        /// The handle.
        handle: Handle,
    },
    /// Another session owns it.
    #[error("handle {handle} belongs to session {owner}")]
    NotOwner {
        /// The handle.
        handle: Handle,
        /// Whose it is.
        owner: SessionNumber,
    },
    /// A pin holds the block in place, so nobody can have it alone.
    #[error("handle {handle} names a pinned block, which cannot be taken")]
    Pinned {
        /// The handle.
        handle: Handle,
    },
    /// The block holds another element type.
    #[error("block holds elements of type {found}, not {expected}")]
    WrongType {
        /// The type asked for.
        expected: TypeTag,
        /// The type in the shape word.
        found: TypeTag,
    },
    /// The block's length does not fit the type.
    #[error("block of {found_bytes} bytes does not hold what needs {expected_bytes} bytes")]
    WrongLength {
        /// Bytes of the type, or of one element.
        expected_bytes: u64,
        /// Bytes of the block.
        found_bytes: u64,
    },
    /// The range ends past the block or arena.
    #[error("range of {length_bytes} bytes at {offset_bytes} ends past {limit_bytes} bytes")]
    OutOfRange {
        /// Where the range starts, from the start of the block or arena.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
        /// Where the block or arena ends.
        limit_bytes: u64,
    },
    /// The mapping is read-only.
    #[error("pool {pool} is mapped read-only")]
    ReadOnly {
        /// The pool.
        pool: PoolId,
    },
    /// The arena is shared: others may hold allocations in it.
    #[error("arena {handle} is shared")]
    Shared {
        /// The arena.
        handle: Handle,
    },
    /// The arena has no room.
    #[error("arena has {free_bytes} bytes left, {requested_bytes} bytes asked for")]
    ArenaFull {
        /// Bytes asked for, after alignment.
        requested_bytes: u64,
        /// Bytes left.
        free_bytes: u64,
    },
    /// The slot's generations are spent; the daemon retires such pages.
    #[error("slot at offset {offset_bytes} has spent its generations")]
    GenerationsSpent {
        /// Where the block starts.
        offset_bytes: u64,
    },
    /// The type has no bytes, or the slice no elements.
    #[error("a block of zero bytes cannot be allocated")]
    ZeroSize,
    /// This process is a fork of the one that mapped the pool.
    #[error("this process is a fork: its parent's shared memory is not here")]
    Forked,
    /// Shared bytes that no goumem writes.
    #[error("pool {pool} holds an unbelievable {what} at offset {offset_bytes}")]
    Corrupt {
        /// The pool.
        pool: PoolId,
        /// Which word.
        what: &'static str,
        /// Where.
        offset_bytes: u64,
    },
}

/// Why a segment was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentRefusal {
    /// No magic: not ours, or not finished.
    #[error("segment is not ready: magic {magic:#018x}")]
    NotReady {
        /// What stands there.
        magic: u64,
    },
    /// Written by an incompatible goumem.
    #[error("segment has layout version {found}, this goumem reads {expected}")]
    Version {
        /// The segment's.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A header field that no goumem writes.
    #[error("segment header has an unbelievable {field}: {value:#x}")]
    Corrupt {
        /// Which field.
        field: &'static str,
        /// Its word.
        value: u64,
    },
    /// The segment is shorter than its header says.
    #[error("segment has {found_bytes} bytes, its header says {expected_bytes}")]
    Truncated {
        /// By the header.
        expected_bytes: u64,
        /// By the OS.
        found_bytes: u64,
    },
}
