//! Waiting for a condition, never for a time.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes, also on a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How soon what a dead process held must be free again.
pub const SOON: Duration = Duration::from_secs(1);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(2);

/// Waits until `is_so`; returns how long that took.
///
/// # Panics
/// When it is not so within the deadline.
pub fn eventually(deadline: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        // Before the look, so that a slow look is not held against the condition.
        let elapsed = start.elapsed();
        if is_so() {
            return elapsed;
        }
        assert!(
            elapsed < deadline,
            "not within {deadline:?}, but should be: {what}"
        );
        thread::sleep(STEP);
    }
}

/// Waits for a future, at most [`PATIENCE`].
///
/// # Panics
/// When it takes longer.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it takes no time")
}
