//! Calls about pools of blocks as a whole: who may, then the pool's own method.

use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::PoolId;
use goumem_proto::model::{
    Access, CreatePool, DestroyPool, Event, FlushPool, Happening, Holder, OpenPool, OpenedPool,
    PoolInfo, PoolStat, PurgePool, PurgedPool, SetCapacity, StatPool,
};

use goumem_shm::root::RequestOp;

use super::Core;
use super::registry::AnyPool;
use crate::error::{Error, backing_name};
use crate::permission;
use crate::pool::Pool;
use crate::session::{Caller, Intent};

impl Core {
    /// Creates a pool.
    ///
    /// # Errors
    /// `PoolExists`, `BackingUnsupported`, `BudgetExhausted`, `TooMany`, `PermissionDenied`.
    pub fn create_pool(
        &self,
        caller: &Caller,
        request: CreatePool,
        now: Instant,
    ) -> Result<OpenedPool, Error> {
        let create = || {
            let pool = self.new_pool(caller, &request, now);
            let pool = pool.inspect_err(|error| {
                self.tell_of_refusal(caller, &request.name, error, now);
            })?;
            Ok(OpenedPool {
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

    /// Opens a pool.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `GeometryMismatch`.
    pub fn open_pool(
        &self,
        caller: &Caller,
        request: OpenPool,
        _now: Instant,
    ) -> Result<OpenedPool, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, request.access)?;
        let info = pool.info();
        if let Some(expected) = request.expect_capacity_bytes
            && rounded(expected) != info.capacity_bytes
        {
            return Err(mismatch(
                &info,
                "capacity_bytes",
                expected,
                info.capacity_bytes,
            ));
        }
        Ok(OpenedPool {
            pool: info,
            created: false,
            access: request.access,
        })
    }

    /// Opens a pool, or creates it.
    ///
    /// # Errors
    /// As both.
    pub fn open_or_create_pool(
        &self,
        caller: &Caller,
        request: CreatePool,
        now: Instant,
    ) -> Result<OpenedPool, Error> {
        // Two callers may find no pool and both create it: the loser opens the winner's.
        for _ in 0..2 {
            match self.blocks_named(request.name.as_str()) {
                Ok(pool) => {
                    pool.require(caller, Access::ReadWrite)?;
                    let info = pool.info();
                    if rounded(request.capacity_bytes) != info.capacity_bytes {
                        let (expected, found) = (request.capacity_bytes, info.capacity_bytes);
                        return Err(mismatch(&info, "capacity_bytes", expected, found));
                    }
                    if let Some(backing) = request.backing
                        && backing != info.backing
                    {
                        let (expected, found) = (backing_name(backing), backing_name(info.backing));
                        return Err(mismatch(&info, "backing", expected, found));
                    }
                    return Ok(OpenedPool {
                        pool: info,
                        created: false,
                        access: Access::ReadWrite,
                    });
                }
                Err(Error::PoolNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            match self.create_pool(caller, request.clone(), now) {
                Err(Error::PoolExists { .. }) => {}
                outcome => return outcome,
            }
        }
        Err(Error::PoolExists {
            name: request.name.to_string(),
        })
    }

    /// Takes a pool's name away; its memory goes with the last session that maps it.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn destroy_pool(
        &self,
        caller: &Caller,
        request: DestroyPool,
        now: Instant,
    ) -> Result<(), Error> {
        let destroy = || {
            let pool = self.blocks_named(request.name.as_str())?;
            permission::require_owner(caller, &pool.permissions, || {
                format!("destroy pool {}", pool.name)
            })?;
            if let Some(session) = &caller.session {
                let intent = Intent::of(RequestOp::DestroyPool, pool.id);
                session.intend(request.request_id, intent);
            }
            // Whoever comes second finds no pool of that name, or soon another.
            let sessions = pool.destroy().ok_or_else(|| Error::PoolNotFound {
                pool: request.name.to_string(),
            })?;
            tracing::info!(pool = %pool.name, "pool destroyed");
            self.let_go(&AnyPool::Blocks(pool), &sessions, now);
            Ok(())
        };
        match &caller.session {
            Some(session) => session.once(request.request_id, destroy),
            None => destroy(),
        }
    }

    /// Lists the pools that the caller may read.
    ///
    /// # Errors
    /// None.
    pub fn list_pools(&self, caller: &Caller) -> Result<Vec<PoolInfo>, Error> {
        let pools = self.registry().named();
        Ok(pools
            .iter()
            .filter_map(|pool| match pool {
                AnyPool::Blocks(pool) => Some(pool),
                AnyPool::Arenas(_) => None,
            })
            .filter(|pool| pool.require(caller, Access::ReadOnly).is_ok())
            .map(|pool| pool.info())
            .collect())
    }

    /// Counts what is in a pool.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn stat_pool(
        &self,
        caller: &Caller,
        request: StatPool,
        now: Instant,
    ) -> Result<PoolStat, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadOnly)?;
        let mut stat = pool.stat(caller, now);
        self.name_processes(&mut stat.top_holders);
        Ok(stat)
    }

    /// Sets a pool's quota.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `CapacityTooSmall`, `CapacityTooLarge`.
    pub fn set_capacity(
        &self,
        caller: &Caller,
        request: SetCapacity,
        now: Instant,
    ) -> Result<PoolStat, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        permission::require_owner(caller, &pool.permissions, || {
            format!("resize pool {}", pool.name)
        })?;
        pool.set_capacity(request.capacity_bytes)?;
        Ok(pool.stat(caller, now))
    }

    /// Writes a file-backed pool to the disk.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`, `BackingUnsupported`, `Os`.
    pub fn flush_pool(
        &self,
        caller: &Caller,
        request: FlushPool,
        _now: Instant,
    ) -> Result<(), Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadWrite)?;
        pool.flush()
    }

    /// Gives free committed memory back to the OS.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn purge_pool(
        &self,
        caller: &Caller,
        request: PurgePool,
        now: Instant,
    ) -> Result<PurgedPool, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        pool.require(caller, Access::ReadWrite)?;
        Ok(PurgedPool {
            purged_bytes: pool.purge(Duration::ZERO, now),
        })
    }

    /// Takes the name of a destroyed pool away and tells those who map it.
    pub(super) fn let_go(
        &self,
        pool: &AnyPool,
        sessions: &[goumem_alloc::SessionNumber],
        now: Instant,
    ) {
        self.registry().remove_name(pool.name(), pool.id());
        self.tell_of_pool(pool, Happening::PoolDestroyed, now);
        self.drop_if_gone(pool);
        self.tell(sessions, Event::PoolDestroyed { pool_id: pool.id() });
    }

    /// Fills in the pids of holders, which a pool does not know.
    pub(super) fn name_processes(&self, holders: &mut [Holder]) {
        for holder in holders {
            if let Some(session) = self.sessions.by_number(holder.session) {
                holder.pid = session.pid;
            }
        }
    }

    pub(super) fn blocks(&self, id: PoolId) -> Result<Arc<Pool>, Error> {
        blocks(self.registry().by_id(id)?)
    }

    pub(super) fn blocks_named(&self, name: &str) -> Result<Arc<Pool>, Error> {
        blocks(self.registry().by_name(name)?)
    }
}

/// An arena pool is no pool of blocks: to its callers there is none.
fn blocks(pool: AnyPool) -> Result<Arc<Pool>, Error> {
    match pool {
        AnyPool::Blocks(pool) => Ok(pool),
        AnyPool::Arenas(pool) => Err(Error::PoolNotFound {
            pool: pool.name.to_string(),
        }),
    }
}

/// A capacity as the daemon would round it.
fn rounded(bytes: u64) -> u64 {
    goumem_alloc::PageCount::for_bytes(bytes).map_or(u64::MAX, |pages| pages.bytes())
}

fn mismatch(
    info: &PoolInfo,
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
