//! Waits for the death of any of many processes, on one thread, without a timer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno;

use super::peer::PidFd;

#[cfg(test)]
mod tests;

/// Key of the waker. Keys of the caller are any other number.
const WAKER_KEY: u64 = u64::MAX;

/// Deaths reported by one [`DeathWatch::wait`]; more of them wait for the next.
const MAX_EVENTS: usize = 64;

/// A set of processes whose deaths are reported, each once.
///
/// All methods take `&self` and may be called while another thread waits.
#[derive(Debug)]
pub struct DeathWatch {
    epoll: OwnedFd,
    waker: OwnedFd,
}

impl DeathWatch {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// `EMFILE` and its like.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &waker,
            EventData::new_u64(WAKER_KEY),
            EventFlags::IN,
        )?;
        Ok(Self { epoll, waker })
    }

    /// Begins to watch a process, which may have died already: it is reported all the same.
    ///
    /// The pidfd stays the caller's. Before dropping it, [`DeathWatch::remove`] it: if any other
    /// process holds a duplicate, the watch would outlive the drop.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for the key `u64::MAX`; `AlreadyExists` when this pidfd is watched;
    /// `ENOSPC` at the limit of `/proc/sys/fs/epoll/max_user_watches`.
    pub fn add(&self, process: &PidFd, key: u64) -> io::Result<()> {
        if key == WAKER_KEY {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "key u64::MAX is taken",
            ));
        }
        // A dead process stays readable for ever. ONESHOT reports that once, and nothing can come
        // between the report and a removal.
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::add(
            &self.epoll,
            process,
            EventData::new_u64(key),
            flags,
        )?)
    }

    /// Ceases to watch a process. A report that is under way may still arrive.
    ///
    /// # Errors
    ///
    /// `NotFound` when the pidfd is not watched.
    pub fn remove(&self, process: &PidFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, process)?)
    }

    /// Waits until a watched process dies, [`DeathWatch::wake`] is called, a signal arrives or
    /// the time is over (`None`: never), and returns the keys of the dead, if any.
    ///
    /// # Errors
    ///
    /// None that a caller can do anything about.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<u64>> {
        let timeout = timeout.map(|timeout| {
            // What no clock can count is for ever.
            Timespec::try_from(timeout).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut space = [MaybeUninit::<Event>::uninit(); MAX_EVENTS];
        let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut dead = Vec::with_capacity(events.len());
        for event in events.iter() {
            match event.data.u64() {
                WAKER_KEY => self.drain_waker()?,
                key => dead.push(key),
            }
        }
        Ok(dead)
    }

    /// Ends the current [`DeathWatch::wait`], or else the next one.
    ///
    /// # Errors
    ///
    /// None that a caller can do anything about.
    pub fn wake(&self) -> io::Result<()> {
        match rustix::io::write(&self.waker, &1_u64.to_ne_bytes()) {
            // The counter is full: awake enough.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn drain_waker(&self) -> io::Result<()> {
        let mut count = [0; 8];
        match rustix::io::read(&self.waker, &mut count) {
            // Another waiting thread was first.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
