//! What the holders of an arena do with it by RPC: what a mapped client does by itself.

use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::model::{Access, ArenaInfo, RequestId};
use goumem_shm::AccessError;
use goumem_shm::arena::ArenaState;
use goumem_shm::root::RequestOp;

use super::{ArenaPool, ArenaPoolState};
use crate::error::Error;
use crate::session::{Intent, Session};

impl ArenaPool {
    /// Returns an arena one holds alone.
    ///
    /// # Errors
    /// `Access`: stale, not owner, shared.
    pub fn give_back(
        self: &Arc<Self>,
        session: &Session,
        arena: Handle,
        request_id: RequestId,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            if self.memory.resolve(arena).is_ok() {
                session.intend(request_id, Intent::about(RequestOp::ReturnArena, arena));
            }
            self.memory.give_back(arena, session.number)?;
            self.serve(&mut state);
            Ok(())
        })
    }

    /// Allocates in an arena that the session holds.
    ///
    /// # Errors
    /// `Access`: not owner, stale, full.
    pub fn alloc(
        &self,
        session: &Session,
        arena: Handle,
        size_bytes: u64,
        align_bytes: u64,
        request_id: RequestId,
    ) -> Result<Handle, Error> {
        session.once(request_id, || {
            let state = self.lock();
            session.require_live()?;
            self.require_holder(&state, session, arena)?;
            session.intend(request_id, Intent::about(RequestOp::ArenaAlloc, arena));
            Ok(self
                .memory
                .alloc(arena, session.number, size_bytes, align_bytes)?)
        })
    }

    /// Frees an allocation; returns the bytes in use after.
    ///
    /// # Errors
    /// `Access`: not owner, stale, out of range.
    pub fn free(
        &self,
        session: &Session,
        allocation: Handle,
        size_bytes: u64,
        request_id: RequestId,
    ) -> Result<u64, Error> {
        session.once(request_id, || {
            let state = self.lock();
            session.require_live()?;
            self.require_holder(&state, session, allocation)?;
            session.intend(request_id, Intent::about(RequestOp::ArenaFree, allocation));
            Ok(self.memory.free(allocation, session.number, size_bytes)?)
        })
    }

    /// Empties an arena one holds alone; returns its new handle.
    ///
    /// # Errors
    /// `Access`: not owner, stale, shared.
    pub fn reset(
        &self,
        session: &Session,
        arena: Handle,
        request_id: RequestId,
    ) -> Result<ArenaInfo, Error> {
        session.once(request_id, || {
            let _state = self.lock();
            session.require_live()?;
            session.intend(request_id, Intent::about(RequestOp::ResetArena, arena));
            let arena = self.memory.reset(arena, session.number)?;
            Ok(self.arena_info(arena, Access::ReadWrite))
        })
    }

    /// Copies bytes out of an arena, from where the handle points, checked again after.
    ///
    /// # Errors
    /// `Access`.
    pub fn read(&self, handle: Handle, offset_bytes: u64, into: &mut [u8]) -> Result<(), Error> {
        Ok(self.memory.read(handle, offset_bytes, into)?)
    }

    /// Copies bytes into an arena that the session holds.
    ///
    /// # Errors
    /// `Access`, `SessionExpired`.
    pub fn write(
        &self,
        session: &Session,
        handle: Handle,
        offset_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let state = self.lock();
        session.require_live()?;
        self.require_holder(&state, session, handle)?;
        Ok(self.memory.write(handle, offset_bytes, bytes)?)
    }

    /// Returns how many bytes of a held arena are in use, from where the handle points.
    ///
    /// # Errors
    /// `Access`.
    pub fn used_from(&self, handle: Handle) -> Result<u64, Error> {
        let used = self.memory.used_bytes(handle)?;
        let at = self.memory.locate(handle)?;
        Ok(used.saturating_sub(at.inside_bytes))
    }

    /// Refuses a session that does not hold the arena that the handle points into, or holds it
    /// read-only.
    fn require_holder(
        &self,
        state: &ArenaPoolState,
        session: &Session,
        handle: Handle,
    ) -> Result<(), Error> {
        let (at, words) = self.memory.resolve(handle)?;
        let word = words.load();
        let holds = match word.state() {
            Some(ArenaState::Exclusive) => word.owner() == session.number,
            Some(ArenaState::Named) => state
                .holders
                .of(at.index)
                .is_some_and(|named| named.access(session.number) == Some(Access::ReadWrite)),
            Some(ArenaState::Free) | None => false,
        };
        if holds {
            Ok(())
        } else {
            Err(AccessError::NotOwner {
                handle,
                owner: word.owner(),
            }
            .into())
        }
    }
}
