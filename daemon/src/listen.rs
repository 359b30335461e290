//! The sockets: where they are, who may connect, and that none is left behind.
//!
//! Files lie beside each other: `goumemd.sock` (gRPC), `goumemd.fd.sock` (memory is handed over
//! there), `goumemd.http.sock` (for people and monitoring) and `goumemd.lock`, which makes sure that
//! a socket found at start is a dead daemon's. The lock file stays when the daemon ends, or two daemons could lock two files of one
//! name.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use goumem_shm::os::lock::{InstanceLock, LockError};
use goumem_shm::os::paths::{self, PathError};

use crate::config::Config;
use crate::http::HttpPlace;
use crate::systemd::{ActivatedSockets, ActivationError};
use crate::tls::{Access, TlsError};

mod accept;
mod peer;
mod remote;
mod shares;
#[cfg(test)]
mod tests;

pub(crate) use accept::{Acceptor, Listen, incoming};
pub use peer::{LocalPeer, PeerInfo, PeerStream, RemotePeer};
pub(crate) use shares::{Holder, Share, Shares};

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket cannot be there.
    #[error("socket path cannot be used")]
    Path(#[from] PathError),
    /// Another daemon serves there.
    #[error("another daemon serves {}", socket.display())]
    AlreadyRunning {
        /// The socket.
        socket: PathBuf,
        /// Who holds the lock.
        source: LockError,
    },
    /// A living program that is no goumemd listens there.
    #[error("something listens on {} already", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file, and it is not a dead daemon's socket.
    #[error("{} is in the way: it is not a socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// A socket that the service manager handed over is not what it should be.
    #[error("socket {name:?} of the service manager cannot be used")]
    Activation {
        /// What it is for.
        name: &'static str,
        /// What is wrong.
        source: ActivationError,
    },
    /// The service manager handed over a socket that is for nothing.
    #[error(
        "service manager handed over a socket {name:?}, which is for nothing: name it grpc, fd \
         or http, or bind it where the configuration says"
    )]
    Unknown {
        /// The manager's name for it.
        name: String,
    },
    /// Nobody would be let in by TCP, or everybody.
    #[error("could not serve TCP")]
    Tls(#[from] TlsError),
    /// The OS refused.
    #[error("could not {doing} {place}")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// Path or address.
        place: String,
        /// What the OS said.
        source: io::Error,
    },
}

impl ListenError {
    fn os(doing: &'static str, place: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let place = place.to_string();
        move |source| Self::Os {
            doing,
            place,
            source,
        }
    }
}

/// The bound sockets of one daemon. Dropping it removes them, but for those of a service manager.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) grpc: UnixListener,
    pub(crate) fd: UnixListener,
    pub(crate) tcp: Option<Tcp<TcpListener>>,
    pub(crate) http: Option<HttpSocket>,
    pub(crate) files: Files,
}

/// Where HTTP is served.
#[derive(Debug)]
pub(crate) enum HttpSocket {
    Unix(UnixListener),
    /// With the address that was bound.
    Tcp(TcpListener, SocketAddr),
}

/// A listening TCP socket, and who is let in there.
#[derive(Debug)]
pub(crate) struct Tcp<L> {
    pub(crate) listener: L,
    pub(crate) access: Arc<Access>,
}

/// What a daemon has in the file system while it lives.
#[derive(Debug)]
pub(crate) struct Files {
    grpc: SocketFile,
    fd: SocketFile,
    http: Option<SocketFile>,
    // Last: the next daemon may come when the sockets are gone.
    _lock: InstanceLock,
}

impl Listeners {
    /// Binds the sockets, after it has made sure that no other daemon serves there. Clients can
    /// connect from now on, and are answered once the daemon runs.
    ///
    /// # Errors
    ///
    /// Any [`ListenError`].
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        Self::bind_or_take(config, ActivatedSockets::default())
    }

    /// The same, with sockets that a service manager has bound in place of those of the same name
    /// or path. Those are the manager's, and stay when the daemon ends.
    ///
    /// # Errors
    ///
    /// Any [`ListenError`].
    pub fn bind_or_take(
        config: &Config,
        mut activated: ActivatedSockets,
    ) -> Result<Self, ListenError> {
        let fd_socket = paths::fd_socket_path(&config.socket)?;
        let lock = Self::lock(config)?;
        let mode = config.socket_mode;
        let (grpc, grpc_file) = unix_socket("grpc", &config.socket, mode, &mut activated)?;
        let (fd, fd_file) = unix_socket("fd", &fd_socket, mode, &mut activated)?;
        let (http, http_file) = bind_http(config, &mut activated)?;
        if let Some(name) = activated.left().next() {
            let name = name.to_owned();
            return Err(ListenError::Unknown { name });
        }
        Ok(Self {
            grpc,
            fd,
            http,
            tcp: config
                .tcp
                .map(|address| bind_remote(address, config))
                .transpose()?,
            files: Files {
                grpc: grpc_file,
                fd: fd_file,
                http: http_file,
                _lock: lock,
            },
        })
    }

    /// Takes the lock of the instance alone.
    pub(crate) fn lock(config: &Config) -> Result<InstanceLock, ListenError> {
        let fd_socket = paths::fd_socket_path(&config.socket)?;
        ensure_directory(config)?;
        InstanceLock::acquire(&lock_path(&fd_socket)).map_err(|source| {
            ListenError::AlreadyRunning {
                socket: config.socket.clone(),
                source,
            }
        })
    }

    /// Returns the path of the gRPC socket.
    pub fn socket(&self) -> &Path {
        &self.files.grpc.path
    }

    /// Returns the path of the socket that hands out memory.
    pub fn fd_socket(&self) -> &Path {
        &self.files.fd.path
    }

    /// Returns where HTTP is served: the path of a socket, or the start of a browser's address.
    pub fn http(&self) -> Option<String> {
        match self.http.as_ref()? {
            HttpSocket::Unix(_) => Some(self.files.http.as_ref()?.path.display().to_string()),
            HttpSocket::Tcp(_, address) => Some(format!("http://{address}")),
        }
    }

    /// Returns the TCP address, with the port that the OS chose if the configured one is 0.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.listener.local_addr().ok()
    }
}

/// Removes a socket's file when the daemon ends, if it is still the same.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// None if it is the service manager's.
    inode: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| Some((found.dev(), found.ino())) == self.inode);
        if same {
            // What is left is stale, and the next daemon removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the socket from the service manager if it has it, else binds it.
fn unix_socket(
    name: &'static str,
    path: &Path,
    mode: u32,
    activated: &mut ActivatedSockets,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let taken = activated.take(name, path);
    match taken.map_err(|source| ListenError::Activation { name, source })? {
        Some(listener) => Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                inode: None,
            },
        )),
        None => bind_unix(path, mode),
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), ListenError> {
    remove_stale(path)?;
    let os = |doing| ListenError::os(doing, path.display());
    let listener = UnixListener::bind(path).map_err(os("bind"))?;
    let found = fs::symlink_metadata(path).map_err(os("look at"))?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: Some((found.dev(), found.ino())),
    };
    // Whatever the umask has made of it. Who connects before this line still is whom the kernel
    // says, and gets no more than that user may.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(os("set the mode of"))?;
    listener.set_nonblocking(true).map_err(os("prepare"))?;
    Ok((listener, file))
}

/// `goumemd.fd.sock` → `goumemd.lock`, beside it.
fn lock_path(fd_socket: &Path) -> PathBuf {
    fd_socket.with_extension("").with_extension("lock")
}

fn ensure_directory(config: &Config) -> Result<(), ListenError> {
    let directory = match config.socket.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    if config.private_directory {
        let uid = paths::Environment::read(paths::Side::Daemon).uid;
        return Ok(paths::ensure_private_directory(directory, uid)?);
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(ListenError::os("make the directory", directory.display()))
}

/// Removes the socket of a daemon that did not end by itself. The caller has the lock, so it is
/// no other goumemd's; what some other program listens on stays.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::os("look at", path.display())(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(ListenError::os("remove the stale socket", path.display())),
        // Gone in between.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ListenError::os("connect to", path.display())(error)),
    }
}

fn bind_remote(address: SocketAddr, config: &Config) -> Result<Tcp<TcpListener>, ListenError> {
    let options = &config.tcp_options;
    options.check(address)?;
    let access = Arc::new(Access::load(options.clone(), Instant::now())?);
    let listener = bind_tcp(address)?;
    Ok(Tcp { listener, access })
}

fn bind_http(
    config: &Config,
    activated: &mut ActivatedSockets,
) -> Result<(Option<HttpSocket>, Option<SocketFile>), ListenError> {
    match config.http {
        HttpPlace::None => Ok((None, None)),
        HttpPlace::Unix => {
            let path = paths::http_socket_path(&config.socket)?;
            let (listener, file) = unix_socket("http", &path, config.socket_mode, activated)?;
            Ok((Some(HttpSocket::Unix(listener)), Some(file)))
        }
        HttpPlace::Loopback(address) => {
            let listener = bind_tcp(address.get())?;
            // The port is the OS's choice if the configured one is 0.
            let bound = listener.local_addr();
            let bound = bound.map_err(ListenError::os("look at", address.get()))?;
            Ok((Some(HttpSocket::Tcp(listener, bound)), None))
        }
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listener = TcpListener::bind(address).map_err(ListenError::os("bind", address))?;
    listener
        .set_nonblocking(true)
        .map_err(ListenError::os("prepare", address))?;
    Ok(listener)
}
