//! A pool that an earlier daemon served, from its segments. CONTROL is read as outside data: what
//! it cannot vouch for is given up, never believed, and counted. Whoever maps the pool works on in
//! it meanwhile: spans that a living session leases are left as they are.
//!
//! What of CONTROL was ever written is asked once. Page map → members → records (redone, where the earlier daemon was cut off between a record and
//! its word) → words of spans without a living agent → what nothing covers is punched.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use goumem_alloc::{
    Generation, HEADER_BYTES, OS_PAGE_BYTES, Offset, PageCount, PageHeap, PageIndex, RECORD_BYTES,
    Recorded, SessionNumber, WORD_BYTES,
};
use goumem_proto::model::Backing;
use goumem_proto::name::BlockName;
use goumem_shm::header::PoolState as HeaderState;
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::slot::{SlotState, Unpinned};
use goumem_shm::{LeasedSpan, SpanLease};

use super::records::RecordIndex;
use super::{Charge, Pool, PoolParts, PoolState, Shared, Span, TablePages};
use crate::error::Error;
use crate::mappers::serial_low;
use crate::session::{Session, Sessions};

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

/// A span of the page map, and its epoch.
type FoundSpan = (PageIndex, Span, SpanEpoch);

/// What begins at a page.
enum Entry {
    Span(Span, SpanEpoch),
    /// A page that is out of use for good.
    Retired,
    /// A free page.
    Free,
    /// A page whose entry nobody can have written. It is free now.
    Odd,
}

/// Who the owners are, one after the other: spans in a row are often one session's.
struct Lessees<'a> {
    owners: Owners<'a>,
    last: Option<(SessionNumber, Option<Arc<Session>>)>,
}

impl Lessees<'_> {
    fn get(&mut self, number: SessionNumber) -> Option<&Session> {
        let last = match self.last.take() {
            Some(last) if last.0 == number => last,
            _ => (number, self.owners.get(number)),
        };
        self.last.insert(last).1.as_deref()
    }
}

/// Returns the parts of runs that lie in a range.
pub(crate) fn within(runs: &[Range<u64>], range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
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
        odd += self.recover_records(state, &written, owners);
        self.recover_words(state, owners);
        self.drop_stale_keeps(state);
        self.purge_uncovered(state, written_tables);
        Ok(odd)
    }

    /// Walks the heads of the page map. Returns the spans, and how many entries could not be.
    fn recover_spans(
        &self,
        state: &mut PoolState,
        written: &[Range<u64>],
        owners: Owners<'_>,
    ) -> Result<(Vec<FoundSpan>, u32), Error> {
        let entries = self.memory.geometry().entries_range();
        let total = self.memory.geometry().n_pages().get();
        let page_at = |offset: u64| {
            let page = (offset - entries.start) / WORD_BYTES;
            u32::try_from(page).unwrap_or(total).min(total)
        };
        let mut lessees = Lessees { owners, last: None };
        let (mut found, mut retired, mut odd) = (Vec::new(), Vec::new(), 0);
        let mut next = 0;
        for run in within(written, &entries) {
            next = next.max(page_at(run.start));
            while next < page_at(run.end) {
                let page = PageIndex::new(next);
                next += match self.recover_page(page, &mut lessees) {
                    Entry::Span(span, epoch) => {
                        found.push((page, span, epoch));
                        span.pages.get()
                    }
                    Entry::Retired => {
                        retired.push(page);
                        1
                    }
                    Entry::Free => 1,
                    Entry::Odd => {
                        odd += 1;
                        1
                    }
                };
            }
        }
        let granted = found
            .iter()
            .map(|&(first, span, _)| (first, span.pages, Recorded::Granted));
        let retired = retired
            .into_iter()
            .map(|page| (page, PageCount::ONE, Recorded::Retired));
        let mut recorded: Vec<_> = granted.chain(retired).collect();
        recorded.sort_unstable_by_key(|&(first, ..)| first);
        let heap = PageHeap::from_page_map(self.memory.geometry().n_pages(), recorded);
        state.heap = heap.ok_or(Error::Invariant {
            what: "each span begins behind the one before it",
        })?;
        state.spans = found
            .iter()
            .map(|&(first, span, _)| (first, span))
            .collect();
        state.abandoned = found
            .iter()
            .filter(|(_, span, _)| span.lessee == SessionNumber::NOBODY)
            .map(|&(first, ..)| first)
            .collect();
        // All that is recorded now is given back if the pool cannot be had after all.
        let mut charged = BTreeMap::<u32, u64>::new();
        for (_, span, _) in &found {
            if span.lessee != SessionNumber::DAEMON {
                *charged.entry(span.uid).or_default() += span.pages.bytes();
            }
        }
        for (uid, bytes) in charged {
            self.shared.quotas.record(uid, bytes);
        }
        let bytes = found.iter().map(|(_, span, _)| span.pages.bytes()).sum();
        self.shared.budget.record(bytes);
        Ok((found, odd))
    }

    /// Takes over what begins at a page.
    fn recover_page(&self, page: PageIndex, lessees: &mut Lessees<'_>) -> Entry {
        match self.memory.entry(page) {
            Some(PageEntry::Head {
                class,
                lessee,
                epoch,
                pages,
            }) if self.memory.slot_run(page, class, pages).is_some() => {
                let (lessee, serial, uid) = match lessees.get(lessee) {
                    Some(session) => (lessee, session.serial, session.uid),
                    None if lessee == SessionNumber::DAEMON => (lessee, 0, 0),
                    None => (SessionNumber::NOBODY, 0, self.permissions.uid),
                };
                let span = Span {
                    pages,
                    class,
                    lessee,
                    serial,
                    uid,
                    leased_at: None,
                };
                Entry::Span(span, epoch)
            }
            Some(PageEntry::Retired) => Entry::Retired,
            Some(PageEntry::Free { .. }) => Entry::Free,
            found @ (Some(PageEntry::Head { .. } | PageEntry::Interior { .. }) | None) => {
                let epoch = self.epoch_of(page).next();
                if let Some(entry) = self.memory.entry_word(page) {
                    entry.publish(PageEntry::Free { epoch });
                }
                // A page whose head is free is free as well; a head that fits nowhere nobody wrote.
                if matches!(found, Some(PageEntry::Interior { .. })) {
                    return Entry::Free;
                }
                tracing::warn!(pool = %self.name, %page, "an entry that cannot be was freed");
                Entry::Odd
            }
        }
    }

    /// Backs the words of the spans, which are backed already, unless nobody wrote them.
    fn back_tables(
        &self,
        state: &mut PoolState,
        found: &[FoundSpan],
        written: &[Range<u64>],
        owners: Owners<'_>,
        now: Instant,
    ) -> Result<(), Error> {
        let mut tables = Vec::new();
        let mut parts: [Range<u64>; 3] = [const { 0..0 }; 3];
        for &(first, span, _) in found {
            let of_span = self.data_tables_of(first, span.class, span.pages);
            for (part, range) in parts.iter_mut().zip(of_span) {
                // Spans in a row have their words in a row, on the same OS pages or the next.
                let next_page = part.end.next_multiple_of(OS_PAGE_BYTES);
                if (part.start..=next_page).contains(&range.start) {
                    part.end = part.end.max(range.end);
                } else {
                    tables.push(std::mem::replace(part, range));
                }
            }
        }
        tables.extend(parts);
        if owners.0.is_none() {
            // Nobody works on it, so the budget may refuse it.
            return self.commit_tables(state, &tables, &[], now);
        }
        let mut backed = TablePages::default();
        if self.backing != Backing::File {
            // What is in memory has memory. Of a file, a page that was written may have no place
            // on the disk yet.
            written.iter().for_each(|run| backed.insert(run));
        }
        for run in state.data_tables.missing(tables) {
            for run in backed.missing(std::iter::once(run.clone())) {
                let requested_bytes = run.end - run.start;
                self.data.commit(run).map_err(|source| Error::NoSpace {
                    requested_bytes,
                    source,
                })?;
            }
            self.shared.budget.record(run.end - run.start);
            state.data_tables.insert(&run);
        }
        Ok(())
    }

    fn rewrite_entries(&self, first: PageIndex, span: Span, epoch: SpanEpoch) {
        // Written anew: a head inside of this span would be a second one over its pages.
        for (page, _) in self.pages_of(first, span.pages).skip(1) {
            let (class, epoch) = (span.class, self.epoch_of(page));
            if let (Some(entry), Some(back)) =
                (self.memory.entry_word(page), page.pages_since(first))
            {
                entry.publish(PageEntry::Interior { class, back, epoch });
            }
        }
        if span.lessee == SessionNumber::NOBODY {
            // Whose blocks are in it, only sweeps that look here find out.
            self.memory.note(first).set_holds_adopted();
            self.publish_head(first, span.class, span.pages, span.lessee, epoch.next());
        }
    }

    fn recover_members(&self, state: &mut PoolState, written: &[Range<u64>], owners: Owners<'_>) {
        let members = self.memory.geometry().members_range();
        for run in within(written, &members) {
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
