//! A proxy between clients of this process and a daemon, which loses connections, or replies, when
//! a test says so. The daemon cannot tell it from its clients: they are one process. Memory is
//! handed over past it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use goumem::blocking::{Client, ClientBuilder};
use goumem_shm::os::paths::fd_socket_path;
use tempfile::TempDir;

/// A proxy for one daemon.
#[derive(Debug)]
pub struct Proxy {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    acceptor: Option<JoinHandle<()>>,
    _directory: TempDir,
}

#[derive(Debug, Default)]
struct State {
    /// Both ends of each connection.
    connections: Vec<[UnixStream; 2]>,
    n_accepted: usize,
    refuses: bool,
    swallows: bool,
    ended: bool,
    /// The daemon's socket.
    daemon: PathBuf,
}

impl Proxy {
    /// Starts one for the daemon of this socket.
    pub fn start(daemon: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("gm").tempdir().unwrap();
        let socket = directory.path().join("goumemd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let acceptor = {
            let state = Arc::clone(&state);
            thread::spawn(move || accept(&listener, &state))
        };
        let proxy = Self {
            socket,
            state,
            acceptor: Some(acceptor),
            _directory: directory,
        };
        proxy.lead_to(daemon);
        proxy
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sets up a client of the daemon, by way of this proxy.
    pub fn builder(&self) -> ClientBuilder {
        Client::builder().socket(&self.socket).label("by proxy")
    }

    /// Opens a session with the daemon, by way of this proxy.
    pub fn client(&self) -> Client {
        self.builder().connect().unwrap()
    }

    /// Returns how many connections have been made.
    pub fn n_accepted(&self) -> usize {
        self.lock().n_accepted
    }

    /// Cuts every connection. New ones are as good as the old ones were.
    pub fn cut(&self) {
        let mut state = self.lock();
        state.swallows = false;
        cut(&mut state);
    }

    /// Cuts every connection, and new ones at once, until [`heal`](Self::heal).
    pub fn isolate(&self) {
        let mut state = self.lock();
        state.refuses = true;
        state.swallows = false;
        cut(&mut state);
    }

    /// Lets connections be made again.
    pub fn heal(&self) {
        self.lock().refuses = false;
    }

    /// Leads new connections to another daemon.
    pub fn lead_to(&self, daemon: &Path) {
        let fd_socket = fd_socket_path(&self.socket).unwrap();
        // There is none at first.
        let _ = std::fs::remove_file(&fd_socket);
        std::os::unix::fs::symlink(fd_socket_path(daemon).unwrap(), fd_socket).unwrap();
        self.lock().daemon = daemon.to_owned();
    }

    /// Lets no reply through any more, until the connections are cut.
    pub fn swallow_replies(&self) {
        self.lock().swallows = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.lock().ended = true;
        self.isolate();
        // Wakes the acceptor; it may have ended by itself.
        let _ = UnixStream::connect(&self.socket);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(state: &mut State) {
    for end in state.connections.drain(..).flatten() {
        // It may have been closed from the other side.
        let _ = end.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &UnixListener, state: &Arc<Mutex<State>>) {
    for client in listener.incoming() {
        let client = client.unwrap();
        // Under the lock, so that a connection is cut or is not made.
        let mut now = lock(state);
        if now.ended {
            return;
        }
        if now.refuses {
            continue;
        }
        let Ok(server) = UnixStream::connect(&now.daemon) else {
            continue;
        };
        let ends = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
        now.connections.push(ends());
        now.n_accepted += 1;
        drop(now);
        let [from, to] = ends();
        thread::spawn(move || copy(from, to, || false));
        let [to, from] = ends();
        let state = Arc::clone(state);
        thread::spawn(move || copy(from, to, || lock(&state).swallows));
    }
}

/// Copies until either end is closed, and closes the other then.
fn copy(mut from: UnixStream, mut to: UnixStream, swallows: impl Fn() -> bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if !swallows() && to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
