//! Pools that exist from the start, because the configuration says so.

use goumem_alloc::{ArenaGeometry, GeometryError, PoolGeometry};
use goumem_proto::model::{CreateArenaPool, CreatePool, RequestId};
use goumem_proto::name::PoolName;

use super::draft::PoolDraft;
use super::faults::{Fault, FaultKind};
use super::reading::{ARENA_POOLS, POOLS};

/// A pool or arena pool that exists from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its owner; none: the daemon's user.
    pub uid: Option<u32>,
    /// What it is.
    pub create: DeclaredKind,
}

/// What a declared pool is, as a client would ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredKind {
    /// A pool of blocks.
    Pool(CreatePool),
    /// An arena pool.
    ArenaPool(CreateArenaPool),
}

impl Declared {
    /// Returns its name.
    pub fn name(&self) -> &PoolName {
        match &self.create {
            DeclaredKind::Pool(create) => &create.name,
            DeclaredKind::ArenaPool(create) => &create.name,
        }
    }

    /// Returns whether there can be such a pool at all.
    fn check(&self) -> Result<(), GeometryError> {
        match &self.create {
            DeclaredKind::Pool(create) => {
                PoolGeometry::new(create.capacity_bytes, create.max_capacity_bytes).map(|_| ())
            }
            DeclaredKind::ArenaPool(create) => {
                ArenaGeometry::new(create.arenas, create.arena_bytes).map(|_| ())
            }
        }
    }
}

/// Makes the pools of the two sections, or says what none can be like.
pub(super) fn declared(
    pools: Vec<(PoolName, PoolDraft)>,
    arena_pools: Vec<(PoolName, PoolDraft)>,
) -> Result<Vec<Declared>, Vec<Fault>> {
    let pools = pools.into_iter().map(|(name, pool)| {
        let create = DeclaredKind::Pool(CreatePool {
            name,
            capacity_bytes: pool.capacity_bytes,
            max_capacity_bytes: pool.max_capacity_bytes,
            backing: pool.backing,
            gid: pool.gid,
            mode: pool.mode,
            request_id: RequestId::NONE,
        });
        (POOLS, pool.uid, create)
    });
    let arena_pools = arena_pools.into_iter().map(|(name, pool)| {
        let create = DeclaredKind::ArenaPool(CreateArenaPool {
            name,
            arenas: pool.arenas,
            arena_bytes: pool.arena_bytes,
            backing: pool.backing,
            gid: pool.gid,
            mode: pool.mode,
            request_id: RequestId::NONE,
        });
        (ARENA_POOLS, pool.uid, create)
    });
    let mut all: Vec<Declared> = Vec::new();
    let mut faults = Vec::new();
    for (section, uid, create) in pools.chain(arena_pools) {
        let declared = Declared { uid, create };
        let mut refuse = |why: String| {
            faults.push(Fault {
                origin: format!("[{section}.{}]", declared.name()),
                what: FaultKind::File { why },
            });
        };
        if let Err(error) = declared.check() {
            refuse(format!("no pool can be like this: {error}"));
        }
        if all.iter().any(|other| other.name() == declared.name()) {
            refuse(format!("[{POOLS}] has the name too"));
        }
        all.push(declared);
    }
    if faults.is_empty() {
        Ok(all)
    } else {
        Err(faults)
    }
}
