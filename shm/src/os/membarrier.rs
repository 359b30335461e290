//! `membarrier(2)`: one thread has all others of the process pass a memory fence, so that these
//! need none of their own. The kernel has it from 4.14 on, unless a seccomp filter forbids it.

use std::sync::LazyLock;

use rustix::thread::{MembarrierCommand, membarrier};

static REGISTERED: LazyLock<bool> = LazyLock::new(|| {
    // The second call is the one that counts later: a filter may let through the first alone.
    membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
});

/// Registers the process, the first time. Returns whether `interrupt_all` does what it should.
pub(crate) fn register() -> bool {
    *REGISTERED
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
