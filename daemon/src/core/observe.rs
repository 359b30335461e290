//! Looking at the daemon: everything at once for people and their tools, and the map of one pool.
//! Nothing is changed by it, and no lock is held for longer than a fraction of a millisecond.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use goumem_alloc::{PAGE_BYTES, SessionNumber};
use goumem_proto::model::{Access, ArenaPoolMap, MapArenaPool, MapPool, Permissions, PoolMap};
use goumem_shm::header::LAYOUT_VERSION;

use super::Core;
use super::registry::AnyPool;
use crate::arena_pool::{ArenaCount, ArenaPool, HeldArena};
use crate::error::{Error, backing_name};
use crate::observation::{
    DaemonTotals, MAX_ARENAS_LISTED, MAX_HOLDERS, Observation, ObservedArena, ObservedArenaHolder,
    ObservedArenaPool, ObservedHolder, ObservedPool, ObservedSession, PoolIdentity,
};
use crate::pool::{Pool, PoolCount};
use crate::session::Session;

mod viewer;

use viewer::Known;
pub use viewer::Viewer;

/// The user and process of each session.
type People = BTreeMap<SessionNumber, (u32, u32)>;

/// What one session has, over all pools.
#[derive(Debug, Clone, Copy, Default)]
struct Belongings {
    mapped_pools: u32,
    leased_bytes: u64,
    rpc_bytes: u64,
    blocks: u64,
    arenas: u32,
    pins: u64,
}

type BySession = BTreeMap<SessionNumber, Belongings>;

impl Core {
    /// Returns what the viewer may see of the daemon. Its cost is that of reading each slot word
    /// of each granted span once, some nanoseconds each.
    pub fn observe(&self, viewer: Viewer<'_>, now: Instant) -> Observation {
        let sessions = self.sessions.all();
        let people = people(&sessions);
        let mut by_session = BySession::new();
        let mut pools = Vec::new();
        let mut arena_pools = Vec::new();
        let mut all = self.registry().all();
        all.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
        for pool in &all {
            // Also those that are not shown: a session has what it has there.
            match pool {
                AnyPool::Blocks(pool) => {
                    let count = pool.count();
                    add_blocks(&mut by_session, &count);
                    if viewer.sees_pool(&pool.permissions) {
                        let known = known(viewer, &pool.permissions, &people);
                        pools.push(observed_pool(pool, &count, &known));
                    }
                }
                AnyPool::Arenas(pool) => {
                    let count = pool.count(MAX_ARENAS_LISTED);
                    add_arenas(&mut by_session, &count);
                    if viewer.sees_pool(&pool.permissions) {
                        let known = known(viewer, &pool.permissions, &people);
                        arena_pools.push(observed_arena_pool(pool, count, &known));
                    }
                }
            }
        }
        let mut shown: Vec<ObservedSession> = sessions
            .iter()
            .filter(|session| viewer.sees_user(session.uid))
            .map(|session| {
                let has = by_session.get(&session.number).copied();
                observed_session(session, has.unwrap_or_default(), now)
            })
            .collect();
        shown.sort_by_key(|session| session.serial);
        Observation {
            daemon: self.totals(now),
            pools,
            arena_pools,
            sessions: shown,
        }
    }

    /// Returns what each page of a pool is.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn map_pool(
        &self,
        viewer: Viewer<'_>,
        request: &MapPool,
        now: Instant,
    ) -> Result<PoolMap, Error> {
        let pool = self.blocks_named(request.name.as_str())?;
        viewer.require(&pool.permissions, pool.name.as_str())?;
        let people = people(&self.sessions.all());
        Ok(pool.map(request, &known(viewer, &pool.permissions, &people), now))
    }

    /// Returns what each arena of a pool is.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub fn map_arena_pool(
        &self,
        viewer: Viewer<'_>,
        request: &MapArenaPool,
    ) -> Result<ArenaPoolMap, Error> {
        let pool = self.arenas_named(request.name.as_str())?;
        viewer.require(&pool.permissions, pool.name.as_str())?;
        let people = people(&self.sessions.all());
        let known = known(viewer, &pool.permissions, &people);
        Ok(pool.map(request, |session| known.person(session)))
    }

    fn totals(&self, now: Instant) -> DaemonTotals {
        let (committed_bytes, budget_limit_bytes, available_bytes) = self.shared.budget.report();
        let (pools, arena_pools) = self.registry().counts();
        DaemonTotals {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            epoch: self.root.epoch(),
            uptime_ms: millis(now.saturating_duration_since(self.shared.started)),
            committed_bytes,
            budget_limit_bytes,
            available_bytes,
            pools: number(pools),
            arena_pools: number(arena_pools),
            max_pools: self.max_pools.load(Ordering::Relaxed),
            sessions: number(self.sessions.count()),
            max_sessions: self.sessions.limit(),
            quarantined: self.quarantined.load(Ordering::Relaxed),
            page_bytes: PAGE_BYTES,
            layout_version: LAYOUT_VERSION,
        }
    }
}

fn people(sessions: &[Arc<Session>]) -> People {
    let person = |session: &Arc<Session>| (session.number, (session.uid, session.pid));
    sessions.iter().map(person).collect()
}

fn known<'a>(viewer: Viewer<'a>, permissions: &Permissions, people: &'a People) -> Known<'a> {
    Known {
        viewer,
        sees_holders: viewer.sees_holders(permissions),
        people,
    }
}

fn add_blocks(by_session: &mut BySession, count: &PoolCount) {
    for (&session, share) in &count.shares {
        let has = by_session.entry(session).or_default();
        has.leased_bytes += share.leased_bytes;
        has.rpc_bytes += share.rpc_bytes;
        has.blocks += share.blocks;
        has.pins += share.pins;
    }
    for &session in &count.mapped_by {
        by_session.entry(session).or_default().mapped_pools += 1;
    }
}

fn add_arenas(by_session: &mut BySession, count: &ArenaCount) {
    for (&session, &arenas) in &count.held_by {
        by_session.entry(session).or_default().arenas += arenas;
    }
    for &session in &count.mapped_by {
        by_session.entry(session).or_default().mapped_pools += 1;
    }
}

fn observed_pool(pool: &Pool, count: &PoolCount, known: &Known<'_>) -> ObservedPool {
    let holders = count
        .shares
        .iter()
        .filter(|(_, share)| share.leased_bytes > 0);
    let holders = holders.filter_map(|(&session, share)| {
        let (uid, pid) = known.person(session)?;
        Some(ObservedHolder {
            session: session.get(),
            uid,
            pid,
            bytes: share.leased_bytes,
        })
    });
    let mut holders: Vec<ObservedHolder> = holders.collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    holders.truncate(MAX_HOLDERS);
    ObservedPool {
        identity: PoolIdentity {
            id: pool.id.get(),
            name: pool.name.to_string(),
            uid: pool.permissions.uid,
            gid: pool.permissions.gid,
            mode: pool.permissions.mode,
            backing: backing_name(pool.backing),
            destroying: count.destroying,
            sessions: number(count.mapped_by.len()),
        },
        capacity_bytes: count.capacity_bytes,
        max_capacity_bytes: pool.max_capacity_bytes(),
        committed_bytes: count.committed_bytes,
        table_bytes: count.table_bytes,
        leased_bytes: count.leased_bytes,
        daemon_bytes: count.daemon_bytes,
        abandoned_bytes: count.abandoned_bytes,
        free_committed_bytes: count.free_committed_bytes,
        used_bytes: count.used_bytes,
        requested_bytes: count.requested_bytes,
        largest_free_bytes: count.largest_free_bytes,
        fragmentation: fragmentation(count.largest_run_bytes, count.grantable_bytes),
        blocks: count.blocks,
        kept_blocks: count.kept_blocks,
        named_blocks: count.named_blocks,
        condemned_blocks: count.condemned_blocks,
        pins: count.pins,
        leases: count.leases,
        holders,
    }
}

fn observed_arena_pool(
    pool: &ArenaPool,
    count: ArenaCount,
    known: &Known<'_>,
) -> ObservedArenaPool {
    let info = pool.info();
    ObservedArenaPool {
        identity: PoolIdentity {
            id: pool.id.get(),
            name: pool.name.to_string(),
            uid: pool.permissions.uid,
            gid: pool.permissions.gid,
            mode: pool.permissions.mode,
            backing: backing_name(pool.backing),
            destroying: count.destroying,
            sessions: number(count.mapped_by.len()),
        },
        arenas: info.arenas,
        arena_bytes: info.arena_bytes,
        free: count.free,
        exclusive: count.exclusive,
        named: count.named,
        waiting: count.waiting,
        used_bytes: count.used_bytes,
        committed_bytes: count.committed_bytes,
        table_bytes: count.table_bytes,
        held: count
            .held
            .into_iter()
            .map(|held| observed_arena(held, known))
            .collect(),
    }
}

fn observed_arena(held: HeldArena, known: &Known<'_>) -> ObservedArena {
    let holders = held.holders.iter().filter_map(|&(session, access)| {
        let (uid, pid) = known.person(session)?;
        Some(ObservedArenaHolder {
            session: session.get(),
            uid,
            pid,
            writable: access == Access::ReadWrite,
        })
    });
    ObservedArena {
        index: held.index,
        holders: holders.take(MAX_HOLDERS).collect(),
        name: held.name.map(String::from),
        used_bytes: held.used_bytes,
    }
}

fn observed_session(session: &Session, has: Belongings, now: Instant) -> ObservedSession {
    ObservedSession {
        number: session.number.get(),
        serial: session.serial,
        pid: session.pid,
        uid: session.uid,
        label: session.label.to_string(),
        command: goumem_shm::os::process::command_of(session.pid)
            .filter(|_| session.pidfd.is_some()),
        age_ms: millis(now.saturating_duration_since(session.opened_at)),
        may_map: session.may_map,
        connected: session.is_connected(),
        mapped_pools: has.mapped_pools,
        leased_bytes: has.leased_bytes,
        rpc_bytes: has.rpc_bytes,
        blocks: has.blocks,
        arenas: has.arenas,
        pins: u32::try_from(has.pins).unwrap_or(u32::MAX),
    }
}

/// Returns how much of what may be granted is outside of the longest run: 0 to 1.
fn fragmentation(largest_run_bytes: u64, grantable_bytes: u64) -> f64 {
    if grantable_bytes == 0 {
        return 0.0;
    }
    // Whole pages below 2^40 bytes: as good in a float.
    1.0 - pages(largest_run_bytes) / pages(grantable_bytes)
}

fn pages(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
