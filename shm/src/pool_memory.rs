//! A pool's two segments as one process sees them: from a handle to a block, and to its words.
//!
//! `resolve` is: page-map entry → head of the span → slot index → slot word → compare. Offsets
//! and entries are checked at every step; nothing read from shared memory is an index before it
//! is compared with the geometry.

use std::any::Any;
use std::collections::HashMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use goumem_alloc::{
    Generation, GeometryError, Handle, HandleKind, MAX_SPAN_PAGES, Offset, PageCount, PageIndex,
    PoolGeometry, PoolId, SessionNumber, SizeClass, WORD_BYTES,
};

use crate::error::{AccessError, SegmentRefusal};
use crate::header::{HEADER_WORDS, Header, HeaderPage, PoolKind, SegmentRole};
use crate::member::MemberWord;
use crate::note::PageNote;
use crate::os::{MapPlan, Mapping};
use crate::page_map::{PageEntry, PageEntryWord, SpanEpoch, SpanPlace};
use crate::records::{RECORD_WORDS, RecordSlot};
use crate::shape::{Shape, ShapeWord};
use crate::slot::{SlotRefusal, SlotWord};

mod access;
mod living;
mod span_words;

pub use living::Living;
pub use span_words::{BlockPlace, PageRecord, SlotRun};

/// CONTROL and DATA of a pool, mapped.
#[derive(Debug)]
pub struct PoolMemory {
    pool: PoolId,
    geometry: PoolGeometry,
    control: Mapping,
    data: Mapping,
    /// The spans that this process works on, or did, by their first pages: none gets two agents
    /// here, and none is taken for new that is not.
    attached: Mutex<HashMap<PageIndex, Attachment>>,
    /// What the user of this memory keeps beside it: a block has no room to point there itself.
    companion: OnceLock<Weak<dyn Any + Send + Sync>>,
}

/// The last lease of a span that this process worked on.
#[derive(Debug, Clone, Copy)]
struct Attachment {
    epoch: SpanEpoch,
    active: bool,
}

/// What this process knew of a lease that it begins to work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attached {
    /// Nothing.
    First,
    /// It worked on it before: blocks may be alive.
    Again,
    /// It works on the span now, and nothing was noted.
    Busy,
}

/// Returns how to map the DATA segment of a pool: the guard between words and payload faults.
pub fn data_plan(geometry: &PoolGeometry) -> MapPlan {
    MapPlan {
        len_bytes: geometry.data_bytes(),
        guard: Some(geometry.guard_range()),
        align_2mib: true,
    }
}

impl PoolMemory {
    /// Puts a pool's mappings together after checking their headers as outside data.
    ///
    /// # Errors
    /// Any [`SegmentRefusal`].
    pub fn open(control: Mapping, data: Mapping) -> Result<(Self, Header), SegmentRefusal> {
        let header = read_header(&control, SegmentRole::Control)?;
        let data_header = read_header(&data, SegmentRole::Data)?;
        if header.kind != PoolKind::Blocks || data_header.kind != PoolKind::Blocks {
            return Err(SegmentRefusal::Corrupt {
                field: "kind",
                value: 2,
            });
        }
        if header.pool_id != data_header.pool_id {
            let value = u64::from(data_header.pool_id.get());
            return Err(SegmentRefusal::Corrupt {
                field: "pool id of DATA",
                value,
            });
        }
        let geometry = pool_geometry(header.units).map_err(|_| SegmentRefusal::Corrupt {
            field: "pages",
            value: header.units.into(),
        })?;
        for (mapping, expected_bytes) in [
            (&data, geometry.data_bytes()),
            (&control, geometry.control_bytes()),
        ] {
            if mapping.len_bytes() < expected_bytes {
                return Err(SegmentRefusal::Truncated {
                    expected_bytes,
                    found_bytes: mapping.len_bytes(),
                });
            }
        }
        let memory = Self {
            pool: header.pool_id,
            geometry,
            control,
            data,
            attached: Mutex::new(HashMap::new()),
            companion: OnceLock::new(),
        };
        Ok((memory, header))
    }

    /// Writes the headers of a new pool into its mappings, DATA first, and puts them together.
    ///
    /// # Errors
    /// Any [`SegmentRefusal`], for mappings that do not fit the header.
    pub fn create(
        control: Mapping,
        data: Mapping,
        header: &Header,
    ) -> Result<Self, SegmentRefusal> {
        write_header(&data, SegmentRole::Data, header)?;
        write_header(&control, SegmentRole::Control, header)?;
        Ok(Self::open(control, data)?.0)
    }

    /// Returns the pool's id.
    #[inline]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Returns where everything lies.
    #[inline]
    pub fn geometry(&self) -> &PoolGeometry {
        &self.geometry
    }

    /// Returns whether this process is a forked child of the one that mapped it: nothing of it is
    /// here, and every use is refused by [`AccessError::Forked`].
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.data.is_inherited()
    }

    /// Returns whether DATA may be written.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.data.is_writable()
    }

    /// Puts something beside the memory, to be found again from any of its blocks. The first
    /// call counts; returns whether this was it.
    pub fn set_companion(&self, companion: Weak<dyn Any + Send + Sync>) -> bool {
        self.companion.set(companion).is_ok()
    }

    /// Returns what was put beside the memory, unless it is gone.
    pub fn companion(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.companion.get()?.upgrade()
    }

    /// Returns the mapping of DATA.
    pub fn data(&self) -> &Mapping {
        &self.data
    }

    /// Returns the mapping of CONTROL.
    pub fn control(&self) -> &Mapping {
        &self.control
    }

    /// Returns CONTROL's header page.
    pub fn header(&self) -> HeaderPage<'_> {
        header_page(&self.control).expect("the mapping was checked at open")
    }

    /// Returns the handle of the block at `offset` in its life `generation`.
    #[inline]
    pub fn handle(&self, generation: Generation, offset: Offset) -> Handle {
        Handle::new(self.pool, generation, offset, HandleKind::Block)
    }

    /// Returns the page-map entry of `page`, or `None` outside of the pool or for bits that no
    /// daemon writes.
    #[inline(always)]
    pub fn entry(&self, page: PageIndex) -> Option<PageEntry> {
        self.entry_word(page)?.load()
    }

    /// Returns the word of the page-map entry of `page`, or `None` outside of the pool.
    #[inline(always)]
    pub fn entry_word(&self, page: PageIndex) -> Option<&PageEntryWord> {
        if page.get() >= self.geometry.n_pages().get() {
            return None;
        }
        let word = self.control.control_word(self.geometry.entry_offset(page));
        word.map(PageEntryWord::from_atomic)
    }

    /// Returns CONTROL's record of `page`, or `None` outside of the pool.
    pub fn page_record(&self, page: PageIndex) -> Option<PageRecord<'_>> {
        if page.get() >= self.geometry.n_pages().get() {
            return None;
        }
        let offset = self.geometry.page_record_offset(page);
        Some(PageRecord(self.control.atomic_slice_u64(offset, 4).ok()?))
    }

    /// Returns record `index` of CONTROL's record table, or `None` past its end.
    pub fn record(&self, index: u32) -> Option<RecordSlot<'_>> {
        if index >= goumem_alloc::MAX_RECORDS {
            return None;
        }
        let offset = self.geometry.record_offset(index);
        RecordSlot::new(self.control.atomic_slice_u64(offset, RECORD_WORDS).ok()?)
    }

    /// Returns the member word of a session.
    ///
    /// # Panics
    /// Never: there is a word for each number, and CONTROL's length was checked.
    pub fn member(&self, session: SessionNumber) -> MemberWord<'_> {
        member_word(&self.control, &self.geometry.members_range(), session)
    }

    /// Returns the note of a page inside the pool.
    ///
    /// # Panics
    /// When the page is outside: callers have it from a checked entry.
    #[inline(always)]
    pub fn note(&self, page: PageIndex) -> &PageNote {
        let word = self.data.control_word(self.geometry.note_offset(page));
        PageNote::from_atomic(word.expect("notes of checked pages are mapped"))
    }

    /// Flags the span at `offset` as one that holds a block whose owner is not its lessee; `None`
    /// where no span is.
    #[inline]
    pub(crate) fn flag_adopted(&self, offset: Offset) -> Option<()> {
        let load = |page| Some(self.entry_word(page)?.load_bits());
        let span = SpanPlace::find(self.geometry.page_of(offset)?, load)?;
        self.note(span.first).set_holds_adopted();
        Some(())
    }

    /// Returns the slot words of a span, or `None` when no such span fits the pool.
    #[inline]
    pub fn slot_run(
        &self,
        first: PageIndex,
        class: SizeClass,
        pages: PageCount,
    ) -> Option<SlotRun<'_>> {
        if !self.span_fits(first, class, pages) {
            return None;
        }
        let run = self.geometry.slot_run(first, class, pages);
        let n_words = usize::try_from((run.end - run.start) / 8).ok()?;
        if n_words == 0 {
            return None;
        }
        let words = self.data.atomic_slice_u64(run.start, n_words).ok()?;
        let first_slot = self.geometry.slot_offset(first, class, pages, 0);
        let rotation = usize::try_from((first_slot - run.start) / 8).ok()?;
        SlotRun::new(words, rotation)
    }

    /// Returns the block that starts at `offset`, by the page map alone: whether it is alive its
    /// slot word says. `None` in a forked child, where no page map is.
    #[inline(always)]
    pub fn block_at(&self, offset: Offset) -> Option<BlockPlace> {
        if self.is_inherited() {
            return None;
        }
        let page = self.geometry.page_of(offset)?;
        let load = |page| Some(self.entry_word(page)?.load_bits());
        let span = SpanPlace::find(page, load)?;
        if !self.span_fits(span.first, span.class, span.pages) {
            return None;
        }
        let in_span = offset.get() - self.geometry.page_offset(span.first).get();
        let slot = span.class.slot_of(in_span, span.pages)?;
        Some(BlockPlace {
            first_page: span.first,
            pages: span.pages,
            class: span.class,
            lessee: span.lessee,
            slot,
            offset,
        })
    }

    /// Returns the block a handle names, by the page map; its word is not compared yet.
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `Forked`.
    #[inline]
    pub fn locate(&self, handle: Handle) -> Result<BlockPlace, AccessError> {
        if handle.pool() != self.pool {
            return Err(AccessError::WrongPool {
                handle,
                expected: self.pool,
            });
        }
        if handle.kind() != HandleKind::Block {
            return Err(AccessError::WrongKind {
                handle,
                expected: "block",
            });
        }
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        self.block_at(handle.offset())
            .ok_or(AccessError::Stale { handle })
    }

    /// Returns the block a handle names, if it is alive.
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind`, `Stale`, `Forked`.
    #[inline]
    pub fn resolve(&self, handle: Handle) -> Result<BlockPlace, AccessError> {
        let at = self.locate(handle)?;
        if self.slot(&at).load().is_live(handle.generation()) {
            Ok(at)
        } else {
            Err(AccessError::Stale { handle })
        }
    }

    /// Returns the slot word of a block. Only in a writable mapping may it do more than `load`.
    ///
    /// # Panics
    /// When the place is not one of this pool: callers have it from `block_at` and its like.
    #[inline(always)]
    pub fn slot(&self, at: &BlockPlace) -> &SlotWord {
        let offset = self
            .geometry
            .slot_offset(at.first_page, at.class, at.pages, at.slot);
        let word = self.data.control_word(offset);
        SlotWord::from_atomic(word.expect("words of checked blocks are mapped"))
    }

    /// Returns the shape word of a block. Only in a writable mapping may it do more than `load`.
    ///
    /// # Panics
    /// As `slot`.
    #[inline(always)]
    pub fn shape(&self, at: &BlockPlace) -> &ShapeWord {
        let offset = self
            .geometry
            .shape_offset(at.first_page, at.class, at.pages, at.slot);
        let word = self.data.control_word(offset);
        ShapeWord::from_atomic(word.expect("words of checked blocks are mapped"))
    }

    /// Returns both words of a block, as `slot` and `shape`, for less than twice the work.
    ///
    /// # Panics
    /// As `slot`.
    #[inline(always)]
    pub(crate) fn words(&self, at: &BlockPlace) -> (&SlotWord, &ShapeWord) {
        let (slot, shape) = self
            .geometry
            .word_offsets(at.first_page, at.class, at.pages, at.slot);
        let slot = self.data.control_word(slot);
        let shape = self.data.control_word(shape);
        (
            SlotWord::from_atomic(slot.expect("words of checked blocks are mapped")),
            ShapeWord::from_atomic(shape.expect("words of checked blocks are mapped")),
        )
    }

    /// Returns the shape of a block, checked against its class.
    ///
    /// # Errors
    /// `Corrupt` when it claims more bytes than the block has, or none; `Forked`.
    pub fn checked_shape(&self, at: &BlockPlace) -> Result<Shape, AccessError> {
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        let shape = self.shape(at).load();
        if shape.length_bytes == 0 || shape.length_bytes > at.usable_bytes() {
            return Err(self.corrupt("shape word", at.offset));
        }
        Ok(shape)
    }

    #[inline(always)]
    fn span_fits(&self, first: PageIndex, class: SizeClass, pages: PageCount) -> bool {
        let in_pool = first
            .checked_add(pages)
            .is_some_and(|end| end.get() <= self.geometry.n_pages().get());
        in_pool && pages > PageCount::ZERO && (class.is_large() || pages <= MAX_SPAN_PAGES)
    }

    #[inline]
    fn require_writable(&self) -> Result<(), AccessError> {
        if self.data.is_writable() {
            Ok(())
        } else {
            Err(AccessError::ReadOnly { pool: self.pool })
        }
    }

    #[inline]
    pub(crate) fn writable_pointer(
        &self,
        offset: Offset,
        len: u64,
    ) -> Result<NonNull<u8>, AccessError> {
        self.require_writable()?;
        self.data
            .pointer_mut(offset.get(), len)
            .map_err(|_| self.corrupt("offset", offset))
    }

    pub(crate) fn corrupt(&self, what: &'static str, offset: Offset) -> AccessError {
        AccessError::Corrupt {
            pool: self.pool,
            what,
            offset_bytes: offset.get(),
        }
    }

    /// Gives a refused transition its handle and numbers.
    pub fn refusal(&self, refusal: SlotRefusal, handle: Handle) -> AccessError {
        match refusal {
            SlotRefusal::Stale => AccessError::Stale { handle },
            SlotRefusal::DoubleFree => AccessError::DoubleFree { handle },
            SlotRefusal::NotOwner(owner) => AccessError::NotOwner { handle, owner },
            SlotRefusal::Pinned => AccessError::Pinned { handle },
            SlotRefusal::GenerationsSpent => AccessError::GenerationsSpent {
                offset_bytes: handle.offset().get(),
            },
        }
    }

    /// Notes that this process begins to work on a lease.
    pub(crate) fn note_attached(&self, first: PageIndex, epoch: SpanEpoch) -> Attached {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match attached.get(&first) {
            Some(Attachment { active: true, .. }) => return Attached::Busy,
            Some(last) if last.epoch == epoch => Attached::Again,
            _ => Attached::First,
        };
        let active = true;
        attached.insert(first, Attachment { epoch, active });
        known
    }

    /// Notes that it has ended work on it, and no private block of the span is left.
    pub(crate) fn note_detached(&self, first: PageIndex) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = attached.get_mut(&first) {
            last.active = false;
        }
    }
}

/// Returns the geometry of a pool with so many pages of payload. Capacity is a quota elsewhere.
///
/// # Errors
/// Zero or too many pages.
pub fn pool_geometry(n_pages: u32) -> Result<PoolGeometry, GeometryError> {
    let bytes = PageCount::new(n_pages).bytes();
    PoolGeometry::new(bytes, Some(bytes))
}

pub(crate) fn header_page(mapping: &Mapping) -> Option<HeaderPage<'_>> {
    HeaderPage::new(mapping.atomic_slice_u64(0, HEADER_WORDS).ok()?)
}

pub(crate) fn member_word<'a>(
    control: &'a Mapping,
    members: &Range<u64>,
    session: SessionNumber,
) -> MemberWord<'a> {
    let offset = members.start + u64::from(session.get()) * WORD_BYTES;
    let word = control.atomic_u64(offset);
    MemberWord::new(word.expect("the mapping was checked at open"))
}

pub(crate) fn read_header(mapping: &Mapping, role: SegmentRole) -> Result<Header, SegmentRefusal> {
    let truncated = || SegmentRefusal::Truncated {
        expected_bytes: 4096,
        found_bytes: mapping.len_bytes(),
    };
    header_page(mapping).ok_or_else(truncated)?.load(role)
}

pub(crate) fn write_header(
    mapping: &Mapping,
    role: SegmentRole,
    header: &Header,
) -> Result<(), SegmentRefusal> {
    let page = header_page(mapping).ok_or_else(|| SegmentRefusal::Truncated {
        expected_bytes: 4096,
        found_bytes: mapping.len_bytes(),
    })?;
    page.publish(role, header);
    Ok(())
}

#[cfg(test)]
mod tests;
