//! Waiting for an arena: one FIFO for RPC and mapped clients. Each time an arena may have become
//! free (a return, a wake, a sweep, a detach) the daemon looks for one for the first in line.

use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{Handle, SessionNumber};
use goumem_proto::model::{Access, ArenaInfo, RequestId};
use tokio::sync::oneshot;

use super::{ArenaPool, ArenaPoolState};
use crate::error::{Error, Table};
use crate::session::{Begun, Caller, Get};

/// How many may wait for one arena pool.
pub(super) const MAX_WAITERS: usize = 65_536;

/// Names a wait, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTicket(u64);

#[derive(Debug)]
pub(super) struct Waiter {
    ticket: WaitTicket,
    pub(super) get: Get,
    sender: oneshot::Sender<GrantedArena>,
}

/// What a get came to.
#[derive(Debug)]
pub enum Waited {
    /// An arena was free.
    Now(ArenaInfo),
    /// The caller is in line; a closed channel means that the pool or session has ended.
    Queued(WaitTicket, oneshot::Receiver<GrantedArena>),
}

/// An arena on its way to a waiter. It goes back to the pool unless it is accepted, so that a
/// caller who went away in between loses nothing for others.
#[derive(Debug)]
pub struct GrantedArena {
    pool: Arc<ArenaPool>,
    arena: Handle,
    /// None once it is accepted.
    get: Option<Get>,
}

impl GrantedArena {
    /// Returns the arena, which is the waiter's from now on.
    pub fn accept(mut self) -> ArenaInfo {
        // The reply may be lost with its connection: a retry gets the same arena.
        if let Some(get) = self.get.take() {
            get.done(self.arena);
        }
        self.pool.arena_info(self.arena, Access::ReadWrite)
    }
}

impl Drop for GrantedArena {
    fn drop(&mut self) {
        if let Some(get) = self.get.take() {
            self.pool.take_back(self.arena, get);
            // Not under the lock here in the only other place that drops one: see `serve`.
            self.pool.wake();
        }
    }
}

impl ArenaPool {
    /// Gets an arena for the calling session, or a place in the line when it will wait.
    ///
    /// # Errors
    /// `NoFreeArena`, `TooMany`, `SessionRequired`, `SessionExpired`, `PoolDestroyed`;
    /// `RequestInFlight` while an earlier try is in line or on its way back.
    pub fn get(
        self: &Arc<Self>,
        caller: &Caller,
        will_wait: bool,
        request_id: RequestId,
        now: Instant,
    ) -> Result<Waited, Error> {
        let session = caller.session()?;
        let mut state = self.lock();
        session.require_live()?;
        let mut get = match session.begin_get(request_id)? {
            Begun::Before(arena) => {
                return Ok(Waited::Now(self.arena_info(arena, Access::ReadWrite)));
            }
            Begun::Now(get) => get,
        };
        self.require_usable(&state)?;
        self.note_use(&mut state, session, now)?;
        if state.waiters.is_empty()
            && let Some(arena) = self.try_get(&mut state, &mut get)
        {
            get.done(arena);
            return Ok(Waited::Now(self.arena_info(arena, Access::ReadWrite)));
        }
        if !will_wait {
            return Err(Error::NoFreeArena {
                pool: self.name.to_string(),
                arenas: self.memory.geometry().arenas(),
                waiting: u32::try_from(state.waiters.len()).unwrap_or(u32::MAX),
            });
        }
        if state.waiters.len() >= MAX_WAITERS {
            return Err(Error::TooMany {
                table: Table::Waiters,
                limit: MAX_WAITERS as u64,
            });
        }
        let ticket = WaitTicket(state.next_ticket);
        state.next_ticket += 1;
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(Waiter {
            ticket,
            get,
            sender,
        });
        // Flag first, then a second look: a returner either sees the flag or is seen here.
        self.memory.set_waiters(true);
        self.serve(&mut state);
        Ok(Waited::Queued(ticket, receiver))
    }

    /// Leaves the line.
    pub fn cancel_wait(self: &Arc<Self>, ticket: WaitTicket) {
        let mut state = self.lock();
        state.waiters.retain(|waiter| waiter.ticket != ticket);
        if state.waiters.is_empty() {
            self.memory.set_waiters(false);
        }
    }

    /// Looks for free arenas for those who wait.
    pub fn wake(self: &Arc<Self>) {
        let mut state = self.lock();
        self.serve(&mut state);
    }

    /// Gives free arenas to the first in line.
    pub(super) fn serve(self: &Arc<Self>, state: &mut ArenaPoolState) {
        while let Some(mut waiter) = state.waiters.pop_front() {
            // Whoever gave up is out of the line before an arena is claimed for it, so that none
            // comes back here, where dropping it would take the lock a second time.
            if waiter.sender.is_closed() || !waiter.get.session.is_live() {
                continue;
            }
            let Some(arena) = self.try_get(state, &mut waiter.get) else {
                state.waiters.push_front(waiter);
                break;
            };
            let granted = GrantedArena {
                pool: Arc::clone(self),
                arena,
                get: Some(waiter.get),
            };
            if let Err(mut granted) = waiter.sender.send(granted)
                && let Some(get) = granted.get.take()
            {
                // It gave up this very moment.
                self.take_back(arena, get);
            }
        }
        if state.waiters.is_empty() {
            self.memory.set_waiters(false);
        }
    }

    /// Claims an arena as the daemon, notes the request, and hands it over: a session that maps the
    /// pool may claim one itself at any time, and after a crash the two must not be confused.
    fn try_get(&self, state: &mut ArenaPoolState, get: &mut Get) -> Option<Handle> {
        let daemon = SessionNumber::DAEMON;
        let arena = self.memory.try_get(daemon, state.search_from)?;
        get.intend(arena);
        let number = get.session.number;
        if self.memory.hand_over(arena, number).is_err() {
            // Written from outside this library in between.
            get.forget_intent();
            return None;
        }
        let at = self.memory.locate(arena).ok()?;
        state.search_from = (at.index + 1) % self.memory.geometry().arenas();
        Some(arena)
    }

    /// Takes back an arena that was not accepted; its get has never been.
    fn take_back(&self, arena: Handle, get: Get) {
        // Stale when the session's sweep was faster: then it is free already.
        let _ = self.memory.give_back(arena, get.session.number);
        drop(get);
    }
}
