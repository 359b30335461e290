//! Counts who uses a thing, beside who merely keeps it. The I/O thread keeps sessions and pools
//! alive until their blocks are gone; users are those who could still ask something of them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use goumem_shm::os::fork::Born;

/// A thing that counts its users.
pub(crate) trait CountsUsers {
    /// Returns the count.
    fn users(&self) -> &AtomicUsize;

    /// Returns in which process it was made.
    fn born(&self) -> Born;

    /// Hears that the last user has gone. Others may come: whoever acts on it looks again.
    fn last_user_gone(&self);
}

/// A user's reference.
pub(crate) struct InUse<T: CountsUsers>(Arc<T>);

impl<T: CountsUsers> InUse<T> {
    /// Makes one more user.
    pub(crate) fn new(thing: Arc<T>) -> Self {
        // ORDERING: Relaxed, as Arc's: a new user comes from an old one, or from a block, whose
        // span the closing side looks at after the count.
        thing.users().fetch_add(1, Ordering::Relaxed);
        Self(thing)
    }

    /// Returns the reference beneath.
    pub(crate) fn arc(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: CountsUsers> Clone for InUse<T> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl<T: CountsUsers> Deref for InUse<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: CountsUsers> Drop for InUse<T> {
    fn drop(&mut self) {
        // ORDERING: AcqRel: what users did happens before what is done when the last has gone.
        // In a forked child the count is a copy, and the thread that would hear of it is not here.
        if self.0.users().fetch_sub(1, Ordering::AcqRel) == 1 && !self.0.born().is_elsewhere() {
            self.0.last_user_gone();
        }
    }
}

impl<T: CountsUsers + fmt::Debug> fmt::Debug for InUse<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
