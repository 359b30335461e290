//! Daemons: on a thread of this process, or in a process of their own that can be killed.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use goumem::blocking::Client;
use goumem_shm::os::peer::peer_identity;
use goumemd::{Config, Listeners};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::puppet::{Puppet, Puppets, Setup};
use crate::rpc::Rpc;
use crate::wait::{PATIENCE, eventually};

/// The log of a daemon in a process of its own, in its directory.
const LOG: &str = "goumemd.log";

/// A daemon on a thread of this process, with its files in a directory of its own.
#[derive(Debug)]
pub struct TestDaemon {
    config: Config,
    tcp: Option<SocketAddr>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
    directory: Arc<TempDir>,
}

impl TestDaemon {
    /// Starts one with the defaults.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts one that every user may connect to.
    pub fn start_for_everybody() -> Self {
        let directory = directory();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Self::start_in(directory, |config| config.socket_mode = 0o666)
    }

    /// Starts one with another configuration.
    pub fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(directory(), change)
    }

    fn start_in(directory: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        raise_fd_limit();
        let mut config = Config::private(directory.path());
        config.drain_deadline = Duration::from_secs(2);
        change(&mut config);
        let listeners = Listeners::bind(&config).unwrap();
        let tcp = listeners.tcp_address();
        let shutdown = CancellationToken::new();
        let running = goumemd::run(config.clone(), listeners, shutdown.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let thread = thread::Builder::new()
            .name("test daemon".to_owned())
            .spawn(move || runtime.block_on(running).unwrap())
            .unwrap();
        Self {
            config,
            tcp,
            shutdown,
            thread: Some(thread),
            directory,
        }
    }

    /// Ends it, and starts another one on the same files.
    pub fn restart(self) -> Self {
        self.restart_after(|| {})
    }

    /// The same, with something to do in between.
    pub fn restart_after(mut self, in_between: impl FnOnce()) -> Self {
        let directory = Arc::clone(&self.directory);
        let config = self.config.clone();
        self.end();
        in_between();
        Self::start_in(directory, |new| *new = config)
    }

    /// Returns the path of its gRPC socket.
    pub fn socket(&self) -> &Path {
        &self.config.socket
    }

    /// Returns the directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns its TCP address, if it has one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Opens a session with it by the client library.
    pub fn client(&self) -> Client {
        connect(self.socket())
    }

    /// Opens a session with it by gRPC.
    pub fn rpc(&self) -> Rpc {
        Rpc::open(self.socket())
    }

    fn end(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the daemon panicked");
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A daemon in a process of its own, with its files in a directory that may outlive it.
#[derive(Debug)]
pub struct DaemonProcess {
    puppet: Puppet,
    socket: PathBuf,
    /// With the last daemon of a directory goes its keeper. Before the directory.
    keeper: Option<Arc<KeeperGuard>>,
    directory: Arc<TempDir>,
}

/// Ends whatever keeper there is at the end of a test, however that ends.
#[derive(Debug)]
struct KeeperGuard(PathBuf);

impl Drop for KeeperGuard {
    fn drop(&mut self) {
        if let Some(pid) = keeper_at(&self.0) {
            // It may have ended by itself this moment.
            let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
        }
    }
}

/// Returns the keeper that listens there.
fn keeper_at(socket: &Path) -> Option<u32> {
    let connection = UnixStream::connect(socket).ok()?;
    Some(peer_identity(&connection).unwrap().pid)
}

impl DaemonProcess {
    /// Starts one in a new directory.
    pub fn start(puppets: Puppets) -> Self {
        Self::start_with(puppets, &Setup::default(), &[]).unwrap()
    }

    /// Starts one in a new directory, as `setup` says, with more arguments on its command line.
    ///
    /// # Errors
    /// What the machine does not let a puppet do.
    pub fn start_with(puppets: Puppets, setup: &Setup, args: &[&str]) -> Result<Self, String> {
        let args = [&["--keeper", "none"], args].concat();
        Self::start_in(puppets, directory(), None, setup, &args)
    }

    /// Starts one that every user may connect to.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_for_everybody(puppets: Puppets) -> Self {
        let directory = directory();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let args = ["--keeper", "none", "--socket-mode", "0666"];
        Self::start_in(puppets, directory, None, &Setup::default(), &args).unwrap()
    }

    /// Starts one in a new directory, with a keeper.
    pub fn start_kept(puppets: Puppets) -> Self {
        let directory = directory();
        let socket = directory.path().join("goumemd.keeper.sock");
        let guard = Some(Arc::new(KeeperGuard(socket)));
        Self::start_in(puppets, directory, guard, &Setup::default(), &[]).unwrap()
    }

    /// Starts one on the files of this one, which should be dead by then; with a keeper if this one
    /// had one.
    pub fn next(&self, puppets: Puppets) -> Self {
        self.try_next(puppets).unwrap()
    }

    /// The same, for one that may not start.
    ///
    /// # Errors
    /// That it has ended at once.
    pub fn try_next(&self, puppets: Puppets) -> Result<Self, String> {
        let args: &[&str] = match self.keeper {
            Some(_) => &[],
            None => &["--keeper", "none"],
        };
        Self::start_in(
            puppets,
            Arc::clone(&self.directory),
            self.keeper.clone(),
            &Setup::default(),
            args,
        )
    }

    /// Returns the process of its keeper.
    pub fn keeper(&self) -> Option<u32> {
        keeper_at(&self.directory.path().join("goumemd.keeper.sock"))
    }

    fn start_in(
        puppets: Puppets,
        directory: Arc<TempDir>,
        keeper: Option<Arc<KeeperGuard>>,
        setup: &Setup,
        args: &[&str],
    ) -> Result<Self, String> {
        let socket = directory.path().join("goumemd.sock");
        let data = directory.path().join("data");
        let mut line = vec!["--listen", socket.to_str().unwrap()];
        line.extend(args);
        for (flag, value) in [
            ("--data-dir", data.to_str().unwrap()),
            ("--log-level", "error"),
        ] {
            if !args.contains(&flag) {
                line.extend([flag, value]);
            }
        }
        let setup = Setup {
            log: Some(directory.path().join(LOG)),
            ..setup.clone()
        };
        let mut puppet = puppets.daemon(&setup, &line)?;
        let mut ended = false;
        eventually(PATIENCE, "the daemon listens", || {
            ended = !puppet.is_alive();
            ended || UnixStream::connect(&socket).is_ok()
        });
        if ended {
            return Err("the daemon has ended at once".to_owned());
        }
        Ok(Self {
            puppet,
            socket,
            keeper,
            directory,
        })
    }

    /// Returns the path of its gRPC socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Opens a session with it by the client library.
    pub fn client(&self) -> Client {
        connect(&self.socket)
    }

    /// Opens a session with it by gRPC.
    pub fn rpc(&self) -> Rpc {
        Rpc::open(&self.socket)
    }

    /// Returns the directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns what the daemons of this directory have logged.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.directory.path().join(LOG)).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Asserts that it lives, that no thread of it has panicked, and that it found no fault of its
    /// own.
    ///
    /// # Panics
    /// Else.
    pub fn is_well(&mut self) {
        let log = self.log();
        assert!(self.puppet.is_alive(), "the daemon has ended: {log}");
        for bad in ["panicked", "invariant broken"] {
            assert!(!log.contains(bad), "{log}");
        }
    }

    /// Returns the process.
    pub fn puppet(&mut self) -> &mut Puppet {
        &mut self.puppet
    }

    /// Kills it, by `SIGKILL`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.puppet.kill();
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

fn connect(socket: &Path) -> Client {
    Client::builder()
        .socket(socket)
        .label("test")
        .connect()
        .unwrap()
}

fn directory() -> Arc<TempDir> {
    Arc::new(tempfile::Builder::new().prefix("gm").tempdir().unwrap())
}

/// Dozens of daemons and clients share this process.
fn raise_fd_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A test that needs more will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}
