//! A queue of handles from one process to another, in an arena that both hold: 16 bytes a handle,
//! no call, no copy of what they name. Any queue would do; this is the simplest that is fast.
#![expect(
    clippy::disallowed_types,
    reason = "the payload of an arena, not a word of goumem's"
)]

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use goumem::Handle;

/// How many messages may be under way.
pub(crate) const ROOM: usize = 64;
const ROOM_U64: u64 = ROOM as u64;

/// How long either side waits for the other before it takes it for dead.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks between two looks at the clock: some 10 µs.
const LOOKS: u32 = 1 << 12;

/// Two cache lines, which processors fetch together.
const LINE_WORDS: usize = 16;
const SENT: usize = 0;
const RECEIVED: usize = LINE_WORDS;
const HANDLES: usize = 2 * LINE_WORDS;
const WORDS: usize = HANDLES + 2 * ROOM;

/// The queue as plain words: what to allocate.
pub(crate) type Words = [u64; WORDS];
/// The queue as it is used.
pub(crate) type Shared = [AtomicU64; WORDS];

/// The side that sends. There is one at a time.
pub(crate) struct Tail<'a> {
    words: &'a Shared,
    sent: u64,
    /// As last seen: the other side's line is only looked at when there seems to be no room.
    received: u64,
}

impl<'a> Tail<'a> {
    /// Goes on where the last one ended.
    pub(crate) fn of(words: &'a Shared) -> Self {
        Self {
            words,
            sent: words[SENT].load(Ordering::Relaxed),
            received: words[RECEIVED].load(Ordering::Relaxed),
        }
    }

    /// Returns how many messages were sent ever.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits until the other side has taken note of all but [`ROOM`] messages.
    ///
    /// # Errors
    /// That it seems to be dead.
    pub(crate) fn wait_for_room(&mut self) -> anyhow::Result<()> {
        if self.sent - self.received < ROOM_U64 {
            return Ok(());
        }
        spin("no room for a message", || {
            // Acquire: what the other side has read may be overwritten.
            self.received = self.words[RECEIVED].load(Ordering::Acquire);
            (self.sent - self.received < ROOM_U64).then_some(())
        })
    }

    /// Sends a handle, after waiting for room.
    ///
    /// # Errors
    /// That the other side seems to be dead.
    pub(crate) fn send(&mut self, handle: Handle) -> anyhow::Result<()> {
        self.wait_for_room()?;
        let at = place(self.sent);
        let (high, low) = handle.to_words();
        self.words[at].store(high, Ordering::Relaxed);
        self.words[at + 1].store(low, Ordering::Relaxed);
        self.note_sent();
        Ok(())
    }

    /// Counts a message that went another way.
    pub(crate) fn note_sent(&mut self) {
        self.sent += 1;
        // Release: the handle, and the bytes of its block, are there before it can be received.
        self.words[SENT].store(self.sent, Ordering::Release);
    }
}

/// The side that receives. There is one at a time.
pub(crate) struct Head<'a> {
    words: &'a Shared,
    received: u64,
    sent: u64,
}

impl<'a> Head<'a> {
    /// Goes on where the last one ended.
    pub(crate) fn of(words: &'a Shared) -> Self {
        let received = words[RECEIVED].load(Ordering::Relaxed);
        Self {
            words,
            received,
            sent: received,
        }
    }

    /// Returns how many messages were received ever.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Waits for a handle.
    ///
    /// # Errors
    /// That none comes; that it is none.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Handle> {
        if self.sent == self.received {
            let received = self.received;
            self.sent = spin("no message", || {
                // Acquire: pairs with the Release of `note_sent`.
                let sent = self.words[SENT].load(Ordering::Acquire);
                (sent > received).then_some(sent)
            })?;
        }
        let at = place(self.received);
        let high = self.words[at].load(Ordering::Relaxed);
        let low = self.words[at + 1].load(Ordering::Relaxed);
        self.note_received();
        Ok(Handle::from_words(high, low)?)
    }

    /// Counts a message that came another way.
    pub(crate) fn note_received(&mut self) {
        self.received += 1;
        // Release: the handle was read before its place may be overwritten.
        self.words[RECEIVED].store(self.received, Ordering::Release);
    }
}

/// Where a message's handle lies.
fn place(n: u64) -> usize {
    HANDLES + 2 * usize::try_from(n % ROOM_U64).expect("below 64")
}

/// Looks until there is something.
///
/// # Errors
/// That there is nothing for ten seconds.
pub(crate) fn spin<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let mut since = None;
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Ok(found);
            }
            spin_loop();
        }
        // Where both have one processor, the other one needs it now.
        std::thread::yield_now();
        let since = since.get_or_insert_with(Instant::now);
        ensure!(since.elapsed() < PATIENCE, "{what} for {PATIENCE:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_arrive_in_order_and_none_is_overwritten() {
        let words: Shared = std::array::from_fn(|_| AtomicU64::new(0));
        let handle = |n: u64| Handle::from_words(1 << 32, n << 4 | 1).unwrap();
        let n = 10 * ROOM_U64;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut tail = Tail::of(&words);
                for i in 1..=n {
                    tail.send(handle(i)).unwrap();
                }
            });
            let mut head = Head::of(&words);
            for i in 1..=n {
                assert_eq!(head.receive().unwrap(), handle(i));
            }
        });
        assert_eq!(Tail::of(&words).sent(), Head::of(&words).received());
    }
}
