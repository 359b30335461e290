//! Plays the service manager (systemd) for one daemon: binds its sockets and keeps them, listens
//! to what it says of itself, holds the fds that it stores, and hands all of them to the next.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use goumem_shm::os::fd_pass;
use tempfile::TempDir;

use crate::puppet::{Puppet, Puppets, Setup};
use crate::wait::{PATIENCE, eventually};

/// Ends the thread; no daemon says it.
const END: &str = "X-END=1";
const MAX_MESSAGE_BYTES: usize = 4096;

/// A service manager.
#[derive(Debug)]
pub struct ServiceManager {
    state: Arc<Mutex<State>>,
    sockets: Vec<(String, UnixListener)>,
    thread: Option<JoinHandle<()>>,
    directory: TempDir,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<String>,
    stored: Vec<(String, OwnedFd)>,
    /// Barriers that wait, while they shall; none: they do not.
    held_up: Option<Vec<OwnedFd>>,
}

impl ServiceManager {
    /// Begins to listen, in a directory of its own.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("gm").tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let thread = {
            let state = Arc::clone(&state);
            thread::spawn(move || listen(&socket, &state))
        };
        Self {
            state,
            sockets: Vec::new(),
            thread: Some(thread),
            directory,
        }
    }

    /// Binds a socket in the directory, to be handed over under a name.
    ///
    /// # Panics
    /// When it cannot.
    pub fn bind(&mut self, name: &str, file: &str) {
        let listener = UnixListener::bind(self.path(file)).unwrap();
        self.sockets.push((name.to_owned(), listener));
    }

    /// Returns a path in the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Returns the path of the daemon's gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.path("goumemd.sock")
    }

    /// Starts the daemon, with more arguments and more of an environment.
    ///
    /// # Panics
    /// When it cannot.
    pub fn spawn(&self, puppets: Puppets, args: &[&str], environment: &[(&str, &str)]) -> Puppet {
        self.spawn_with(puppets, &Setup::default(), args, environment)
    }

    /// The same, as `setup` says.
    ///
    /// # Panics
    /// When it cannot.
    pub fn spawn_with(
        &self,
        puppets: Puppets,
        setup: &Setup,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Puppet {
        let (socket, data) = (self.socket(), self.path("data"));
        let own = ["--listen", text(&socket), "--data-dir", text(&data)];
        let args = [&own[..], &["--log-level", "error"], args].concat();
        let setup = Setup {
            log: Some(self.path("goumemd.log")),
            ..setup.clone()
        };
        let notify = self.path("notify");
        let mut environment = environment.to_vec();
        environment.push(("NOTIFY_SOCKET", text(&notify)));
        let handed = self.handed();
        if handed.is_empty() {
            return puppets.daemon_in(&setup, &args, &environment).unwrap();
        }
        let names: Vec<&str> = handed.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(":");
        environment.push(("LISTEN_FDNAMES", &names));
        let fds: Vec<BorrowedFd<'_>> = handed.iter().map(|(_, fd)| fd.as_fd()).collect();
        puppets.service(&setup, &args, &environment, &fds).unwrap()
    }

    /// Returns what it was told so far, one text for each message.
    pub fn messages(&self) -> Vec<String> {
        lock(&self.state).messages.clone()
    }

    /// Returns how often it was told that.
    pub fn count(&self, line: &str) -> usize {
        let messages = self.messages();
        let says = |message: &&String| message.lines().any(|said| said == line);
        messages.iter().filter(says).count()
    }

    /// Waits until it was told that so often.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_for(&self, line: &str, times: usize) {
        eventually(PATIENCE, line, || self.count(line) >= times);
    }

    /// Returns the names of the fds that it holds.
    pub fn stored(&self) -> Vec<String> {
        let state = lock(&self.state);
        state.stored.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Leaves barriers unanswered from now on, so that a daemon waits at the first fd it stores.
    pub fn hold_up(&self) {
        lock(&self.state).held_up = Some(Vec::new());
    }

    /// Returns whether a daemon waits.
    pub fn holds_up(&self) -> bool {
        let state = lock(&self.state);
        state.held_up.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Answers them again.
    pub fn let_go(&self) {
        lock(&self.state).held_up = None;
    }

    /// Returns duplicates of sockets and stored fds, as a process is handed them.
    fn handed(&self) -> Vec<(String, OwnedFd)> {
        let state = lock(&self.state);
        let duplicate = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        let sockets = self.sockets.iter();
        let sockets = sockets.map(|(name, socket)| (name.clone(), duplicate(socket.as_fd())));
        let stored = state.stored.iter();
        let stored = stored.map(|(name, fd)| (name.clone(), duplicate(fd.as_fd())));
        sockets.chain(stored).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(socket: &UnixDatagram, state: &Mutex<State>) {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    loop {
        let (n, mut fds) = fd_pass::recv(socket, &mut bytes, 1).unwrap();
        let message = std::str::from_utf8(&bytes[..n]).unwrap().to_owned();
        let mut state = lock(state);
        let value = |key: &str| message.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=").unwrap_or_default();
        if message == END {
            return;
        } else if value("FDSTORE=").is_some() {
            state.stored.retain(|(other, _)| other != name);
            state.stored.push((name.to_owned(), fds.pop().unwrap()));
        } else if value("FDSTOREREMOVE=").is_some() {
            state.stored.retain(|(other, _)| other != name);
        } else if value("BARRIER=").is_some() {
            // Closed when this turn ends, unless it shall wait.
            if let Some(held) = &mut state.held_up {
                held.append(&mut fds);
            }
        }
        state.messages.push(message);
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let socket = UnixDatagram::unbound().unwrap();
        socket
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        if socket.send_to(END.as_bytes(), self.path("notify")).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let listened = thread.join();
            assert!(listened.is_ok() || thread::panicking(), "bad message");
        }
        if thread::panicking() {
            let log = std::fs::read_to_string(self.path("goumemd.log"));
            eprintln!("log of the daemon:\n{}", log.unwrap_or_default());
        }
    }
}
