//! A segment: one OS shared-memory object of a fixed length, and what may be done to it as a
//! whole. Its bytes are reached through a [`Mapping`](super::Mapping).
//!
//! Every segment is sparse: a page costs memory once it is committed (or touched by any mapper),
//! and none after it was purged.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation, Gid, Mode, OFlags, SeekFrom, Uid};
use rustix::io::{Errno, retry_on_intr};

use super::OS_PAGE_BYTES;
use super::backing::{BackingKind, SEALS};
use super::error::SegmentError;

/// `st_blocks` counts in these, whatever the file system's block is.
const STAT_BLOCK_BYTES: u64 = 512;

/// One shared-memory object.
///
/// Dropping it closes the fd. A named segment loses its name too, unless [`Segment::keep`] was
/// called; mappings of it stay valid.
#[derive(Debug)]
pub struct Segment {
    file: File,
    kind: BackingKind,
    len_bytes: u64,
    name: Option<SegmentName>,
}

/// The name under which the file system has a segment, and who removes it.
#[derive(Debug)]
pub(super) struct SegmentName {
    os_name: String,
    path: PathBuf,
    /// Cleared by the first removal: a later one could hit a new object of the same name.
    linked: AtomicBool,
    remove_on_drop: AtomicBool,
}

impl SegmentName {
    /// A name that goes with its segment.
    pub(super) fn temporary(os_name: String, path: PathBuf) -> Self {
        Self {
            os_name,
            path,
            linked: AtomicBool::new(true),
            remove_on_drop: AtomicBool::new(true),
        }
    }

    /// A name that outlives its segment.
    pub(super) fn lasting(os_name: String, path: PathBuf) -> Self {
        Self {
            remove_on_drop: AtomicBool::new(false),
            ..Self::temporary(os_name, path)
        }
    }

    fn remove(&self) -> io::Result<()> {
        if !self.linked.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Segment {
    /// Takes over an object that a backing made or opened.
    pub(super) fn created(
        file: File,
        kind: BackingKind,
        len_bytes: u64,
        name: Option<SegmentName>,
    ) -> Self {
        Self {
            file,
            kind,
            len_bytes,
            name,
        }
    }

    /// Takes over an fd that a daemon handed out.
    ///
    /// # Errors
    ///
    /// [`SegmentError::TooShort`] when the object has fewer than `expected_bytes`;
    /// [`SegmentError::NotSealed`] for a memfd that could still be truncated.
    pub fn from_fd(
        fd: OwnedFd,
        kind: BackingKind,
        expected_bytes: u64,
    ) -> Result<Self, SegmentError> {
        let file = File::from(fd);
        let failed = |source| SegmentError::Os {
            doing: "look at",
            kind,
            len_bytes: expected_bytes,
            source,
        };
        let found_bytes = file.metadata().map_err(failed)?.len();
        if found_bytes < expected_bytes {
            return Err(SegmentError::TooShort {
                expected_bytes,
                found_bytes,
            });
        }
        if kind == BackingKind::Memfd {
            let found = match rustix::fs::fcntl_get_seals(&file) {
                // What is no memfd at all has no seals.
                Err(Errno::INVAL) => rustix::fs::SealFlags::empty(),
                other => other.map_err(io::Error::from).map_err(failed)?,
            };
            if !found.contains(SEALS) {
                return Err(SegmentError::NotSealed {
                    found: found.bits(),
                    required: SEALS.bits(),
                });
            }
        }
        Ok(Self::created(file, kind, found_bytes, None))
    }

    /// Takes over an fd of a segment that an earlier run of this daemon made, and kept elsewhere.
    /// A name that it has still goes with it as before.
    ///
    /// # Errors
    ///
    /// As [`Segment::from_fd`]; `Os` when the object is empty.
    pub fn reopen(fd: OwnedFd, kind: BackingKind) -> Result<Self, SegmentError> {
        let mut segment = Self::from_fd(fd, kind, OS_PAGE_BYTES)?;
        if kind == BackingKind::Memfd {
            return Ok(segment);
        }
        let link = format!("/proc/self/fd/{}", segment.file.as_raw_fd());
        let path = fs::read_link(link).map_err(|e| segment.os_error("find the name of", e))?;
        // Else it was removed: " (deleted)" stands behind the path, or another file has it now.
        let same = fs::symlink_metadata(&path)
            .and_then(|named| Ok((named, segment.file.metadata()?)))
            .is_ok_and(|(named, own)| (named.dev(), named.ino()) == (own.dev(), own.ino()));
        if same && let Some(os_name) = path.file_name() {
            let os_name = os_name.to_string_lossy().into_owned();
            segment.name = Some(match kind {
                BackingKind::Named => SegmentName::temporary(os_name, path),
                _ => SegmentName::lasting(path.to_string_lossy().into_owned(), path),
            });
        }
        Ok(segment)
    }

    /// Returns the fixed length.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns what backs it.
    pub fn kind(&self) -> BackingKind {
        self.kind
    }

    /// Returns the name by which other processes open a named segment.
    pub fn os_name(&self) -> Option<&str> {
        match self.kind {
            BackingKind::Named => self.name.as_ref().map(|name| name.os_name.as_str()),
            BackingKind::Memfd | BackingKind::File => None,
        }
    }

    /// Returns the path of a named or file segment, if this process created or opened it.
    pub fn path(&self) -> Option<&Path> {
        self.name.as_ref().map(|name| name.path.as_path())
    }

    /// Gives the bytes memory, so that touching them cannot fault. Bytes that have it stay as
    /// they are; new ones are zero.
    ///
    /// # Errors
    ///
    /// [`SegmentError::NoSpace`], after which a part of the range may be committed (what it
    /// holds is unchanged); [`SegmentError::OutOfRange`].
    pub fn commit(&self, range: Range<u64>) -> Result<(), SegmentError> {
        self.allocate(FallocateFlags::empty(), &range, "commit bytes of")
    }

    /// Gives the memory of the bytes back to the OS. They read as zero afterwards, in every
    /// mapping.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Unsupported`] when the file system cannot; [`SegmentError::OutOfRange`].
    pub fn purge(&self, range: Range<u64>) -> Result<(), SegmentError> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(punch, &range, "purge bytes of")
    }

    /// Returns how many bytes the OS holds for it, whoever made it do so.
    ///
    /// # Errors
    ///
    /// What `fstat` says.
    pub fn committed_bytes(&self) -> io::Result<u64> {
        Ok(self
            .file
            .metadata()?
            .blocks()
            .saturating_mul(STAT_BLOCK_BYTES))
    }

    /// Returns the runs of whole pages inside `range` that may hold anything but zeroes, so that the
    /// rest need not be looked at: looking at a hole through a mapping makes the OS fill it. What
    /// was committed and never written is not among them.
    ///
    /// # Errors
    ///
    /// What `lseek` says.
    pub fn written(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) if start < range.end => start,
                // Only a hole is left.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?.min(range.end);
            runs.push(start..end);
            at = end;
        }
        Ok(runs)
    }

    /// Writes a file segment to its disk, and returns when it is there. What mappers wrote before
    /// the call is included.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Unsupported`] for memory, which no flush makes last;
    /// [`SegmentError::Os`] when the disk failed, after which what is on it is unknown.
    pub fn flush(&self) -> Result<(), SegmentError> {
        if self.kind != BackingKind::File {
            return Err(SegmentError::Unsupported {
                kind: self.kind,
                what: "be flushed",
            });
        }
        self.file
            .sync_all()
            .map_err(|source| self.os_error("flush", source))
    }

    /// Returns an fd for another process: closed on exec, writable only if asked for.
    ///
    /// A read-only fd cannot be mapped writable. A process of this segment's owner (or root)
    /// can open it anew for writing all the same; other users cannot.
    ///
    /// # Errors
    ///
    /// `EMFILE` and its like; `ENOENT` where `/proc` is not mounted; `EACCES` when this
    /// process's own fd is read-only and a writable one is asked for.
    pub fn hand_out(&self, writable: bool) -> io::Result<OwnedFd> {
        // Opened anew and not duplicated even when writable: a duplicate would share the lock by
        // which a named segment is known to be alive.
        let access = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let fd = rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?;
        if self.kind == BackingKind::File {
            // A lock lasts as long as the open file, and a mapping keeps that open: so whoever
            // finds the file after this process's death sees that somebody still maps it.
            rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared)?;
        }
        Ok(fd)
    }

    /// Sets who may open the segment by path.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Owner`], after which the owner may have changed and the mode may not.
    pub fn set_owner(&self, uid: u32, gid: u32, mode: u32) -> Result<(), SegmentError> {
        // The owner first: in between, the creator's 0600 lets no group in.
        rustix::fs::fchown(
            &self.file,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )
        .and_then(|()| rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode & 0o777)))
        .map_err(|errno| SegmentError::Owner {
            kind: self.kind,
            uid,
            gid,
            mode,
            source: errno.into(),
        })
    }

    /// Removes the name or file; a memfd has none. Open fds and mappings stay valid. Repeating it
    /// does nothing.
    ///
    /// # Errors
    ///
    /// What `unlink` says. A name that is gone already is no error.
    pub fn remove(&self) -> io::Result<()> {
        self.name.as_ref().map_or(Ok(()), SegmentName::remove)
    }

    /// Leaves the name in place when the segment is dropped.
    pub fn keep(&self) {
        if let Some(name) = &self.name {
            name.remove_on_drop.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives a new file its length.
    pub(super) fn size(&self) -> io::Result<()> {
        self.file.set_len(self.len_bytes)
    }

    fn allocate(
        &self,
        flags: FallocateFlags,
        range: &Range<u64>,
        doing: &'static str,
    ) -> Result<(), SegmentError> {
        if range.start >= range.end || range.end > self.len_bytes {
            return Err(SegmentError::OutOfRange {
                start_bytes: range.start,
                end_bytes: range.end,
                segment_bytes: self.len_bytes,
            });
        }
        let (offset_bytes, len_bytes) = (range.start, range.end - range.start);
        // A signal interrupts the commit of a large range, which undoes itself.
        retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset_bytes, len_bytes)).map_err(
            |errno| match errno {
                Errno::NOSPC | Errno::DQUOT | Errno::NOMEM => SegmentError::NoSpace {
                    kind: self.kind,
                    offset_bytes,
                    len_bytes,
                    source: errno.into(),
                },
                Errno::OPNOTSUPP => SegmentError::Unsupported {
                    kind: self.kind,
                    what: "commit and purge on this file system",
                },
                _ => self.os_error(doing, errno.into()),
            },
        )
    }

    fn os_error(&self, doing: &'static str, source: io::Error) -> SegmentError {
        SegmentError::Os {
            doing,
            kind: self.kind,
            len_bytes: self.len_bytes,
            source,
        }
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && name.remove_on_drop.load(Ordering::Relaxed)
        {
            // Nobody is left to tell; the next start removes leftovers.
            let _ = name.remove();
        }
    }
}
