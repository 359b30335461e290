//! What the configuration says of a running core: its limits, and the pools that are to be there.

use std::sync::atomic::Ordering;
use std::time::Instant;

use goumem_alloc::PoolGeometry;
use goumem_proto::model::{Backing, CreateArenaPool, CreatePool, Permissions};
use goumem_shm::header::MadeBy;

use super::Core;
use super::registry::AnyPool;
use crate::config::{Config, Declared, DeclaredKind, Limits};
use crate::error::{Error, backing_name};
use crate::status::chain;

/// Why a declared pool is not there.
#[derive(Debug, thiserror::Error)]
#[error("could not provide pool {pool} of the configuration")]
pub struct DeclareError {
    /// Its name.
    pub pool: String,
    /// What is in the way.
    pub source: Box<Error>,
}

impl Core {
    /// Takes a new configuration over, as far as that is possible while it runs. What stands above
    /// a limit that is lower now stays.
    pub fn reload(&self, config: &Config, now: Instant) {
        self.set_limits(&config.limits);
        let mut refused = 0;
        for declared in &config.pools {
            if let Err(error) = self.declare(declared, now) {
                refused += 1;
                tracing::error!(error = chain(&error), "declared pool refused");
            }
        }
        let (committed_bytes, limit_bytes, _) = self.shared.budget.report();
        tracing::info!(
            committed_bytes,
            limit_bytes,
            declared = config.pools.len(),
            refused,
            "reloaded"
        );
        let changes = format!(
            "budget {limit_bytes} bytes, {} pools declared, {refused} of them refused",
            config.pools.len()
        );
        self.tell_of_reload(changes, now);
    }

    fn set_limits(&self, limits: &Limits) {
        self.shared
            .budget
            .set(limits.budget_bytes, limits.reserve_bytes);
        self.shared.quotas.set(limits.quota_per_user_bytes);
        self.shared.set_purge_after(limits.purge_after);
        self.sessions.set_limit(limits.max_sessions);
        self.max_pools.store(limits.max_pools, Ordering::Relaxed);
        // What waits for its purge may be due earlier than the ticker knows.
        self.earlier.notify_one();
    }

    /// Makes sure that a declared pool is there. One that is there already stays as it is.
    ///
    /// # Errors
    /// When it cannot be made, or is of another kind, backing or size.
    pub fn declare(&self, declared: &Declared, now: Instant) -> Result<(), DeclareError> {
        let found = self.registry().by_name(declared.name().as_str());
        let outcome = match (found, &declared.create) {
            (Err(Error::PoolNotFound { .. }), create) => self.provide(declared.uid, create, now),
            (Err(error), _) => Err(error),
            (Ok(AnyPool::Blocks(pool)), DeclaredKind::Pool(create)) => {
                let info = pool.info();
                let found = (info.capacity_bytes, info.max_capacity_bytes, info.backing);
                self.require_blocks_like(create, found).map(|()| {
                    warn_of_permissions(declared, info.permissions);
                })
            }
            (Ok(AnyPool::Arenas(pool)), DeclaredKind::ArenaPool(create)) => {
                let info = pool.info();
                let found = (info.arenas, info.arena_bytes, info.backing);
                self.require_arenas_like(create, found).map(|()| {
                    warn_of_permissions(declared, info.permissions);
                })
            }
            (Ok(AnyPool::Blocks(_)), DeclaredKind::ArenaPool(create)) => {
                Err(differs(create.name.as_str(), "kind", "arenas", "blocks"))
            }
            (Ok(AnyPool::Arenas(_)), DeclaredKind::Pool(create)) => {
                Err(differs(create.name.as_str(), "kind", "blocks", "arenas"))
            }
        };
        outcome.map_err(|source| DeclareError {
            pool: declared.name().to_string(),
            source: Box::new(source),
        })
    }

    /// Creates a declared pool. The OS decides whether this daemon may give it to that owner.
    fn provide(&self, uid: Option<u32>, create: &DeclaredKind, now: Instant) -> Result<(), Error> {
        let made_by = MadeBy::default();
        match create {
            DeclaredKind::Pool(create) => {
                let permissions = permissions(uid, create.gid, create.mode);
                self.make_pool(permissions, made_by, create, now)
                    .map(|_| ())
            }
            DeclaredKind::ArenaPool(create) => {
                let permissions = permissions(uid, create.gid, create.mode);
                self.make_arena_pool(permissions, made_by, create, now)
                    .map(|_| ())
            }
        }
    }

    fn require_blocks_like(
        &self,
        declared: &CreatePool,
        (capacity_bytes, max_capacity_bytes, backing): (u64, u64, Backing),
    ) -> Result<(), Error> {
        let name = declared.name.as_str();
        self.require_backing(name, declared.backing, backing)?;
        let wanted = PoolGeometry::new(declared.capacity_bytes, declared.max_capacity_bytes)?;
        let max_bytes = wanted.n_pages().bytes();
        if declared.max_capacity_bytes.is_some() && max_bytes != max_capacity_bytes {
            return Err(differs(
                name,
                "max_capacity_bytes",
                max_bytes,
                max_capacity_bytes,
            ));
        }
        let wanted_bytes = wanted.capacity_pages().bytes();
        if wanted_bytes > max_capacity_bytes {
            return Err(differs(
                name,
                "max_capacity_bytes",
                wanted_bytes,
                max_capacity_bytes,
            ));
        }
        if wanted_bytes != capacity_bytes {
            // Somebody has changed it in use, which a restart does not undo.
            tracing::warn!(
                pool = name,
                declared_bytes = wanted_bytes,
                capacity_bytes,
                "pool has another capacity than declared: it stays as it is"
            );
        }
        Ok(())
    }

    fn require_arenas_like(
        &self,
        declared: &CreateArenaPool,
        (arenas, arena_bytes, backing): (u32, u64, Backing),
    ) -> Result<(), Error> {
        let name = declared.name.as_str();
        self.require_backing(name, declared.backing, backing)?;
        if declared.arenas != arenas {
            return Err(differs(name, "arenas", declared.arenas, arenas));
        }
        if declared.arena_bytes != arena_bytes {
            return Err(differs(
                name,
                "arena_bytes",
                declared.arena_bytes,
                arena_bytes,
            ));
        }
        Ok(())
    }

    fn require_backing(
        &self,
        name: &str,
        declared: Option<Backing>,
        found: Backing,
    ) -> Result<(), Error> {
        // Without one, any will do: the daemon's default may have been another.
        match declared.filter(|&declared| declared != found) {
            None => Ok(()),
            Some(declared) => {
                let (expected, found) = (backing_name(declared), backing_name(found));
                Err(differs(name, "backing", expected, found))
            }
        }
    }
}

fn permissions(uid: Option<u32>, gid: Option<u32>, mode: u32) -> Permissions {
    Permissions {
        uid: uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
        gid: gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
        mode,
    }
}

fn warn_of_permissions(declared: &Declared, found: Permissions) {
    let (gid, mode) = match &declared.create {
        DeclaredKind::Pool(create) => (create.gid, create.mode),
        DeclaredKind::ArenaPool(create) => (create.gid, create.mode),
    };
    let wanted = permissions(declared.uid, gid, mode);
    if wanted != found {
        tracing::warn!(
            pool = %declared.name(), uid = found.uid, gid = found.gid,
            mode = format!("{:04o}", found.mode), declared_uid = wanted.uid,
            declared_gid = wanted.gid, declared_mode = format!("{:04o}", wanted.mode),
            "pool has other owners than declared: it stays as it is"
        );
    }
}

fn differs(pool: &str, what: &'static str, expected: impl ToString, found: impl ToString) -> Error {
    Error::GeometryMismatch {
        pool: pool.to_owned(),
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
