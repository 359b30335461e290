//! Waiting for the end of a session: what the drop of a client with an embedded daemon does, which
//! would otherwise leave its sockets behind when the program ends. Others do not wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::session::lock;

/// How long the drop of a client waits for its embedded daemon to end.
const MAX_END: Duration = Duration::from_secs(5);

/// How far a session is with its end.
#[derive(Debug)]
pub(crate) struct End {
    waits: bool,
    next_look: AtomicUsize,
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl End {
    pub(crate) fn new(waits: bool) -> Self {
        Self {
            waits,
            next_look: AtomicUsize::new(1),
            state: Mutex::new((false, 0)),
            changed: Condvar::new(),
        }
    }

    /// Returns the number of the next look.
    pub(crate) fn next_look(&self) -> usize {
        self.next_look.fetch_add(1, Ordering::Relaxed)
    }

    /// Says that the thread has ended.
    pub(crate) fn ended(&self) {
        lock(&self.state).0 = true;
        self.changed.notify_all();
    }

    /// Says that a look did not end the session.
    pub(crate) fn looked(&self, look: usize) {
        let mut state = lock(&self.state);
        state.1 = state.1.max(look);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the thread has ended, or the look has found something alive.
    pub(crate) fn wait_for(&self, look: usize) {
        if !self.waits {
            return;
        }
        let waiting = |&mut (ended, looked): &mut (bool, usize)| !ended && looked < look;
        // It says whether time is up, which changes nothing.
        let _ = self
            .changed
            .wait_timeout_while(lock(&self.state), MAX_END, waiting)
            .unwrap_or_else(PoisonError::into_inner);
    }
}
