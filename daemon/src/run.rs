//! The life of one daemon, from bound sockets to the end of its last call. It owns all its state,
//! so two of them may live in one process.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_shm::os::reaper::DeathWatch;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::config::{Config, Limits};
use crate::core::Core;
use crate::listen::{self, Listeners};
use crate::reaper::Reaper;
use crate::service::{self, Edge, Routes, SERVICES};
use crate::{fd_server, ticker};

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
    let (socket, fd_socket) = (listeners.socket().to_owned(), listeners.fd_socket().to_owned());
    let tcp_address = listeners.tcp_address();
    let Listeners {
        grpc,
        fd,
        tcp,
        files,
    } = listeners;
    let grpc = UnixListener::from_std(grpc).map_err(RunError::os("use the gRPC socket"))?;
    let fd = UnixListener::from_std(fd).map_err(RunError::os("use the fd socket"))?;
    let tcp = tcp
        .map(TcpListener::from_std)
        .transpose()
        .map_err(RunError::os("use the TCP socket"))?;

    let background = Background::start(config.limits, fd_socket.display().to_string()).await?;
    background.spawn(fd_server::serve(
        fd,
        Arc::clone(&background.core),
        background.stop.clone(),
        background.tasks.clone(),
    ));

    let health = HealthReporter::new();
    set_health(&health, ServingStatus::Serving).await;
    // Two tokens, for the two halves of an end: take no more calls, and cut off what is left.
    let (draining, cut_off) = (CancellationToken::new(), CancellationToken::new());
    let edge = Edge {
        core: Arc::clone(&background.core),
        draining: draining.clone(),
    };
    let incoming = listen::incoming(grpc, tcp, config.max_connections, &cut_off);
    let mut serving = pin!(service::server().serve_with_incoming_shutdown(
        Routes::new(&edge, health.clone()),
        incoming,
        draining.cancelled(),
    ));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        fd_socket = %fd_socket.display(),
        tcp = tcp_address.map(tracing::field::display),
        "serving"
    );

    let served = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            info!(deadline = ?config.drain_deadline, "draining");
            set_health(&health, ServingStatus::NotServing).await;
            background.core.announce_shutdown(config.drain_deadline);
            background.core.end_event_streams();
            draining.cancel();
            match timeout(config.drain_deadline, &mut serving).await {
                Ok(ended) => {
                    info!("drained: every call has ended");
                    ended
                }
                Err(_late) => {
                    warn!("deadline has passed: cutting off the calls that are left");
                    cut_off.cancel();
                    timeout(CUT_OFF, &mut serving).await.unwrap_or(Ok(()))
                }
            }
        }
    };
    cut_off.cancel();
    background.end().await;
    drop(files);
    info!("ended");
    Ok(served?)
}

/// The core, and what works for it unasked.
#[derive(Debug)]
struct Background {
    core: Arc<Core>,
    reaper: Reaper,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Background {
    async fn start(limits: Limits, fd_socket: String) -> Result<Self, RunError> {
        let watch = DeathWatch::new().map_err(RunError::os("watch for deaths"))?;
        let watch = Arc::new(watch);
        let earlier = Arc::new(Notify::new());
        // Opens what an earlier daemon has left, which may be a lot.
        let starting = {
            let (watch, earlier) = (Arc::clone(&watch), Arc::clone(&earlier));
            move || Core::new(limits, Some(fd_socket), watch, earlier, Instant::now())
        };
        let core = tokio::task::spawn_blocking(starting)
            .await
            .map_err(|panicked| RunError::os("start the core")(io::Error::other(panicked)))?;
        let core = Arc::new(core);
        let bury = {
            let core = Arc::clone(&core);
            move |serial, now| core.session_died(serial, now)
        };
        let reaper = Reaper::start(watch, bury).map_err(RunError::os("start the reaper"))?;
        let background = Self {
            core: Arc::clone(&core),
            reaper,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        background.spawn(ticker::run(core, earlier, background.stop.clone()));
        Ok(background)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends all of it, and lets go of the core.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Waits for the thread, which may be at a sweep; and the last one out unmaps the pools.
        let (reaper, core) = (self.reaper, self.core);
        let _ = tokio::task::spawn_blocking(move || drop((reaper, core))).await;
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    // The empty name is the daemon as a whole.
    for service in SERVICES.into_iter().chain([""]) {
        health.set_service_status(service, status).await;
    }
}
