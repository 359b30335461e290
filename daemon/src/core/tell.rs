//! Telling the hub what the core has done: what each event says, and whom it concerns.

use std::time::Instant;

use goumem_proto::model::{Happening, WatchedArena, WatchedPool, WatchedRefusal, WatchedSession};
use goumem_proto::name::{ArenaName, PoolName};

use super::Core;
use super::registry::AnyPool;
use crate::arena_pool::ArenaPool;
use crate::error::{Error, Table};
use crate::events::About;
use crate::session::{Caller, Session};

impl Core {
    /// Tells that the configuration was read again, and what is otherwise now.
    pub(super) fn tell_of_reload(&self, changes: String, now: Instant) {
        let reloaded = Happening::Reloaded { changes };
        self.hub.tell(About::Operators, reloaded, now);
    }

    /// Tells those who may read a pool what has become of it.
    pub(super) fn tell_of_pool(
        &self,
        pool: &AnyPool,
        happening: impl FnOnce(WatchedPool) -> Happening,
        now: Instant,
    ) {
        let (name, permissions) = match pool {
            AnyPool::Blocks(pool) => (&pool.name, pool.permissions),
            AnyPool::Arenas(pool) => (&pool.name, pool.permissions),
        };
        let watched = WatchedPool {
            pool_id: pool.id(),
            name: name.clone(),
            arenas: matches!(pool, AnyPool::Arenas(_)),
            uid: permissions.uid,
        };
        self.hub
            .tell(About::Pool(permissions), happening(watched), now);
    }

    /// Tells a session's user what has become of it.
    pub(super) fn tell_of_session(
        &self,
        session: &Session,
        happening: impl FnOnce(WatchedSession) -> Happening,
        now: Instant,
    ) {
        let watched = WatchedSession {
            session: session.number,
            serial: session.serial,
            uid: session.uid,
            pid: session.pid,
            label: session.label.clone(),
        };
        self.hub
            .tell(About::User(session.uid), happening(watched), now);
    }

    /// Tells those who may read an arena pool what a session did to an arena with a name.
    pub(super) fn tell_of_arena(
        &self,
        pool: &ArenaPool,
        named: Option<(u32, ArenaName)>,
        session: &Session,
        happening: impl FnOnce(WatchedArena) -> Happening,
        now: Instant,
    ) {
        let Some((index, name)) = named else {
            return;
        };
        let watched = WatchedArena {
            pool_id: pool.id,
            pool: pool.name.clone(),
            index,
            name,
            session: session.number,
        };
        self.hub
            .tell(About::Pool(pool.permissions), happening(watched), now);
    }

    /// Tells that memory was not to be had, if that is what the error says: whoever asked, and
    /// nobody else, since it says how much.
    pub(super) fn tell_of_refusal(
        &self,
        caller: &Caller,
        pool: &PoolName,
        error: &Error,
        now: Instant,
    ) {
        let requested_bytes = match error {
            Error::PoolExhausted {
                requested_bytes, ..
            }
            | Error::BudgetExhausted {
                requested_bytes, ..
            }
            | Error::QuotaExceeded {
                requested_bytes, ..
            }
            | Error::NoSpace {
                requested_bytes, ..
            } => Some(*requested_bytes),
            Error::NoFreeArena { .. }
            | Error::TooMany {
                table: Table::Records,
                ..
            } => None,
            _ => return,
        };
        let refusal = WatchedRefusal {
            reason: error.reason(),
            pool: pool.clone(),
            uid: caller.uid,
            requested_bytes,
        };
        self.hub
            .tell(About::User(caller.uid), Happening::Refused(refusal), now);
    }
}
