//! What the daemon is told: flag > environment > file > built in, read here and in `config/`, and
//! nowhere else. Everything past this takes a [`Config`], which knows nothing of layers, so that
//! tests and programs that embed a daemon fill one in by hand.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use goumem_proto::model::Backing;
use goumem_shm::os::paths::{Environment, PathError, Side};

use crate::fd_store::SystemdStore;
use crate::http::HttpPlace;
use crate::logging::LogConfig;
use crate::tls::{TcpOptions, TlsError};

mod accounts;
mod declared;
mod draft;
mod faults;
mod flags;
mod keys;
mod layers;
mod reading;
mod reload;
mod texts;
mod toml;
mod value;

pub use declared::{Declared, DeclaredKind};
use faults::did_you_mean;
pub use faults::{Fault, FaultKind, Faults};
pub use flags::command;
pub(crate) use keys::Reload;
pub(crate) use reload::{Reloaded, Reloader};

use draft::Surroundings;
use layers::{File, Layers};
use reading::Settings;

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
    /// Serves gRPC there too, for clients that cannot use a Unix socket.
    pub tcp: Option<SocketAddr>,
    /// Where health, metrics and the live page are served.
    pub http: HttpPlace,
    /// How clients prove who they are there.
    pub tcp_options: TcpOptions,
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
    /// Pools and arena pools that exist from the start.
    pub pools: Vec<Declared>,
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
    /// Pools, and as many arena pools, that have metrics of their own; the others share theirs.
    pub metrics_pools: u32,
    /// The most that one user may have, over all pools; none: no limit.
    pub quota_per_user_bytes: Option<u64>,
    /// How long a free span keeps its memory.
    pub purge_after: Duration,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag is wrong, or the user asked for help or the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// Flags, variables or files say what cannot be.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// An explanation was asked for that there is not.
    #[error("there is no key {name}{}", did_you_mean(nearest.as_deref()))]
    NoKey {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// The socket cannot be there.
    #[error("socket path cannot be used")]
    Socket(#[from] PathError),
    /// The keeper is this program again, and the OS does not say which that is.
    #[error("could not find this program, to be the keeper")]
    Program(#[source] std::io::Error),
    /// TCP is configured so that everybody would be let in, or nobody.
    #[error(transparent)]
    Tcp(#[from] TlsError),
}

impl Config {
    /// Returns the configuration of a daemon whose files all lie in `directory`, with the default
    /// of everything else. Files and the environment have no say, and nothing is kept for a next
    /// daemon.
    pub fn private(directory: &Path) -> Self {
        let mut config = Settings::built_in().draft.config;
        config.socket = directory.join("goumemd.sock");
        config.limits.data_dir = directory.join("data");
        config
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// To be the daemon.
    Serve {
        config: Box<Config>,
        log: LogConfig,
        reloader: Box<Reloader>,
    },
    /// Not to serve, but to end the keeper of an earlier daemon.
    DropKept { config: Box<Config>, log: LogConfig },
    /// To say this and no more.
    Say(String),
}

impl Invocation {
    /// Reads a command line, the program's name first, the environment and the files.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`]. `--help` and `--version` are [`ConfigError::Usage`] too, with the exit
    /// code 0.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        let around = Surroundings {
            variable: Arc::new(|name| std::env::var_os(name)),
            environment: Environment::read(Side::Daemon),
            system_file: flags::SYSTEM_FILE.into(),
        };
        Self::read(args, around)
    }

    fn read(
        args: impl IntoIterator<Item = OsString>,
        around: Surroundings,
    ) -> Result<Self, ConfigError> {
        let matches = command().try_get_matches_from(args)?;
        let named = matches.get_one(flags::CONFIG).cloned().or_else(|| {
            let variable = (around.variable)(flags::CONFIG_VARIABLE);
            let variable = variable.filter(|value| !value.is_empty());
            variable.map(PathBuf::from)
        });
        let system = File::optional(&around.system_file);
        let named = named.as_deref().map(File::named);
        let files = [system].into_iter().chain(named).collect();
        let layers = || Layers::new(files, &*around.variable, &matches);
        if let Some((flags::ABOUT_CONFIG, about)) = matches.subcommand() {
            return about_config(about, layers, &around).map(Self::Say);
        }
        let layers = layers()?;
        let settings = layers.read()?;
        let running = settings.clone_rows();
        let (config, log) = settings.draft.finish(&around)?;
        Ok(if matches.get_flag(flags::DROP) {
            Self::DropKept {
                config: Box::new(config),
                log,
            }
        } else {
            Self::Serve {
                reloader: Box::new(Reloader::new(layers, around, running, &config)),
                config: Box::new(config),
                log,
            }
        })
    }
}

/// Answers `goumemd config …`.
fn about_config(
    matches: &ArgMatches,
    layers: impl FnOnce() -> Result<Layers, Faults>,
    around: &Surroundings,
) -> Result<String, ConfigError> {
    match matches.subcommand() {
        Some((flags::DEFAULT, _)) => Ok(texts::default_file()),
        Some((flags::REFERENCE, _)) => Ok(texts::reference()),
        Some((flags::EXPLAIN, matches)) => {
            let name = matches
                .get_one::<String>(flags::KEY)
                .map_or("", String::as_str);
            let settings = layers()?.read()?;
            texts::explain(name, &settings).ok_or_else(|| {
                let names: Vec<String> = texts::names().collect();
                let nearest = faults::nearest(name, names.iter().map(String::as_str));
                ConfigError::NoKey {
                    name: name.to_owned(),
                    nearest: nearest.map(str::to_owned),
                }
            })
        }
        Some((flags::CHECK, matches)) => {
            let layers = match matches.get_one::<PathBuf>(flags::FILE) {
                Some(file) => Layers::of_files(vec![File::named(file)]),
                None => layers()?,
            };
            layers.read()?.draft.finish(around)?;
            let said = layers.files().map(|(path, is_there)| {
                let state = if is_there {
                    "is in order"
                } else {
                    "is not there"
                };
                format!("{} {state}\n", path.display())
            });
            Ok(said.collect())
        }
        _ => Ok(String::new()),
    }
}
