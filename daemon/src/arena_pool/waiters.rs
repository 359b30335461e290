//! Waiting for an arena: one FIFO for RPC and mapped clients. Each time an arena may have become
//! free (a return, a wake, a sweep, a detach) the daemon looks for one for the first in line.

use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{Handle, SessionNumber};
use goumem_proto::model::{Access, ArenaInfo, RequestId};
use goumem_shm::root::RequestOp;
use tokio::sync::oneshot;

use super::{ArenaPool, ArenaPoolState};
use crate::error::{Error, Table};
use crate::session::{Caller, Intent, Session};

/// How many may wait for one arena pool.
pub(super) const MAX_WAITERS: usize = 65_536;

/// Names a wait, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTicket(u64);

#[derive(Debug)]
pub(super) struct Waiter {
    ticket: WaitTicket,
    pub(super) session: Arc<Session>,
    request_id: RequestId,
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
    session: Arc<Session>,
    arena: Handle,
    request_id: RequestId,
    accepted: bool,
}

impl GrantedArena {
    /// Returns the arena, which is the waiter's from now on.
    pub fn accept(mut self) -> ArenaInfo {
        self.accepted = true;
        // The reply may be lost with its connection: a retry gets the same arena.
        self.session.remember(self.request_id, &self.arena);
        self.pool.arena_info(self.arena, Access::ReadWrite)
    }
}

impl Drop for GrantedArena {
    fn drop(&mut self) {
        if self.accepted {
            return;
        }
        // Stale when the session's sweep was faster: then it is free already.
        let _ = self.pool.memory.give_back(self.arena, self.session.number);
        self.session.forget_intent(self.request_id);
        // Not under the lock here in the only other place that drops one: see `serve`.
        self.pool.wake();
    }
}

impl ArenaPool {
    /// Gets an arena for the calling session, or a place in the line when it will wait.
    ///
    /// # Errors
    /// `NoFreeArena`, `TooMany`, `SessionRequired`, `SessionExpired`, `PoolDestroyed`.
    pub fn get(
        self: &Arc<Self>,
        caller: &Caller,
        will_wait: bool,
        request_id: RequestId,
        now: Instant,
    ) -> Result<Waited, Error> {
        let session = caller.session()?;
        if !will_wait {
            let arena = session.once(request_id, || {
                let mut state = self.lock();
                session.require_live()?;
                self.require_usable(&state)?;
                self.note_use(&mut state, session, now)?;
                let free = if state.waiters.is_empty() {
                    self.try_get(&mut state, session, request_id)
                } else {
                    None
                };
                free.ok_or_else(|| Error::NoFreeArena {
                    pool: self.name.to_string(),
                    arenas: self.memory.geometry().arenas(),
                    waiting: u32::try_from(state.waiters.len()).unwrap_or(u32::MAX),
                })
            })?;
            return Ok(Waited::Now(self.arena_info(arena, Access::ReadWrite)));
        }
        let mut state = self.lock();
        session.require_live()?;
        self.require_usable(&state)?;
        if let Some(arena) = session.recall::<Handle>(request_id)? {
            return Ok(Waited::Now(self.arena_info(arena, Access::ReadWrite)));
        }
        let first_try = |waiter: &Waiter| {
            waiter.request_id == request_id && waiter.session.number == session.number
        };
        if request_id.is_some() && state.waiters.iter().any(first_try) {
            return Err(Error::RequestInFlight {
                request_id: request_id.get(),
            });
        }
        self.note_use(&mut state, session, now)?;
        if state.waiters.is_empty()
            && let Some(arena) = self.try_get(&mut state, session, request_id)
        {
            session.remember(request_id, &arena);
            return Ok(Waited::Now(self.arena_info(arena, Access::ReadWrite)));
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
            session: Arc::clone(session),
            request_id,
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
        while let Some(waiter) = state.waiters.front() {
            // Whoever gave up is out of the line before an arena is claimed for it, so that none
            // comes back here, where dropping it would take the lock a second time.
            if waiter.sender.is_closed() || !waiter.session.is_live() {
                state.waiters.pop_front();
                continue;
            }
            let (session, request_id) = (Arc::clone(&waiter.session), waiter.request_id);
            let Some(arena) = self.try_get(state, &session, request_id) else {
                break;
            };
            let Some(waiter) = state.waiters.pop_front() else {
                break;
            };
            let granted = GrantedArena {
                pool: Arc::clone(self),
                session,
                arena,
                request_id: waiter.request_id,
                accepted: false,
            };
            if let Err(mut granted) = waiter.sender.send(granted) {
                // It gave up this very moment.
                granted.accepted = true;
                let _ = self.memory.give_back(granted.arena, granted.session.number);
                granted.session.forget_intent(request_id);
            }
        }
        if state.waiters.is_empty() {
            self.memory.set_waiters(false);
        }
    }

    /// Claims an arena as the daemon, notes the request, and hands it over: a session that maps the
    /// pool may claim one itself at any time, and after a crash the two must not be confused.
    fn try_get(
        &self,
        state: &mut ArenaPoolState,
        session: &Session,
        request_id: RequestId,
    ) -> Option<Handle> {
        let daemon = SessionNumber::DAEMON;
        let arena = self.memory.try_get(daemon, state.search_from)?;
        session.intend(request_id, Intent::about(RequestOp::GetArena, arena));
        if self.memory.hand_over(arena, session.number).is_err() {
            // Written from outside this library in between.
            session.forget_intent(request_id);
            return None;
        }
        let at = self.memory.locate(arena).ok()?;
        state.search_from = (at.index + 1) % self.memory.geometry().arenas();
        Some(arena)
    }
}
