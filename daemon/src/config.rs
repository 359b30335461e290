//! What the daemon is told: flag > environment > default, parsed once, here. Everything past this
//! file takes a [`Config`], which knows nothing of command lines, so that tests and programs that
//! embed a daemon fill one in by hand.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use goumem_proto::model::Backing;
use goumem_shm::os::paths::{self, Environment, PathError, Side};
use tracing::level_filters::LevelFilter;

use crate::fd_store::SystemdStore;
use crate::logging::{LogConfig, LogFormat};

/// Memory left to the rest of the machine: enough for a shell and the page cache of a small one.
const DEFAULT_RESERVE_BYTES: u64 = 256 << 20;
/// A session costs the daemon a pidfd and about a kilobyte.
const DEFAULT_MAX_SESSIONS: u32 = 4096;
/// The most sessions there can be: slot words have 16 bits for the owner, two of the numbers mean
/// nobody and the daemon.
const MAX_MAX_SESSIONS: u32 = 65_534;
/// A pool costs the daemon two fds and two mappings.
const DEFAULT_MAX_POOLS: u32 = 4096;
/// A connection costs two fds; a process needs one.
const DEFAULT_MAX_CONNECTIONS: u32 = 4096;
/// A span that is allocated and freed once a second is not worth a system call each time.
const DEFAULT_PURGE_AFTER: Duration = Duration::from_secs(1);
/// What systemd and container runtimes wait for before they send SIGKILL, or a little less.
const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Only the daemon's user connects.
const USER_SOCKET_MODE: u32 = 0o600;
/// The group of the system's instance connects too.
const SYSTEM_SOCKET_MODE: u32 = 0o660;
const SYSTEM_DIRECTORY: &str = "/run/goumem";

#[cfg(test)]
mod tests;

/// What a daemon runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Path of the gRPC socket; the fd socket and the lock lie beside it.
    pub socket: PathBuf,
    /// Permission bits of both sockets.
    pub socket_mode: u32,
    /// Whether the sockets' directory must be the daemon's user's alone. So it is where the daemon
    /// chose the place; a place that was given is taken as it is.
    pub private_directory: bool,
    /// Serves gRPC there too, for clients that cannot use a Unix socket. Loopback only.
    pub tcp: Option<SocketAddr>,
    /// gRPC connections at a time, of all clients.
    pub max_connections: u32,
    /// How long calls that are under way get when the daemon ends.
    pub drain_deadline: Duration,
    /// What holds memory and sessions while no daemon runs.
    pub keeper: Keeper,
    /// Whether they are left to the keeper when this daemon ends in order, for the next one. Else
    /// everything ends with it.
    pub keep_on_exit: bool,
    /// Where and how much the daemon keeps.
    pub limits: Limits,
}

/// What holds the daemon's fds for the next daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// Nothing: pools and sessions end with the daemon, however it ends.
    None,
    /// The service manager that started the daemon.
    Systemd(SystemdStore),
    /// A process that the daemon starts and replaces.
    Process {
        /// A program that calls [`keeper_main`](crate::keeper_main) when its arguments begin with
        /// `args`, on what follows them.
        program: PathBuf,
        /// See there.
        args: Vec<OsString>,
    },
}

impl Keeper {
    /// Returns this program again, which calls [`keeper_main`](crate::keeper_main) when its first
    /// argument is `keeper`.
    ///
    /// # Errors
    /// When the OS cannot say which program this is.
    pub fn this_program() -> std::io::Result<Self> {
        Ok(Self::Process {
            program: std::env::current_exe()?,
            args: vec![KEEPER_ARGUMENT.into()],
        })
    }
}

/// The first argument of a program that shall be the keeper.
pub(crate) const KEEPER_ARGUMENT: &str = "keeper";

/// Where and how much the daemon keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Directory of file-backed pools. Made when the first is created.
    pub data_dir: PathBuf,
    /// What backs a pool whose creator leaves it open.
    pub backing: Backing,
    /// The most to commit, over all pools; none: half of the machine's memory.
    pub budget_bytes: Option<u64>,
    /// What to leave to the rest of the machine and of the cgroup.
    pub reserve_bytes: u64,
    /// Sessions at a time, at most 65 534.
    pub max_sessions: u32,
    /// Pools and arena pools at a time.
    pub max_pools: u32,
    /// The most that one user may have, over all pools; none: no limit.
    pub quota_per_user_bytes: Option<u64>,
    /// How long a free span keeps its memory.
    pub purge_after: Duration,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag or a variable is wrong, or the user asked for help or the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The socket cannot be there.
    #[error("socket path cannot be used")]
    Socket(#[from] PathError),
    /// The keeper is this program again, and the OS does not say which that is.
    #[error("could not find this program, to be the keeper")]
    Program(#[source] std::io::Error),
    /// Whoever reaches the address could use the daemon, and nothing tells who that is.
    #[error("TCP address {address} is not a loopback one; only those are served without TLS")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
}

impl Config {
    /// Returns the configuration of a daemon whose files all lie in `directory`, with the default
    /// of everything else. The environment has no say.
    pub fn private(directory: &Path) -> Self {
        Self {
            socket: directory.join("goumemd.sock"),
            socket_mode: USER_SOCKET_MODE,
            private_directory: false,
            tcp: None,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            drain_deadline: DEFAULT_DRAIN_DEADLINE,
            keeper: Keeper::None,
            keep_on_exit: false,
            limits: Limits {
                data_dir: directory.join("data"),
                backing: Backing::Memfd,
                budget_bytes: None,
                reserve_bytes: DEFAULT_RESERVE_BYTES,
                max_sessions: DEFAULT_MAX_SESSIONS,
                max_pools: DEFAULT_MAX_POOLS,
                quota_per_user_bytes: None,
                purge_after: DEFAULT_PURGE_AFTER,
            },
        }
    }

    /// Reads a command line, the program's name first, and the environment.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`]. `--help` and `--version` are [`ConfigError::Usage`] too, with the exit
    /// code 0.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, ConfigError> {
        let args = Args::try_parse_from(args)?;
        let log = LogConfig {
            level: args.log_level,
            format: args.log_format,
        };
        let drop_kept = args.drop;
        let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let config = args.into_config(&Environment::read(Side::Daemon), state_home)?;
        Ok(Invocation {
            config,
            log,
            drop_kept,
        })
    }
}

/// What a command line asks for.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What to run with.
    pub config: Config,
    /// How to log.
    pub log: LogConfig,
    /// Not to serve, but to end the keeper of an earlier daemon.
    pub drop_kept: bool,
}

/// goumemd owns named pools and arena pools of shared memory and serves them over gRPC.
#[derive(Debug, Parser)]
#[command(name = "goumemd", version, max_term_width = 100)]
struct Args {
    /// Path of the gRPC socket [env: GOUMEM_SOCKET] [default: goumem/goumemd.sock in
    /// $XDG_RUNTIME_DIR, else /run/goumem if writable, else /tmp/goumem-UID].
    // The environment is read by the rule that the clients use too, so clap does not.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// Permission bits of the sockets, in octal [default: 0600, in /run/goumem 0660].
    #[arg(long, value_name = "MODE", env = "GOUMEM_SOCKET_MODE", value_parser = octal_mode)]
    socket_mode: Option<u32>,
    /// Serve gRPC on this loopback address too, for clients that cannot map memory.
    #[arg(long, value_name = "ADDRESS:PORT", env = "GOUMEM_TCP")]
    tcp: Option<SocketAddr>,
    /// Directory of file-backed pools [default: goumem in $XDG_STATE_HOME, else data beside the
    /// socket].
    #[arg(long, value_name = "PATH", env = "GOUMEM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// What backs a pool whose creator leaves it open.
    #[arg(long, env = "GOUMEM_BACKING", value_enum, default_value = "memfd")]
    backing: BackingName,
    /// The most memory to commit, over all pools, as 8GiB [default: half of the machine's].
    #[arg(long, value_name = "SIZE", env = "GOUMEM_BUDGET")]
    budget: Option<ByteSize>,
    /// Memory to leave to the rest of the machine.
    #[arg(
        long,
        value_name = "SIZE",
        env = "GOUMEM_RESERVE",
        default_value = "256MiB"
    )]
    reserve: ByteSize,
    /// Sessions at a time.
    #[arg(long, value_name = "N", env = "GOUMEM_MAX_SESSIONS",
        default_value_t = DEFAULT_MAX_SESSIONS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MAX_SESSIONS)))]
    max_sessions: u32,
    /// Pools and arena pools at a time.
    #[arg(long, value_name = "N", env = "GOUMEM_MAX_POOLS", default_value_t = DEFAULT_MAX_POOLS,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_pools: u32,
    /// gRPC connections at a time.
    #[arg(long, value_name = "N", env = "GOUMEM_MAX_CONNECTIONS",
        default_value_t = DEFAULT_MAX_CONNECTIONS,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// The most memory of one user, over all pools [default: no limit].
    #[arg(long, value_name = "SIZE", env = "GOUMEM_QUOTA_PER_USER")]
    quota_per_user: Option<ByteSize>,
    /// How long free memory is kept for the next use before the system gets it back.
    #[arg(long, value_name = "DURATION", env = "GOUMEM_PURGE_AFTER",
        default_value_t = DEFAULT_PURGE_AFTER.into())]
    purge_after: humantime::Duration,
    /// What holds pools and sessions while no daemon runs, after a crash or for an upgrade.
    #[arg(long, env = "GOUMEM_KEEPER", value_enum, default_value = "auto")]
    keeper: KeeperName,
    /// End the keeper of an earlier daemon, and with it all pools that are not files, and exit.
    #[arg(long)]
    drop: bool,
    /// How long calls under way get when the daemon ends.
    #[arg(long, value_name = "DURATION", env = "GOUMEM_DRAIN_DEADLINE",
        default_value_t = DEFAULT_DRAIN_DEADLINE.into())]
    drain_deadline: humantime::Duration,
    /// off, error, warn, info, debug or trace; RUST_LOG has the last word.
    #[arg(long, value_name = "LEVEL", env = "GOUMEM_LOG_LEVEL", default_value_t = LevelFilter::INFO)]
    log_level: LevelFilter,
    /// How to write the log; auto is pretty on a terminal and json elsewhere.
    #[arg(long, env = "GOUMEM_LOG_FORMAT", value_enum, default_value = "auto")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeeperName {
    /// The service manager's fd store, if it has one for this service; else a process.
    Auto,
    /// A process of its own, which ends when nothing is left to keep.
    Process,
    /// Nothing: all ends with the daemon.
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BackingName {
    Memfd,
    Named,
    File,
}

impl Args {
    fn into_config(
        self,
        environment: &Environment,
        state_home: Option<PathBuf>,
    ) -> Result<Config, ConfigError> {
        let socket = paths::socket_path(self.listen.as_deref(), environment)?;
        if let Some(address) = self.tcp.filter(|address| !address.ip().is_loopback()) {
            return Err(ConfigError::NotLoopback { address });
        }
        let given = self.listen.is_some() || environment.goumem_socket.is_some();
        let system = socket.starts_with(SYSTEM_DIRECTORY);
        let directory = socket.parent().unwrap_or_else(|| Path::new("")).to_owned();
        // A relative path is ignored, as the XDG specification wants it.
        let data_dir = self.data_dir.unwrap_or_else(|| {
            state_home
                .filter(|path| path.is_absolute())
                .map_or_else(|| directory.join("data"), |path| path.join("goumem"))
        });
        Ok(Config {
            socket_mode: self.socket_mode.unwrap_or(if system {
                SYSTEM_SOCKET_MODE
            } else {
                USER_SOCKET_MODE
            }),
            private_directory: !given && !system,
            tcp: self.tcp,
            max_connections: self.max_connections,
            drain_deadline: self.drain_deadline.into(),
            keeper: match self.keeper {
                KeeperName::Auto => {
                    match SystemdStore::from_environment(|name| std::env::var_os(name)) {
                        Some(store) => Keeper::Systemd(store),
                        None => Keeper::this_program().map_err(ConfigError::Program)?,
                    }
                }
                KeeperName::Process => Keeper::this_program().map_err(ConfigError::Program)?,
                KeeperName::None => Keeper::None,
            },
            keep_on_exit: self.keeper != KeeperName::None,
            limits: Limits {
                data_dir,
                backing: match self.backing {
                    BackingName::Memfd => Backing::Memfd,
                    BackingName::Named => Backing::Named,
                    BackingName::File => Backing::File,
                },
                budget_bytes: self.budget.map(|size| size.as_u64()),
                reserve_bytes: self.reserve.as_u64(),
                max_sessions: self.max_sessions,
                max_pools: self.max_pools,
                quota_per_user_bytes: self.quota_per_user.map(|size| size.as_u64()),
                purge_after: self.purge_after.into(),
            },
            socket,
        })
    }
}

fn octal_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|error| error.to_string())?;
    if mode & !0o666 != 0 {
        return Err("a socket has read and write bits only, as 0660".to_owned());
    }
    Ok(mode)
}
