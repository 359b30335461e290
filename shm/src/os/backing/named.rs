//! The named backing: an OS shared-memory object that other processes open by its name. Portable
//! through the crate `shared_memory`, which makes the object; the rest goes through an ordinary
//! `File`, since that crate gives no fd.
//!
//! A living segment holds an exclusive `flock`, so that removing leftovers of the dead never
//! takes a name from the living. The lock belongs to this open file, which is why segments are
//! handed out as files opened anew: a client that keeps a duplicate would keep the lock.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;
use shared_memory::{ShmemConf, ShmemError};

use super::{Backing, BackingKind, Promises, SegmentSpec, check_len, create_error};
use crate::os::error::SegmentError;
use crate::os::segment::{Segment, SegmentName};
use crate::os::to_usize;

/// Where Linux shows the objects of `shm_open`.
const DEV_SHM: &str = "/dev/shm";

/// Digits of randomness in a name: 11 × 5 bits. With the longest uid and the slash that
/// `shm_open` wants, a name has 30 characters, within what every platform takes.
const RANDOM_DIGITS: usize = 11;

/// 2^55 names: a second collision in a row is a broken random source.
const MAX_ATTEMPTS: u32 = 4;

/// Makes named segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamedBacking;

impl Backing for NamedBacking {
    fn kind(&self) -> BackingKind {
        BackingKind::Named
    }

    fn promises(&self) -> Promises {
        Promises {
            sealed: false,
            fd_handover: true,
            punch: true,
            survives_reboot: false,
            chown: true,
            independent_of_dev_shm: false,
        }
    }

    fn create(&self, spec: &SegmentSpec<'_>) -> Result<Segment, SegmentError> {
        check_len(spec)?;
        let (id, file) = create_locked(spec.len_bytes).map_err(create_error(
            BackingKind::Named,
            spec,
            "create",
        ))?;
        let name = SegmentName::temporary(id.clone(), Path::new(DEV_SHM).join(&id));
        // From here on, dropping the segment removes the name.
        let segment = Segment::created(file, BackingKind::Named, spec.len_bytes, Some(name));
        segment.set_owner(spec.uid, spec.gid, spec.mode)?;
        Ok(segment)
    }

    fn remove_leftovers(&self) -> io::Result<usize> {
        let mut removed = 0;
        let entries = match fs::read_dir(DEV_SHM) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_ours)
                && remove_if_abandoned(&entry.path())?
            {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Creates an object under a new name, and returns the name and the locked file.
fn create_locked(len_bytes: u64) -> io::Result<(String, File)> {
    for _ in 0..MAX_ATTEMPTS {
        let id = random_id()?;
        let mut shmem = match ShmemConf::new()
            .os_id(format!("/{id}"))
            .size(to_usize(len_bytes))
            .create()
        {
            Ok(shmem) => shmem,
            Err(ShmemError::MappingIdExists) => continue,
            Err(error) => return Err(os_error(error)),
        };
        let mut options = OpenOptions::new();
        let file = open_nofollow(
            options.read(true).write(true),
            &Path::new(DEV_SHM).join(&id),
        )?;
        // `shmem` unlinks the name when it is dropped on a way out before this point.
        let locked = try_lock(&file)? && file.metadata()?.nlink() > 0;
        if locked {
            shmem.set_owner(false);
            return Ok((id, file));
        }
        // Somebody's clean-up took the name between create and lock; it is theirs to remove.
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "no unused shared-memory name found",
    ))
}

/// Returns the start of the names of this user's segments.
fn prefix() -> String {
    format!("goumem-{}-", rustix::process::geteuid().as_raw())
}

/// Returns whether `name` is one that [`random_id`] makes for this user.
fn is_ours(name: &str) -> bool {
    name.strip_prefix(&prefix())
        .is_some_and(|rest| rest.len() == RANDOM_DIGITS)
}

/// Returns a name nobody can guess, so that nobody can sit on it.
fn random_id() -> io::Result<String> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut random = [0; RANDOM_DIGITS];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    let mut id = prefix();
    for byte in random {
        let _ = write!(id, "{}", char::from(DIGITS[usize::from(byte % 32)]));
    }
    Ok(id)
}

/// Opens the object as a file, never through a symlink.
fn open_nofollow(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Takes the lock of the living, if nobody has it.
fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the object at `path` unless it lives, is somebody else's, or is no plain file.
fn remove_if_abandoned(path: &Path) -> io::Result<bool> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    // Its mode may keep even its owner from writing; a lock needs no more than reading.
    let file = match open_nofollow(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !try_lock(&file)? {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns the crate's error with its unsigned errno back into an OS error.
fn os_error(error: ShmemError) -> io::Error {
    match error {
        ShmemError::MapCreateFailed(errno)
        | ShmemError::MapOpenFailed(errno)
        | ShmemError::UnknownOsError(errno) => i32::try_from(errno)
            .map_or_else(|_| io::Error::other(error), io::Error::from_raw_os_error),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unguessable_and_short_enough_for_every_platform() {
        let (one, other) = (random_id().unwrap(), random_id().unwrap());
        assert_ne!(one, other);
        assert!(is_ours(&one));
        let longest_uid = u32::MAX.to_string();
        assert!("/goumem--".len() + longest_uid.len() + RANDOM_DIGITS <= 30);
        assert!(
            !is_ours("goumem-4294967295-0123456789a")
                || rustix::process::geteuid().as_raw() == u32::MAX
        );
        assert!(!is_ours("somebody-elses"));
    }
}
