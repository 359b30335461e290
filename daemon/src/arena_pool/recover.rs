//! An arena pool that an earlier daemon served, from its segments: whose arenas are held by living
//! sessions stay theirs, the rest is free. CONTROL is read as outside data.

use std::sync::Arc;

use goumem_alloc::{HEADER_BYTES, Handle, RECORD_BYTES, SessionNumber, WORD_BYTES};
use goumem_proto::model::{Access, ArenaInfo};
use goumem_proto::name::ArenaName;
use goumem_shm::arena::{ArenaSnapshot, ArenaState};
use goumem_shm::header::PoolState as HeaderState;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::root::{RequestOp, RequestRecord};

use super::holders::NamedArena;
use super::{ArenaPool, ArenaPoolParts, ArenaPoolState};
use crate::error::Error;
use crate::mappers::serial_low;
use crate::pool::{Effect, Owners, Shared};
use crate::session::{Outcome, Recalled, Remembered, Session};

/// Opens an arena pool again from its segments. What `parts` has committed is in the budget
/// already, and in the owner's quota, and taken out again after an error. Returns how much in it could not be believed.
///
/// # Errors
/// `Os`; the segments are left as they are.
pub(crate) fn recover(
    parts: ArenaPoolParts,
    header: HeaderState,
    owners: Owners<'_>,
    shared: Arc<Shared>,
) -> Result<(ArenaPool, u32), Error> {
    let pool = ArenaPool::new(parts, shared);
    let recovered = {
        let mut state = pool.lock();
        state.destroying = header == HeaderState::Destroying;
        pool.recover_all(&mut state, owners)
    };
    match recovered {
        Ok(odd) => Ok((pool, odd)),
        Err(error) => {
            pool.give_everything_back();
            Err(Error::os("look at CONTROL", error))
        }
    }
}

impl ArenaPool {
    fn recover_all(&self, state: &mut ArenaPoolState, owners: Owners<'_>) -> std::io::Result<u32> {
        let all = HEADER_BYTES..self.control.len_bytes();
        for run in self.control.written(all)? {
            for run in state.tables.missing(std::iter::once(run)) {
                self.shared.budget.record(run.end - run.start);
                state.tables.insert(&run);
            }
        }
        self.recover_members(state, owners)?;
        let odd = self.recover_holders(state, owners)?;
        for index in 0..self.memory.geometry().arenas() {
            let Some(words) = self.memory.words(index) else {
                continue;
            };
            let word = words.load();
            let held = match word.state() {
                // The daemon's are on their way to somebody: `end_recovery` frees what is left.
                Some(ArenaState::Exclusive) => {
                    word.owner() == SessionNumber::DAEMON || state.mapped_by.may_hold(word.owner())
                }
                Some(ArenaState::Named) => state
                    .holders
                    .of(index)
                    .is_some_and(|named| named.handle().generation() == word.generation()),
                // Whoever maps the pool may claim it this very moment.
                Some(ArenaState::Free) => true,
                None => false,
            };
            if !held {
                words.force_free();
            }
        }
        Ok(odd)
    }

    fn recover_members(
        &self,
        state: &mut ArenaPoolState,
        owners: Owners<'_>,
    ) -> std::io::Result<()> {
        let members = self.memory.geometry().members_range();
        for run in self.control.written(members.clone())? {
            let numbers =
                (run.start - members.start) / WORD_BYTES..(run.end - members.start) / WORD_BYTES;
            for number in numbers.filter_map(|n| u16::try_from(n).ok().map(SessionNumber::new)) {
                let word = self.memory.member(number);
                let Some(member) = word.load() else { continue };
                match owners.get(number) {
                    Some(session) if serial_low(session.serial) == member.serial_low => {
                        state.mapped_by.restore(number, member);
                    }
                    // Of a session whose sweep was over but for this store.
                    _ => word.store(None),
                }
            }
        }
        Ok(())
    }

    fn recover_holders(
        &self,
        state: &mut ArenaPoolState,
        owners: Owners<'_>,
    ) -> std::io::Result<u32> {
        let records = self.memory.geometry().records_range();
        let mut odd = 0;
        for run in self.control.written(records.clone())? {
            let indices = (run.start - records.start) / RECORD_BYTES
                ..(run.end - records.start) / RECORD_BYTES;
            for index in indices.filter_map(|index| u32::try_from(index).ok()) {
                let Some(slot) = self.memory.record(index) else {
                    break;
                };
                let stands = match slot.load() {
                    Ok(None) => continue,
                    Ok(Some(record)) => self.redo_holder(state, index, &record, owners),
                    Err(commit) => {
                        odd += 1;
                        tracing::warn!(
                            pool = %self.name, index, commit, "unbelievable record dropped"
                        );
                        false
                    }
                };
                if !stands {
                    slot.clear();
                }
            }
        }
        Ok(odd)
    }

    /// Takes over a holder record, and names its arena if the crash came in between. Returns
    /// whether the record stands.
    fn redo_holder(
        &self,
        state: &mut ArenaPoolState,
        index: u32,
        record: &Record,
        owners: Owners<'_>,
    ) -> bool {
        let Ok(name) = ArenaName::try_from(record.name.as_str()) else {
            return false;
        };
        let known = owners.exactly(record.session, record.serial).is_some()
            && state.mapped_by.may_hold(record.session);
        let Some((arena, 0)) = self.memory.geometry().arena_of(record.offset) else {
            return false;
        };
        if record.kind != RecordKind::Holder || !known {
            return false;
        }
        let Some(words) = self.memory.words(arena) else {
            return false;
        };
        // A record before its word is that of whoever shared the arena.
        let _ = words.share(record.generation, record.session);
        let word = words.load();
        if !word.is_held(record.generation) || word.state() != Some(ArenaState::Named) {
            return false;
        }
        let access = if record.writable {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let handle = self.memory.handle(arena, record.generation);
        let other_name = state
            .holders
            .of(arena)
            .is_some_and(|named| *named.name() != name);
        let other_arena = state
            .holders
            .by_name
            .get(&name)
            .is_some_and(|&at| at != arena);
        if other_name || other_arena {
            return false;
        }
        let named = state
            .holders
            .by_arena
            .entry(arena)
            .or_insert_with(|| NamedArena::new(name.clone(), handle));
        // Two records of one session: it held read-only, and was getting more.
        if let Some((old, before)) = named.holder(record.session) {
            if access == Access::ReadOnly && before == Access::ReadWrite {
                return false;
            }
            if let Some(slot) = self.memory.record(old) {
                slot.clear();
            }
            state.holders.used.remove(&old);
        }
        named.insert(record.session, index, access);
        state.holders.by_name.insert(name, arena);
        state.holders.used.insert(index);
        true
    }

    /// Frees the arenas that were on their way to somebody whom nobody knows.
    pub(crate) fn end_recovery(self: &Arc<Self>) {
        let _state = self.lock();
        for index in 0..self.memory.geometry().arenas() {
            if let Some(words) = self.memory.words(index) {
                words.sweep(SessionNumber::DAEMON);
            }
        }
    }

    /// Returns the requests whose effects are on record: shares and attaches.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        let state = self.lock();
        let mut effects = Vec::new();
        for named in state.holders.by_arena.values() {
            for (session, (index, access)) in named.records() {
                let record = self.memory.record(index).map(|slot| slot.load());
                if let Some(Ok(Some(record))) = record
                    && record.session == session
                    && record.request_id != 0
                {
                    let info = self.arena_info(named.handle(), access);
                    effects.push((record.serial, record.request_id, Remembered::new(&info)));
                }
            }
        }
        effects
    }

    /// Says what became of a request; `None` if it changed nothing yet, so that a retry does it.
    pub(crate) fn recall(&self, session: &Session, request: &RequestRecord) -> Option<Recalled> {
        let state = self.lock();
        let handle = Handle::from_words(request.handle.0, request.handle.1).ok()?;
        let outcome = Handle::from_words(request.outcome[0], request.outcome[1]).ok();
        let at = self.memory.locate(handle).ok()?;
        let words = self.memory.words(at.index)?;
        let word = words.load();
        let is_held = word.is_held(handle.generation());
        let is_mine = is_held
            && word.state() == Some(ArenaState::Exclusive)
            && word.owner() == session.number;
        match request.op {
            RequestOp::GetArena if request.done => Some(Recalled::Granted(handle)),
            RequestOp::GetArena => {
                // Claimed for it, and not handed over.
                let _ = words.hand_over(handle.generation(), session.number);
                let given = words.load().is_held(handle.generation());
                given.then_some(Recalled::Granted(handle))
            }
            RequestOp::ReturnArena => (request.done || !is_mine).then(|| done(&())),
            RequestOp::ArenaAlloc if request.done => outcome.map(|handle| done(&handle)),
            RequestOp::ArenaFree if request.done => Some(done(&request.outcome[0])),
            RequestOp::ResetArena if request.done => {
                outcome.map(|arena| done(&self.arena_info(arena, Access::ReadWrite)))
            }
            RequestOp::ResetArena => self.recall_reset(session, handle, at.index, word),
            RequestOp::Detach if request.done => Some(done(&(request.outcome[0] != 0))),
            RequestOp::Detach => {
                let holds = is_held
                    && state
                        .holders
                        .of(at.index)
                        .is_some_and(|named| named.access(session.number).is_some());
                (!holds).then(|| done(&!is_held))
            }
            _ => Some(Recalled::Unknown),
        }
    }

    fn recall_reset(
        &self,
        session: &Session,
        handle: Handle,
        index: u32,
        word: ArenaSnapshot,
    ) -> Option<Recalled> {
        let raised = handle.generation().next()?;
        let is_next = word.generation() == raised
            && word.state() == Some(ArenaState::Exclusive)
            && word.owner() == session.number;
        is_next.then(|| {
            let arena = self.memory.handle(index, raised);
            let info: ArenaInfo = self.arena_info(arena, Access::ReadWrite);
            done(&info)
        })
    }
}

fn done<T: Outcome>(outcome: &T) -> Recalled {
    Recalled::Done(Remembered::new(outcome))
}
