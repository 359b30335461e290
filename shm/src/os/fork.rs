//! Knows when this process is a fork of the one that set goumem up. Shared memory is not
//! inherited (`MADV_DONTFORK`), so the child must not touch what its parent mapped, and must not
//! send on its parent's connections.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
static IN_CHILD: AtomicBool = AtomicBool::new(false);
static ON_CHILD: OnceLock<fn()> = OnceLock::new();

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

/// Returns whether this process is a forked child of the one that called [`install`].
#[inline]
pub fn in_child_of_init() -> bool {
    IN_CHILD.load(Ordering::Relaxed)
}

extern "C" fn in_child() {
    IN_CHILD.store(true, Ordering::Relaxed);
    // So that allocs and frees leave their short way, on which nobody asks whether this is a child.
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

    static HOOK_RAN: AtomicBool = AtomicBool::new(false);

    #[test]
    fn forked_child_knows_what_it_is_and_the_parent_does_not() {
        install().unwrap();
        install().unwrap();
        assert!(on_child(|| HOOK_RAN.store(true, Ordering::Relaxed)));
        assert!(!on_child(|| ()));
        let mut command = Command::new("true");
        let look = || {
            let knows = in_child_of_init() && HOOK_RAN.load(Ordering::Relaxed);
            if knows {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EPROTO))
            }
        };
        // SAFETY: `look` only loads atomics, and makes an error without allocating.
        unsafe { command.pre_exec(look) };
        assert!(command.status().unwrap().success());
        assert!(!in_child_of_init());
        assert!(!HOOK_RAN.load(Ordering::Relaxed));
    }
}
