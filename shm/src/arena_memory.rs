//! An arena pool's two segments as one process sees them: from a handle to an arena, to its
//! words, and to the bytes of an allocation in it.

use goumem_alloc::{ArenaGeometry, Generation, Handle, HandleKind, Offset, PoolId, SessionNumber};

use crate::arena::{ArenaRefusal, ArenaWords, WaitersFlag};
use crate::error::{AccessError, SegmentRefusal};
use crate::header::{Header, HeaderPage, PoolKind, SegmentRole, WAITERS_OFFSET_BYTES};
use crate::member::MemberWord;
use crate::os::{MapPlan, Mapping};
use crate::pool_memory::{header_page, member_word, read_header, write_header};
use crate::records::{RECORD_WORDS, RecordSlot};
use crate::sync::AtomicU64;

mod access;

pub(crate) use access::check_size;

/// CONTROL and DATA of an arena pool, mapped.
#[derive(Debug)]
pub struct ArenaMemory {
    pool: PoolId,
    geometry: ArenaGeometry,
    control: Mapping,
    data: Mapping,
}

/// An arena that a handle names, checked against the pool; its word is not compared yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaPlace {
    /// Which arena of the pool.
    pub index: u32,
    /// How far into it the handle points.
    pub inside_bytes: u64,
}

/// Returns how to map the DATA segment of an arena pool.
pub fn arena_data_plan(geometry: &ArenaGeometry) -> MapPlan {
    MapPlan {
        len_bytes: geometry.data_bytes(),
        guard: Some(geometry.guard_range()),
        align_2mib: true,
    }
}

impl ArenaMemory {
    /// Puts an arena pool's mappings together after checking their headers as outside data.
    ///
    /// # Errors
    /// Any [`SegmentRefusal`].
    pub fn open(control: Mapping, data: Mapping) -> Result<(Self, Header), SegmentRefusal> {
        let header = read_header(&control, SegmentRole::Control)?;
        let data_header = read_header(&data, SegmentRole::Data)?;
        if header.kind != PoolKind::Arenas || data_header.kind != PoolKind::Arenas {
            return Err(SegmentRefusal::Corrupt {
                field: "kind",
                value: 1,
            });
        }
        if header.pool_id != data_header.pool_id {
            let value = u64::from(data_header.pool_id.get());
            return Err(SegmentRefusal::Corrupt {
                field: "pool id of DATA",
                value,
            });
        }
        let geometry = ArenaGeometry::new(header.units, header.unit_bytes).map_err(|_| {
            SegmentRefusal::Corrupt {
                field: "arenas",
                value: header.units.into(),
            }
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
        Ok((
            Self {
                pool: header.pool_id,
                geometry,
                control,
                data,
            },
            header,
        ))
    }

    /// Writes the headers of a new arena pool, DATA first, and puts its mappings together.
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

    /// Returns the arena pool's id.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Returns where everything lies.
    #[inline]
    pub fn geometry(&self) -> &ArenaGeometry {
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

    /// Returns the mapping of DATA.
    #[inline]
    pub fn data(&self) -> &Mapping {
        &self.data
    }

    /// Returns CONTROL's header page.
    pub fn header(&self) -> HeaderPage<'_> {
        header_page(&self.control).expect("the mapping was checked at open")
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

    /// Returns the words of an arena, or `None` past the last one.
    #[inline]
    pub fn words(&self, index: u32) -> Option<ArenaWords<'_>> {
        let [word, cursor, live] = self.raw_words(index)?;
        Some(ArenaWords::new(word, cursor, live))
    }

    /// As `words`: the arena word, the cursor, the count of the living.
    #[inline]
    pub(crate) fn raw_words(&self, index: u32) -> Option<&[AtomicU64; 3]> {
        if index >= self.geometry.arenas() {
            return None;
        }
        let offset = self.geometry.arena_slot_offset(index);
        let words = self.data.atomic_slice_u64(offset, 3).ok()?;
        words.first_chunk()
    }

    /// Returns the handle of an arena in its life `generation`.
    #[inline]
    pub fn handle(&self, index: u32, generation: Generation) -> Handle {
        let offset = self.geometry.arena_offset(index);
        Handle::new(self.pool, generation, offset, HandleKind::Arena)
    }

    /// Returns which arena a handle points into.
    ///
    /// # Errors
    /// `WrongPool`, `WrongKind` (a block's handle), `Stale` (no arena there), `Forked`.
    pub fn locate(&self, handle: Handle) -> Result<ArenaPlace, AccessError> {
        if handle.pool() != self.pool {
            return Err(AccessError::WrongPool {
                handle,
                expected: self.pool,
            });
        }
        let stale = AccessError::Stale { handle };
        if handle.kind() == HandleKind::Block {
            return Err(AccessError::WrongKind {
                handle,
                expected: "arena",
            });
        }
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        match self.geometry.arena_of(handle.offset()) {
            Some((_, 1..)) if handle.kind() == HandleKind::Arena => Err(stale),
            Some((index, inside_bytes)) => Ok(ArenaPlace {
                index,
                inside_bytes,
            }),
            None => Err(stale),
        }
    }

    /// As [`locate`](Self::locate), for a held arena: its word is compared.
    ///
    /// # Errors
    /// As `locate`; `Stale` for another life.
    pub fn resolve(&self, handle: Handle) -> Result<(ArenaPlace, ArenaWords<'_>), AccessError> {
        let at = self.locate(handle)?;
        let words = self.words(at.index).ok_or(AccessError::Stale { handle })?;
        if words.load().is_held(handle.generation()) {
            Ok((at, words))
        } else {
            Err(AccessError::Stale { handle })
        }
    }

    /// Gets a free arena for `session` alone, looking from arena `from` on; `None` when none is
    /// free, or the memory is mapped read-only or in the parent of this process.
    pub fn try_get(&self, session: SessionNumber, from: u32) -> Option<Handle> {
        let (index, generation) = self.claim_from(from, |words| words.claim(session))?;
        Some(self.handle(index, generation))
    }

    /// Claims the first arena from `from` on that can be had.
    #[inline]
    pub(crate) fn claim_from(
        &self,
        from: u32,
        claim: impl Fn(ArenaWords<'_>) -> Option<Generation>,
    ) -> Option<(u32, Generation)> {
        self.require_here().ok()?;
        let from = if from < self.geometry.arenas() {
            from
        } else {
            0
        };
        match claim(self.words(from)?) {
            Some(generation) => Some((from, generation)),
            None => self.claim_behind(from, claim),
        }
    }

    #[cold]
    fn claim_behind(
        &self,
        from: u32,
        claim: impl Fn(ArenaWords<'_>) -> Option<Generation>,
    ) -> Option<(u32, Generation)> {
        (from + 1..self.geometry.arenas())
            .chain(0..from)
            .find_map(|index| Some((index, claim(self.words(index)?)?)))
    }

    /// Hands an arena that the daemon claimed for itself to the session it is for.
    ///
    /// # Errors
    /// As `locate`; `Stale`, `NotOwner`, `Shared`, `ReadOnly`.
    pub fn hand_over(&self, handle: Handle, to: SessionNumber) -> Result<(), AccessError> {
        let (_, words) = self.writable_words(handle)?;
        words
            .hand_over(handle.generation(), to)
            .map_err(|r| refusal(r, handle))
    }

    /// Gives an arena back.
    ///
    /// # Errors
    /// As `locate`; `Stale`, `NotOwner`, `Shared`, `ReadOnly`.
    pub fn give_back(&self, handle: Handle, session: SessionNumber) -> Result<(), AccessError> {
        let (_, words) = self.writable_words(handle)?;
        words
            .give_back(handle.generation(), session)
            .map_err(|r| refusal(r, handle))
    }

    /// Empties an arena one holds alone; returns its new handle, every other is stale.
    ///
    /// # Errors
    /// As `locate`; `Stale`, `NotOwner`, `Shared`, `ReadOnly`, `GenerationsSpent`.
    pub fn reset(&self, handle: Handle, session: SessionNumber) -> Result<Handle, AccessError> {
        let (at, words) = self.writable_words(handle)?;
        let raised = words
            .reset(handle.generation(), session)
            .map_err(|r| refusal(r, handle))?;
        Ok(self.handle(at.index, raised))
    }

    /// Names an arena that `session` holds alone; the daemon has written its holder record.
    ///
    /// # Errors
    /// As `locate`; `Stale`, `NotOwner`, `Shared`, `ReadOnly`.
    pub fn share(&self, handle: Handle, session: SessionNumber) -> Result<(), AccessError> {
        let (_, words) = self.writable_words(handle)?;
        words
            .share(handle.generation(), session)
            .map_err(|r| refusal(r, handle))
    }

    /// Says whether somebody waits for an arena. The caller has given one back before: either it
    /// sees the waiter, or the waiter's second look sees the free arena.
    #[inline]
    pub fn somebody_waits(&self) -> bool {
        self.data.is_writable() && self.waiters().is_some_and(WaitersFlag::is_set)
    }

    /// Says whether somebody seems to wait for an arena: for one who would give way.
    #[inline]
    pub fn seems_waited_for(&self) -> bool {
        self.waiters().is_some_and(WaitersFlag::peek)
    }

    /// Says for everybody to see whether somebody waits. The daemon looks for a free arena
    /// again after it.
    pub fn set_waiters(&self, waiting: bool) {
        if self.data.is_writable()
            && let Some(flag) = self.waiters()
        {
            flag.set(waiting);
        }
    }

    #[inline]
    fn waiters(&self) -> Option<WaitersFlag<'_>> {
        if self.is_inherited() {
            return None;
        }
        Some(WaitersFlag::new(
            self.data.atomic_u64(WAITERS_OFFSET_BYTES).ok()?,
        ))
    }

    /// Refuses a read-only mapping, and one of the parent of this process.
    #[inline]
    pub(crate) fn require_here(&self) -> Result<(), AccessError> {
        if self.is_inherited() {
            return Err(AccessError::Forked);
        }
        self.require_writable()
    }

    /// Returns the place and words of the arena that a handle of the whole of it names.
    fn writable_words(&self, handle: Handle) -> Result<(ArenaPlace, ArenaWords<'_>), AccessError> {
        self.require_writable()?;
        let at = self.locate(handle)?;
        if handle.kind() != HandleKind::Arena {
            let expected = "arena";
            return Err(AccessError::WrongKind { handle, expected });
        }
        let words = self.words(at.index).ok_or(AccessError::Stale { handle })?;
        Ok((at, words))
    }

    #[inline]
    pub(crate) fn require_writable(&self) -> Result<(), AccessError> {
        if self.data.is_writable() {
            Ok(())
        } else {
            Err(AccessError::ReadOnly { pool: self.pool })
        }
    }

    pub(crate) fn corrupt(&self, what: &'static str, offset: Offset) -> AccessError {
        AccessError::Corrupt {
            pool: self.pool,
            what,
            offset_bytes: offset.get(),
        }
    }
}

impl AsRef<Self> for ArenaMemory {
    fn as_ref(&self) -> &Self {
        self
    }
}

#[cold]
pub(crate) fn refusal(refusal: ArenaRefusal, handle: Handle) -> AccessError {
    match refusal {
        ArenaRefusal::Stale => AccessError::Stale { handle },
        ArenaRefusal::NotOwner(owner) => AccessError::NotOwner { handle, owner },
        ArenaRefusal::Shared => AccessError::Shared { handle },
        ArenaRefusal::GenerationsSpent => AccessError::GenerationsSpent {
            offset_bytes: handle.offset().get(),
        },
    }
}

#[cfg(test)]
mod tests;
