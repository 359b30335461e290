//! What the checks look at: the files of a machine below a directory (`/`, or a test's), and what
//! no file tells, asked once before the checks begin.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use goumem::{Backing, DaemonInfo, Error};
use rustix::fs::{FlockOperation, MemfdFlags, SealFlags};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{MembarrierCommand, membarrier};

use crate::commands;
use crate::error::{Failure, chain};

/// A machine, as far as the checks see it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Where its files are.
    pub(super) root: PathBuf,
    /// Who asks.
    pub(super) uid: u32,
    pub(super) daemon: Daemon,
    /// Of `/dev/shm`; none where there is none.
    pub(super) dev_shm: Option<Space>,
    pub(super) kernel: Kernel,
}

/// The daemon at the socket that this command would use.
#[derive(Debug, Clone)]
pub(super) enum Daemon {
    Answers(Box<Facts>),
    Away { socket: PathBuf, why: String },
}

/// What a daemon says of itself.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) socket: PathBuf,
    /// Its process as this one sees it, by the kernel's word. None: in another PID namespace.
    pub(super) pid: Option<u32>,
    pub(super) info: DaemonInfo,
    /// Whether this process may map pools; unknown if its session is not to be seen.
    pub(super) may_map: Option<bool>,
    /// The pools and arena pools that there are.
    pub(super) pools: Vec<(String, Backing)>,
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size_bytes: u64,
    pub(super) free_bytes: u64,
}

/// What the kernel lets this process do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) membarrier: bool,
    pub(super) memfd_seals: bool,
    pub(super) pidfd: bool,
}

/// The files that lie beside a gRPC socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) socket: PathBuf,
}

/// What is at a socket's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketState {
    Absent,
    /// Nobody listens.
    Stale,
    /// Somebody does; its process, if it is to be seen.
    Live {
        pid: Option<u32>,
    },
    /// Not this user's to know.
    Unknown,
}

impl Machine {
    /// Returns the machine that this process runs on.
    pub(super) fn this(socket: Option<&Path>) -> Result<Self, Failure> {
        let dev_shm = rustix::fs::statvfs("/dev/shm").ok().map(|found| Space {
            size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        });
        Ok(Self {
            root: PathBuf::from("/"),
            uid: rustix::process::geteuid().as_raw(),
            daemon: Daemon::ask(socket)?,
            dev_shm,
            kernel: Kernel::probe(),
        })
    }

    /// Returns a path of the machine: `proc/meminfo`.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads a file; nothing if it is not there or not this user's to read.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns the names in a directory, sorted; none if it cannot be read.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        match &self.daemon {
            Daemon::Answers(facts) => Some(facts),
            Daemon::Away { .. } => None,
        }
    }

    /// Returns the daemon's process, if it is to be seen from here.
    pub(super) fn daemon_pid(&self) -> Option<u32> {
        self.facts()?.pid
    }

    /// Returns the user that the daemon runs as; while none runs, the caller's.
    pub(super) fn daemon_uid(&self) -> u32 {
        let status = self
            .daemon_pid()
            .and_then(|pid| self.read(format!("proc/{pid}/status")));
        let uid = status.as_deref().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
            // Real, then effective.
            line.split_whitespace().nth(1)?.parse().ok()
        });
        uid.unwrap_or(self.uid)
    }

    /// Returns every instance of which there is a file: where daemons put their sockets, and where
    /// this command looks.
    pub(super) fn instances(&self) -> Vec<Instance> {
        let mut directories = vec![PathBuf::from("run/goumem")];
        for uid in self.names("run/user") {
            directories.push(PathBuf::from(format!("run/user/{uid}/goumem")));
        }
        for name in self.names("tmp") {
            if name.starts_with("goumem-") {
                directories.push(Path::new("tmp").join(name));
            }
        }
        let mut found = Vec::new();
        for directory in directories {
            for name in self.names(&directory) {
                let Some(stem) = name
                    .strip_suffix(".keeper.sock")
                    .or_else(|| name.strip_suffix(".fd.sock"))
                    .or_else(|| name.strip_suffix(".http.sock"))
                    .or_else(|| name.strip_suffix(".sock"))
                    .or_else(|| name.strip_suffix(".lock"))
                else {
                    continue;
                };
                found.push(Instance {
                    socket: self.path(&directory).join(format!("{stem}.sock")),
                });
            }
        }
        let socket = match &self.daemon {
            Daemon::Answers(facts) => &facts.socket,
            Daemon::Away { socket, .. } => socket,
        };
        found.push(Instance {
            socket: socket.clone(),
        });
        found.sort_by(|a, b| a.socket.cmp(&b.socket));
        found.dedup();
        found
    }
}

impl Instance {
    /// Returns the file of another name beside the socket: `keeper.sock`, `lock`.
    pub(super) fn beside(&self, extension: &str) -> PathBuf {
        self.socket.with_extension(extension)
    }

    /// Returns its sockets.
    pub(super) fn sockets(&self) -> [PathBuf; 3] {
        [
            self.socket.clone(),
            self.beside("fd.sock"),
            self.beside("keeper.sock"),
        ]
    }
}

/// Looks what is at a socket's path, by connecting to it.
pub(super) fn socket_state(path: &Path) -> SocketState {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        _ => return SocketState::Absent,
    }
    match UnixStream::connect(path) {
        Ok(stream) => SocketState::Live {
            pid: peer_pid(&stream),
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => SocketState::Stale,
        Err(error) if error.kind() == io::ErrorKind::NotFound => SocketState::Absent,
        Err(_) => SocketState::Unknown,
    }
}

fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    // 0 is how the kernel writes a process that is not to be seen from here.
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// Returns whether a process holds the lock on a file; unknown if it is not this user's to know.
/// It is tried for a moment, shared, which nobody who waits for nothing minds.
pub(super) fn is_locked(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Some(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Some(true),
        Err(_) => None,
    }
}

impl Daemon {
    fn ask(socket: Option<&Path>) -> Result<Self, Failure> {
        let client = match commands::connect(socket) {
            Ok(client) => client,
            Err(error @ Error::NoDaemon { .. }) => {
                let why = chain(&error);
                let Error::NoDaemon { socket, .. } = error else {
                    return Err(error.into());
                };
                return Ok(Self::Away { socket, why });
            }
            Err(error) => return Err(error.into()),
        };
        let socket = client.socket().to_owned();
        let pid = match socket_state(&socket) {
            SocketState::Live { pid } => pid,
            _ => None,
        };
        let own = client.session();
        let sessions = client.sessions()?;
        let may_map = sessions
            .iter()
            .find(|session| session.session == own)
            .map(|session| session.may_map);
        let pools = client.list_pools()?.into_iter();
        let pools = pools.map(|pool| (pool.name.to_string(), pool.backing));
        let arenas = client.list_arena_pools()?.into_iter();
        let arenas = arenas.map(|pool| (pool.name.to_string(), pool.backing));
        Ok(Self::Answers(Box::new(Facts {
            info: client.info()?,
            socket,
            pid,
            may_map,
            pools: pools.chain(arenas).collect(),
        })))
    }
}

impl Kernel {
    fn probe() -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let sealed = rustix::fs::memfd_create("goumemctl-doctor", flags)
            .and_then(|fd| rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW));
        let commands = [
            MembarrierCommand::RegisterPrivateExpedited,
            MembarrierCommand::PrivateExpedited,
        ];
        Self {
            membarrier: commands.into_iter().all(|c| membarrier(c).is_ok()),
            memfd_seals: sealed.is_ok(),
            pidfd: pidfd_open(getpid(), PidfdFlags::empty()).is_ok(),
        }
    }
}
