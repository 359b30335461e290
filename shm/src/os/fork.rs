//! Knows when this process is a fork of the one that made something. Shared memory is not
//! inherited (`MADV_DONTFORK`), so a child must not touch what its parent mapped, and must not
//! send on its parent's connections. What it makes itself is its own.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
/// How many forks lie between the process that began to count and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);
static ON_CHILD: OnceLock<fn()> = OnceLock::new();

/// In which process something was made, of this one and those that it descends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Born(u32);

impl Born {
    /// Returns that it is this one.
    #[inline]
    pub fn here() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Returns whether this process is a child of that one, or a child's child.
    #[inline]
    pub fn is_elsewhere(self) -> bool {
        self != Self::here()
    }
}

/// Returns how many forks lie between the process that called [`install`] first and this one.
pub fn count() -> u32 {
    Born::here().0
}

/// Begins to watch for forks. Repeating it does nothing.
///
/// # Errors
///
/// `ENOMEM`.
pub fn install() -> io::Result<()> {
    INSTALLED
        .get_or_init(|| {
            // SAFETY: `in_child` may run in the child of a fork of a multi-threaded process: it
            // stores to an atomic and calls a function of which `on_child` demands the same.
            match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
                0 => Ok(()),
                errno => Err(errno),
            }
        })
        .map_err(io::Error::from_raw_os_error)
}

/// Has `hook` called in each forked child, on its one thread, before `fork` returns there. The
/// first call counts; returns whether this was it.
///
/// Other threads' locks stay locked for ever in a child. The hook must not allocate, lock, or
/// wait: clearing a const-initialised thread-local is what it is for.
pub fn on_child(hook: fn()) -> bool {
    ON_CHILD.set(hook).is_ok()
}

extern "C" fn in_child() {
    // It has one thread now.
    FORKS.store(
        FORKS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
    // So that allocs and frees of what was inherited leave their short way, on which nobody asks
    // where it was made.
    crate::agent::forget_token();
    if let Some(hook) = ON_CHILD.get() {
        hook();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    static HOOK_RAN: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn forked_child_knows_what_it_is_and_the_parent_does_not() {
        install().unwrap();
        install().unwrap();
        assert!(on_child(|| HOOK_RAN.store(1, Ordering::Relaxed)));
        assert!(!on_child(|| ()));
        let born = Born::here();
        let mut command = Command::new("true");
        let look = move || {
            let knows = born.is_elsewhere() && !Born::here().is_elsewhere();
            if knows && HOOK_RAN.load(Ordering::Relaxed) == 1 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EPROTO))
            }
        };
        // SAFETY: `look` only loads atomics, and makes an error without allocating.
        unsafe { command.pre_exec(look) };
        assert!(command.status().unwrap().success());
        assert!(!born.is_elsewhere());
        assert_eq!(HOOK_RAN.load(Ordering::Relaxed), 0);
    }
}
