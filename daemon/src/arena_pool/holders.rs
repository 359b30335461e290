//! Named arenas and who holds them. The holder records in CONTROL are the truth: a set of
//! sessions for each arena, not a count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{Handle, MAX_RECORDS, SessionNumber};
use goumem_proto::model::{Access, ArenaInfo, AttachArena, DetachArena, RequestId, ShareArena};
use goumem_proto::name::ArenaName;
use goumem_shm::AccessError;
use goumem_shm::arena::ArenaState;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::root::RequestOp;

use super::{ArenaPool, ArenaPoolState, ByArena, ByName};
use crate::error::{Error, Table};
use crate::session::{Caller, Intent, Session};

/// What is known of the holder records.
#[derive(Debug, Default)]
pub(super) struct Holders {
    pub(super) by_arena: ByArena,
    pub(super) by_name: ByName,
    pub(super) used: std::collections::BTreeSet<u32>,
}

/// A named arena.
#[derive(Debug)]
pub(super) struct NamedArena {
    name: ArenaName,
    handle: Handle,
    /// Where each holder's record stands, and what it may do.
    holders: BTreeMap<SessionNumber, (u32, Access)>,
}

impl NamedArena {
    /// An arena with that name, whose holders are told by `insert`.
    pub(super) fn new(name: ArenaName, handle: Handle) -> Self {
        Self {
            name,
            handle,
            holders: BTreeMap::new(),
        }
    }

    /// Notes a holder, whose record stands at `index`.
    pub(super) fn insert(&mut self, session: SessionNumber, index: u32, access: Access) {
        self.holders.insert(session, (index, access));
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Returns where a holder's record stands, and what it may do.
    pub(super) fn holder(&self, session: SessionNumber) -> Option<(u32, Access)> {
        self.holders.get(&session).copied()
    }

    /// Returns the same of every holder.
    pub(super) fn records(&self) -> impl Iterator<Item = (SessionNumber, (u32, Access))> + '_ {
        self.holders
            .iter()
            .map(|(&session, &record)| (session, record))
    }

    pub(super) fn name(&self) -> &ArenaName {
        &self.name
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionNumber, Access)> + '_ {
        self.holders
            .iter()
            .map(|(&session, &(_, access))| (session, access))
    }

    pub(super) fn access(&self, session: SessionNumber) -> Option<Access> {
        self.holders.get(&session).map(|&(_, access)| access)
    }
}

impl Holders {
    pub(super) fn of(&self, arena: u32) -> Option<&NamedArena> {
        self.by_arena.get(&arena)
    }

    pub(super) fn held_by(&self, session: SessionNumber) -> Vec<u32> {
        let held = self
            .by_arena
            .iter()
            .filter(|(_, named)| named.holders.contains_key(&session));
        held.map(|(&arena, _)| arena).collect()
    }

    fn next_index(&self) -> Result<u32, Error> {
        // The lowest gap: the set is sorted, so the first index that differs from its rank.
        let gap = self
            .used
            .iter()
            .zip(0..)
            .find(|&(&index, rank)| index != rank);
        let index = gap.map_or(self.used.len() as u64, |(_, rank)| u64::from(rank));
        u32::try_from(index)
            .ok()
            .filter(|&index| index < MAX_RECORDS)
            .ok_or(Error::TooMany {
                table: Table::Records,
                limit: MAX_RECORDS.into(),
            })
    }
}

impl ArenaPool {
    /// Names an arena that the session holds alone: record, then word. It stays a holder.
    ///
    /// # Errors
    /// `NameExists`, `Access` (stale, not owner, shared), `TooMany`, `BudgetExhausted`.
    pub fn share(
        &self,
        session: &Session,
        request: &ShareArena,
        now: Instant,
    ) -> Result<ArenaInfo, Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            if state.holders.by_name.contains_key(&request.name) {
                return Err(Error::NameExists {
                    pool: self.name.to_string(),
                    name: request.name.to_string(),
                });
            }
            let (at, words) = self.memory.resolve(request.arena)?;
            if words.load().state() == Some(ArenaState::Named) {
                return Err(AccessError::Shared {
                    handle: request.arena,
                }
                .into());
            }
            let handle = self.memory.handle(at.index, request.arena.generation());
            let by = (session, request.request_id);
            let record = self.holder_record(by, handle, &request.name, Access::ReadWrite);
            let index = self.commit_record(&mut state, &record, now)?;
            if let Err(error) = self.memory.share(handle, session.number) {
                self.clear_record(&mut state, index);
                return Err(error.into());
            }
            // One that stands there still was of a life that ended without its last holder, which
            // only a writer outside this library can have done.
            self.forget_named(&mut state, at.index);
            let holders = BTreeMap::from([(session.number, (index, Access::ReadWrite))]);
            let named = NamedArena {
                name: request.name.clone(),
                handle,
                holders,
            };
            state.holders.by_name.insert(request.name.clone(), at.index);
            state.holders.by_arena.insert(at.index, named);
            Ok(self.arena_info(handle, Access::ReadWrite))
        })
    }

    /// Becomes a holder of a named arena.
    ///
    /// # Errors
    /// `NameNotFound`, `PermissionDenied`, `TooMany`, `BudgetExhausted`.
    pub fn attach(
        &self,
        caller: &Caller,
        request: &AttachArena,
        now: Instant,
    ) -> Result<ArenaInfo, Error> {
        let session = caller.session()?;
        self.require(caller, request.access)?;
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            let no_name = || Error::NameNotFound {
                pool: self.name.to_string(),
                name: request.name.to_string(),
            };
            let arena = state
                .holders
                .by_name
                .get(&request.name)
                .copied()
                .ok_or_else(no_name)?;
            self.note_use(&mut state, session, now)?;
            let named = state.holders.by_arena.get(&arena);
            let handle = named.map(|named| named.handle).ok_or(Error::Invariant {
                what: "named arenas have a table entry",
            })?;
            let is_named = self.memory.words(arena).is_some_and(|words| {
                let word = words.load();
                word.is_held(handle.generation()) && word.state() == Some(ArenaState::Named)
            });
            if !is_named {
                // Overwritten from outside this library: nobody holds that arena by its name.
                self.forget_named(&mut state, arena);
                return Err(no_name());
            }
            let before = named
                .and_then(|named| named.holders.get(&session.number))
                .copied();
            if let Some((_, access)) = before
                && (access == Access::ReadWrite || request.access == Access::ReadOnly)
            {
                return Ok(self.arena_info(handle, access)); // a set, not a count
            }
            let by = (&**session, request.request_id);
            let record = self.holder_record(by, handle, &request.name, request.access);
            let index = self.commit_record(&mut state, &record, now)?;
            if let Some((old, _)) = before {
                self.clear_record(&mut state, old);
            }
            if let Some(named) = state.holders.by_arena.get_mut(&arena) {
                named
                    .holders
                    .insert(session.number, (index, request.access));
            }
            Ok(self.arena_info(handle, request.access))
        })
    }

    /// Stops holding a named arena; returns whether that freed it.
    ///
    /// # Errors
    /// `Access`: stale, or not a holder.
    pub fn detach(
        self: &Arc<Self>,
        session: &Session,
        request: &DetachArena,
    ) -> Result<bool, Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let (at, words) = self.memory.resolve(request.arena)?;
            let holds = state
                .holders
                .of(at.index)
                .is_some_and(|named| named.holders.contains_key(&session.number));
            if !holds {
                let owner = words.load().owner();
                return Err(AccessError::NotOwner {
                    handle: request.arena,
                    owner,
                }
                .into());
            }
            let intent = Intent::about(RequestOp::Detach, request.arena);
            session.intend(request.request_id, intent);
            let returned = self.drop_holder(&mut state, at.index, session.number);
            if returned {
                self.serve(&mut state);
            }
            Ok(returned)
        })
    }

    /// Drops a holder's record, and the arena after the last one; returns whether it did.
    pub(super) fn drop_holder(
        &self,
        state: &mut ArenaPoolState,
        arena: u32,
        session: SessionNumber,
    ) -> bool {
        let Some(named) = state.holders.by_arena.get_mut(&arena) else {
            return false;
        };
        let Some((index, _)) = named.holders.remove(&session) else {
            return false;
        };
        let last = named.holders.is_empty();
        let handle = named.handle;
        self.clear_record(state, index);
        if !last {
            return false;
        }
        if let Some(named) = state.holders.by_arena.remove(&arena) {
            state.holders.by_name.remove(&named.name);
        }
        match self
            .memory
            .words(arena)
            .map(|words| words.release_named(handle.generation()))
        {
            Some(Ok(())) => true,
            Some(Err(_)) | None => {
                // Written from outside this library: the word is not the daemon's to believe.
                tracing::warn!(pool = %self.name, arena, "a named arena's word was overwritten");
                if let Some(words) = self.memory.words(arena) {
                    words.force_free();
                }
                true
            }
        }
    }

    /// Drops every record of a named arena whose word is no longer theirs.
    fn forget_named(&self, state: &mut ArenaPoolState, arena: u32) {
        let Some(named) = state.holders.by_arena.remove(&arena) else {
            return;
        };
        tracing::warn!(pool = %self.name, arena, "a named arena's word was overwritten");
        state.holders.by_name.remove(&named.name);
        for (index, _) in named.holders.into_values() {
            self.clear_record(state, index);
        }
    }

    fn holder_record(
        &self,
        (session, request_id): (&Session, RequestId),
        handle: Handle,
        name: &ArenaName,
        access: Access,
    ) -> Record {
        Record {
            kind: RecordKind::Holder,
            session: session.number,
            serial: session.serial,
            generation: handle.generation(),
            offset: handle.offset(),
            request_id: request_id.get(),
            uid: session.uid,
            writable: access == Access::ReadWrite,
            replaces: None,
            done: false,
            name: name.to_string(),
        }
    }

    fn commit_record(
        &self,
        state: &mut ArenaPoolState,
        record: &Record,
        now: Instant,
    ) -> Result<u32, Error> {
        let index = state.holders.next_index()?;
        let start = self.memory.geometry().record_offset(index);
        self.back(state, start..start + goumem_alloc::RECORD_BYTES, now)?;
        let slot = self.memory.record(index).ok_or(Error::Invariant {
            what: "record indices are below the table's end",
        })?;
        slot.commit(record);
        state.holders.used.insert(index);
        Ok(index)
    }

    fn clear_record(&self, state: &mut ArenaPoolState, index: u32) {
        if let Some(slot) = self.memory.record(index) {
            slot.clear();
        }
        state.holders.used.remove(&index);
    }
}
