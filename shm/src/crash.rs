//! Death at any write, in process: atomics that count what they write and stop at the n-th.
//!
//! [`count`] runs an operation to its end and says how many writes it makes, and from where.
//! [`stop_at`] runs it again and ends it beside one of them, as SIGKILL would: the operation is
//! unwound, and nothing that runs on the way out (a guard's drop, a retry) writes any more, until
//! the simulated process is buried. Then whoever repairs it does, and a test looks at what is
//! there. It is the countdown of redb's crash tests, put under the words instead of the file.
//!
//! ```text
//!  store shape   store word    set exported bit      (an export: three writes, six deaths)
//!  ▲         ▲   ▲        ▲    ▲             ▲
//!  before 1  after 1 …                       after 3
//! ```
//!
//! Both sides of a write are deaths of their own, since system calls (a punch, a file's end) lie
//! between two writes, and on which side of them a death falls matters.
//!
//! What counts: every store and every successful read-modify-write through [`crate::sync`]. A
//! failed exchange writes nothing. Words of private memory (the bitmaps of exported and dropped
//! blocks) count as well: they are the same type, and to end between a shared word and its private
//! bit is a death that the design talks about. Payload does not count: no transition hangs on it.
//!
//! Everything here is of one thread: the operation runs on the thread that walks it.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

pub use core::sync::atomic::{Ordering, fence};

/// Where an operation ends: beside its n-th write, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The write is not made.
    Before(u64),
    /// The write is the last.
    After(u64),
}

impl Stop {
    /// Returns every place where an operation of so many writes can end.
    pub fn all(writes: u64) -> impl Iterator<Item = Self> {
        (1..=writes).flat_map(|n| [Self::Before(n), Self::After(n)])
    }
}

/// A line of our sources that was on the way to a write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// From the workspace's root: `shm/src/slot.rs`.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u32,
}

/// What an operation writes.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// How many.
    pub count: u64,
    /// From where: of each write the line that makes it, and those that called for it.
    pub sites: BTreeSet<Site>,
}

/// What this thread does at a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Writes, and does not count.
    Off,
    Count,
    StopAt(Stop),
    /// Nothing reaches memory any more.
    Dead,
}

/// What unwinds a stopped operation.
struct Stopped;

type Interloper = (u64, Box<dyn FnOnce()>);

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Off) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static TRACES: RefCell<Vec<Backtrace>> = const { RefCell::new(Vec::new()) };
    static INTERLOPER: RefCell<Option<Interloper>> = const { RefCell::new(None) };
}

/// Runs an operation to its end; returns what it came to, and what it wrote.
pub fn count<R>(operation: impl FnOnce() -> R) -> (R, Writes) {
    let result = run(Mode::Count, operation);
    let traces = TRACES.take();
    let mut sites = BTreeSet::new();
    for trace in &traces {
        sites_of(trace, &mut sites);
    }
    let count = COUNT.get();
    match result {
        Ok(result) => (result, Writes { count, sites }),
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs an operation up to a write; `None` when it ended there, and what it came to when it made
/// fewer writes. What is left of a process that has ended has to be [buried](bury).
pub fn stop_at<R>(stop: Stop, operation: impl FnOnce() -> R) -> Option<R> {
    match run(Mode::StopAt(stop), operation) {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Stopped>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Has `interloper` run just before the n-th write of the operation that is running: what another
/// process did between two steps of this one. Its own writes do not count.
///
/// # Panics
/// When no operation is running.
pub fn interrupt(n: u64, interloper: impl FnOnce() + 'static) {
    assert!(MODE.get() != Mode::Off, "called by an operation");
    INTERLOPER.set(Some((n, Box::new(interloper))));
}

/// Drops what a dead process had in private memory. Nothing of it reaches shared memory.
pub fn bury<T>(remains: T) {
    let mode = MODE.replace(Mode::Dead);
    drop(remains);
    MODE.set(mode);
}

fn run<R>(mode: Mode, operation: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    assert!(MODE.get() == Mode::Off, "one operation at a time");
    COUNT.set(0);
    MODE.set(mode);
    let result = catch_unwind(AssertUnwindSafe(operation));
    MODE.set(Mode::Off);
    INTERLOPER.set(None);
    result
}

/// Stands before each write, `write` being the write itself.
fn at_write<R>(write: impl FnOnce() -> R, if_dead: impl FnOnce() -> R) -> R {
    let mode = MODE.get();
    if mode == Mode::Off {
        return write();
    }
    if mode == Mode::Dead {
        return if_dead();
    }
    let n = COUNT.get() + 1;
    COUNT.set(n);
    if mode == Mode::Count {
        TRACES.with_borrow_mut(|traces| traces.push(Backtrace::force_capture()));
    }
    let interloper = INTERLOPER.with_borrow_mut(|armed| armed.take_if(|armed| armed.0 == n));
    if let Some((_, interloper)) = interloper {
        MODE.set(Mode::Off);
        interloper();
        MODE.set(mode);
    }
    if mode == Mode::StopAt(Stop::Before(n)) {
        end();
    }
    let result = write();
    if mode == Mode::StopAt(Stop::After(n)) {
        end();
    }
    result
}

fn end() -> ! {
    MODE.set(Mode::Dead);
    // Not `panic!`: there is nothing to report, and the hook would.
    resume_unwind(Box::new(Stopped));
}

/// Adds the lines of this workspace that a trace goes through, but for those of this file.
fn sites_of(trace: &Backtrace, sites: &mut BTreeSet<Site>) {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_dir.parent().unwrap_or(crate_dir);
    // In its long form a trace has absolute paths: "at /…/shm/src/slot.rs:134:9".
    for line in format!("{trace:#}").lines() {
        let Some(place) = line.trim_start().strip_prefix("at ") else {
            continue;
        };
        let mut parts = place.rsplitn(3, ':');
        let (Some(_column), Some(line), Some(file)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if let (Ok(file), Ok(line)) = (Path::new(file).strip_prefix(root), line.parse())
            && file != Path::new("shm/src/crash.rs")
        {
            let file = file.to_owned();
            sites.insert(Site { file, line });
        }
    }
}

macro_rules! counted_atomics {
    ($($(#[$attribute:meta])* $name:ident: $value:ty),* $(,)?) => {$(
        $(#[$attribute])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        $(#[$attribute])*
        impl $name {
            /// As the standard library's.
            pub const fn new(value: $value) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            /// As the standard library's.
            pub fn load(&self, ordering: Ordering) -> $value {
                self.0.load(ordering)
            }

            /// A write.
            pub fn store(&self, value: $value, ordering: Ordering) {
                at_write(|| self.0.store(value, ordering), || ());
            }

            /// A write.
            pub fn swap(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.swap(value, ordering))
            }

            /// A write.
            pub fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.fetch_add(value, ordering))
            }

            /// A write.
            pub fn fetch_sub(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.fetch_sub(value, ordering))
            }

            /// A write.
            pub fn fetch_or(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.fetch_or(value, ordering))
            }

            /// A write.
            pub fn fetch_and(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.fetch_and(value, ordering))
            }

            /// A write.
            pub fn fetch_xor(&self, value: $value, ordering: Ordering) -> $value {
                self.modify(|| self.0.fetch_xor(value, ordering))
            }

            /// A write, if it succeeds. The dead are told that it did, or they would try for ever.
            ///
            /// # Errors
            /// What stood there instead.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let seen = self.0.load(failure);
                if seen != current {
                    return Err(seen);
                }
                at_write(
                    || self.0.compare_exchange(current, new, success, failure),
                    || Ok(current),
                )
            }

            /// As `compare_exchange`: it never fails for nothing, so that an operation makes the
            /// same writes each time.
            ///
            /// # Errors
            /// What stood there instead.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            fn modify(&self, write: impl FnOnce() -> $value) -> $value {
                at_write(write, || self.0.load(Ordering::Relaxed))
            }
        }
    )*};
}

counted_atomics! {
    /// A half word whose writes count.
    AtomicU32: u32,
    /// The shared word, of which every write counts.
    #[expect(clippy::disallowed_types, reason = "this is the facade")]
    AtomicU64: u64,
}

#[cfg(test)]
mod tests;
