//! Calls about arena pools: who may, then the arena pool's own method.

use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::PoolId;
use goumem_proto::model::{
    Access, ArenaAlloc, ArenaAllocated, ArenaFree, ArenaFreed, ArenaHolders, ArenaInfo,
    ArenaPoolInfo, ArenaPoolStat, AttachArena, CreateArenaPool, DestroyPool, DetachArena,
    DetachedArena, GetArena, Happening, ListHolders, OpenArenaPool, OpenedArenaPool, ResetArena,
    ReturnArena, ShareArena, StatPool, Wake,
};

use goumem_shm::root::RequestOp;

use super::Core;
use super::registry::AnyPool;
use crate::arena_pool::{ArenaPool, WaitTicket, Waited};
use crate::error::{Error, backing_name};
use crate::permission;
use crate::session::{Caller, Intent};

impl Core {
    /// Creates an arena pool.
    ///
    /// # Errors
    /// `PoolExists`, `BackingUnsupported`, `BudgetExhausted`, `QuotaExceeded`, `TooMany`,
    /// `PermissionDenied`.
    pub fn create_arena_pool(
        &self,
        caller: &Caller,
        request: CreateArenaPool,
        now: Instant,
    ) -> Result<OpenedArenaPool, Error> {
        let create = || {
            let pool = self.new_arena_pool(caller, &request, now);
            let pool = pool.inspect_err(|error| {
                self.tell_of_refusal(caller, &request.name, error, now);
            })?;
            Ok(OpenedArenaPool {
                pool: pool.info(),
                created: true,
                access: Access::ReadWrite,
            })
        };
        match &caller.session {
            Some(session) => session.once(request.request_id, create),
            None => create(),
        }
    }

    /// Opens an arena pool.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `GeometryMismatch`.
    pub fn open_arena_pool(
        &self,
        caller: &Caller,
        request: OpenArenaPool,
        _now: Instant,
    ) -> Result<OpenedArenaPool, Error> {
        let pool = self.arenas_named(request.name.as_str())?;
        pool.require(caller, request.access)?;
        let info = pool.info();
        let arenas = request.expect_arenas.unwrap_or(info.arenas);
        let arena_bytes = request.expect_arena_bytes.unwrap_or(info.arena_bytes);
        require_like(&info, arenas, arena_bytes)?;
        Ok(OpenedArenaPool {
            pool: info,
            created: false,
            access: request.access,
        })
    }

    /// Opens an arena pool, or creates it.
    ///
    /// # Errors
    /// As both.
    pub fn open_or_create_arena_pool(
        &self,
        caller: &Caller,
        request: CreateArenaPool,
        now: Instant,
    ) -> Result<OpenedArenaPool, Error> {
        // Two callers may find no pool and both create it: the loser opens the winner's.
        for _ in 0..2 {
            match self.arenas_named(request.name.as_str()) {
                Ok(pool) => {
                    pool.require(caller, Access::ReadWrite)?;
                    let info = pool.info();
                    require_like(&info, request.arenas, request.arena_bytes)?;
                    if let Some(backing) = request.backing
                        && backing != info.backing
                    {
                        let (expected, found) = (backing_name(backing), backing_name(info.backing));
                        return Err(mismatch(&info, "backing", expected, found));
                    }
                    let access = Access::ReadWrite;
                    return Ok(OpenedArenaPool {
                        pool: info,
                        created: false,
                        access,
                    });
                }
                Err(Error::PoolNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            match self.create_arena_pool(caller, request.clone(), now) {
                Err(Error::PoolExists { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(Error::PoolExists {
            name: request.name.to_string(),
        })
    }

    /// Takes an arena pool's name away; its memory goes with the last session that maps it.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn destroy_arena_pool(
        &self,
        caller: &Caller,
        request: DestroyPool,
        now: Instant,
    ) -> Result<(), Error> {
        let destroy = || {
            let pool = self.arenas_named(request.name.as_str())?;
            permission::require_owner(caller, &pool.permissions, || {
                format!("destroy arena pool {}", pool.name)
            })?;
            if let Some(session) = &caller.session {
                let intent = Intent::of(RequestOp::DestroyPool, pool.id);
                session.intend(request.request_id, intent);
            }
            // Whoever comes second finds no pool of that name, or soon another.
            let sessions = pool.destroy().ok_or_else(|| Error::PoolNotFound {
                pool: request.name.to_string(),
            })?;
            tracing::info!(pool = %pool.name, "arena pool destroyed");
            self.let_go(&AnyPool::Arenas(pool), &sessions, now);
            Ok(())
        };
        match &caller.session {
            Some(session) => session.once(request.request_id, destroy),
            None => destroy(),
        }
    }

    /// Lists the arena pools that the caller may read.
    ///
    /// # Errors
    /// None.
    pub fn list_arena_pools(&self, caller: &Caller) -> Result<Vec<ArenaPoolInfo>, Error> {
        let pools = self.registry().named();
        Ok(pools
            .iter()
            .filter_map(|pool| match pool {
                AnyPool::Arenas(pool) => Some(pool),
                AnyPool::Blocks(_) => None,
            })
            .filter(|pool| pool.require(caller, Access::ReadOnly).is_ok())
            .map(|pool| pool.info())
            .collect())
    }

    /// Counts an arena pool's arenas.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn stat_arena_pool(
        &self,
        caller: &Caller,
        request: StatPool,
        _now: Instant,
    ) -> Result<ArenaPoolStat, Error> {
        let pool = self.arenas_named(request.name.as_str())?;
        pool.require(caller, Access::ReadOnly)?;
        Ok(pool.stat())
    }

    /// Gets an arena, or a place in the line when the request will wait.
    ///
    /// # Errors
    /// As [`ArenaPool::get`].
    pub fn get_arena(
        &self,
        caller: &Caller,
        request: GetArena,
        now: Instant,
    ) -> Result<Waited, Error> {
        let pool = self.writable_arenas(caller, request.pool_id)?;
        let got = pool.get(caller, !request.wait.is_zero(), request.request_id, now);
        got.inspect_err(|error| self.tell_of_refusal(caller, &pool.name, error, now))
    }

    /// Leaves the line for an arena.
    pub fn cancel_wait(&self, pool_id: PoolId, ticket: WaitTicket) {
        if let Ok(pool) = self.arenas(pool_id) {
            pool.cancel_wait(ticket);
        }
    }

    /// Returns an arena.
    ///
    /// # Errors
    /// As [`ArenaPool::give_back`].
    pub fn return_arena(
        &self,
        caller: &Caller,
        request: ReturnArena,
        _now: Instant,
    ) -> Result<(), Error> {
        let pool = self.writable_arenas(caller, request.arena.pool())?;
        pool.give_back(caller.session()?, request.arena, request.request_id)
    }

    /// Allocates in an arena.
    ///
    /// # Errors
    /// As [`ArenaPool::alloc`].
    pub fn arena_alloc(
        &self,
        caller: &Caller,
        request: ArenaAlloc,
        _now: Instant,
    ) -> Result<ArenaAllocated, Error> {
        let pool = self.writable_arenas(caller, request.arena.pool())?;
        let handle = pool.alloc(
            caller.session()?,
            request.arena,
            request.size_bytes,
            request.align_bytes,
            request.request_id,
        )?;
        Ok(ArenaAllocated { handle })
    }

    /// Frees an allocation in an arena.
    ///
    /// # Errors
    /// As [`ArenaPool::free`].
    pub fn arena_free(
        &self,
        caller: &Caller,
        request: ArenaFree,
        _now: Instant,
    ) -> Result<ArenaFreed, Error> {
        let pool = self.writable_arenas(caller, request.handle.pool())?;
        let session = caller.session()?;
        let cursor_bytes = pool.free(
            session,
            request.handle,
            request.size_bytes,
            request.request_id,
        )?;
        Ok(ArenaFreed { cursor_bytes })
    }

    /// Empties an arena.
    ///
    /// # Errors
    /// As [`ArenaPool::reset`].
    pub fn reset_arena(
        &self,
        caller: &Caller,
        request: ResetArena,
        _now: Instant,
    ) -> Result<ArenaInfo, Error> {
        let pool = self.writable_arenas(caller, request.arena.pool())?;
        pool.reset(caller.session()?, request.arena, request.request_id)
    }

    /// Names an arena.
    ///
    /// # Errors
    /// As [`ArenaPool::share`].
    pub fn share_arena(
        &self,
        caller: &Caller,
        request: ShareArena,
        now: Instant,
    ) -> Result<ArenaInfo, Error> {
        let pool = self.writable_arenas(caller, request.arena.pool())?;
        let session = caller.session()?;
        let shared = pool.share(session, &request, now)?;
        let named = pool.index_of(shared.arena).zip(Some(request.name));
        self.tell_of_arena(&pool, named, session, Happening::ArenaShared, now);
        Ok(shared)
    }

    /// Becomes a holder of a named arena.
    ///
    /// # Errors
    /// As [`ArenaPool::attach`].
    pub fn attach_arena(
        &self,
        caller: &Caller,
        request: AttachArena,
        now: Instant,
    ) -> Result<ArenaInfo, Error> {
        self.arenas(request.pool_id)?.attach(caller, &request, now)
    }

    /// Stops holding a named arena.
    ///
    /// # Errors
    /// As [`ArenaPool::detach`].
    pub fn detach_arena(
        &self,
        caller: &Caller,
        request: DetachArena,
        now: Instant,
    ) -> Result<DetachedArena, Error> {
        let pool = self.arenas(request.arena.pool())?;
        let session = caller.session()?;
        let named = pool.named(request.arena);
        let returned = pool.detach(session, &request)?;
        let named = named.filter(|_| returned);
        self.tell_of_arena(&pool, named, session, Happening::ArenaDetached, now);
        Ok(DetachedArena { returned })
    }

    /// Looks for free arenas for those who wait.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn wake(&self, caller: &Caller, request: Wake, _now: Instant) -> Result<(), Error> {
        self.writable_arenas(caller, request.pool_id)?.wake();
        Ok(())
    }

    /// Lists the arenas that are not free, and their holders.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn list_holders(
        &self,
        caller: &Caller,
        request: ListHolders,
        _now: Instant,
    ) -> Result<Vec<ArenaHolders>, Error> {
        let pool = self.arenas(request.pool_id)?;
        pool.require(caller, Access::ReadOnly)?;
        Ok(pool.list_holders(caller, |number| {
            self.sessions
                .by_number(number)
                .map_or((0, 0), |session| (session.uid, session.pid))
        }))
    }

    fn writable_arenas(&self, caller: &Caller, id: PoolId) -> Result<Arc<ArenaPool>, Error> {
        let pool = self.arenas(id)?;
        pool.require(caller, Access::ReadWrite)?;
        Ok(pool)
    }

    fn arenas(&self, id: PoolId) -> Result<Arc<ArenaPool>, Error> {
        arenas(self.registry().by_id(id)?)
    }

    pub(super) fn arenas_named(&self, name: &str) -> Result<Arc<ArenaPool>, Error> {
        arenas(self.registry().by_name(name)?)
    }
}

/// A pool of blocks is no arena pool: to its callers there is none.
fn arenas(pool: AnyPool) -> Result<Arc<ArenaPool>, Error> {
    match pool {
        AnyPool::Arenas(pool) => Ok(pool),
        AnyPool::Blocks(pool) => Err(Error::PoolNotFound {
            pool: pool.name.to_string(),
        }),
    }
}

fn require_like(info: &ArenaPoolInfo, arenas: u32, arena_bytes: u64) -> Result<(), Error> {
    if info.arenas != arenas {
        return Err(mismatch(info, "arenas", arenas, info.arenas));
    }
    if info.arena_bytes != arena_bytes {
        return Err(mismatch(info, "arena_bytes", arena_bytes, info.arena_bytes));
    }
    Ok(())
}

fn mismatch(
    info: &ArenaPoolInfo,
    what: &'static str,
    expected: impl ToString,
    found: impl ToString,
) -> Error {
    Error::GeometryMismatch {
        pool: info.name.to_string(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
