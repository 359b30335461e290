//! A lock for something that a few calls work on for long, in turns: between two turns they let
//! everybody go first who waits. A plain mutex would be theirs again before whoever waits has woken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

/// About as long as a thread takes to wake.
const A_MOMENT: Duration = Duration::from_micros(20);
/// How many moments a turn is put off, when ever more come: long work has to end as well.
const MAX_MOMENTS: u32 = 50;

/// A mutex that knows whether somebody waits for it. What was in it when a thread panicked stays
/// as it was.
#[derive(Debug, Default)]
pub(crate) struct TurnLock<T> {
    value: Mutex<T>,
    waiting: AtomicU32,
}

impl<T> TurnLock<T> {
    /// Puts a value behind a lock.
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            waiting: AtomicU32::new(0),
        }
    }

    /// Waits for the value.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.value.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Relaxed, here and below: it is a hint, and carries no data.
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let guard = self.value.lock();
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                guard.unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    /// Waits for the value, and before that, up to a millisecond, until nobody else does.
    pub(crate) fn lock_after_others(&self) -> MutexGuard<'_, T> {
        for _ in 0..MAX_MOMENTS {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            thread::sleep(A_MOMENT);
        }
        self.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Whether somebody who waited at the end of a turn had the lock before the next.
    fn has_its_turn() -> bool {
        let lock = TurnLock::new(false);
        let turn = lock.lock();
        thread::scope(|scope| {
            scope.spawn(|| *lock.lock() = true);
            while lock.waiting.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            drop(turn);
            *lock.lock_after_others()
        })
    }

    #[test]
    fn whoever_waits_comes_between_two_turns() {
        // Not if the scheduler lets it wait for longer than a turn is put off; but a mutex alone
        // would be taken again each time.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut in_a_row = 0;
        while in_a_row < 10 {
            assert!(Instant::now() < deadline, "{in_a_row} times in a row");
            in_a_row = if has_its_turn() { in_a_row + 1 } else { 0 };
        }
    }

    #[test]
    fn a_panic_leaves_the_value() {
        let lock = TurnLock::new(1);
        let panicked = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _guard = lock.lock();
                panic!("in a turn");
            });
            thread.join().is_err()
        });
        assert!(panicked);
        assert_eq!(*lock.lock(), 1);
        assert_eq!(*lock.lock_after_others(), 1);
    }
}
