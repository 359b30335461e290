//! What became of the requests that an earlier daemon was working on, as a pool can tell: by the
//! records that carry a request's id, and by the words that it was about to change.

use std::collections::BTreeMap;
use std::time::Instant;

use goumem_alloc::Handle;
use goumem_proto::model::{BlockInfo, FreedBatch, SpanInfo};
use goumem_shm::records::RecordKind;
use goumem_shm::root::{RequestOp, RequestRecord};
use goumem_shm::slot::{SlotSnapshot, SlotState};

use super::{Pool, PoolState};
use crate::session::{Recalled, Remembered, Session};

/// A request that left a record of its own: its session's serial, its id, what it came to.
pub(crate) type Effect = (u64, u64, Remembered);

impl Pool {
    /// Returns the requests whose effects are on record: leases, pins and keeps.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        let state = self.lock();
        let mut leases = BTreeMap::<(u64, u64), Vec<SpanInfo>>::new();
        for (&first, span) in state.spans.iter().filter(|(_, s)| s.lessee.is_client()) {
            let record = self.memory.page_record(first);
            let id = record.map_or(0, |record| record.lease().0);
            if id != 0 {
                leases.entry((span.serial, id)).or_default().push(SpanInfo {
                    first_page: first,
                    pages: span.pages,
                    size_class: span.class,
                    epoch: self.epoch_of(first).get(),
                    // Which is true of every span, and makes its agent look.
                    survivors: true,
                });
            }
        }
        let records = [RecordKind::Pin, RecordKind::Keep]
            .into_iter()
            .flat_map(|kind| {
                state
                    .records
                    .of_kind(kind)
                    .filter(|(_, record)| record.request_id != 0)
                    .map(|(_, record)| (record.serial, record.request_id, Remembered::new(&())))
            });
        leases
            .into_iter()
            .map(|((serial, id), spans)| (serial, id, Remembered::new(&spans)))
            .chain(records)
            .collect()
    }

    /// Says what became of a realloc that was cut off: the block has moved if the old one is gone.
    /// Else what it was to move to is given back. In place a retry does the same once more.
    fn recall_realloc(
        &self,
        state: &mut PoolState,
        session: &Session,
        (from, to): (Handle, Option<Handle>),
        now: Instant,
    ) -> Option<Recalled> {
        let to = to.filter(|&to| {
            self.word_of(to)
                .is_some_and(|word| word.is_live(to.generation()) && word.owner() == session.number)
        })?;
        // The same where it has not moved: the call was about to end.
        if to != from && self.memory.resolve(from).is_ok() {
            let _ = self.free_one(state, to, now);
            // Its span, if that is empty now: none is kept over a restart.
            self.return_idle(state);
            return None;
        }
        self.describe(to).map(|block| done(&block))
    }

    /// Says what became of a request; `None` if it changed nothing yet, so that a retry does it.
    pub(crate) fn recall(
        &self,
        session: &Session,
        request: &RequestRecord,
        now: Instant,
    ) -> Option<Recalled> {
        let mut state = self.lock();
        let handle = Handle::from_words(request.handle.0, request.handle.1).ok();
        let outcome = Handle::from_words(request.outcome[0], request.outcome[1]).ok();
        match request.op {
            RequestOp::FreeBatch => return Some(freed_batch(request)),
            RequestOp::ReturnSpans if request.done => {
                let returned = u32::try_from(request.outcome[0]).ok()?;
                return Some(done(&returned));
            }
            RequestOp::ReturnSpans => return Some(Recalled::CutOff),
            // Of many blocks no note has room: what a batch came to is not known.
            RequestOp::AllocBatch => return Some(Recalled::Unknown),
            RequestOp::Realloc if request.done => {
                let block = outcome.and_then(|handle| self.describe(handle));
                return Some(block.map_or(Recalled::Unknown, |block| done(&block)));
            }
            RequestOp::Realloc => {
                return self.recall_realloc(&mut state, session, (handle?, outcome), now);
            }
            _ => {}
        }
        let handle = handle?;
        let word = self.word_of(handle);
        let is_live = word.is_some_and(|word| word.is_live(handle.generation()));
        let owned_in = |generation| {
            word.is_some_and(|word| {
                word.generation() == generation
                    && word.state() == Some(SlotState::Shared)
                    && word.owner() == session.number
            })
        };
        match request.op {
            RequestOp::Alloc if request.done || is_live => {
                Some(done(&self.describe(handle).unwrap_or(BlockInfo {
                    handle,
                    size_bytes: request.extra,
                    used_bytes: request.extra,
                    type_tag: goumem_alloc::TypeTag::UNTYPED,
                })))
            }
            RequestOp::Free if request.done || !is_live => Some(done(&())),
            RequestOp::Adopt if request.done || owned_in(handle.generation()) => {
                Some(done(&handle))
            }
            RequestOp::Take if request.done => {
                Some(outcome.map_or(Recalled::Unknown, |h| done(&h)))
            }
            RequestOp::Take => {
                let taken = handle.generation().next().filter(|&life| owned_in(life))?;
                Some(done(&self.memory.handle(taken, handle.offset())))
            }
            RequestOp::Unpin if request.done || !is_pin(&state, session, request, handle) => {
                Some(done(&()))
            }
            RequestOp::Withdraw if request.done || !is_named(&state, handle) => Some(done(&handle)),
            RequestOp::Alloc
            | RequestOp::Free
            | RequestOp::Adopt
            | RequestOp::Unpin
            | RequestOp::Withdraw => None,
            _ => Some(Recalled::Unknown),
        }
    }

    fn word_of(&self, handle: Handle) -> Option<SlotSnapshot> {
        let at = self.memory.locate(handle).ok()?;
        Some(self.memory.slot(&at).load())
    }

    fn describe(&self, handle: Handle) -> Option<BlockInfo> {
        let at = self.memory.resolve(handle).ok()?;
        let shape = self.memory.checked_shape(&at).ok()?;
        Some(super::block::block_info(handle, shape, &at))
    }
}

fn done<T: crate::session::Outcome>(outcome: &T) -> Recalled {
    Recalled::Done(Remembered::new(outcome))
}

fn freed_batch(request: &RequestRecord) -> Recalled {
    match (
        request.done,
        u32::try_from(request.outcome[0]),
        request.outcome[1],
    ) {
        (true, Ok(freed), 0) => done(&FreedBatch {
            freed,
            failures: Vec::new(),
        }),
        // Which of them failed is not written down.
        (true, ..) => Recalled::Unknown,
        (false, ..) => Recalled::CutOff,
    }
}

/// Whether the pin that an Unpin was about is still there.
fn is_pin(state: &PoolState, session: &Session, request: &RequestRecord, handle: Handle) -> bool {
    u32::try_from(request.extra)
        .ok()
        .and_then(|index| state.records.get(index))
        .is_some_and(|record| {
            record.kind == RecordKind::Pin
                && record.serial == session.serial
                && (record.offset, record.generation) == (handle.offset(), handle.generation())
        })
}

fn is_named(state: &PoolState, handle: Handle) -> bool {
    state
        .records
        .at(handle.offset(), RecordKind::Keep)
        .any(|(_, record)| record.generation == handle.generation() && !record.name.is_empty())
}
