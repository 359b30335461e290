//! Name → pool, and id → pool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use goumem_alloc::PoolId;
use goumem_shm::header::MadeBy;
use goumem_shm::os::BackingKind;

use super::create::kind_of;
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

    pub(super) fn kind(&self) -> BackingKind {
        kind_of(match self {
            Self::Blocks(pool) => pool.backing,
            Self::Arenas(pool) => pool.backing,
        })
    }

    pub(super) fn is_destroying(&self) -> bool {
        match self {
            Self::Blocks(pool) => pool.is_destroying(),
            Self::Arenas(pool) => pool.is_destroying(),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Blocks(pool) => pool.is_gone(),
            Self::Arenas(pool) => pool.is_gone(),
        }
    }

    /// Says which run of the daemon has it now.
    pub(super) fn set_run(&self, instance: u64, epoch: u64) {
        match self {
            Self::Blocks(pool) => pool.set_run(instance, epoch),
            Self::Arenas(pool) => pool.set_run(instance, epoch),
        }
    }

    /// Leaves its names where they are when it is dropped, for the next daemon.
    pub(super) fn leave(&self) {
        match self {
            Self::Blocks(pool) => pool.leave(),
            Self::Arenas(pool) => pool.leave(),
        }
    }

    /// Returns the request that made it.
    pub(super) fn made_by(&self) -> MadeBy {
        match self {
            Self::Blocks(pool) => pool.made_by(),
            Self::Arenas(pool) => pool.made_by(),
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
    /// Names of pools that are being made, or taken over: no second one may come to be meanwhile.
    reserved: HashSet<String>,
    /// Ids of pools that are being taken over.
    claimed: HashSet<PoolId>,
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

    /// Reserves a name for a pool that is about to be made, unless it is taken, or the pool would
    /// be one too many.
    pub(super) fn reserve(&mut self, name: &str, limit: u32) -> Result<(), Error> {
        if self.by_name.contains_key(name) || self.reserved.contains(name) {
            return Err(Error::PoolExists {
                name: name.to_owned(),
            });
        }
        if (self.by_id.len() + self.reserved.len()) as u64 >= u64::from(limit) {
            return Err(Error::TooMany {
                table: Table::Pools,
                limit: limit.into(),
            });
        }
        self.reserved.insert(name.to_owned());
        Ok(())
    }

    /// Gives a reserved name up: its pool is there by now, or will not be.
    pub(super) fn end_reservation(&mut self, name: &str) {
        self.reserved.remove(name);
    }

    /// Claims the id of a pool that is taken over, and its name if it has that still. Returns
    /// whether no other pool has either.
    pub(super) fn claim(&mut self, id: PoolId, name: Option<&String>) -> bool {
        let named = |name: &String| self.by_name.contains_key(name) || self.reserved.contains(name);
        if self.has_id(id) || self.claimed.contains(&id) || name.is_some_and(named) {
            return false;
        }
        self.claimed.insert(id);
        self.reserved.extend(name.cloned());
        true
    }

    /// Gives a claim up: the pool is there by now, or will not be.
    pub(super) fn end_claim(&mut self, id: PoolId, name: Option<&String>) {
        self.claimed.remove(&id);
        if let Some(name) = name {
            self.reserved.remove(name);
        }
    }

    pub(super) fn insert(&mut self, pool: AnyPool) {
        self.by_name.insert(pool.name().to_owned(), pool.clone());
        self.by_id.insert(pool.id(), pool);
    }

    /// Adds a pool that has lost its name already.
    pub(super) fn insert_nameless(&mut self, pool: AnyPool) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_no_other_pools() {
        let mut registry = Registry::default();
        let [one, two] = [1, 2].map(|id| PoolId::new(id).unwrap());
        let name = "a".to_owned();
        assert!(registry.claim(one, Some(&name)));
        assert!(!registry.claim(two, Some(&name)), "the name");
        assert!(!registry.claim(one, None), "the id");
        assert!(registry.claim(two, None));
        assert!(registry.reserve(&name, 10).is_err());
        registry.end_claim(one, Some(&name));
        assert!(registry.claim(one, Some(&name)));
        registry.end_claim(one, Some(&name));
        registry.reserve(&name, 10).unwrap();
    }
}
