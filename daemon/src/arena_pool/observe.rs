//! Looking at an arena pool without changing it: how full it is, and what each of its arenas is.
//! Many arenas are looked at in pieces, between which the lock is free.

use std::collections::BTreeMap;

use goumem_alloc::{Handle, SessionNumber};
use goumem_proto::model::{
    Access, ArenaHolder, ArenaPoolMap, ArenaState as Shown, MAX_MAP_HOLDERS, MapArenaPool,
    MappedArena,
};
use goumem_proto::name::ArenaName;
use goumem_shm::arena::{ArenaSnapshot, ArenaState};

use super::{ArenaPool, ArenaPoolState};

/// How many arenas are looked at before others get the lock: some 100 µs.
const ARENAS_AT_A_TIME: u32 = 4096;

/// How full an arena pool is, and who holds what of it.
#[derive(Debug, Default)]
pub(crate) struct ArenaCount {
    pub(crate) free: u32,
    pub(crate) exclusive: u32,
    pub(crate) named: u32,
    pub(crate) waiting: u32,
    pub(crate) used_bytes: u64,
    pub(crate) committed_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) destroying: bool,
    /// The sessions that map it.
    pub(crate) mapped_by: Vec<SessionNumber>,
    /// How many arenas each session holds.
    pub(crate) held_by: BTreeMap<SessionNumber, u32>,
    /// The first arenas that are not free, as many as were asked for.
    pub(crate) held: Vec<HeldArena>,
}

/// An arena that is not free.
#[derive(Debug)]
pub(crate) struct HeldArena {
    pub(crate) index: u32,
    pub(crate) name: Option<ArenaName>,
    pub(crate) used_bytes: u64,
    pub(crate) holders: Vec<(SessionNumber, Access)>,
}

impl ArenaPool {
    /// Counts the arenas, and lists the first `n_listed` that are not free.
    pub(crate) fn count(&self, n_listed: usize) -> ArenaCount {
        let mut count = ArenaCount::default();
        self.each_arena(0, |state, index, word| {
            if index == 0 {
                count.waiting = u32::try_from(state.waiters.len()).unwrap_or(u32::MAX);
                count.committed_bytes = self.payload_bytes;
                count.table_bytes = state.data_table_bytes + state.tables.bytes();
                count.destroying = state.destroying;
                count.mapped_by = state.mapped_by.sessions();
            }
            match word.state() {
                Some(ArenaState::Exclusive) => count.exclusive += 1,
                Some(ArenaState::Named) => count.named += 1,
                Some(ArenaState::Free) | None => {
                    count.free += 1;
                    return true;
                }
            }
            let used_bytes = self.used_of(index, word);
            count.used_bytes += used_bytes;
            let (name, holders) = holders_of(state, index, word);
            for &(session, _) in &holders {
                *count.held_by.entry(session).or_default() += 1;
            }
            if count.held.len() < n_listed {
                let name = name.cloned();
                count.held.push(HeldArena {
                    index,
                    name,
                    used_bytes,
                    holders,
                });
            }
            true
        });
        count
    }

    /// Shows what each arena is, from the one that the request names on. `person` returns the user
    /// and process of a session that the viewer may know of.
    pub(crate) fn map(
        &self,
        request: &MapArenaPool,
        person: impl Fn(SessionNumber) -> Option<(u32, u32)>,
    ) -> ArenaPoolMap {
        let mut map = ArenaPoolMap {
            pool: self.info(),
            waiting: 0,
            arenas: Vec::new(),
            next_arena: None,
        };
        let mut n_holders = 0;
        self.each_arena(request.first_arena, |state, index, word| {
            map.waiting = u32::try_from(state.waiters.len()).unwrap_or(u32::MAX);
            // Each holder takes less of a message than an arena.
            if map.arenas.len() + n_holders >= request.max_arenas() {
                map.next_arena = Some(index);
                return false;
            }
            let arena = self.memory.handle(index, word.generation());
            let (shown, used_bytes) = match word.state() {
                Some(ArenaState::Exclusive) => (Shown::Exclusive, self.used_of(index, word)),
                Some(ArenaState::Named) => (Shown::Named, self.used_of(index, word)),
                Some(ArenaState::Free) | None => (Shown::Free, 0),
            };
            let (name, all) = holders_of(state, index, word);
            let known = all.iter().filter_map(|&(session, access)| {
                let (uid, pid) = person(session)?;
                Some(ArenaHolder {
                    session,
                    uid,
                    pid,
                    access,
                })
            });
            let holders: Vec<ArenaHolder> = known.take(MAX_MAP_HOLDERS).collect();
            n_holders += holders.len();
            map.arenas.push(MappedArena {
                index,
                arena,
                state: shown,
                name: name.cloned(),
                used_bytes,
                holders,
                n_holders: u32::try_from(all.len()).unwrap_or(u32::MAX),
            });
            true
        });
        map
    }

    /// Returns which arena a handle points into.
    pub(crate) fn index_of(&self, arena: Handle) -> Option<u32> {
        Some(self.memory.locate(arena).ok()?.index)
    }

    /// Returns which arena a handle names, and its name, if it is held by one.
    pub(crate) fn named(&self, arena: Handle) -> Option<(u32, ArenaName)> {
        let index = self.index_of(arena)?;
        let state = self.lock();
        let named = state.holders.of(index)?;
        Some((index, named.name().clone()))
    }

    /// Calls `look` for each arena from `first` on, until it says that this is enough.
    fn each_arena(
        &self,
        first: u32,
        mut look: impl FnMut(&ArenaPoolState, u32, ArenaSnapshot) -> bool,
    ) {
        let arenas = self.memory.geometry().arenas();
        let mut next = first;
        while next < arenas {
            let end = arenas.min(next + ARENAS_AT_A_TIME);
            let state = self.lock();
            for index in next..end {
                if let Some(words) = self.memory.words(index)
                    && !look(&state, index, words.load())
                {
                    return;
                }
            }
            drop(state);
            // Who waits for the lock gets it: a mutex hands nothing over by itself.
            std::thread::yield_now();
            next = end;
        }
    }

    fn used_of(&self, index: u32, word: ArenaSnapshot) -> u64 {
        let handle = self.memory.handle(index, word.generation());
        self.memory.used_bytes(handle).unwrap_or(0)
    }
}

/// Returns an arena's name and its holders. An exclusive arena's word may name a session that has
/// nothing to do with the pool; a named one's is believed only as far as there are records.
fn holders_of(
    state: &ArenaPoolState,
    index: u32,
    word: ArenaSnapshot,
) -> (Option<&ArenaName>, Vec<(SessionNumber, Access)>) {
    match word.state() {
        Some(ArenaState::Exclusive) if state.mapped_by.may_hold(word.owner()) => {
            (None, vec![(word.owner(), Access::ReadWrite)])
        }
        Some(ArenaState::Named) => match state.holders.of(index) {
            Some(named) => (Some(named.name()), named.iter().collect()),
            None => (None, Vec::new()),
        },
        Some(ArenaState::Exclusive | ArenaState::Free) | None => (None, Vec::new()),
    }
}
