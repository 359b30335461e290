//! What a machine does not let a test do is said aloud.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Says what was not checked, past the test runner's capture.
pub fn skip(what: &str, why: &str) {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED, not checked: {what} ({why})");
}

/// Returns whether this process may become other users and mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until no other test that uses it is running: for those that measure a time or keep
/// both CPUs busy.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that the next one minds.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
