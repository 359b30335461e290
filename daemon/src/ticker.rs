//! The only clock of the daemon: it sleeps until the core has something due (free memory to give
//! back, a remote session to expire), and for ever when it has not. An idle daemon never wakes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// The shortest time between two ticks, so that work which cannot be done is not tried at full
/// speed.
const PAUSE: Duration = Duration::from_millis(10);

/// Ticks until `stop`. `earlier` tells that something has become due before what was known.
pub(crate) async fn run(core: Arc<Core>, earlier: Arc<Notify>, stop: CancellationToken) {
    let ticking = async {
        loop {
            let due = core.next_deadline();
            tokio::select! {
                () = sleep_until(due) => {
                    tick(&core).await;
                    tokio::time::sleep(PAUSE).await;
                }
                () = earlier.notified() => {}
            }
        }
    };
    stop.run_until_cancelled(ticking).await;
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Purging and sweeping touch many pages.
async fn tick(core: &Arc<Core>) {
    let core = Arc::clone(core);
    // A panic has been said already, and the next tick may fare better.
    let _ = tokio::task::spawn_blocking(move || core.tick(Instant::now())).await;
}
