//! The one facade over atomics. Every word of this crate goes through it, so that others can put
//! theirs in their place: loom's explore every interleaving of the transitions, and those of
//! `crash.rs` stop an operation at any write and leave it there.

#[cfg(all(loom, crash))]
compile_error!("loom explores interleavings, crash stops at writes: choose one");

/// Of this process alone: no crash of it leaves them to others.
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr};
#[cfg(not(any(loom, crash)))]
pub use core::sync::atomic::{AtomicU32, Ordering, fence};
/// The shared word. An alias, since the lint that points everybody here sees through re-exports.
#[cfg(not(any(loom, crash)))]
#[expect(clippy::disallowed_types, reason = "this is the facade")]
pub type AtomicU64 = core::sync::atomic::AtomicU64;
#[cfg(crash)]
pub use crate::crash::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicBool;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The frequent side of an asymmetric pair of fences: with [`heavy_fence`] on the other side it
/// orders what a SeqCst fence on both sides would.
#[inline]
pub(crate) fn light_fence() {
    // ORDERING: for the compiler; `heavy_fence` sees to the processors.
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst); // ORDERING: pairs with the one in `heavy_fence`
}

/// The rare side: costs a system call, and an interrupt on every processor that runs a thread of
/// this process.
pub(crate) fn heavy_fence() {
    #[cfg(not(loom))]
    crate::os::membarrier::interrupt_all();
    #[cfg(loom)]
    fence(Ordering::SeqCst); // ORDERING: pairs with the one in `light_fence`
}

/// Loads with Acquire, in a way that is allowed in a read-only mapping: only Relaxed loads are
/// guaranteed there ("Atomic accesses to read-only memory" in `core::sync::atomic`), and a fence
/// behind one orders as much.
#[inline]
pub(crate) fn load_acquire(word: &AtomicU64) -> u64 {
    let value = word.load(Ordering::Relaxed);
    // ORDERING: Acquire; pairs with whatever Release wrote the value just loaded.
    fence(Ordering::Acquire);
    value
}
