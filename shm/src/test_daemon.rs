//! The daemon's part of a pool, for tests: it initialises words and publishes page-map entries in
//! the order that docs/layout.md gives for "lease" and "return", and sweeps after the dead. The
//! processes are views of one memfd with session numbers of their own.

use std::sync::Arc;

use goumem_alloc::{
    Generation, Handle, PageCount, PageIndex, PoolGeometry, PoolId, SessionNumber, SizeClass,
};

use crate::header::{Header, MadeBy, PoolKind, PoolState};
use crate::os::{Access, Backing, MapPlan, Mapping, MemfdBacking, Segment, SegmentSpec};
use crate::page_map::{PageEntry, SpanEpoch};
use crate::pool_memory::{PoolMemory, SlotRun, data_plan, pool_geometry};
use crate::slot::{SlotState, Unpinned};
use crate::{LeasedSpan, SpanLease};

/// Sessions of the processes in tests.
pub(crate) const ALICE: SessionNumber = SessionNumber::new(7);
pub(crate) const BOB: SessionNumber = SessionNumber::new(8);
pub(crate) const CAROL: SessionNumber = SessionNumber::new(9);

/// Makes a segment of zeroes.
pub(crate) fn segment(len_bytes: u64) -> Segment {
    let spec = SegmentSpec {
        len_bytes,
        label: "test",
        uid: 0,
        gid: 0,
        mode: 0o600,
        path_stem: None,
    };
    MemfdBacking.create(&spec).unwrap()
}

/// Returns the header of a pool for tests.
pub(crate) fn header(kind: PoolKind, units: u32, unit_bytes: u64) -> Header {
    Header {
        kind,
        pool_id: PoolId::new(77).unwrap(),
        state: PoolState::Live,
        epoch: 1,
        units,
        unit_bytes,
        uid: 0,
        gid: 0,
        mode: 0o600,
        backing: 1,
        data_bytes: 0,
        instance: 0,
        made_by: MadeBy::default(),
        name: "test".to_owned(),
    }
}

/// What a grant writes into the words of a span. All but the first are mistakes, to be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// {floor, FREE}, as they should be.
    AtTheFloor,
    /// {0, FREE}: every life begins anew.
    Reset,
    /// Nothing: what another class has left there.
    AsTheyWere,
}

/// A pool and what its daemon does.
#[derive(Debug)]
pub(crate) struct TestDaemon {
    granted: Words,
    control: Segment,
    data: Segment,
    geometry: PoolGeometry,
    memory: Arc<PoolMemory>,
}

impl TestDaemon {
    /// Makes a pool of so many pages.
    pub(crate) fn new(n_pages: u32) -> Self {
        Self::granting(n_pages, Words::AtTheFloor)
    }

    /// As `new`, with grants that may be wrong.
    pub(crate) fn granting(n_pages: u32, granted: Words) -> Self {
        let geometry = pool_geometry(n_pages).unwrap();
        let control = segment(geometry.control_bytes());
        let data = segment(geometry.data_bytes());
        let map = |segment, plan| Mapping::map(segment, Access::ReadWrite, plan).unwrap();
        let memory = PoolMemory::create(
            map(&control, MapPlan::whole(geometry.control_bytes())),
            map(&data, data_plan(&geometry)),
            &header(PoolKind::Blocks, n_pages, geometry.payload_range().end),
        );
        Self {
            granted,
            control,
            data,
            geometry,
            memory: Arc::new(memory.unwrap()),
        }
    }

    /// Maps the pool as another process does: CONTROL read-only.
    pub(crate) fn view(&self) -> Arc<PoolMemory> {
        self.view_with(Access::ReadWrite)
    }

    /// Maps the pool as a process that may only read does.
    pub(crate) fn read_only_view(&self) -> Arc<PoolMemory> {
        self.view_with(Access::ReadOnly)
    }

    fn view_with(&self, access: Access) -> Arc<PoolMemory> {
        let control_plan = MapPlan::whole(self.geometry.control_bytes());
        let control = Mapping::map(&self.control, Access::ReadOnly, control_plan).unwrap();
        let data = Mapping::map(&self.data, access, data_plan(&self.geometry)).unwrap();
        Arc::new(PoolMemory::open(control, data).unwrap().0)
    }

    /// Returns the daemon's own view, in which both segments are writable.
    pub(crate) fn memory(&self) -> &Arc<PoolMemory> {
        &self.memory
    }

    /// Leases the first free run of `pages` pages.
    pub(crate) fn grant(
        &self,
        session: SessionNumber,
        class: SizeClass,
        pages: PageCount,
    ) -> Option<SpanLease> {
        let n_pages = self.geometry.n_pages().get();
        let is_free = |page| matches!(self.entry(page), PageEntry::Free { .. });
        let first_page = (0..n_pages)
            .take_while(|first| first + pages.get() <= n_pages)
            .find(|first| (*first..first + pages.get()).all(|page| is_free(PageIndex::new(page))))
            .map(PageIndex::new)?;
        let floor = self
            .pages_of(first_page, pages)
            .map(|page| self.floor(page))
            .max()?;
        let initial = match self.granted {
            Words::AtTheFloor => Some(floor),
            Words::Reset => Some(Generation::ZERO),
            Words::AsTheyWere => None,
        };
        for word in self.words(first_page, class, pages).words() {
            if let Some(initial) = initial {
                word.initialise(initial);
            }
        }
        self.memory.note(first_page).reset();
        for page in self.pages_of(first_page, pages).skip(1) {
            let back = page.pages_since(first_page).unwrap();
            let epoch = self.epoch(page);
            self.publish(page, PageEntry::Interior { class, back, epoch });
        }
        let epoch = self.epoch(first_page).next();
        self.publish_head(first_page, class, pages, session, epoch);
        Some(SpanLease {
            first_page,
            pages,
            class,
            epoch,
        })
    }

    /// Leases a span of the class's usual length and attaches to it.
    pub(crate) fn lease(
        &self,
        memory: &Arc<PoolMemory>,
        session: SessionNumber,
        class: SizeClass,
    ) -> LeasedSpan {
        let lease = self.grant(session, class, class.span_pages()).unwrap();
        LeasedSpan::attach(memory, lease, session, false).unwrap()
    }

    /// Leases an abandoned span again, with its survivors.
    pub(crate) fn grant_abandoned(
        &self,
        first_page: PageIndex,
        session: SessionNumber,
    ) -> SpanLease {
        let PageEntry::Head {
            class,
            lessee: SessionNumber::NOBODY,
            epoch,
            pages,
        } = self.entry(first_page)
        else {
            panic!("page {first_page} is no abandoned span");
        };
        let epoch = epoch.next();
        self.publish_head(first_page, class, pages, session, epoch);
        SpanLease {
            first_page,
            pages,
            class,
            epoch,
        }
    }

    /// Takes a span back, or says how many of its words are not FREE.
    pub(crate) fn take_back(&self, lease: SpanLease) -> Result<(), usize> {
        let SpanLease {
            first_page,
            pages,
            class,
            ..
        } = lease;
        let words = self.words(first_page, class, pages);
        let survivors = survivors(words);
        if survivors > 0 {
            return Err(survivors);
        }
        let highest = words.words().map(|word| word.load().generation()).max();
        let above = highest.unwrap().next().unwrap();
        for page in self.pages_of(first_page, pages) {
            let record = self.memory.page_record(page).unwrap();
            record.set_floor(record.floor().max(above));
        }
        let epoch = self.epoch(first_page).next();
        self.publish(first_page, PageEntry::Free { epoch });
        for page in self.pages_of(first_page, pages).skip(1) {
            let epoch = self.epoch(page);
            self.publish(page, PageEntry::Free { epoch });
        }
        Ok(())
    }

    /// Frees what a dead session owned, takes back the empty spans that it leased, and returns
    /// those that are abandoned with survivors.
    pub(crate) fn sweep(&self, dead: SessionNumber) -> Vec<PageIndex> {
        let mut abandoned = Vec::new();
        for (first, class, lessee, pages) in self.spans() {
            let note = self.memory.note(first);
            if lessee != dead && !note.holds_adopted() {
                continue;
            }
            let words = self.words(first, class, pages);
            if words.words().filter_map(|word| word.sweep(dead)).count() > 0 {
                note.hint_free();
            }
            if lessee != dead {
                continue;
            }
            let epoch = self.epoch(first);
            if survivors(words) > 0 {
                note.set_holds_adopted();
                self.publish_head(first, class, pages, SessionNumber::NOBODY, epoch.next());
                abandoned.push(first);
                continue;
            }
            let lease = SpanLease {
                first_page: first,
                pages,
                class,
                epoch,
            };
            self.take_back(lease).unwrap();
        }
        abandoned
    }

    /// Pins a block; the record that goes before is left out.
    pub(crate) fn pin(&self, handle: Handle) -> bool {
        let at = self.memory.locate(handle).unwrap();
        self.memory.slot(&at).pin(handle.generation()).is_ok()
    }

    /// Drops the last pin of a block.
    pub(crate) fn unpin(&self, handle: Handle) -> Unpinned {
        let at = self.memory.locate(handle).unwrap();
        let unpinned = self.memory.slot(&at).unpin();
        if unpinned == Unpinned::Freed {
            self.memory.note(at.first_page).hint_free();
        }
        unpinned
    }

    /// Keeps a block; the record that goes before is left out.
    pub(crate) fn keep(&self, handle: Handle, session: SessionNumber) -> bool {
        let at = self.memory.locate(handle).unwrap();
        let word = self.memory.slot(&at);
        word.keep(handle.generation(), session).is_ok()
    }

    /// Returns every span: first page, class, lessee, length.
    pub(crate) fn spans(&self) -> Vec<(PageIndex, SizeClass, SessionNumber, PageCount)> {
        (0..self.geometry.n_pages().get())
            .map(PageIndex::new)
            .filter_map(|page| match self.entry(page) {
                PageEntry::Head {
                    class,
                    lessee,
                    pages,
                    ..
                } => Some((page, class, lessee, pages)),
                _ => None,
            })
            .collect()
    }

    /// Returns how many words of the pool's spans are not FREE.
    pub(crate) fn living(&self) -> usize {
        let spans = self.spans();
        let words = spans
            .iter()
            .map(|&(first, class, _, pages)| self.words(first, class, pages));
        words.map(survivors).sum()
    }

    pub(crate) fn words(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> SlotRun<'_> {
        self.memory.slot_run(first, class, pages).unwrap()
    }

    fn publish_head(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
        lessee: SessionNumber,
        epoch: SpanEpoch,
    ) {
        let head = PageEntry::Head {
            class,
            lessee,
            epoch,
            pages,
        };
        self.publish(first, head);
    }

    fn publish(&self, page: PageIndex, entry: PageEntry) {
        self.memory.entry_word(page).unwrap().publish(entry);
    }

    fn entry(&self, page: PageIndex) -> PageEntry {
        self.memory.entry(page).unwrap()
    }

    fn epoch(&self, page: PageIndex) -> SpanEpoch {
        match self.entry(page) {
            PageEntry::Free { epoch }
            | PageEntry::Head { epoch, .. }
            | PageEntry::Interior { epoch, .. } => epoch,
            PageEntry::Retired => SpanEpoch::ZERO,
        }
    }

    fn floor(&self, page: PageIndex) -> Generation {
        self.memory.page_record(page).unwrap().floor()
    }

    fn pages_of(&self, first: PageIndex, pages: PageCount) -> impl Iterator<Item = PageIndex> {
        (first.get()..first.get() + pages.get()).map(PageIndex::new)
    }
}

fn survivors(words: SlotRun<'_>) -> usize {
    let lives = |word: &&crate::slot::SlotWord| word.load().state() != Some(SlotState::Free);
    words.words().filter(lives).count()
}
