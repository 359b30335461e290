//! A pool's segments with anything in them, as a client attaches to them: CONTROL read-only, DATA
//! writable. They are refused, or whatever is found in them lies in the payload.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use goumem_alloc::{ArenaGeometry, Offset, PageIndex, SessionNumber};
use goumem_shm::header::{Header, PoolKind, SegmentRole, read};
use goumem_shm::os::{Access, BackingKind, MapPlan, Mapping, Segment};
use goumem_shm::page_map::PageEntry;
use goumem_shm::{
    ArenaMemory, LeasedSpan, PoolMemory, SpanLease, arena_data_plan, data_plan, pool_geometry,
};

use super::{Image, Input};

/// Pages of the pool that the image is of. Its header may say another number.
pub(super) const PAGES: u32 = 16;

/// Attaches to what the bytes describe, an image of CONTROL and DATA.
///
/// # Panics
/// When something is found outside of the payload.
pub fn attach(bytes: &[u8]) {
    let geometry = pool_geometry(PAGES).unwrap();
    let full = [geometry.control_bytes(), geometry.data_bytes()];
    let image = Image::read(&mut Input::new(bytes), full);
    let segments = [image.memfd(0), image.memfd(1)];
    let whole = MapPlan::whole(segments[0].len_bytes());
    let control = Mapping::map(&segments[0], Access::ReadOnly, whole).unwrap();
    let Ok(header) = read(&control, SegmentRole::Control) else {
        return;
    };
    match header.kind {
        PoolKind::Blocks => pool(&segments, &header),
        PoolKind::Arenas => arenas(&segments, &header),
    }
}

/// Maps a segment as a client does that was told how long it is.
fn map(segment: &Segment, access: Access, plan: MapPlan) -> Option<Mapping> {
    let fd = segment.as_fd().try_clone_to_owned().unwrap();
    let segment = Segment::from_fd(fd, BackingKind::Memfd, plan.len_bytes).ok()?;
    Mapping::map(&segment, access, plan).ok()
}

fn pool([control, data]: &[Segment; 2], header: &Header) {
    let Ok(geometry) = pool_geometry(header.units) else {
        return;
    };
    let control = map(
        control,
        Access::ReadOnly,
        MapPlan::whole(geometry.control_bytes()),
    );
    let data = map(data, Access::ReadWrite, data_plan(&geometry));
    let (Some(control), Some(data)) = (control, data) else {
        return;
    };
    let Ok((memory, opened)) = PoolMemory::open(control, data) else {
        return;
    };
    assert_eq!(opened, *header);
    let memory = Arc::new(memory);
    let payload = memory.geometry().payload_range();
    for page in (0..geometry.n_pages().get()).map(PageIndex::new) {
        let start = geometry.page_offset(page).get();
        for inside in (0..geometry.payload_range().end - start)
            .step_by(16)
            .take(80)
        {
            let Some(at) = memory.block_at(Offset::new(start + inside)) else {
                continue;
            };
            let end = at.offset.get() + at.usable_bytes();
            assert!(
                at.offset.get() >= payload.start && end <= payload.end,
                "{at:?}"
            );
            let word = memory.slot(&at).load();
            let handle = memory.handle(word.generation(), at.offset);
            let lives = memory.resolve(handle).is_ok();
            assert_eq!(lives, word.is_live(word.generation()));
            let mut into = [0; 16];
            if memory.read(handle, 0, &mut into).is_ok() {
                assert!(lives && memory.checked_shape(&at).unwrap().length_bytes >= 16);
            }
            let _ = memory.free(handle);
        }
        if let Some(PageEntry::Head {
            class,
            lessee,
            epoch,
            pages,
        }) = memory.entry(page)
        {
            let lease = SpanLease {
                first_page: page,
                pages,
                class,
                epoch,
            };
            for survivors in [true, false] {
                let Ok(mut span) = LeasedSpan::attach(&memory, lease, lessee, survivors) else {
                    continue;
                };
                if let Some(block) = span.alloc() {
                    let end = block.offset().get() + block.usable_bytes();
                    assert!(block.offset().get() >= start && end <= payload.end);
                    drop(block);
                    span.collect(true);
                    assert_eq!(span.private_count(), 0);
                }
            }
        }
        let _ = memory
            .page_record(page)
            .map(|record| (record.floor(), record.lease()));
    }
    for index in [0, 1, 2, 65_535] {
        let _ = memory.record(index).map(|record| record.load());
    }
    assert!(
        memory.record(65_536).is_none() && memory.entry(PageIndex::new(header.units)).is_none()
    );
    let _ = memory.member(SessionNumber::new(1)).load();
}

fn arenas([control, data]: &[Segment; 2], header: &Header) {
    let Ok(geometry) = ArenaGeometry::new(header.units, header.unit_bytes) else {
        return;
    };
    let control = map(
        control,
        Access::ReadOnly,
        MapPlan::whole(geometry.control_bytes()),
    );
    let data = map(data, Access::ReadWrite, arena_data_plan(&geometry));
    let (Some(control), Some(data)) = (control, data) else {
        return;
    };
    let Ok((memory, opened)) = ArenaMemory::open(control, data) else {
        return;
    };
    assert_eq!(opened, *header);
    let session = SessionNumber::new(7);
    for index in 0..geometry.arenas().min(64) {
        let word = memory.words(index).unwrap().load();
        let found = memory.handle(index, word.generation());
        assert_eq!(memory.locate(found).unwrap().index, index);
        let used = memory.used_bytes(found).unwrap_or(0);
        assert!(used <= geometry.arena_bytes());
        if let Ok(handle) = memory.alloc(found, word.owner(), 24, 8) {
            let inside = memory.locate(handle).unwrap().inside_bytes;
            assert!(
                inside + 24 <= geometry.arena_bytes(),
                "{handle} leaves its arena"
            );
            memory.write(handle, 0, &[1; 24]).unwrap();
            let _ = memory.free(handle, word.owner(), 24);
        }
        if let Some(got) = memory.try_get(session, index) {
            assert!(memory.resolve(got).is_ok());
            assert_eq!(memory.used_bytes(got), Ok(0), "a fresh arena is empty");
            memory.give_back(got, session).unwrap();
            assert!(memory.resolve(got).is_err(), "{got} was given back");
        }
    }
    assert!(memory.words(geometry.arenas()).is_none());
    let past = Offset::new(geometry.payload_range().end);
    assert!(geometry.arena_of(past).is_none());
    let _ = memory.somebody_waits();
}
