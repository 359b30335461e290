//! The program around the library: command line, log, signals, exit code.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use goumem_shm::os::paths::keeper_socket_path;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, Invocation, KEEPER_ARGUMENT, Reloader};
use crate::keeper::{drop_kept, keeper_main};
use crate::listen::{ListenError, Listeners};
use crate::logging::{self, LogError, LogHandle};
use crate::reload;
use crate::run::{RunError, Shutdown, run_under};
use crate::status::chain;
use crate::systemd::{ServiceEnvironment, ServiceManager};

const INTERRUPT: &str = "SIGINT";
/// EX_USAGE of sysexits.h: the command line or the environment is wrong.
const EXIT_USAGE: u8 = 64;
/// As the shell has it for a program that SIGINT ends.
const EXIT_AT_ONCE: u8 = 130;
/// Calls are short, and the long ones are on threads for them; more workers than this only take
/// turns at the same locks.
const MAX_WORKERS: usize = 4;
/// Threads for calls that may touch many pages. More of them wait their turn.
const MAX_BLOCKING_THREADS: usize = 64;

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("could not configure goumemd")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("could not start the runtime")]
    Runtime(#[source] io::Error),
    #[error("could not take over from the service manager")]
    Manager(#[source] io::Error),
    #[error("could not listen")]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("could not end the keeper")]
    Drop(#[source] io::Error),
}

/// Is goumemd, from its command line (the program's name first) to its exit code. Any program can
/// become the daemon by it.
pub fn cli_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|arg| arg == KEEPER_ARGUMENT) {
        return keeper_main(args.into_iter().skip(2));
    }
    match cli(args) {
        Ok(code) => code,
        // Help and the version, which go to stdout, and what clap has to say about flags.
        Err(CliError::Config(ConfigError::Usage(usage))) => {
            // Nobody is left to be told that the terminal has gone.
            let _ = usage.print();
            if usage.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            }
        }
        // Each begins with the place where it is written.
        Err(CliError::Config(ConfigError::Faults(faults))) => {
            for fault in faults.iter() {
                eprintln!("goumemd: {fault}");
            }
            ExitCode::from(EXIT_USAGE)
        }
        Err(error @ (CliError::Config(_) | CliError::Log(_))) => {
            eprintln!("goumemd: {}", chain(&error));
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            error!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn cli(args: impl IntoIterator<Item = OsString>) -> Result<ExitCode, CliError> {
    let (config, log, reloader) = match Invocation::from_args(args)? {
        Invocation::Serve {
            config,
            log,
            reloader,
        } => (config, logging::init(log)?, reloader),
        Invocation::DropKept { config, log } => {
            logging::init(log)?;
            return end_keeper(&config);
        }
        Invocation::Say(text) => {
            // Nobody is left to be told that the terminal has gone.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
    };
    raise_fd_limit();
    let environment = ServiceEnvironment::read(|name| std::env::var_os(name), std::process::id());
    let manager = ServiceManager::from_environment(environment).map_err(CliError::Manager)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS)),
        )
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("goumemd")
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let ended = runtime.block_on(serve(*config, log.clone(), reloader, manager));
    // After a second signal nothing is waited for.
    runtime.shutdown_timeout(Duration::ZERO);
    log.end();
    ended
}

async fn serve(
    config: Config,
    log: LogHandle,
    reloader: Box<Reloader>,
    mut manager: ServiceManager,
) -> Result<ExitCode, CliError> {
    let mut signals = Signals::listen().map_err(CliError::Runtime)?;
    let hangup = signal(SignalKind::hangup()).map_err(CliError::Runtime)?;
    let listeners = Listeners::bind_or_take(&config, manager.take_sockets())?;
    let shutdown = Shutdown::default();
    let (sender, configs) = watch::channel(Arc::new(config));
    tokio::spawn(reload::at_each(
        hangup,
        reloader,
        log,
        sender,
        manager.status(),
    ));
    let mut running = pin!(run_under(configs, listeners, shutdown.clone(), manager));
    tokio::select! {
        ended = &mut running => return Ok(ended.map(|()| ExitCode::SUCCESS)?),
        name = signals.next() => {
            info!(signal = name, "ending; a second signal ends at once");
            if name == INTERRUPT {
                // Ctrl-C: whoever sits at the terminal wants nothing left behind.
                shutdown.forget.cancel();
            }
        }
    }
    shutdown.begin.cancel();
    tokio::select! {
        ended = &mut running => Ok(ended.map(|()| ExitCode::SUCCESS)?),
        name = signals.next() => {
            warn!(signal = name, "ending at once");
            Ok(ExitCode::from(EXIT_AT_ONCE))
        }
    }
}

/// The signals that end the daemon.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Ends the keeper of a daemon that has ended, and everything in it.
fn end_keeper(config: &Config) -> Result<ExitCode, CliError> {
    // The lock: no daemon runs, and none starts meanwhile.
    let _lock = Listeners::lock(config)?;
    let socket = keeper_socket_path(&config.socket).map_err(ListenError::Path)?;
    if drop_kept(&socket).map_err(CliError::Drop)? {
        info!("ended the keeper: pools and sessions that it held are gone");
    } else {
        info!(socket = %socket.display(), "there is no keeper");
    }
    Ok(ExitCode::SUCCESS)
}

/// Pools, sessions and connections are fds, and the usual limit of 1024 is there for programs that
/// call select(2).
fn raise_fd_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "could not raise the limit of open files");
    }
}
