//! One daemon per instance: an exclusive lock on a file, held for life. The kernel drops it with
//! the process, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The lock of one instance. Dropping it lets the next one in.
///
/// The file stays: whoever removed it could let two daemons lock two files of one name.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
    path: PathBuf,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{} is locked by {}", path.display(), holder(*pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it, for display.
        pid: Option<u32>,
    },
    /// The file could not be made or locked.
    #[error("could not lock {}", path.display())]
    Os {
        /// The lock file.
        path: PathBuf,
        /// What the OS said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

impl InstanceLock {
    /// Takes the lock at `path`, or says who has it. Never waits. The lock is closed on exec.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`], [`LockError::Os`].
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Os {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    path: path.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self {
            _file: file,
            path: path.to_owned(),
        })
    }

    /// Returns where the lock is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn second_instance_is_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = InstanceLock::acquire(&path).unwrap();
        assert_eq!(lock.path(), path);
        let error = InstanceLock::acquire(&path).unwrap_err();
        assert!(
            matches!(&error, LockError::Held { pid: Some(pid), .. } if *pid == std::process::id()),
            "{error:?}"
        );
        drop(lock);
        // Another test's child holds a copy of the lock between its fork and its exec.
        let deadline = Instant::now() + Duration::from_secs(20);
        while InstanceLock::acquire(&path).is_err() {
            assert!(Instant::now() < deadline, "the lock is not free");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lock_does_not_follow_a_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (
            directory.path().join("target"),
            directory.path().join("link"),
        );
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(
            InstanceLock::acquire(&link),
            Err(LockError::Os { .. })
        ));
        assert!(!target.exists());
    }
}
