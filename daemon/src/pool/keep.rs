//! Blocks that outlive their owner: kept, named, adopted, taken over. The record in CONTROL
//! comes before the word; a record whose word has moved on is dropped when it is met.

use std::time::Instant;

use goumem_alloc::{Handle, Offset};
use goumem_proto::model::{BlockInfo, KeptBlock, Publish, RequestId, Withdraw};
use goumem_proto::name::BlockName;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::root::RequestOp;
use goumem_shm::slot::SlotState;

use super::block::block_info;
use super::records::{RecordIndex, record_range};
use super::{Pool, PoolState};
use crate::error::Error;
use crate::session::{Intent, Session};

/// The name to give, and whose it was until then.
#[derive(Debug, Clone, Copy)]
struct Naming<'a> {
    name: &'a BlockName,
    replaces: Option<RecordIndex>,
}

impl Pool {
    /// Makes a block outlive its owner's session.
    ///
    /// # Errors
    /// `Access` (stale, not owner), `TooMany`, `BudgetExhausted`, `QuotaExceeded`.
    pub fn keep(
        &self,
        session: &Session,
        handle: Handle,
        request_id: RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            self.keep_as(&mut state, session, handle, None, request_id, now)
        })
    }

    /// Gives a block a name, and keeps it.
    ///
    /// # Errors
    /// As `keep`; `NameExists`.
    pub fn publish(&self, session: &Session, request: &Publish, now: Instant) -> Result<(), Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.require_usable(&state)?;
            let before = self.named(&mut state, request.name.as_str());
            if let Some((_, record)) = &before
                && record.offset == request.handle.offset()
                && record.generation == request.handle.generation()
            {
                return Ok(());
            }
            if before.is_some() && !request.replace {
                return Err(Error::NameExists {
                    pool: self.name.to_string(),
                    name: request.name.to_string(),
                });
            }
            let (handle, id) = (request.handle, request.request_id);
            let naming = Naming {
                name: &request.name,
                replaces: before.as_ref().map(|&(index, _)| index),
            };
            self.keep_as(&mut state, session, handle, Some(naming), id, now)?;
            if let Some((index, record)) = before {
                let old = self.memory.handle(record.generation, record.offset);
                // Word first: a KEPT block without a record would be nobody's to free.
                if self.free_one(&mut state, old, now).is_err() {
                    self.drop_record(&mut state, index);
                }
                self.settle_name(&mut state, request.name.as_str());
            }
            Ok(())
        })
    }

    /// Returns the block with that name.
    ///
    /// # Errors
    /// `NameNotFound`, `Access`.
    pub fn lookup(&self, name: &BlockName) -> Result<BlockInfo, Error> {
        let mut state = self.lock();
        let (_, record) = self
            .named(&mut state, name.as_str())
            .ok_or_else(|| self.no_name(name))?;
        drop(state);
        self.resolve(self.memory.handle(record.generation, record.offset))
    }

    /// Takes a block's name away; it stays kept, or is freed.
    ///
    /// # Errors
    /// `NameNotFound`.
    pub fn withdraw(
        &self,
        session: &Session,
        request: &Withdraw,
        now: Instant,
    ) -> Result<Handle, Error> {
        session.once(request.request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let name = request.name.as_str();
            let (index, record) = self
                .named(&mut state, name)
                .ok_or_else(|| self.no_name(&request.name))?;
            let handle = self.memory.handle(record.generation, record.offset);
            let intent = Intent::about(RequestOp::Withdraw, handle);
            session.intend(request.request_id, intent);
            if request.free {
                self.free_one(&mut state, handle, now)?;
                return Ok(handle);
            }
            let unnamed = Record {
                name: String::new(),
                replaces: None,
                done: true,
                ..record
            };
            // The nameless record first: without any, the block would not survive a crash.
            self.commit_record(&mut state, unnamed, now)?;
            self.drop_record(&mut state, index);
            Ok(handle)
        })
    }

    /// Lists the blocks that outlive sessions.
    pub fn kept(&self) -> Vec<KeptBlock> {
        let mut state = self.lock();
        self.drop_stale_keeps(&mut state);
        let records = state.records.of_kind(RecordKind::Keep);
        records
            .filter_map(|(_, record)| {
                let handle = self.memory.handle(record.generation, record.offset);
                let at = self.memory.block_at(record.offset)?;
                let shape = self.memory.checked_shape(&at).ok()?;
                let name = match record.name.as_str() {
                    "" => None,
                    name => Some(BlockName::try_from(name).ok()?),
                };
                Some(KeptBlock {
                    block: block_info(handle, shape, &at),
                    name,
                    uid: record.uid,
                })
            })
            .collect()
    }

    /// Makes the session the owner of a block; the handle stays good.
    ///
    /// # Errors
    /// `Access`.
    pub fn adopt(
        &self,
        session: &Session,
        handle: Handle,
        request_id: RequestId,
        now: Instant,
    ) -> Result<Handle, Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            self.note_use(&mut state, session, now)?;
            let at = self.memory.locate(handle)?;
            self.paid_by(&mut state, &at, session.uid, |state| {
                session.intend(request_id, Intent::about(RequestOp::Adopt, handle));
                self.memory.adopt(handle, session.number)?;
                self.drop_keep_records(state, handle.offset());
                Ok(handle)
            })
        })
    }

    /// Makes the session the owner of a block and every other handle stale.
    ///
    /// # Errors
    /// `Access` (stale, pinned).
    pub fn take(
        &self,
        session: &Session,
        handle: Handle,
        request_id: RequestId,
        now: Instant,
    ) -> Result<Handle, Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let at = self.memory.locate(handle)?;
            self.note_use(&mut state, session, now)?;
            self.memory.note(at.first_page).set_holds_adopted();
            self.paid_by(&mut state, &at, session.uid, |state| {
                session.intend(request_id, Intent::about(RequestOp::Take, handle));
                let (generation, _) = self
                    .memory
                    .slot(&at)
                    .take(handle.generation(), session.number)
                    .map_err(|refusal| self.memory.refusal(refusal, handle))?;
                self.drop_keep_records(state, handle.offset());
                Ok(self.memory.handle(generation, at.offset))
            })
        })
    }

    /// Record, then word.
    fn keep_as(
        &self,
        state: &mut PoolState,
        session: &Session,
        handle: Handle,
        naming: Option<Naming<'_>>,
        request_id: RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        let at = self.memory.resolve(handle)?;
        self.memory.checked_shape(&at)?;
        let slot = self.memory.slot(&at);
        let word = slot.load();
        if word.state() == Some(SlotState::Shared) && word.owner() != session.number {
            let owner = word.owner();
            return Err(goumem_shm::AccessError::NotOwner { handle, owner }.into());
        }
        // Those of earlier generations are of blocks that were freed through a mapping.
        let earlier: Vec<(RecordIndex, bool)> = state
            .records
            .at(handle.offset(), RecordKind::Keep)
            .map(|(index, record)| (index, record.generation == handle.generation()))
            .collect();
        // One that was kept and then adopted through a mapping is not kept any more, though its
        // record is still there.
        let kept_already = word.state() == Some(SlotState::Kept)
            && earlier.iter().any(|&(_, same_life)| same_life);
        if kept_already && naming.is_none() {
            return Ok(());
        }
        let record = Record {
            kind: RecordKind::Keep,
            session: goumem_alloc::SessionNumber::NOBODY,
            serial: session.serial,
            generation: handle.generation(),
            offset: handle.offset(),
            request_id: request_id.get(),
            uid: session.uid,
            writable: true,
            replaces: naming.and_then(|naming| naming.replaces),
            done: false,
            name: naming.map_or_else(String::new, |naming| naming.name.to_string()),
        };
        self.paid_by(state, &at, session.uid, |state| {
            let index = self.commit_record(state, record, now)?;
            slot.keep(handle.generation(), session.number)
                .map_err(|refusal| {
                    self.drop_record(state, index);
                    Error::from(self.memory.refusal(refusal, handle))
                })?;
            self.finish_keep(state, index);
            Ok(())
        })?;
        for (index, _) in earlier {
            self.drop_record(state, index);
        }
        Ok(())
    }

    /// Notes that what a name stood for before is gone.
    pub(super) fn settle_name(&self, state: &mut PoolState, name: &str) {
        if let Some((index, _)) = state.records.named(name)
            && let Some(slot) = self.memory.record(index)
        {
            slot.settle();
        }
    }

    /// Returns the living record with that name; a stale one is dropped.
    fn named(&self, state: &mut PoolState, name: &str) -> Option<(RecordIndex, Record)> {
        let (index, record) = state.records.named(name)?;
        let record = record.clone();
        if self.is_kept(&record) {
            return Some((index, record));
        }
        self.drop_record(state, index);
        None
    }

    /// Returns whether the word still agrees with a keep record.
    pub(super) fn is_kept(&self, record: &Record) -> bool {
        self.memory.block_at(record.offset).is_some_and(|at| {
            let word = self.memory.slot(&at).load();
            word.is_live(record.generation) && word.state() == Some(SlotState::Kept)
        })
    }

    /// Drops the keep records whose block was freed or taken over through a mapping.
    pub(super) fn drop_stale_keeps(&self, state: &mut PoolState) {
        let stale: Vec<RecordIndex> = state
            .records
            .of_kind(RecordKind::Keep)
            .filter(|(_, record)| !self.is_kept(record))
            .map(|(index, _)| index)
            .collect();
        for index in stale {
            self.drop_record(state, index);
        }
    }

    pub(super) fn drop_keep_records(&self, state: &mut PoolState, offset: Offset) {
        let records: Vec<RecordIndex> = state
            .records
            .at(offset, RecordKind::Keep)
            .map(|(index, _)| index)
            .collect();
        for index in records {
            self.drop_record(state, index);
        }
    }

    /// Writes a record into CONTROL; its last store commits it.
    pub(super) fn commit_record(
        &self,
        state: &mut PoolState,
        record: Record,
        now: Instant,
    ) -> Result<RecordIndex, Error> {
        let index = state.records.next_index()?;
        let table = self.memory.geometry().records_range().start;
        self.commit_tables(state, &[], &[record_range(table, index)], now)?;
        let slot = self.memory.record(index).ok_or(Error::Invariant {
            what: "record indices are below the table's end",
        })?;
        slot.commit(&record);
        state.records.insert(index, record);
        Ok(index)
    }

    /// Notes that a block's word has become what its record says.
    fn finish_keep(&self, state: &mut PoolState, index: RecordIndex) {
        if let Some(slot) = self.memory.record(index) {
            slot.finish_keep();
        }
        state.records.finish_keep(index);
    }

    /// Clears a record.
    pub(super) fn drop_record(&self, state: &mut PoolState, index: RecordIndex) {
        if let Some(slot) = self.memory.record(index) {
            slot.clear();
        }
        state.records.remove(index);
    }

    fn no_name(&self, name: &BlockName) -> Error {
        Error::NameNotFound {
            pool: self.name.to_string(),
            name: name.to_string(),
        }
    }
}
