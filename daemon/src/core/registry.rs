//! Name → pool, and id → pool.

use std::collections::HashMap;
use std::sync::Arc;

use goumem_alloc::PoolId;

use crate::arena_pool::ArenaPool;
use crate::error::{Error, Table};
use crate::pool::Pool;

/// A pool of either kind.
#[derive(Debug, Clone)]
pub(super) enum AnyPool {
    Blocks(Arc<Pool>),
    Arenas(Arc<ArenaPool>),
}

impl AnyPool {
    pub(super) fn id(&self) -> PoolId {
        match self {
            Self::Blocks(pool) => pool.id,
            Self::Arenas(pool) => pool.id,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Blocks(pool) => pool.name.as_str(),
            Self::Arenas(pool) => pool.name.as_str(),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Blocks(pool) => pool.is_gone(),
            Self::Arenas(pool) => pool.is_gone(),
        }
    }

    pub(super) fn dismantle(&self) {
        match self {
            Self::Blocks(pool) => pool.dismantle(),
            Self::Arenas(pool) => pool.dismantle(),
        }
    }
}

/// Every pool. Pools and arena pools share one space of names.
#[derive(Debug, Default)]
pub(super) struct Registry {
    by_name: HashMap<String, AnyPool>,
    /// Also those that are being destroyed, until nobody maps them.
    by_id: HashMap<PoolId, AnyPool>,
    last_id: u32,
}

impl Registry {
    pub(super) fn counts(&self) -> (usize, usize) {
        let pools = self
            .by_name
            .values()
            .filter(|p| matches!(p, AnyPool::Blocks(_)))
            .count();
        (pools, self.by_name.len() - pools)
    }

    /// Refuses a name that is taken, and a pool beyond the limit.
    pub(super) fn require_room(&self, name: &str, limit: u32) -> Result<(), Error> {
        if self.by_name.contains_key(name) {
            return Err(Error::PoolExists {
                name: name.to_owned(),
            });
        }
        if self.by_id.len() as u64 >= u64::from(limit) {
            return Err(Error::TooMany {
                table: Table::Pools,
                limit: limit.into(),
            });
        }
        Ok(())
    }

    /// Returns an id that no pool has. The sequence starts anywhere, so that a handle of an
    /// earlier daemon's pool is not taken for one of this daemon's.
    pub(super) fn new_id(&mut self) -> Result<PoolId, Error> {
        if self.last_id == 0 {
            let mut seed = [0; 4];
            getrandom::fill(&mut seed).map_err(|e| Error::os("choose an id", e.to_string()))?;
            self.last_id = u32::from_le_bytes(seed);
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PoolId::new(self.last_id)
                && !self.by_id.contains_key(&id)
            {
                return Ok(id);
            }
        }
    }

    pub(super) fn insert(&mut self, pool: AnyPool) {
        self.by_name.insert(pool.name().to_owned(), pool.clone());
        self.by_id.insert(pool.id(), pool);
    }

    pub(super) fn by_id(&self, id: PoolId) -> Result<AnyPool, Error> {
        let pool = self.by_id.get(&id).cloned();
        pool.ok_or_else(|| Error::PoolNotFound {
            pool: id.to_string(),
        })
    }

    pub(super) fn by_name(&self, name: &str) -> Result<AnyPool, Error> {
        let pool = self.by_name.get(name).cloned();
        pool.ok_or_else(|| Error::PoolNotFound {
            pool: name.to_owned(),
        })
    }

    /// Takes a pool's name away, unless another pool has it by now.
    pub(super) fn remove_name(&mut self, name: &str, id: PoolId) {
        if self.by_name.get(name).is_some_and(|pool| pool.id() == id) {
            self.by_name.remove(name);
        }
    }

    pub(super) fn has_id(&self, id: PoolId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Every pool, also those that are being destroyed.
    pub(super) fn all(&self) -> Vec<AnyPool> {
        self.by_id.values().cloned().collect()
    }

    /// Every pool that has its name.
    pub(super) fn named(&self) -> Vec<AnyPool> {
        let mut pools: Vec<AnyPool> = self.by_name.values().cloned().collect();
        pools.sort_by(|a, b| a.name().cmp(b.name()));
        pools
    }

    /// Lets go of a pool that is gone; returns whether this call did.
    pub(super) fn remove(&mut self, id: PoolId) -> bool {
        self.by_id.remove(&id).is_some()
    }
}
