//! SIGHUP: the files are read again, and a running daemon takes over what it can. What it cannot
//! is logged by key; a configuration with mistakes changes nothing.

use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, Reload, Reloaded, Reloader};
use crate::core::Core;
use crate::logging::LogHandle;
use crate::status::chain;
use crate::systemd::Status;
use crate::tls::Access;

/// Reads the configuration at each signal, sets the log's level, and sends the rest to those who
/// follow it. The service manager is told of both ends.
pub(crate) async fn at_each(
    mut hangup: Signal,
    mut reloader: Box<Reloader>,
    log: LogHandle,
    configs: watch::Sender<Arc<Config>>,
    status: Status,
) {
    while hangup.recv().await.is_some() {
        let _reloading = status.reloading();
        let reading = tokio::task::spawn_blocking(move || {
            let read = reloader.reload();
            (reloader, read)
        });
        let Ok((again, read)) = reading.await else {
            // It has panicked, which was said already.
            return;
        };
        reloader = again;
        match read {
            Ok(reloaded) => {
                report(&reloaded);
                log.set_level(reloaded.log.level);
                configs.send_replace(Arc::new(reloaded.config));
            }
            Err(ConfigError::Faults(faults)) => {
                for fault in faults.iter() {
                    error!(%fault, "configuration is wrong");
                }
                error!(
                    faults = faults.iter().count(),
                    "reload refused: nothing has changed"
                );
            }
            Err(error) => error!(error = chain(&error), "reload refused: nothing has changed"),
        }
    }
}

fn report(reloaded: &Reloaded) {
    for change in &reloaded.changes {
        let (key, from, to) = (change.key, &change.from, &change.to);
        if change.reload == Reload::AtOnce {
            info!(key, %from, %to, "configuration changed");
        } else {
            warn!(key, %from, %to, "configuration changed: needs a restart");
        }
    }
    for pool in &reloaded.pools_left {
        warn!(%pool, "pool is not declared any more, or otherwise: it stays as it is");
    }
}

/// Takes each new configuration over, until `stop`.
pub(crate) async fn follow(
    mut configs: watch::Receiver<Arc<Config>>,
    core: Arc<Core>,
    access: Option<Arc<Access>>,
    stop: CancellationToken,
) {
    let following = async {
        while configs.changed().await.is_ok() {
            let config = Arc::clone(&configs.borrow_and_update());
            let (core, access) = (Arc::clone(&core), access.clone());
            let taking = move || {
                core.reload(&config, Instant::now());
                if let Some(access) = access {
                    access.reload(Instant::now());
                }
            };
            // A panic has been said already.
            let _ = tokio::task::spawn_blocking(taking).await;
        }
    };
    stop.run_until_cancelled(following).await;
}
