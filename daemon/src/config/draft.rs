//! A configuration while it is put together: what the keys say, and then what follows from it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use goumem_proto::model::Backing;
use goumem_proto::name::PoolName;
use goumem_shm::os::paths::{self, Environment};
use tracing::level_filters::LevelFilter;

use super::declared::declared;
use super::faults::Faults;
use super::{Config, ConfigError, Keeper, Limits};
use crate::fd_store::SystemdStore;
use crate::http::HttpPlace;
use crate::logging::{LogConfig, LogFormat};
use crate::tls::TcpOptions;

/// Only the daemon's user connects.
const USER_SOCKET_MODE: u32 = 0o600;
/// The group of the system's instance connects too.
const SYSTEM_SOCKET_MODE: u32 = 0o660;
const SYSTEM_DIRECTORY: &str = "/run/goumem";

/// What the keys say. A field that no key fills in by itself is an `Option`, or is settled by
/// [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) config: Config,
    pub(crate) log: LogConfig,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) socket_mode: Option<u32>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) keeper: KeeperName,
    pub(super) pools: Vec<(PoolName, PoolDraft)>,
    pub(super) arena_pools: Vec<(PoolName, PoolDraft)>,
}

/// What the keys of a declared pool or arena pool say.
#[derive(Debug, Default)]
pub(crate) struct PoolDraft {
    pub(crate) capacity_bytes: u64,
    pub(crate) max_capacity_bytes: Option<u64>,
    pub(crate) arenas: u32,
    pub(crate) arena_bytes: u64,
    pub(crate) backing: Option<Backing>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mode: u32,
}

/// What was asked for as the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeeperName {
    /// The service manager's fd store, if it has one for this service; else a process.
    Auto,
    /// A process of its own, which ends when nothing is left to keep.
    Process,
    /// Nothing: all ends with the daemon.
    None,
}

/// Reads a variable of the environment.
pub(crate) type Variable = dyn Fn(&str) -> Option<OsString> + Send + Sync;

/// What is around the daemon, as values, so that it can be tried without changing this process.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// The environment.
    pub(crate) variable: Arc<Variable>,
    /// What the place of the socket depends on.
    pub(crate) environment: Environment,
    /// The system's configuration file.
    pub(crate) system_file: PathBuf,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

impl Draft {
    /// Returns an empty one. Every key of the table is put into it next.
    pub(super) fn new() -> Self {
        Self {
            config: Config {
                socket: PathBuf::new(),
                socket_mode: USER_SOCKET_MODE,
                private_directory: false,
                tcp: None,
                http: HttpPlace::None,
                tcp_options: TcpOptions::default(),
                max_connections: 0,
                drain_deadline: Duration::ZERO,
                keeper: Keeper::None,
                keep_on_exit: false,
                limits: Limits {
                    data_dir: PathBuf::new(),
                    backing: Backing::Memfd,
                    budget_bytes: None,
                    reserve_bytes: 0,
                    max_sessions: 0,
                    max_pools: 0,
                    metrics_pools: 0,
                    quota_per_user_bytes: None,
                    purge_after: Duration::ZERO,
                },
                pools: Vec::new(),
            },
            log: LogConfig {
                level: LevelFilter::OFF,
                format: LogFormat::Auto,
            },
            socket: None,
            socket_mode: None,
            data_dir: None,
            keeper: KeeperName::None,
            pools: Vec::new(),
            arena_pools: Vec::new(),
        }
    }

    /// Works out what depends on the place, and checks what depends on several keys.
    pub(super) fn finish(self, around: &Surroundings) -> Result<(Config, LogConfig), ConfigError> {
        let mut config = self.config;
        let pools = declared(self.pools, self.arena_pools);
        config.pools = pools.map_err(Faults)?;
        if let Some(address) = config.tcp {
            config.tcp_options.check(address)?;
        }
        config.socket = paths::socket_path(self.socket.as_deref(), &around.environment)?;
        let system = config.socket.starts_with(SYSTEM_DIRECTORY);
        config.private_directory = self.socket.is_none() && !system;
        config.socket_mode = self.socket_mode.unwrap_or(if system {
            SYSTEM_SOCKET_MODE
        } else {
            USER_SOCKET_MODE
        });
        // A relative path is ignored, as the XDG specification wants it.
        let place = |variable| {
            let path = (around.variable)(variable).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        config.limits.data_dir = self.data_dir.unwrap_or_else(|| {
            let directory = config.socket.parent().unwrap_or_else(|| Path::new(""));
            // The service manager's is the service's own already (`StateDirectory=goumem`).
            place("STATE_DIRECTORY")
                .or_else(|| Some(place("XDG_STATE_HOME")?.join("goumem")))
                .unwrap_or_else(|| directory.join("data"))
        });
        let process = || Keeper::this_program().map_err(ConfigError::Program);
        config.keeper = match self.keeper {
            KeeperName::Auto => match SystemdStore::from_environment(&*around.variable) {
                Some(store) => Keeper::Systemd(store),
                None => process()?,
            },
            KeeperName::Process => process()?,
            KeeperName::None => Keeper::None,
        };
        config.keep_on_exit = self.keeper != KeeperName::None;
        Ok((config, self.log))
    }
}
