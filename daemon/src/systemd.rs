//! The service manager that started the daemon, systemd or one that speaks like it: what it hands
//! over at the start (listening sockets, and the fds that an earlier daemon stored), and what it is
//! told while the daemon lives (`sd_notify(3)`). The program reads it from the environment once, as
//! a [`ServiceManager`], and passes that on as a value; without a manager all of it does nothing.
//! The variables stay in this process's environment, since taking them out is not thread-safe;
//! what the daemon starts is started without them (`VARIABLES`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use goumem_shm::os::inherited::take_inherited;
use goumem_shm::os::keep_frame::FdName;
use rustix::fs::{FileType, fstat};
use sd_notify::NotifyState;
use tracing::warn;

pub(crate) mod notifier;
mod sockets;
#[cfg(test)]
mod tests;
mod watchdog;

use notifier::Notifier;
pub use sockets::{ActivatedSockets, ActivationError};
pub(crate) use watchdog::watch;

/// What a manager puts into the environment for this process alone.
pub(crate) const VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "FDSTORE",
];

/// More fds than the kernel lets a process have (`fs.nr_open`), unless somebody has raised that.
const MAX_INHERITED: usize = 1 << 20;
/// While the daemon takes over from an earlier one it says so in such steps, each good for
/// `START_GRANT`.
const START_STEP: Duration = Duration::from_secs(10);
const START_GRANT: Duration = Duration::from_secs(30);
/// A start that takes longer than this has hung.
const MAX_START_STEPS: u32 = 60;
/// What the end takes beyond the drain: cutting off calls, unmapping.
const END_GRANT: Duration = Duration::from_secs(10);

/// What the environment says of a service manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceEnvironment {
    /// `NOTIFY_SOCKET`: where it listens.
    pub notify_socket: Option<OsString>,
    /// `WATCHDOG_USEC`, if `WATCHDOG_PID` is this process or none: how long the daemon may be
    /// silent.
    pub watchdog: Option<Duration>,
    /// `LISTEN_FDNAMES`, one for each of the `LISTEN_FDS`, if `LISTEN_PID` is this process.
    pub names: Vec<String>,
}

impl ServiceEnvironment {
    /// Reads it. `pid` is this process.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let text = |name| variable(name)?.into_string().ok();
        let number = |name| text(name)?.parse::<u64>().ok();
        let is_us = |pid_variable| number(pid_variable) == Some(u64::from(pid));
        // Those of another process are a parent's, which it has left in the environment.
        let count = number("LISTEN_FDS").filter(|_| is_us("LISTEN_PID"));
        let count = usize::try_from(count.unwrap_or(0)).unwrap_or(MAX_INHERITED);
        let names = text("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
        // A count that cannot be is refused when the fds are taken, which are not there.
        names.resize(count.min(MAX_INHERITED), String::new());
        Self {
            notify_socket: variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            watchdog: number("WATCHDOG_USEC")
                .filter(|&usec| usec > 0)
                .filter(|_| variable("WATCHDOG_PID").is_none() || is_us("WATCHDOG_PID"))
                .map(Duration::from_micros),
            names,
        }
    }
}

/// The service manager, and what it has handed over.
#[derive(Debug, Default)]
pub struct ServiceManager {
    status: Status,
    watchdog: Option<Duration>,
    sockets: ActivatedSockets,
    stored: HashMap<FdName, OwnedFd>,
}

impl ServiceManager {
    /// Connects to the manager that the environment speaks of, if it does, and takes over the fds
    /// that this process was started with. To be called once.
    ///
    /// # Errors
    /// What the OS says of the fds or of the manager's socket.
    pub fn from_environment(environment: ServiceEnvironment) -> io::Result<Self> {
        let fds = take_inherited(std::process::id(), environment.names.len())?;
        let (mut sockets, mut stored) = (ActivatedSockets::default(), HashMap::new());
        for (name, fd) in environment.names.into_iter().zip(fds) {
            // Memory and processes are stored, sockets are not.
            if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Socket {
                sockets.add(name, fd);
            } else if let Some(name) = FdName::new(name.as_str()) {
                stored.insert(name, fd);
            } else {
                warn!(
                    name,
                    "closed an fd of the service manager: no daemon stored it"
                );
            }
        }
        let socket = environment.notify_socket;
        let notifier = socket
            .map(|socket| Notifier::connect(&socket))
            .transpose()?;
        Ok(Self {
            status: Status {
                notifier: notifier.map(Arc::new),
                serving: Arc::default(),
            },
            watchdog: environment.watchdog,
            sockets,
            stored,
        })
    }

    /// Takes the listening sockets.
    pub fn take_sockets(&mut self) -> ActivatedSockets {
        std::mem::take(&mut self.sockets)
    }

    /// Takes what an earlier daemon stored, and where to tell the manager of more; no notifier if
    /// there is no manager.
    pub(crate) fn take_store(&mut self) -> (Option<Arc<Notifier>>, HashMap<FdName, OwnedFd>) {
        (
            self.status.notifier.clone(),
            std::mem::take(&mut self.stored),
        )
    }

    /// Returns what tells the manager how the daemon is.
    pub(crate) fn status(&self) -> Status {
        self.status.clone()
    }

    /// Returns how long the daemon may be silent, if the manager wants to hear from it.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.status.notifier.is_some())
    }
}

/// Tells the manager how the daemon is. What cannot be told is logged: the daemon is no worse for
/// it, until the manager loses its patience.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    notifier: Option<Arc<Notifier>>,
    serving: Arc<AtomicBool>,
}

impl Status {
    /// Waits for the end of the start, and asks the manager for patience as long as it goes on.
    pub(crate) async fn starting<T>(&self, start: impl Future<Output = T>) -> T {
        let asking = async {
            for _ in 0..MAX_START_STEPS {
                tokio::time::sleep(START_STEP).await;
                self.tell(&[
                    NotifyState::Status("taking over from an earlier daemon"),
                    NotifyState::ExtendTimeoutUsec(microseconds(START_GRANT)),
                ]);
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            started = start => started,
            never = asking => match never {},
        }
    }

    /// Calls are answered from now on.
    pub(crate) fn ready(&self, status: &str) {
        self.serving.store(true, Ordering::Relaxed);
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The daemon ends: calls have `drain` to do so.
    pub(crate) fn stopping(&self, drain: Duration) {
        self.serving.store(false, Ordering::Relaxed);
        let patience = drain.saturating_add(END_GRANT);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status("draining"),
            NotifyState::ExtendTimeoutUsec(microseconds(patience)),
        ]);
    }

    /// The configuration is read again. The manager takes the daemon for ready again when the
    /// value is dropped, whatever came of it.
    pub(crate) fn reloading(&self) -> Reloading<'_> {
        // Before the first READY=1 the next one would be untrue, after STOPPING=1 it would be late.
        if self.is_serving() {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.tell(&[NotifyState::Reloading, now]),
                Err(error) => warn!(%error, "could not tell the service manager of a reload"),
            }
        }
        Reloading(self)
    }

    fn is_serving(&self) -> bool {
        self.notifier.is_some() && self.serving.load(Ordering::Relaxed)
    }

    fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(notifier) = &self.notifier else {
            return;
        };
        if let Err(error) = notifier.notify(states, &[]) {
            warn!(%error, ?states, "could not tell the service manager");
        }
    }
}

/// A reload under way.
#[derive(Debug)]
pub(crate) struct Reloading<'a>(&'a Status);

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        if self.0.is_serving() {
            self.0.tell(&[NotifyState::Ready]);
        }
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
