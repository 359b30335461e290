//! The watchdog: the manager ends a daemon that it does not hear from. A timer alone would say
//! "alive" for a daemon that answers nobody, so each message goes the way of a call: a task of the
//! runtime, a thread for blocking work, every lock of the core.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Status;
use crate::core::Core;

/// Tells the manager that the daemon lives, twice in the time that it waits for that, until
/// `stop`.
pub(crate) async fn watch(
    status: Status,
    patience: Duration,
    core: Arc<Core>,
    stop: CancellationToken,
) {
    let telling = async {
        let mut turns = interval((patience / 2).max(Duration::from_millis(1)));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let (status, core) = (status.clone(), Arc::clone(&core));
            let look = move || {
                core.pass_all_locks();
                status.alive();
            };
            // While this one waits there is no other. A panic has been said already.
            let _ = tokio::task::spawn_blocking(look).await;
        }
    };
    stop.run_until_cancelled(telling).await;
}
