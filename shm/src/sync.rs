//! The one facade over atomics. Every word of this crate goes through it, so that loom can put
//! its own atomics in their place and explore every interleaving of the transitions.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, Ordering, fence};
/// The shared word. An alias, since the lint that points everybody here sees through re-exports.
#[cfg(not(loom))]
#[expect(clippy::disallowed_types, reason = "this is the facade")]
pub type AtomicU64 = core::sync::atomic::AtomicU64;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Loads with Acquire, in a way that is allowed in a read-only mapping: only Relaxed loads are
/// guaranteed there ("Atomic accesses to read-only memory" in `core::sync::atomic`), and a fence
/// behind one orders as much.
pub(crate) fn load_acquire(word: &AtomicU64) -> u64 {
    let value = word.load(Ordering::Relaxed);
    // ORDERING: Acquire; pairs with whatever Release wrote the value just loaded.
    fence(Ordering::Acquire);
    value
}
