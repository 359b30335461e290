//! A pool of arenas, as its one owner sees it. Getting, bumping and returning need no daemon;
//! what does is sharing by name (the holder records), waiting (one FIFO for everybody), and a
//! session's death.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use goumem_alloc::{Handle, PoolId, SessionNumber, WORD_BYTES};
use goumem_proto::model::{
    Access, ArenaHolder, ArenaHolders, ArenaInfo, ArenaPoolInfo, ArenaPoolStat, Backing,
    Permissions,
};
use goumem_proto::name::{ArenaName, PoolName};
use goumem_shm::ArenaMemory;
use goumem_shm::arena::ArenaState;
use goumem_shm::header::MadeBy;
use goumem_shm::os::Segment;

use crate::error::Error;
use crate::mappers::Mappers;
use crate::permission;
use crate::pool::{Shared, TablePages};
use crate::session::{Caller, Session};

mod arena;
mod check;
mod end;
mod holders;
mod observe;
mod recover;
mod waiters;

use holders::Holders;
pub(crate) use observe::{ArenaCount, HeldArena};
pub(crate) use recover::recover;
use waiters::Waiter;
pub use waiters::{GrantedArena, WaitTicket, Waited};

/// An arena pool.
#[derive(Debug)]
pub struct ArenaPool {
    /// Never reused.
    pub id: PoolId,
    /// Its name.
    pub name: PoolName,
    /// What backs it.
    pub backing: Backing,
    /// Who may open it.
    pub permissions: Permissions,
    shared: Arc<Shared>,
    memory: ArenaMemory,
    control: Arc<Segment>,
    data: Arc<Segment>,
    /// Payload bytes, all committed at creation.
    payload_bytes: u64,
    state: Mutex<ArenaPoolState>,
}

#[derive(Debug)]
struct ArenaPoolState {
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
    /// Where the search for a free arena begins.
    search_from: u32,
    holders: Holders,
    tables: TablePages,
    data_table_bytes: u64,
    mapped_by: Mappers,
    destroying: bool,
}

/// The segments of an arena pool to be, and everything about it that is settled.
#[derive(Debug)]
pub(crate) struct ArenaPoolParts {
    pub(crate) id: PoolId,
    pub(crate) name: PoolName,
    pub(crate) backing: Backing,
    pub(crate) permissions: Permissions,
    pub(crate) memory: ArenaMemory,
    pub(crate) control: Arc<Segment>,
    pub(crate) data: Arc<Segment>,
    pub(crate) control_tables: TablePages,
    pub(crate) data_table_bytes: u64,
}

impl ArenaPool {
    /// Puts an arena pool together. Payload and tables are committed and in the budget.
    pub(crate) fn new(parts: ArenaPoolParts, shared: Arc<Shared>) -> Self {
        let payload = parts.memory.geometry().payload_range();
        let pool = Self {
            id: parts.id,
            name: parts.name,
            backing: parts.backing,
            permissions: parts.permissions,
            shared,
            memory: parts.memory,
            control: parts.control,
            data: parts.data,
            payload_bytes: payload.end - payload.start,
            state: Mutex::new(ArenaPoolState {
                waiters: VecDeque::new(),
                next_ticket: 0,
                search_from: 0,
                holders: Holders::default(),
                tables: parts.control_tables,
                data_table_bytes: parts.data_table_bytes,
                mapped_by: Mappers::default(),
                destroying: false,
            }),
        };
        pool.memory.set_waiters(false);
        pool
    }

    /// Returns what the arena pool is.
    pub fn info(&self) -> ArenaPoolInfo {
        ArenaPoolInfo {
            pool_id: self.id,
            name: self.name.clone(),
            arenas: self.memory.geometry().arenas(),
            arena_bytes: self.memory.geometry().arena_bytes(),
            backing: self.backing,
            permissions: self.permissions,
            os_name: self.data.os_name().map(str::to_owned),
        }
    }

    /// Refuses a caller who may not use the arena pool so.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn require(&self, caller: &Caller, access: Access) -> Result<(), Error> {
        permission::require(caller, &self.permissions, access, self.name.as_str())
    }

    /// Counts its arenas.
    pub fn stat(&self) -> ArenaPoolStat {
        let state = self.lock();
        let mut stat = ArenaPoolStat {
            pool: self.info(),
            free: 0,
            exclusive: 0,
            named: 0,
            waiting: u32::try_from(state.waiters.len()).unwrap_or(u32::MAX),
            used_bytes: 0,
            committed_bytes: self.payload_bytes,
            table_bytes: state.data_table_bytes + state.tables.bytes(),
            sessions: u32::try_from(state.mapped_by.len()).unwrap_or(u32::MAX),
        };
        for index in 0..self.memory.geometry().arenas() {
            let Some(words) = self.memory.words(index) else {
                continue;
            };
            let word = words.load();
            match word.state() {
                Some(ArenaState::Exclusive) => stat.exclusive += 1,
                Some(ArenaState::Named) => stat.named += 1,
                Some(ArenaState::Free) | None => {
                    stat.free += 1;
                    continue;
                }
            }
            let handle = self.memory.handle(index, word.generation());
            stat.used_bytes += self.memory.used_bytes(handle).unwrap_or(0);
        }
        stat
    }

    /// Hands the memory to a session: CONTROL read-only, DATA as `access` says.
    ///
    /// # Errors
    /// `SessionExpired`, `PoolDestroyed`, `Os`.
    pub fn hand_out(
        &self,
        session: &Session,
        access: Access,
        now: Instant,
    ) -> Result<(OwnedFd, OwnedFd), Error> {
        let mut state = self.lock();
        session.require_live()?;
        self.require_usable(&state)?;
        self.note_use(&mut state, session, now)?;
        let control = self
            .control
            .hand_out(false)
            .map_err(|e| Error::os("hand out CONTROL", e))?;
        let data = self
            .data
            .hand_out(access == Access::ReadWrite)
            .map_err(|e| Error::os("hand out DATA", e))?;
        state.mapped_by.add(session.number);
        self.write_member(&state, session);
        Ok((control, data))
    }

    /// Says which run of the daemon has it now.
    pub(crate) fn set_run(&self, instance: u64, epoch: u64) {
        self.memory.header().set_run(instance, epoch);
    }

    /// Leaves its names where they are when it is dropped, for the next daemon.
    pub(crate) fn leave(&self) {
        self.control.keep();
        self.data.keep();
    }

    /// Returns the request that made it.
    pub(crate) fn made_by(&self) -> MadeBy {
        self.memory.header().made_by()
    }

    /// Returns how many arenas a session holds, and whether it maps the pool.
    pub fn held_by(&self, session: &Session) -> (u64, bool) {
        let state = self.lock();
        if !state.mapped_by.may_hold(session.number) {
            return (0, false);
        }
        let exclusive = (0..self.memory.geometry().arenas())
            .filter(|&index| {
                self.memory.words(index).is_some_and(|words| {
                    let word = words.load();
                    word.state() == Some(ArenaState::Exclusive) && word.owner() == session.number
                })
            })
            .count();
        let named = state.holders.held_by(session.number).len();
        (
            (exclusive + named) as u64,
            state.mapped_by.contains(session.number),
        )
    }

    /// Lists the arenas that are not free, and who holds them as far as the caller may know.
    pub fn list_holders(
        &self,
        caller: &Caller,
        pid_of: impl Fn(SessionNumber) -> (u32, u32),
    ) -> Vec<ArenaHolders> {
        let state = self.lock();
        let sees_all = permission::owns(caller, &self.permissions);
        let mut list = Vec::new();
        for index in 0..self.memory.geometry().arenas() {
            let Some(words) = self.memory.words(index) else {
                continue;
            };
            let word = words.load();
            let arena = self.memory.handle(index, word.generation());
            let (name, mut holders) = match word.state() {
                // The word may name a session that has nothing to do with the pool, and whose user
                // is none of the caller's business.
                Some(ArenaState::Exclusive) if !state.mapped_by.may_hold(word.owner()) => {
                    (None, Vec::new())
                }
                Some(ArenaState::Exclusive) => {
                    let (uid, pid) = pid_of(word.owner());
                    let access = Access::ReadWrite;
                    (
                        None,
                        vec![ArenaHolder {
                            session: word.owner(),
                            uid,
                            pid,
                            access,
                        }],
                    )
                }
                Some(ArenaState::Named) => {
                    let Some(named) = state.holders.of(index) else {
                        continue;
                    };
                    let holders = named.iter().map(|(session, access)| {
                        let (uid, pid) = pid_of(session);
                        ArenaHolder {
                            session,
                            uid,
                            pid,
                            access,
                        }
                    });
                    (Some(named.name().clone()), holders.collect())
                }
                Some(ArenaState::Free) | None => continue,
            };
            if !sees_all {
                holders.retain(|holder| holder.uid == caller.uid);
            }
            let used_bytes = self.memory.used_bytes(arena).unwrap_or(0);
            list.push(ArenaHolders {
                arena,
                name,
                used_bytes,
                holders,
            });
        }
        list
    }

    fn arena_info(&self, arena: Handle, access: Access) -> ArenaInfo {
        ArenaInfo {
            arena,
            size_bytes: self.memory.geometry().arena_bytes(),
            access,
        }
    }

    /// Notes that a session is about to hold something here, for the next daemon too.
    ///
    /// # Errors
    /// `BudgetExhausted`, `NoSpace`.
    fn note_use(
        &self,
        state: &mut ArenaPoolState,
        session: &Session,
        now: Instant,
    ) -> Result<(), Error> {
        if state.mapped_by.may_hold(session.number) {
            return Ok(());
        }
        let start = self.memory.geometry().members_range().start
            + u64::from(session.number.get()) * WORD_BYTES;
        self.back(state, start..start + WORD_BYTES, now)?;
        state.mapped_by.note_use(session.number);
        self.write_member(state, session);
        Ok(())
    }

    fn write_member(&self, state: &ArenaPoolState, session: &Session) {
        let member = state.mapped_by.member(session);
        let word = self.memory.member(session.number);
        if word.load() != member {
            word.store(member);
        }
    }

    /// Backs a part of CONTROL with memory.
    fn back(
        &self,
        state: &mut ArenaPoolState,
        range: Range<u64>,
        now: Instant,
    ) -> Result<(), Error> {
        for run in state.tables.missing(std::iter::once(range)) {
            let bytes = run.end - run.start;
            self.shared.budget.reserve(bytes, now)?;
            if let Err(source) = self.control.commit(run.clone()) {
                self.shared.budget.release(bytes);
                return Err(Error::NoSpace {
                    requested_bytes: bytes,
                    source,
                });
            }
            state.tables.insert(&run);
        }
        Ok(())
    }

    fn require_usable(&self, state: &ArenaPoolState) -> Result<(), Error> {
        if state.destroying {
            Err(Error::PoolDestroyed { pool_id: self.id })
        } else {
            Ok(())
        }
    }

    fn lock(&self) -> MutexGuard<'_, ArenaPoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Used by the holder table.
type ByName = HashMap<ArenaName, u32>;
type ByArena = BTreeMap<u32, holders::NamedArena>;

#[cfg(test)]
mod tests;
