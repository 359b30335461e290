//! The files of TLS and tokens: read as a whole, if nobody can read them who must not; and what
//! tells that they have changed.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::TlsError;

/// The largest such file: thousands of certificates or tokens.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Who may read a file besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Everybody.
    None,
    /// Its group, as Debian's `ssl-cert` has it for keys.
    Group,
    /// Nobody.
    Owner,
}

/// Reads a file.
///
/// # Errors
/// `Exposed`, `Read`.
pub(super) fn read(path: &Path, secrecy: Secrecy) -> Result<Vec<u8>, TlsError> {
    let refused = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(refused)?;
    let found = file.metadata().map_err(refused)?;
    let (forbidden, should) = match secrecy {
        Secrecy::None => (0, ""),
        Secrecy::Group => (0o007, "0640 or less"),
        Secrecy::Owner => (0o077, "0600"),
    };
    let mode = found.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(TlsError::Exposed {
            path: path.to_owned(),
            mode,
            should,
        });
    }
    let mut text = Vec::new();
    let n = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(refused)?;
    if n as u64 > MAX_FILE_BYTES {
        let too_large = format!("has more than {MAX_FILE_BYTES} bytes");
        return Err(refused(io::Error::other(too_large)));
    }
    Ok(text)
}

/// What changes when a file is written, replaced, or its mode set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    len_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Looks at a file; none if it is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for Stamp {
    fn from(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            len_bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}
