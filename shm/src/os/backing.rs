//! What a segment can be made of. One trait, three implementors; each says what it promises, and
//! the same tests run over all of them for what they declare.

use std::fmt;
use std::io;
use std::path::Path;

use super::error::SegmentError;
use super::segment::Segment;

mod file;
mod memfd;
mod named;
#[cfg(test)]
mod tests;

pub use file::FileBacking;
pub use memfd::MemfdBacking;
pub(super) use memfd::SEALS;
pub use named::NamedBacking;

/// Which of the three a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackingKind {
    /// Anonymous memory behind an fd, sealed against resizing.
    Memfd,
    /// An OS shared-memory name.
    Named,
    /// A file on a disk.
    File,
}

impl BackingKind {
    /// Returns the backing of this kind.
    pub fn backing(self) -> Box<dyn Backing> {
        match self {
            Self::Memfd => Box::new(MemfdBacking),
            Self::Named => Box::new(NamedBacking),
            Self::File => Box::new(FileBacking),
        }
    }
}

impl fmt::Display for BackingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memfd => "memfd",
            Self::Named => "named",
            Self::File => "file",
        })
    }
}

/// What a backing keeps, so that an option it cannot keep is refused instead of forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Nobody can truncate the segment under a mapper, so a committed page never faults.
    pub sealed: bool,
    /// A process gets the segment as an fd; it needs no path and no permission on one.
    pub fd_handover: bool,
    /// Purged bytes go back to the OS and read as zero afterwards.
    pub punch: bool,
    /// The bytes are there after a reboot, up to the last flush.
    pub survives_reboot: bool,
    /// Owner, group and mode can be set, as far as the process may.
    pub chown: bool,
    /// The size of `/dev/shm` is no limit.
    pub independent_of_dev_shm: bool,
}

/// What to create.
#[derive(Debug, Clone, Copy)]
pub struct SegmentSpec<'a> {
    /// Length, a positive multiple of 4096. All of it is sparse until it is committed.
    pub len_bytes: u64,
    /// For people who read `/proc/PID/maps`; the memfd backing shows it.
    pub label: &'a str,
    /// Owner of a named segment. The others are handed over by fd and stay the creator's, 0600:
    /// whoever could open them by path could make a read-only fd writable again.
    pub uid: u32,
    /// Group of a named segment.
    pub gid: u32,
    /// Permission bits of a named segment.
    pub mode: u32,
    /// Path of a file segment without the `.goumem` at its end. Its directory must be there.
    pub path_stem: Option<&'a Path>,
}

/// Makes segments of one kind.
pub trait Backing: fmt::Debug + Send + Sync {
    /// Returns which kind it makes.
    fn kind(&self) -> BackingKind;

    /// Returns what its segments keep.
    fn promises(&self) -> Promises;

    /// Creates a segment that nothing else has, sparse and all zero.
    ///
    /// # Errors
    ///
    /// [`SegmentError::BadLength`]; [`SegmentError::Owner`] when the process may not set the
    /// owner; [`SegmentError::Unsupported`] when the file system cannot purge or no path was
    /// given; [`SegmentError::Os`]. Nothing is left behind.
    fn create(&self, spec: &SegmentSpec<'_>) -> Result<Segment, SegmentError>;

    /// Opens a segment that an earlier run left at `path`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Unsupported`] unless the backing survives a reboot;
    /// [`SegmentError::NotASegment`] when the file is not one that this process should trust.
    fn open_existing(&self, path: &Path) -> Result<Segment, SegmentError> {
        let _ = path;
        Err(SegmentError::Unsupported {
            kind: self.kind(),
            what: "be opened again",
        })
    }

    /// Removes what dead processes of this user left behind, and returns how many segments that
    /// were. Segments of living processes stay.
    ///
    /// # Errors
    ///
    /// The error of the first name that could not be removed.
    fn remove_leftovers(&self) -> io::Result<usize> {
        Ok(0)
    }
}

/// Checks the length of a segment to be.
fn check_len(spec: &SegmentSpec<'_>) -> Result<(), SegmentError> {
    let len_bytes = spec.len_bytes;
    // Above i64::MAX it is no file length.
    if len_bytes == 0
        || !len_bytes.is_multiple_of(super::OS_PAGE_BYTES)
        || i64::try_from(len_bytes).is_err()
    {
        return Err(SegmentError::BadLength { len_bytes });
    }
    Ok(())
}

/// Returns a closure that wraps an OS error of a segment that is being created.
fn create_error(
    kind: BackingKind,
    spec: &SegmentSpec<'_>,
    doing: &'static str,
) -> impl FnOnce(io::Error) -> SegmentError {
    let len_bytes = spec.len_bytes;
    move |source| SegmentError::Os {
        doing,
        kind,
        len_bytes,
        source,
    }
}
