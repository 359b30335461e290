//! The file backing: a real file, mapped. Its bytes are there after a reboot, up to the last
//! flush. Whoever may write the file may truncate it, so a mapper trusts its writers.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Backing, BackingKind, Promises, SegmentSpec, check_len, create_error};
use crate::os::OS_PAGE_BYTES;
use crate::os::error::SegmentError;
use crate::os::segment::{Segment, SegmentName};

const KIND: BackingKind = BackingKind::File;

/// Ends the name of every segment file, so that nothing else is taken for one.
const EXTENSION: &str = ".goumem";

/// Makes file segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileBacking;

impl Backing for FileBacking {
    fn kind(&self) -> BackingKind {
        KIND
    }

    fn promises(&self) -> Promises {
        Promises {
            sealed: false,
            fd_handover: true,
            punch: true,
            survives_reboot: true,
            chown: true,
            independent_of_dev_shm: true,
        }
    }

    fn create(&self, spec: &SegmentSpec<'_>) -> Result<Segment, SegmentError> {
        check_len(spec)?;
        let Some(stem) = spec.path_stem else {
            return Err(SegmentError::Unsupported {
                kind: KIND,
                what: "be made without a path",
            });
        };
        let path = path_of(stem);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(create_error(KIND, spec, "create"))?;
        let name = SegmentName::temporary(path.to_string_lossy().into_owned(), path);
        // Dropping the segment removes the file, until the last step has gone well.
        let segment = Segment::created(file, KIND, spec.len_bytes, Some(name));
        segment.size().map_err(create_error(KIND, spec, "size"))?;
        // Some file systems cannot punch holes; say so now and not when the first span is freed.
        segment.purge(0..OS_PAGE_BYTES)?;
        segment.keep();
        Ok(segment)
    }

    fn open_existing(&self, path: &Path) -> Result<Segment, SegmentError> {
        let refuse = |why| SegmentError::NotASegment {
            path: path.to_owned(),
            why,
        };
        let failed = |source| SegmentError::Os {
            doing: "open",
            kind: KIND,
            len_bytes: 0,
            source,
        };
        let mut options = OpenOptions::new();
        // NONBLOCK: opening a FIFO must not wait for its writer.
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(refuse("it is a symbolic link"));
            }
            other => other.map_err(failed)?,
        };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(refuse("it is not a plain file"));
        }
        // Another user's file could be truncated under us, and its words are theirs.
        if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != 0 {
            return Err(refuse("it belongs to another user"));
        }
        if found.mode() & 0o022 != 0 {
            return Err(refuse("others may write it"));
        }
        if found.len() == 0 || !found.len().is_multiple_of(OS_PAGE_BYTES) {
            return Err(SegmentError::BadLength {
                len_bytes: found.len(),
            });
        }
        let name = SegmentName::lasting(path.to_string_lossy().into_owned(), path.to_owned());
        Ok(Segment::created(file, KIND, found.len(), Some(name)))
    }
}

impl FileBacking {
    /// Returns whether a process maps the file at `path` that got it from a daemon
    /// ([`Segment::hand_out`]), or holds an fd of it. For a daemon that is about to open it.
    ///
    /// # Errors
    ///
    /// What the OS says of the file.
    pub fn is_mapped(path: &Path) -> io::Result<bool> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the path of the segment file of a stem.
fn path_of(stem: &Path) -> PathBuf {
    let mut path = OsString::from(stem);
    path.push(EXTENSION);
    path.into()
}
