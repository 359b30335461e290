//! `membarrier(2)`: one thread has all others of the process pass a memory fence, so that these
//! need none of their own. The kernel has it from 4.14 on, unless a seccomp filter forbids it.

use rustix::thread::{MembarrierCommand, membarrier};

use super::fork;
use crate::sync::{AtomicU64, Ordering};

/// What came of it, in bit 0, and above it how many forks from the first process, plus one: 0
/// before the first time. A lock that is held while another thread forks would be held in the
/// child for ever.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Registers the process, the first time. Returns whether `interrupt_all` does what it should.
pub(crate) fn register() -> bool {
    let process = (u64::from(fork::count()) + 1) << 1;
    let known = REGISTERED.load(Ordering::Relaxed);
    if known & !1 == process {
        return known & 1 != 0;
    }
    // The second call is the one that counts later: a filter may let through the first alone.
    let works = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok();
    REGISTERED.store(process | u64::from(works), Ordering::Relaxed);
    works
}

/// Has every other thread of this process pass a fence. Only where `register` said so.
///
/// # Panics
/// When a filter that was put in place since then forbids it: to go on without the fence could
/// hand a block out twice.
#[cold]
pub(crate) fn interrupt_all() {
    let outcome = membarrier(MembarrierCommand::PrivateExpedited);
    outcome.expect("membarrier(2) was allowed when this process began to use goumem");
}
