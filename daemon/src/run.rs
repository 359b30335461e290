//! The life of one daemon, from bound sockets to the end of its last call. It owns all its state,
//! so two of them may live in one process.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_proto::model::Happening;
use goumem_shm::os::paths::keeper_socket_path;
use goumem_shm::os::reaper::DeathWatch;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::config::{Config, Keeper};
use crate::core::{Core, DeclareError, Wires};
use crate::events::About;
use crate::fd_store::{FdStore, Kept};
use crate::http::{Http, Stage};
use crate::keeper::{KeeperStore, Launch};
use crate::listen::{self, Listeners, PeerStream, Tcp};
use crate::reaper::Reaper;
use crate::root::RootError;
use crate::service::{self, Edge, Gate, Routes, SERVICES};
use crate::systemd::{self, ServiceManager, Status};
use crate::{fd_server, reload, ticker};

#[cfg(test)]
mod tests;

/// How long a connection that has been cut off may take to notice.
const CUT_OFF: Duration = Duration::from_secs(1);

/// Why a daemon could not run, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The OS refused something at the start.
    #[error("could not {doing}")]
    Os {
        /// What was being done, as a verb.
        doing: &'static str,
        /// What the OS said.
        source: io::Error,
    },
    /// What an earlier daemon left could not be taken over.
    #[error("could not take over from an earlier daemon")]
    Root(#[from] RootError),
    /// A pool of the configuration is not there and cannot be.
    #[error(transparent)]
    Declared(#[from] DeclareError),
    /// The gRPC server failed.
    #[error("gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
}

impl RunError {
    fn os(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { doing, source }
    }
}

/// Serves until `shutdown`, then lets the calls under way end within the configured deadline.
///
/// # Errors
///
/// Any [`RunError`]. The sockets are gone then as well.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let shutdown = Shutdown {
        begin: shutdown,
        forget: CancellationToken::new(),
    };
    // Nobody will send another one.
    let (_, configs) = watch::channel(Arc::new(config));
    run_until(configs, listeners, shutdown).await
}

/// How a daemon is ended.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Ends it, in order.
    pub begin: CancellationToken,
    /// Cancelled before: leaves nothing to the next daemon, whatever the configuration says.
    pub forget: CancellationToken,
}

/// As [`run`], for callers who may change their mind about what is kept, or about limits and
/// declared pools: each configuration that comes after the first is taken over as far as a running
/// daemon can.
///
/// # Errors
///
/// As [`run`].
pub async fn run_until(
    configs: watch::Receiver<Arc<Config>>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    run_under(configs, listeners, shutdown, ServiceManager::default()).await
}

/// As [`run_until`], started by a service manager.
///
/// # Errors
///
/// As [`run`].
pub async fn run_under(
    configs: watch::Receiver<Arc<Config>>,
    listeners: Listeners,
    shutdown: Shutdown,
    mut manager: ServiceManager,
) -> Result<(), RunError> {
    let config = Arc::clone(&configs.borrow());
    let (socket, fd_socket) = (
        listeners.socket().to_owned(),
        listeners.fd_socket().to_owned(),
    );
    let (tcp_address, http_place) = (listeners.tcp_address(), listeners.http());
    let Listeners {
        grpc,
        fd,
        tcp,
        http,
        files,
    } = listeners;
    let grpc = UnixListener::from_std(grpc).map_err(RunError::os("use the gRPC socket"))?;
    let fd = UnixListener::from_std(fd).map_err(RunError::os("use the fd socket"))?;
    let tcp = tcp
        .map(|Tcp { listener, access }| {
            TcpListener::from_std(listener).map(|listener| Tcp { listener, access })
        })
        .transpose()
        .map_err(RunError::os("use the TCP socket"))?;

    // Ends everything that is still at work, also when this future is dropped.
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    let status = manager.status();
    // Before all that may take long, so that it can be told how long.
    let http = Http::start(http, &ended).map_err(RunError::os("use the HTTP socket"))?;
    let kept = open_store(&config, &mut manager).await?;
    let store = Arc::clone(&kept.store);
    let background = status
        .starting(Background::start(&config, &fd_socket, kept, &ended))
        .await?;
    background.tasks.spawn(reload::follow(
        configs,
        Arc::clone(&background.core),
        tcp.as_ref().map(|tcp| Arc::clone(&tcp.access)),
        ended.clone(),
    ));
    background.tasks.spawn(fd_server::serve(
        fd,
        Arc::clone(&background.core),
        ended.clone(),
        background.tasks.clone(),
    ));
    if let Some(patience) = manager.watchdog() {
        let core = Arc::clone(&background.core);
        let watching = systemd::watch(status.clone(), patience, core, ended.clone());
        background.tasks.spawn(watching);
    }
    let incoming = listen::incoming(
        grpc,
        tcp,
        config.max_connections,
        background.core.hub(),
        &ended,
    );
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        fd_socket = %fd_socket.display(),
        tcp = tcp_address.map(tracing::field::display),
        http = http_place,
        "serving"
    );
    let core = Arc::clone(&background.core);
    let served = serve(
        core,
        incoming,
        &config,
        shutdown.begin,
        &ended,
        &http,
        &status,
    )
    .await;
    ended.cancel();
    http.end().await;
    let keep = config.keep_on_exit && !shutdown.forget.is_cancelled();
    background.end(store, keep).await;
    drop(files);
    info!("ended");
    Ok(served?)
}

/// Serves gRPC until `shutdown`, then drains: no more calls, events and waits end, and what is
/// left has until the deadline.
async fn serve(
    core: Arc<Core>,
    incoming: impl Stream<Item = Result<PeerStream, Infallible>>,
    config: &Config,
    shutdown: CancellationToken,
    ended: &CancellationToken,
    http: &Http,
    status: &Status,
) -> Result<(), tonic::transport::Error> {
    let health = HealthReporter::new();
    set_health(&health, ServingStatus::Serving).await;
    http.tell(Stage::Serving(Arc::clone(&core)));
    let edge = Edge {
        core: Arc::clone(&core),
        draining: CancellationToken::new(),
    };
    let mut serving = pin!(service::server().serve_with_incoming_shutdown(
        Gate::new(
            Routes::new(&edge, health.clone()),
            config.tcp_options.max_calls,
        ),
        incoming,
        edge.draining.cancelled(),
    ));
    // Polled first, so that calls are answered when the manager is told so.
    tokio::select! {
        biased;
        served = &mut serving => return served,
        () = async { status.ready("serving") } => {}
    }
    tokio::select! {
        served = &mut serving => return served,
        () = shutdown.cancelled() => {}
    }
    let deadline = config.drain_deadline;
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    info!(deadline_ms, "draining");
    status.stopping(deadline);
    set_health(&health, ServingStatus::NotServing).await;
    http.tell(Stage::Draining);
    edge.draining.cancel();
    core.announce_shutdown(deadline);
    core.end_streams();
    if let Ok(served) = timeout(deadline, &mut serving).await {
        info!("drained: every call has ended");
        return served;
    }
    warn!("deadline has passed: cutting off the calls that are left");
    ended.cancel();
    timeout(CUT_OFF, serving).await.unwrap_or(Ok(()))
}

/// The core, and what works for it unasked.
#[derive(Debug)]
struct Background {
    core: Arc<Core>,
    reaper: Reaper,
    tasks: TaskTracker,
}

impl Background {
    async fn start(
        config: &Config,
        fd_socket: &Path,
        kept: Kept,
        ended: &CancellationToken,
    ) -> Result<Self, RunError> {
        let watch = Arc::new(DeathWatch::new().map_err(RunError::os("watch for deaths"))?);
        let earlier = Arc::new(Notify::new());
        let store = Arc::clone(&kept.store);
        // Opens what an earlier daemon has left, which may be a lot.
        let starting = {
            let wires = Wires {
                watch: Arc::clone(&watch),
                earlier: Arc::clone(&earlier),
            };
            let fd_socket = fd_socket.display().to_string();
            let (limits, pools) = (config.limits.clone(), config.pools.clone());
            let store = Arc::clone(&store);
            move || {
                let core = Core::start(limits, Some(fd_socket), wires, kept, Instant::now())?;
                let declare = |pool| core.declare(pool, Instant::now());
                pools.iter().try_for_each(declare).inspect_err(|_| {
                    // Nobody has seen this daemon: all stays for the next one.
                    if store.keeps() {
                        core.leave();
                    }
                })?;
                Ok::<_, RunError>(core)
            }
        };
        let core = tokio::task::spawn_blocking(starting)
            .await
            .map_err(|panicked| RunError::os("start the core")(io::Error::other(panicked)))??;
        let core = Arc::new(core);
        let hub = Arc::clone(core.hub());
        store.on_replaced(Box::new(move || {
            hub.tell(About::Operators, Happening::KeeperReplaced, Instant::now());
        }));
        let bury = {
            let core = Arc::clone(&core);
            move |serial, now| core.session_died(serial, now)
        };
        let reaper = Reaper::start(watch, bury).map_err(RunError::os("start the reaper"))?;
        let tasks = TaskTracker::new();
        tasks.spawn(ticker::run(Arc::clone(&core), earlier, ended.clone()));
        Ok(Self {
            core,
            reaper,
            tasks,
        })
    }

    /// Waits until all of it has ended, and lets go of the pools; with `keep` the next daemon finds
    /// them again.
    async fn end(self, store: Arc<dyn FdStore>, keep: bool) {
        self.tasks.close();
        self.tasks.wait().await;
        // The reaper may be at a sweep, and unmapping takes its time too. A panic there has been
        // said already.
        let (reaper, core) = (self.reaper, self.core);
        let ending = move || {
            drop(reaper);
            if keep && store.keeps() && core.has_anything() {
                core.leave();
                info!("pools and sessions are kept for the next daemon; goumemd --drop ends them");
            } else {
                store.end();
            }
            drop(core);
        };
        let _ = tokio::task::spawn_blocking(ending).await;
    }
}

/// Finds or makes the place where fds outlive this daemon.
async fn open_store(config: &Config, manager: &mut ServiceManager) -> Result<Kept, RunError> {
    let (notifier, fds) = manager.take_store();
    let (program, args) = match (&config.keeper, notifier) {
        (Keeper::Systemd(store), Some(notifier)) => {
            return Ok(Kept {
                store: Arc::new(store.open(notifier, &fds)),
                fds,
            });
        }
        (Keeper::Systemd(_), None) => {
            let why = io::Error::new(io::ErrorKind::NotConnected, "NOTIFY_SOCKET is not set");
            return Err(RunError::os("use the service manager's fd store")(why));
        }
        (Keeper::None | Keeper::Process { .. }, _) if !fds.is_empty() => {
            let why = format!(
                "service manager holds {} fds of an earlier daemon",
                fds.len()
            );
            let why = io::Error::new(io::ErrorKind::InvalidInput, why);
            return Err(RunError::os(
                "start without the fd store; stop the service to give up what is in it, and start it again",
            )(why));
        }
        (Keeper::None, _) => return Ok(Kept::nothing()),
        (Keeper::Process { program, args }, _) => (program, args),
    };
    let launch = Launch {
        program: program.clone(),
        args: args.clone(),
        socket: keeper_socket_path(&config.socket)
            .map_err(|error| RunError::os("find the keeper")(io::Error::other(error)))?,
    };
    let opened = tokio::task::spawn_blocking(move || KeeperStore::open(launch));
    let (store, fds) = opened
        .await
        .map_err(io::Error::other)
        .and_then(|opened| opened)
        .map_err(RunError::os("start the keeper"))?;
    Ok(Kept {
        store: Arc::new(store),
        fds,
    })
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    // The empty name is the daemon as a whole.
    for service in SERVICES.into_iter().chain([""]) {
        health.set_service_status(service, status).await;
    }
}
