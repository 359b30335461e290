//! A pool that an earlier daemon served, from its segments. CONTROL is read as outside data: what
//! it cannot vouch for is given up, never believed, and counted. Whoever maps the pool works on in
//! it meanwhile: spans that a living session leases are left as they are.
//!
//! Page map → members → records (redone, where the earlier daemon was cut off between a record and
//! its word) → words of spans without a living agent → what nothing covers is punched. What of the
//! tables was ever written is asked once, before.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use goumem_alloc::{
    Generation, HEADER_BYTES, Offset, PageIndex, RECORD_BYTES, SessionNumber, WORD_BYTES,
};
use goumem_proto::name::BlockName;
use goumem_shm::header::PoolState as HeaderState;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::slot::{SlotState, Unpinned};
use goumem_shm::{LeasedSpan, SpanLease};

use super::records::RecordIndex;
use super::{Charge, Pool, PoolParts, PoolState, Shared, Span};
use crate::error::Error;
use crate::mappers::serial_low;
use crate::session::{Session, Sessions};

mod spans;

/// The sessions that a pool's owners and lessees may be: all that an earlier daemon wrote down, the
/// dead among them, or none, when the pool is of another time than they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owners<'a>(pub(crate) Option<&'a Sessions>);

impl Owners<'_> {
    pub(crate) fn get(self, number: SessionNumber) -> Option<Arc<Session>> {
        self.0?.by_number(number)
    }

    /// The session with that number and serial.
    pub(crate) fn exactly(self, number: SessionNumber, serial: u64) -> Option<Arc<Session>> {
        self.get(number).filter(|session| session.serial == serial)
    }
}

/// Returns the parts of runs that lie in a range.
fn within(runs: &[Range<u64>], range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let clipped = runs
        .iter()
        .map(|run| run.start.max(range.start)..run.end.min(range.end));
    clipped.filter(|run| run.start < run.end)
}

/// Opens a pool again from its segments. Returns how much in it could not be believed.
///
/// # Errors
/// `NoSpace`, `Os`; the segments are left as they are.
pub(crate) fn recover(
    parts: PoolParts,
    header: HeaderState,
    owners: Owners<'_>,
    shared: Arc<Shared>,
    now: Instant,
) -> Result<(Pool, u32), Error> {
    let capacity = parts.capacity_pages;
    let total = parts.memory.geometry().n_pages();
    // The page map may hold more than the quota allows now: quota last.
    let pool = Pool::new(
        PoolParts {
            capacity_pages: total,
            ..parts
        },
        shared,
    );
    let mut state = pool.lock();
    state.destroying = header == HeaderState::Destroying;
    match pool.recover_all(&mut state, owners, now) {
        Ok(odd) => {
            // A page map that nobody wrote may grant more than that: then no more is granted.
            let capacity = capacity.max(state.heap.granted_pages());
            let _ = state.heap.set_quota(capacity);
            drop(state);
            Ok((pool, odd))
        }
        Err(error) => {
            drop(state);
            pool.give_everything_back();
            Err(error)
        }
    }
}

impl Pool {
    fn recover_all(
        &self,
        state: &mut PoolState,
        owners: Owners<'_>,
        now: Instant,
    ) -> Result<u32, Error> {
        let look = |e: std::io::Error| Error::os("look at CONTROL", e);
        let all = HEADER_BYTES..self.control.len_bytes();
        let written = self.control.written(all).map_err(look)?;
        // It stays backed: floors of free pages must not be lost to a punch.
        for run in state.control_tables.missing(written.iter().cloned()) {
            self.shared.budget.record(run.end - run.start);
            state.control_tables.insert(&run);
        }
        let look = |e: std::io::Error| Error::os("look at DATA", e);
        let tables = HEADER_BYTES..self.memory.geometry().guard_range().start;
        let written_tables = self.data.written(tables).map_err(look)?;
        let (found, mut odd) = self.recover_spans(state, &written, owners)?;
        self.back_tables(state, &found, &written_tables, owners, now)?;
        for &(first, span, epoch) in &found {
            self.rewrite_entries(first, span, epoch);
        }
        self.recover_members(state, &written, owners);
        odd += self.enlist_lessees(state, owners, now)?;
        odd += self.recover_records(state, &written, owners);
        self.recover_words(state, owners);
        self.drop_stale_keeps(state);
        self.purge_uncovered(state, written_tables);
        Ok(odd)
    }

    fn recover_members(&self, state: &mut PoolState, written: &[Range<u64>], owners: Owners<'_>) {
        let members = self.memory.geometry().members_range();
        for run in within(written, &members) {
            let first = (run.start - members.start) / WORD_BYTES;
            let n_words = usize::try_from((run.end - run.start) / WORD_BYTES).unwrap_or(0);
            let words = self.memory.control().atomic_slice_u64(run.start, n_words);
            // Most words of a page are nobody's: those are passed over at a glance.
            let numbers = (first..)
                .zip(words.into_iter().flatten())
                .filter(|(_, word)| word.load(Ordering::Relaxed) != 0)
                .filter_map(|(n, _)| u16::try_from(n).ok().map(SessionNumber::new));
            for number in numbers {
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
    }

    /// Makes members of the sessions that lease spans and are none: a lease comes after its member
    /// word, so that one was spoilt, and without it no sweep would find the spans. Returns how many.
    fn enlist_lessees(
        &self,
        state: &mut PoolState,
        owners: Owners<'_>,
        now: Instant,
    ) -> Result<u32, Error> {
        let lessees: HashSet<SessionNumber> = state
            .spans
            .values()
            .map(|span| span.lessee)
            .filter(|&lessee| lessee.is_client() && !state.mapped_by.may_hold(lessee))
            .collect();
        let mut enlisted = 0;
        for session in lessees.into_iter().filter_map(|lessee| owners.get(lessee)) {
            tracing::warn!(pool = %self.name, session = %session.number, "a lessee's member word was not there");
            self.note_use(state, &session, now)?;
            enlisted += 1;
        }
        Ok(enlisted)
    }

    /// Takes over the records that still say something, and redoes what they were for.
    fn recover_records(
        &self,
        state: &mut PoolState,
        written: &[Range<u64>],
        owners: Owners<'_>,
    ) -> u32 {
        let (found, mut odd) = self.read_records(written);
        let mut unpinned = Vec::new();
        let replaced: HashSet<RecordIndex> = found
            .iter()
            .filter_map(|(_, record)| {
                let index = record.replaces?;
                let (_, old) = found.iter().find(|&&(at, _)| at == index)?;
                (old.kind == RecordKind::Keep && old.name == record.name).then_some(index)
            })
            .collect();
        for (index, record) in found {
            let Some(slot) = self.memory.record(index) else {
                continue;
            };
            if replaced.contains(&index) {
                // Its name is another block's by now: the earlier daemon was about to free it.
                let _ = self
                    .memory
                    .free(self.memory.handle(record.generation, record.offset));
                slot.clear();
                continue;
            }
            let (stands, possible) = match record.kind {
                RecordKind::Keep => (self.redo_keep(state, &record, owners), true),
                RecordKind::Pin => (self.redo_pin(state, &record, owners), true),
                RecordKind::Unpinned => {
                    unpinned.push((index, record.offset));
                    continue;
                }
                RecordKind::Holder => (false, false),
            };
            if !possible {
                odd += 1;
                tracing::warn!(pool = %self.name, index, "a record of another kind of pool dropped");
            }
            if stands {
                slot.settle();
                let (replaces, done) = (None, record.kind == RecordKind::Keep);
                if done {
                    slot.finish_keep();
                }
                let taken_over = Record {
                    replaces,
                    done,
                    ..record
                };
                state.records.insert(index, taken_over);
            } else {
                slot.clear();
            }
        }
        for (index, offset) in unpinned {
            self.finish_unpin(state, index, offset);
        }
        odd
    }

    /// Clears the bit that an earlier daemon was about to clear.
    fn finish_unpin(&self, state: &PoolState, index: RecordIndex, offset: Offset) {
        let pinned = state.records.at(offset, RecordKind::Pin).next().is_some();
        if !pinned
            && let Some(at) = self.memory.block_at(offset)
            && self.memory.slot(&at).unpin() == Unpinned::Freed
        {
            self.memory.note(at.first_page).hint_free();
        }
        if let Some(slot) = self.memory.record(index) {
            slot.clear();
        }
    }

    fn read_records(&self, written: &[Range<u64>]) -> (Vec<(RecordIndex, Record)>, u32) {
        let records = self.memory.geometry().records_range();
        let (mut found, mut odd) = (Vec::new(), 0);
        for run in within(written, &records) {
            let indices = (run.start - records.start) / RECORD_BYTES
                ..(run.end - records.start) / RECORD_BYTES;
            for index in indices.filter_map(|index| RecordIndex::try_from(index).ok()) {
                let Some(slot) = self.memory.record(index) else {
                    break;
                };
                match slot.load() {
                    Ok(None) => {}
                    Ok(Some(record)) => found.push((index, record)),
                    Err(commit) => {
                        odd += 1;
                        tracing::warn!(
                            pool = %self.name, index, commit, "unbelievable record dropped"
                        );
                        slot.clear();
                    }
                }
            }
        }
        (found, odd)
    }

    /// Returns whether a keep stands: its block lives in that generation, at the start of a slot.
    fn redo_keep(&self, state: &PoolState, record: &Record, owners: Owners<'_>) -> bool {
        let nameable = record.name.is_empty() || BlockName::try_from(record.name.as_str()).is_ok();
        let twice = state.records.named(&record.name).is_some()
            || state
                .records
                .at(record.offset, RecordKind::Keep)
                .next()
                .is_some();
        let Some(at) = self.memory.block_at(record.offset) else {
            return false;
        };
        if !nameable || twice || self.memory.checked_shape(&at).is_err() {
            return false;
        }
        let slot = self.memory.slot(&at);
        let word = slot.load();
        if !word.is_live(record.generation) {
            return false;
        }
        if word.state() != Some(SlotState::Shared) {
            return true;
        }
        // It was adopted after the keep, through a mapping, and the record had not gone yet.
        if record.done {
            return false;
        }
        // The record came first: redo the keep if the crash was between the two. If the block is
        // another's, it was adopted after the keep, and the crash kept the record from going.
        let owner = word.owner();
        let kept_by_owner = owners.0.is_none() || owners.exactly(owner, record.serial).is_some();
        kept_by_owner && slot.keep(record.generation, owner).is_ok()
    }

    /// Returns whether a pin stands: its session is known and a member, and its block lives, or
    /// was freed under the pin.
    fn redo_pin(&self, state: &PoolState, record: &Record, owners: Owners<'_>) -> bool {
        let known = owners.exactly(record.session, record.serial).is_some();
        if !known || !state.mapped_by.may_hold(record.session) {
            return false;
        }
        let Some(at) = self.memory.block_at(record.offset) else {
            return false;
        };
        let slot = self.memory.slot(&at);
        if slot.pin(record.generation).is_ok() {
            return true;
        }
        let word = slot.load();
        word.state() == Some(SlotState::Condemned)
            && record.generation.next() == Some(word.generation())
    }

    /// Looks at the words of spans without a living agent, and becomes the agent of the daemon's.
    fn recover_words(&self, state: &mut PoolState, owners: Owners<'_>) {
        let spans: Vec<(PageIndex, Span)> = state
            .spans
            .iter()
            .filter(|(_, span)| !span.lessee.is_client())
            .map(|(&first, &span)| (first, span))
            .collect();
        for (first, span) in spans {
            let freed = self.reconcile(state, first, span);
            if freed > 0 {
                tracing::debug!(pool = %self.name, page = %first, freed, "freed what nobody holds");
            }
            if self.survivors(first, span) == 0 {
                self.take_back(state, first, None);
            } else if span.lessee == SessionNumber::DAEMON {
                self.recover_own_span(state, first, span, owners);
            }
        }
    }

    fn recover_own_span(
        &self,
        state: &mut PoolState,
        first: PageIndex,
        span: Span,
        owners: Owners<'_>,
    ) {
        let lease = SpanLease {
            first_page: first,
            pages: span.pages,
            class: span.class,
            epoch: self.epoch_of(first),
        };
        match LeasedSpan::attach(&self.memory, lease, SessionNumber::DAEMON, true) {
            Ok(attached) => state.local.insert(attached),
            Err(error) => {
                tracing::warn!(pool = %self.name, page = %first, %error, "span left to its blocks");
            }
        }
        let Some(words) = self.memory.slot_run(first, span.class, span.pages) else {
            return;
        };
        let start = self.memory.geometry().page_offset(first).get();
        let bytes = if span.class.is_large() {
            span.pages.bytes()
        } else {
            span.class.stride_bytes()
        };
        for slot in 0..span.class.slots(span.pages) {
            let word = words.word(slot).load();
            let offset = Offset::new(start + span.class.offset_of_slot(slot));
            let payer = match word.state() {
                Some(SlotState::Free) => continue,
                Some(SlotState::Shared | SlotState::Taken) => {
                    owners.get(word.owner()).map(|session| session.uid)
                }
                Some(SlotState::Kept) => self.keeper_of(state, offset, word.generation()),
                Some(SlotState::Condemned) | None => None,
            };
            let uid = payer.unwrap_or(self.permissions.uid);
            self.shared.quotas.record(uid, bytes);
            self.replace_charge(state, offset, Charge { uid, bytes });
        }
    }

    fn keeper_of(&self, state: &PoolState, offset: Offset, generation: Generation) -> Option<u32> {
        state
            .records
            .at(offset, RecordKind::Keep)
            .find(|(_, record)| record.generation == generation)
            .map(|(_, record)| record.uid)
    }

    /// Punches what no span covers: a crash may have committed it for nobody.
    fn purge_uncovered(&self, state: &PoolState, written_tables: Vec<Range<u64>>) {
        let payload = self.memory.geometry().payload_range();
        let mut uncovered = Vec::new();
        let mut from = payload.start;
        let covered = state.spans.iter().map(|(&first, span)| {
            let start = self.memory.geometry().page_offset(first).get();
            start..start + span.pages.bytes()
        });
        for covered in covered.chain(std::iter::once(payload.end..payload.end)) {
            if from < covered.start {
                uncovered.push(from..covered.start);
            }
            from = covered.end;
        }
        uncovered.extend(state.data_tables.missing(written_tables));
        for range in uncovered {
            if let Err(error) = self.data.purge(range) {
                tracing::warn!(pool = %self.name, %error, "could not purge uncovered memory");
            }
        }
    }
}
