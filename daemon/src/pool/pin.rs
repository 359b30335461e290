//! Pins: a session holds a block's bytes in place, whoever frees it. The record in CONTROL is
//! the truth, the bit in the slot word its projection.

use std::time::Instant;

use goumem_alloc::{Handle, Offset};
use goumem_proto::model::RequestId;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::root::RequestOp;
use goumem_shm::slot::Unpinned;

use super::records::{MAX_PINS, RecordIndex};
use super::{Pool, PoolState};
use crate::error::{Error, Table};
use crate::session::{Intent, Session};

impl Pool {
    /// Pins a block: record, then bit; without the bit the record is dropped again.
    ///
    /// # Errors
    /// `Access` (stale), `TooMany`, `BudgetExhausted`.
    pub fn pin(
        &self,
        session: &Session,
        handle: Handle,
        request_id: RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            let at = self.memory.resolve(handle)?;
            if state.records.pin_count() >= MAX_PINS {
                let (table, limit) = (Table::Records, MAX_PINS as u64);
                return Err(Error::TooMany { table, limit });
            }
            self.note_use(&mut state, session, now)?;
            let record = Record {
                kind: RecordKind::Pin,
                session: session.number,
                serial: session.serial,
                generation: handle.generation(),
                offset: handle.offset(),
                request_id: request_id.get(),
                uid: session.uid,
                writable: false,
                replaces: None,
                done: false,
                name: String::new(),
            };
            let index = self.commit_record(&mut state, record, now)?;
            if let Err(refusal) = self.memory.slot(&at).pin(handle.generation()) {
                self.drop_record(&mut state, index);
                return Err(self.memory.refusal(refusal, handle).into());
            }
            Ok(())
        })
    }

    /// Drops one pin of the session on a block; the last pin frees a condemned block.
    ///
    /// # Errors
    /// `Access` (stale) when the session has no pin on that life of the block.
    pub fn unpin(
        &self,
        session: &Session,
        handle: Handle,
        request_id: RequestId,
        now: Instant,
    ) -> Result<(), Error> {
        session.once(request_id, || {
            let mut state = self.lock();
            session.require_live()?;
            if handle.pool() != self.id {
                return Err(goumem_shm::AccessError::WrongPool {
                    handle,
                    expected: self.id,
                }
                .into());
            }
            let index = state
                .records
                .at(handle.offset(), RecordKind::Pin)
                .find(|(_, record)| {
                    record.session == session.number && record.generation == handle.generation()
                })
                .map(|(index, _)| index)
                .ok_or(goumem_shm::AccessError::Stale { handle })?;
            let intent = Intent::about(RequestOp::Unpin, handle).with(u64::from(index));
            session.intend(request_id, intent);
            self.drop_pin(&mut state, index, now);
            Ok(())
        })
    }

    /// Drops a pin record and, when it was the block's last, the bit.
    pub(super) fn drop_pin(&self, state: &mut PoolState, index: RecordIndex, now: Instant) {
        let Some(offset) = state.records.get(index).map(|record| record.offset) else {
            return;
        };
        let slot = self.memory.record(index);
        if let Some(slot) = slot {
            slot.drop_pin();
        }
        state.records.remove(index);
        self.settle_pin(state, offset, now);
        if let Some(slot) = slot {
            slot.clear();
        }
    }

    /// Clears the bit of a block that no record pins.
    pub(super) fn settle_pin(&self, state: &mut PoolState, offset: Offset, now: Instant) {
        if state.records.at(offset, RecordKind::Pin).next().is_some() {
            return;
        }
        let Some(at) = self.memory.block_at(offset) else {
            return;
        };
        if self.memory.slot(&at).unpin() == Unpinned::Freed {
            self.memory.note(at.first_page).hint_free();
            let charge = self.block_is_free(state, &at, now);
            self.refund(charge);
        }
    }
}
