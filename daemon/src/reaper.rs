//! One thread that learns of the death of any client, by its pidfd, and has its session swept at
//! once. It sleeps in the kernel until then.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use goumem_shm::os::reaper::DeathWatch;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reaper {
    watch: Arc<DeathWatch>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread, which calls `bury` with the key of each process that dies.
    ///
    /// # Errors
    ///
    /// What the OS says about the thread.
    pub(crate) fn start(
        watch: Arc<DeathWatch>,
        bury: impl Fn(u64, Instant) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let thread = thread::Builder::new()
            .name("goumemd-reaper".to_owned())
            .spawn({
                let (watch, stop) = (Arc::clone(&watch), stop.clone());
                move || wait_for_deaths(&watch, &stop, bury)
            })?;
        Ok(Self {
            watch,
            stop,
            thread: Some(thread),
        })
    }
}

fn wait_for_deaths(watch: &DeathWatch, stop: &CancellationToken, bury: impl Fn(u64, Instant)) {
    while !stop.is_cancelled() {
        match watch.wait(None) {
            Ok(dead) => {
                let now = Instant::now();
                dead.into_iter().for_each(|key| bury(key, now));
            }
            // Not to be expected of epoll_wait, and there is no going on without it.
            Err(error) => {
                error!(%error, "could not wait for deaths: dead clients' memory stays theirs");
                return;
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.watch.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of the thread has been said already.
            let _ = thread.join();
        }
    }
}
