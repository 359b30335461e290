//! Where the sockets are. Daemon and client find each other because both ask here.
//!
//! In this order: what the caller says; `GOUMEM_SOCKET`; `$XDG_RUNTIME_DIR/goumem/goumemd.sock`,
//! for a client only if it is there or the next is not; `/run/goumem/goumemd.sock`, where a system
//! daemon can make it or has made it; `/tmp/goumem-UID/goumemd.sock`, in a directory that is the
//! user's alone.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

#[cfg(test)]
mod tests;

/// What fits into `sockaddr_un` with its final zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

const SOCKET_NAME: &str = "goumemd.sock";
const SYSTEM_DIRECTORY: &str = "/run/goumem";

/// Why a socket path cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The kernel takes no path of this length.
    #[error("socket path {} has {len_bytes} bytes, at most {MAX_SOCKET_PATH_BYTES} fit", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
    },
    /// The directory could serve somebody else's socket, or show ours to others.
    #[error("directory {} is not private: {why}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The directory could not be made or looked at.
    #[error("could not make or check the directory {}", path.display())]
    Os {
        /// The directory.
        path: PathBuf,
        /// What the OS said.
        source: io::Error,
    },
}

/// Who looks for the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It will make the socket.
    Daemon,
    /// It will connect to it.
    Client,
}

/// What the rule looks at, as values, so that it can be tried without changing this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `GOUMEM_SOCKET`, unless empty.
    pub goumem_socket: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, if it is an absolute path.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// Whether `/run/goumem` is a writable directory (daemon) or has the socket (client).
    pub system_directory_serves: bool,
    /// Whether the user's own instance comes before the system's: always for a daemon, for a client
    /// if `XDG_RUNTIME_DIR` has the socket of one.
    pub user_directory_serves: bool,
    /// Effective user.
    pub uid: u32,
}

impl Environment {
    /// Reads that of this process.
    pub fn read(side: Side) -> Self {
        let variable = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let system = Path::new(SYSTEM_DIRECTORY);
        let system_directory_serves = match side {
            Side::Daemon => system.is_dir() && rustix::fs::access(system, Access::WRITE_OK).is_ok(),
            Side::Client => system.join(SOCKET_NAME).exists(),
        };
        // The XDG specification says to ignore a relative one.
        let xdg_runtime_dir = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
        let user_directory_serves = match side {
            Side::Daemon => true,
            Side::Client => xdg_runtime_dir
                .as_ref()
                .is_some_and(|directory| in_user_directory(directory).exists()),
        };
        Self {
            goumem_socket: variable("GOUMEM_SOCKET"),
            xdg_runtime_dir,
            system_directory_serves,
            user_directory_serves,
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

/// Returns the path of the gRPC socket.
///
/// # Errors
///
/// [`PathError::TooLong`] when it, or the fd socket's beside it, does not fit.
pub fn socket_path(
    explicit: Option<&Path>,
    environment: &Environment,
) -> Result<PathBuf, PathError> {
    let path = if let Some(path) = explicit {
        path.to_owned()
    } else if let Some(path) = &environment.goumem_socket {
        path.clone()
    } else if let Some(directory) = &environment.xdg_runtime_dir
        // Whoever has logged in has the variable; most of them use the system's instance.
        && (environment.user_directory_serves || !environment.system_directory_serves)
    {
        in_user_directory(directory)
    } else if environment.system_directory_serves {
        Path::new(SYSTEM_DIRECTORY).join(SOCKET_NAME)
    } else {
        PathBuf::from(format!("/tmp/goumem-{}", environment.uid)).join(SOCKET_NAME)
    };
    fd_socket_path(&path)?;
    check_length(path)
}

fn in_user_directory(runtime_directory: &Path) -> PathBuf {
    runtime_directory.join("goumem").join(SOCKET_NAME)
}

/// Returns the path of the fd socket that belongs to a gRPC socket: `x.sock` → `x.fd.sock`.
///
/// # Errors
///
/// [`PathError::TooLong`].
pub fn fd_socket_path(socket: &Path) -> Result<PathBuf, PathError> {
    beside(socket, b".fd.sock")
}

/// Returns the path of the keeper's socket that belongs to a gRPC socket: `x.sock` →
/// `x.keeper.sock`.
///
/// # Errors
///
/// [`PathError::TooLong`].
pub fn keeper_socket_path(socket: &Path) -> Result<PathBuf, PathError> {
    beside(socket, b".keeper.sock")
}

/// Returns the path of the HTTP socket that belongs to a gRPC socket: `x.sock` → `x.http.sock`.
///
/// # Errors
///
/// [`PathError::TooLong`].
pub fn http_socket_path(socket: &Path) -> Result<PathBuf, PathError> {
    beside(socket, b".http.sock")
}

fn beside(socket: &Path, extension: &[u8]) -> Result<PathBuf, PathError> {
    let bytes = socket.as_os_str().as_bytes();
    let mut path = bytes.strip_suffix(b".sock").unwrap_or(bytes).to_vec();
    path.extend_from_slice(extension);
    check_length(PathBuf::from(OsString::from_vec(path)))
}

fn check_length(path: PathBuf) -> Result<PathBuf, PathError> {
    let len_bytes = path.as_os_str().len();
    if len_bytes > MAX_SOCKET_PATH_BYTES {
        return Err(PathError::TooLong { path, len_bytes });
    }
    Ok(path)
}

/// Makes the directory, 0700, unless it is there; then it must be `uid`'s alone.
///
/// The parent must be there. A client calls [`check_private_directory`] instead.
///
/// # Errors
///
/// [`PathError::NotPrivate`], [`PathError::Os`].
pub fn ensure_private_directory(path: &Path, uid: u32) -> Result<(), PathError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(PathError::Os {
            path: path.to_owned(),
            source: error,
        }),
        _ => check_private_directory(path, uid),
    }
}

/// Checks that a directory is `uid`'s alone, so that what lies in it is `uid`'s too.
///
/// # Errors
///
/// [`PathError::NotPrivate`]; [`PathError::Os`] when it is not there.
pub fn check_private_directory(path: &Path, uid: u32) -> Result<(), PathError> {
    let refuse = |why| {
        Err(PathError::NotPrivate {
            path: path.to_owned(),
            why,
        })
    };
    let found = fs::symlink_metadata(path).map_err(|source| PathError::Os {
        path: path.to_owned(),
        source,
    })?;
    if found.is_symlink() {
        return refuse("it is a symbolic link");
    }
    if !found.is_dir() {
        return refuse("it is not a directory");
    }
    if found.uid() != uid {
        return refuse("it belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        return refuse("its mode lets others in");
    }
    Ok(())
}
