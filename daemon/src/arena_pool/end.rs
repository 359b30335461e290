//! How an arena pool ends, and what ends with a session.

use std::sync::Arc;

use goumem_alloc::SessionNumber;
use goumem_shm::header::PoolState as HeaderState;

use super::ArenaPool;
use crate::session::Session;

impl ArenaPool {
    /// Begins the end: no new opens, gets or attaches. Returns the sessions to tell, or `None` when
    /// it has begun before.
    pub fn destroy(&self) -> Option<Vec<SessionNumber>> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.destroying, true) {
            return None;
        }
        self.memory.header().set_state(HeaderState::Destroying);
        // Mappings and fds stay good without it, and the name is free for another pool.
        self.remove_files();
        // Whoever waits learns it by its closed channel.
        state.waiters.clear();
        self.memory.set_waiters(false);
        Some(state.mapped_by.sessions())
    }

    /// Notes that a session has unmapped it, once.
    pub fn unmap(&self, session: &Session) {
        let mut state = self.lock();
        state.mapped_by.remove_one(session.number);
        self.write_member(&state, session);
    }

    /// Returns whether it is being destroyed.
    pub(crate) fn is_destroying(&self) -> bool {
        self.lock().destroying
    }

    /// Returns whether it is being destroyed and nobody maps it any more.
    pub fn is_gone(&self) -> bool {
        let state = self.lock();
        state.destroying && state.mapped_by.is_empty()
    }

    /// Gives everything back: for an arena pool that is gone. Called once, before it is dropped.
    pub(crate) fn dismantle(&self) {
        self.give_everything_back();
        self.remove_files();
    }

    /// Takes the arena pool out of the budget and out of its owner's quota. Called once.
    pub(super) fn give_everything_back(&self) {
        let state = self.lock();
        let bytes = self.payload_bytes + state.data_table_bytes + state.tables.bytes();
        self.shared.budget.release(bytes);
        self.shared
            .quotas
            .discharge(self.permissions.uid, self.payload_bytes);
    }

    /// CONTROL last: it says that the pool is being destroyed, should the daemon die in between.
    fn remove_files(&self) {
        for (segment, what) in [(&self.data, "DATA"), (&self.control, "CONTROL")] {
            if let Err(error) = segment.remove() {
                tracing::warn!(pool = %self.name, %error, "could not remove {what}");
            }
        }
    }

    /// Gives back what a dead session held; returns how many bytes of arenas.
    pub fn sweep(self: &Arc<Self>, dead: &Session) -> u64 {
        let mut state = self.lock();
        debug_assert!(!dead.is_live(), "sessions are marked before they are swept");
        if !state.mapped_by.may_hold(dead.number) {
            return 0;
        }
        let mut freed = 0;
        for index in 0..self.memory.geometry().arenas() {
            if self
                .memory
                .words(index)
                .is_some_and(|words| words.sweep(dead.number))
            {
                freed += self.memory.geometry().arena_bytes();
            }
        }
        for arena in state.holders.held_by(dead.number) {
            if self.drop_holder(&mut state, arena, dead.number) {
                freed += self.memory.geometry().arena_bytes();
            }
        }
        state
            .waiters
            .retain(|waiter| waiter.get.session.number != dead.number);
        state.mapped_by.remove_all(dead.number);
        self.write_member(&state, dead);
        self.serve(&mut state);
        freed
    }
}
