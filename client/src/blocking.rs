//! The same without `.await`: for programs without an executor, and for code that may not wait
//! asynchronously. It works on any thread, also on one that runs an executor's tasks (which it
//! holds up, as any blocking call would).
//!
//! [`Block`](crate::Block), [`Shared`](crate::Shared), [`View`](crate::View) and the others are
//! the same types; [`wait`] runs what they have of async methods.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

mod arena;
mod client;
mod pool;
mod remote;

pub use arena::{Arena, ArenaPool};
pub use client::{Client, ClientBuilder, Watch};
pub use pool::Pool;
pub use remote::{RemoteArenaPool, RemoteClient, RemoteClientBuilder, RemotePool};

/// Runs a future of this library on the calling thread until it is done.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let shared = pool.alloc_value(1_u64)?.share()?;
/// let handle = blocking::wait(shared.keep())?;
/// # Ok::<(), goumem::Error>(())
/// ```
pub fn wait<F: Future>(future: F) -> F::Output {
    let parked = Arc::new(Parked {
        thread: thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&parked));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        // ORDERING: Acquire; pairs with the Release in `wake`: the next poll sees what was done
        // before it. The thread may be unparked by anybody, so that alone says nothing.
        while !parked.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDERING: Release; pairs with the Acquire in `wait`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_is_polled_again_only_when_it_was_woken() {
        let mut polls = 0;
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        let waking = thread::spawn(move || {
            let waker = receiver.recv().unwrap();
            waker.wake();
        });
        // An unpark that is not a wake must not count.
        thread::current().unpark();
        wait(std::future::poll_fn(|context| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            sender.send(context.waker().clone()).unwrap();
            Poll::Pending
        }));
        waking.join().unwrap();
        assert_eq!(polls, 2);
    }
}
