//! The one thread of a client that talks to the daemon. It owns a tokio runtime, so that async
//! methods work under any executor: they spawn there and await the outcome.

use std::future::Future;
use std::io;
use std::thread;
use std::time::Duration;

use goumem_shm::AccessError;
use goumem_shm::os::fork::Born;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::trace::in_current;

/// What blocking work (of an embedded daemon) gets to finish when the thread ends.
const LAST_WORK: Duration = Duration::from_secs(2);

/// The way to the thread. It ends when the [`KeepRunning`] is dropped; what is asked of it then
/// is [`Error::Closed`].
#[derive(Debug, Clone)]
pub(crate) struct IoThread {
    born: Born,
    runtime: Handle,
    id: thread::ThreadId,
}

/// Lets the thread go on.
#[derive(Debug)]
pub(crate) struct KeepRunning {
    _sender: oneshot::Sender<()>,
}

impl IoThread {
    /// Starts the thread; `on_end` is the last thing it runs.
    pub(crate) fn start(on_end: impl FnOnce() + Send + 'static) -> io::Result<(Self, KeepRunning)> {
        // One thread: a control call is a few microseconds of work here, and a second thread
        // would only add wake-ups.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (sender, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("goumem-io".to_owned())
            .spawn(move || {
                // Either outcome means that the sender is gone.
                let _ = runtime.block_on(ended);
                runtime.shutdown_timeout(LAST_WORK);
                on_end();
            })?;
        let id = thread.thread().id();
        Ok((
            Self {
                born: Born::here(),
                runtime: handle,
                id,
            },
            KeepRunning { _sender: sender },
        ))
    }

    /// Runs a future on the thread and returns its outcome. It goes on there if the caller loses
    /// interest.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        if self.born.is_elsewhere() {
            // The thread was not inherited: nobody would run it.
            return Err(AccessError::Forked.into());
        }
        match self.runtime.spawn(in_current(future)).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Runs a future on the thread and lets it go.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }

    /// Returns whether the caller runs on the thread, and so must not wait for it.
    pub(crate) fn is_current(&self) -> bool {
        thread::current().id() == self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::wait;

    #[test]
    fn outcome_reaches_a_caller_without_a_runtime_and_a_later_one_hears_closed() {
        let (io, running) = IoThread::start(|| ()).unwrap();
        let thread = wait(io.run(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(thread::current().id())
        }));
        assert_eq!(thread.unwrap(), io.id);
        drop(running);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while wait(io.run(async { Ok(()) })).is_ok() {
            assert!(std::time::Instant::now() < deadline, "thread did not end");
        }
        assert!(matches!(wait(io.run(async { Ok(()) })), Err(Error::Closed)));
    }
}
