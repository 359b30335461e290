//! The daemon's side: an [`FdStore`] that never rests on one keeper. A thread waits for its
//! keeper's death; a dead one is replaced, and the new one given everything, at once.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use goumem_shm::os::keep_frame::FdName;
use goumem_shm::os::reaper::DeathWatch;
use tracing::{error, info, warn};

use super::{Connection, Launch};
use crate::fd_store::{FdStore, KeptFd};

/// How long to wait after a keeper could not be started.
const PAUSE: Duration = Duration::from_secs(1);
/// Keepers that ended between the connect and the first answer: each had nothing left to keep.
const MAX_TRIES: usize = 3;

/// A keeper that is replaced when it dies.
#[derive(Debug)]
pub(crate) struct KeeperStore {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    launch: Launch,
    watch: DeathWatch,
    stop: AtomicBool,
    state: Mutex<State>,
    told: OnceLock<Told>,
}

/// Whom to tell that the keeper was replaced.
struct Told(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told(..)")
    }
}

#[derive(Debug, Default)]
struct State {
    /// None while there is no keeper to be had.
    connection: Option<Connection>,
    /// What is stored, to be given to the next keeper.
    held: HashMap<FdName, Arc<dyn KeptFd>>,
    /// Nothing shall be kept any more.
    ended: bool,
    /// Counts keepers, for the watch.
    keepers: u64,
}

impl KeeperStore {
    /// Connects to the keeper of an earlier daemon, or starts one. Returns what was in it. The
    /// caller has the instance's lock.
    ///
    /// # Errors
    /// What kept it from that: a daemon that cannot keep what it promises does not start.
    pub(crate) fn open(launch: Launch) -> io::Result<(Self, HashMap<FdName, OwnedFd>)> {
        let shared = Arc::new(Shared {
            launch,
            watch: DeathWatch::new()?,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            told: OnceLock::new(),
        });
        let fds = shared.connect()?;
        let thread = thread::Builder::new()
            .name("goumemd-keeper".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.replace_the_dead()
            })?;
        let thread = Some(thread);
        Ok((Self { shared, thread }, fds))
    }
}

impl FdStore for KeeperStore {
    fn store(&self, name: FdName, fd: Arc<dyn KeptFd>) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.held.insert(name.clone(), Arc::clone(&fd));
        let stored = match &mut state.connection {
            Some(connection) => connection.store(&name, &*fd),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let stored = match stored {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => {
                warn!(%error, "keeper does not answer");
                // With everything in it.
                self.shared.replace(&mut state)
            }
            stored => stored,
        };
        stored.inspect_err(|_| {
            state.held.remove(&name);
        })
    }

    fn took_over(&self, name: FdName, fd: Arc<dyn KeptFd>) {
        self.shared.lock().held.insert(name, fd);
    }

    fn keeps(&self) -> bool {
        true
    }

    fn remove(&self, name: &FdName) {
        let mut state = self.shared.lock();
        state.held.remove(name);
        if let Some(connection) = &mut state.connection
            && let Err(error) = connection.remove(name)
        {
            warn!(%error, "keeper does not answer");
            // Out of step with it: the next one is given what is held.
            let _ = self.shared.replace(&mut state);
        }
    }

    fn on_replaced(&self, told: Box<dyn Fn() + Send + Sync>) {
        // The first one counts: a store is one daemon's.
        let _ = self.shared.told.set(Told(told));
    }

    fn end(&self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.held.clear();
        if let Some(mut connection) = state.connection.take()
            && let Err(error) = connection.end()
        {
            warn!(%error, "could not end the keeper");
        }
    }
}

impl Drop for KeeperStore {
    fn drop(&mut self) {
        // ORDERING: Release; pairs with the Acquire of the thread, which wakes after it.
        self.shared.stop.store(true, Ordering::Release);
        if self.shared.watch.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of the thread has been said already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn connect(&self) -> io::Result<HashMap<FdName, OwnedFd>> {
        let mut state = self.lock();
        for _ in 0..MAX_TRIES {
            let Some(mut connection) = Connection::connect(&self.launch.socket)? else {
                break;
            };
            match connection.list() {
                Ok(fds) => {
                    info!(
                        pid = connection.keeper.pid(),
                        fds = fds.len(),
                        "found the keeper"
                    );
                    self.install(&mut state, connection)?;
                    return Ok(fds);
                }
                // It was ending.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof
                            | io::ErrorKind::BrokenPipe
                            | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        let connection = Connection::start(&self.launch)?;
        self.install(&mut state, connection)?;
        Ok(HashMap::new())
    }

    fn install(&self, state: &mut State, connection: Connection) -> io::Result<()> {
        state.keepers += 1;
        self.watch.add(&connection.keeper, state.keepers)?;
        state.connection = Some(connection);
        Ok(())
    }

    /// Starts another keeper in the place of one that is dead, or out of step, and gives it
    /// everything.
    fn replace(&self, state: &mut State) -> io::Result<()> {
        if let Some(mut old) = state.connection.take() {
            let _ = self.watch.remove(&old.keeper);
            if !old.keeper.is_dead() {
                // Two of them would each hold a part.
                let _ = old.keeper.kill();
                let _ = old.wait_for_end();
            }
            old.reap();
        }
        if state.ended {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // Should this fail, the thread tries again.
        let _ = self.watch.wake();
        let mut connection = Connection::start(&self.launch)?;
        for (name, fd) in &state.held {
            if let Err(error) = connection.store(name, &**fd) {
                // With a part of it, the next daemon would find half of what there is.
                let _ = connection.keeper.kill();
                let _ = connection.wait_for_end();
                connection.reap();
                return Err(error);
            }
        }
        info!(
            pid = connection.keeper.pid(),
            fds = state.held.len(),
            "keeper replaced"
        );
        self.install(state, connection)?;
        if let Some(Told(told)) = self.told.get() {
            told();
        }
        Ok(())
    }

    fn replace_the_dead(&self) {
        let mut pause = None;
        loop {
            if let Err(error) = self.watch.wait(pause) {
                return error!(%error, "could not watch the keeper");
            }
            // ORDERING: Acquire; pairs with the Release in `drop`.
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let mut state = self.lock();
            let is_there = state
                .connection
                .as_ref()
                .is_some_and(|connection| !connection.keeper.is_dead());
            pause = None;
            if is_there || state.ended {
                continue;
            }
            let connection = state.connection.as_ref();
            warn!(
                pid = connection.map(|connection| connection.keeper.pid()),
                fds = state.held.len(),
                "keeper died"
            );
            if let Err(error) = self.replace(&mut state) {
                error!(%error, "could not replace the keeper: a restart would lose everything");
                pause = Some(PAUSE);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is held is changed in one step, and a connection out of step is replaced.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
