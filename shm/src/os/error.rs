//! What can go wrong with segments and mappings, with the numbers. An OS error stays an
//! [`io::Error`] and is the `source`, so the messages here do not repeat it.

use std::io;
use std::path::PathBuf;

use super::backing::BackingKind;

/// Why an operation on a segment failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The machine, file system or memory limit has no room for the bytes.
    #[error("no space for {len_bytes} bytes at offset {offset_bytes} of a {kind} segment")]
    NoSpace {
        /// What backs the segment.
        kind: BackingKind,
        /// First byte that was asked for.
        offset_bytes: u64,
        /// How many bytes were asked for.
        len_bytes: u64,
        /// `ENOSPC`, `EDQUOT` or `ENOMEM`.
        source: io::Error,
    },
    /// The range ends past the segment, or is empty.
    #[error("bytes {start_bytes}..{end_bytes} are no range of a segment of {segment_bytes} bytes")]
    OutOfRange {
        /// First byte of the range.
        start_bytes: u64,
        /// One past its last byte.
        end_bytes: u64,
        /// Length of the segment.
        segment_bytes: u64,
    },
    /// A segment of this length cannot be made.
    #[error("segment length of {len_bytes} bytes is not a positive multiple of 4096")]
    BadLength {
        /// The length asked for.
        len_bytes: u64,
    },
    /// The object behind an fd is shorter than it must be.
    #[error("segment has {found_bytes} bytes, {expected_bytes} expected")]
    TooShort {
        /// What the receiver was told.
        expected_bytes: u64,
        /// What `fstat` says.
        found_bytes: u64,
    },
    /// A memfd that its writers could still resize: touching it could be `SIGBUS`.
    #[error("memfd carries seals {found:#x}, {required:#x} required")]
    NotSealed {
        /// The seals it has.
        found: u32,
        /// The seals it must have.
        required: u32,
    },
    /// This backing, or the file system under it, cannot do that.
    #[error("{kind} segments cannot {what}")]
    Unsupported {
        /// What backs the segment.
        kind: BackingKind,
        /// What was asked for.
        what: &'static str,
    },
    /// The caller may not give the segment this owner.
    #[error("may not set owner {uid}:{gid} and mode {mode:o} of a {kind} segment")]
    Owner {
        /// What backs the segment.
        kind: BackingKind,
        /// User asked for.
        uid: u32,
        /// Group asked for.
        gid: u32,
        /// Permission bits asked for.
        mode: u32,
        /// What the OS said.
        source: io::Error,
    },
    /// A file that is not one of ours, and is left alone.
    #[error("{} is not a segment: {why}", path.display())]
    NotASegment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Anything else the OS refused.
    #[error("could not {doing} a {kind} segment of {len_bytes} bytes")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What backs the segment.
        kind: BackingKind,
        /// Length of the segment; 0 when it is not known yet.
        len_bytes: u64,
        /// What the OS said.
        source: io::Error,
    },
}

/// Why an access to a mapping was refused. Nothing was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The bytes do not lie within the mapping.
    #[error("{len_bytes} bytes at offset {offset_bytes} lie outside a mapping of {mapping_bytes}")]
    OutOfRange {
        /// First byte asked for.
        offset_bytes: u64,
        /// How many bytes.
        len_bytes: u64,
        /// Length of the mapping.
        mapping_bytes: u64,
    },
    /// The bytes touch the guard, which would fault.
    #[error("{len_bytes} bytes at offset {offset_bytes} touch the guard")]
    Guard {
        /// First byte asked for.
        offset_bytes: u64,
        /// How many bytes.
        len_bytes: u64,
    },
    /// An atomic must be aligned to its size.
    #[error("offset {offset_bytes} is not a multiple of {align_bytes}")]
    Misaligned {
        /// First byte asked for.
        offset_bytes: u64,
        /// What it must be a multiple of.
        align_bytes: u64,
    },
    /// A write to a read-only mapping.
    #[error("{len_bytes} bytes at offset {offset_bytes} cannot be written: mapping is read-only")]
    ReadOnly {
        /// First byte asked for.
        offset_bytes: u64,
        /// How many bytes.
        len_bytes: u64,
    },
}
