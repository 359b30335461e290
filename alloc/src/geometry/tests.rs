//! Parts of a pool never overlap, and neither do the words of its spans.

use proptest::prelude::*;

use super::*;

fn pool(n_pages: u32) -> PoolGeometry {
    let pages = PageCount::new(n_pages);
    PoolGeometry::new(1, Some(pages.bytes())).unwrap()
}

/// Asserts that `parts` follow each other from the start of a segment to its end, each at a
/// multiple of 4 KiB, and that the segment has a length in heap pages.
#[track_caller]
fn assert_parts(parts: &[Range<u64>], segment_bytes: u64) {
    let mut end = HEADER_BYTES;
    for part in parts {
        assert!(
            part.start >= end && part.start - end < OS_PAGE_BYTES,
            "{parts:?}"
        );
        assert!(
            part.start.is_multiple_of(OS_PAGE_BYTES) && part.start < part.end,
            "{parts:?}"
        );
        end = part.end;
    }
    assert!(
        segment_bytes >= end && segment_bytes - end < PAGE_BYTES,
        "{parts:?}"
    );
    assert!(segment_bytes.is_multiple_of(PAGE_BYTES));
}

#[track_caller]
fn assert_guard(guard: &Range<u64>, payload: &Range<u64>) {
    assert!(guard.end - guard.start >= 64 << 10);
    assert!(guard.end - guard.start < (2 << 20) + (64 << 10));
    assert_eq!(guard.end, payload.start);
    assert!(payload.start.is_multiple_of(HUGE_BYTES));
}

#[track_caller]
fn assert_pool(it: &PoolGeometry) {
    let n = u64::from(it.n_pages().get());
    let data = [
        it.notes_range(),
        it.dense_slots_range(),
        it.dense_shapes_range(),
        it.fine_slots_range(),
        it.fine_shapes_range(),
        it.guard_range(),
        it.payload_range(),
    ];
    assert_parts(&data, it.data_bytes());
    assert_guard(&it.guard_range(), &it.payload_range());
    let widths = [128, 512, 512, 32 << 10, 32 << 10];
    for (part, width) in data.iter().zip(widths) {
        assert_eq!(part.end - part.start, n * width);
    }
    assert_eq!(it.payload_range().end, it.data_bytes());

    let control = [
        it.entries_range(),
        it.page_records_range(),
        it.records_range(),
        it.members_range(),
    ];
    assert_parts(&control, it.control_bytes());

    let last = PageIndex::new(it.n_pages().get() - 1);
    assert_eq!(it.note_offset(last) + NOTE_BYTES, it.notes_range().end);
    assert_eq!(it.entry_offset(last) + ENTRY_BYTES, it.entries_range().end);
    assert_eq!(
        it.page_record_offset(last) + PAGE_RECORD_BYTES,
        it.page_records_range().end
    );
    assert_eq!(
        it.record_offset(MAX_RECORDS - 1) + RECORD_BYTES,
        it.records_range().end
    );
    assert_eq!(
        it.page_offset(last).get() + PAGE_BYTES,
        it.payload_range().end
    );
    for (offset, page) in [
        (0, None),
        (it.payload_range().start - 1, None),
        (it.payload_range().start, Some(PageIndex::new(0))),
        (it.payload_range().end - 1, Some(last)),
        (it.payload_range().end, None),
        (u64::MAX, None),
    ] {
        assert_eq!(it.page_of(Offset::new(offset)), page);
    }
}

#[track_caller]
fn assert_arenas(it: &ArenaGeometry) {
    let data = [it.slots_range(), it.guard_range(), it.payload_range()];
    assert_parts(&data, it.data_bytes());
    let control = [it.records_range(), it.members_range()];
    assert_parts(&control, it.control_bytes());
    assert_guard(&it.guard_range(), &it.payload_range());
    for index in [0, it.arenas() / 2, it.arenas() - 1] {
        let start = it.arena_offset(index).get();
        let inside = |offset| it.arena_of(Offset::new(offset));
        assert!(start.is_multiple_of(OS_PAGE_BYTES));
        assert_eq!(inside(start), Some((index, 0)));
        assert_eq!(
            inside(start + it.arena_bytes() - 1),
            Some((index, it.arena_bytes() - 1))
        );
        assert_ne!(
            inside(start + it.arena_bytes()),
            Some((index, it.arena_bytes()))
        );
        assert!(it.slots_range().contains(&it.arena_slot_offset(index)));
    }
    let last = it.arenas() - 1;
    assert_eq!(
        it.arena_slot_offset(last) + ARENA_SLOT_BYTES,
        it.slots_range().end
    );
    assert_eq!(
        it.record_offset(MAX_RECORDS - 1) + RECORD_BYTES,
        it.records_range().end
    );
    for outside in [
        0,
        it.payload_range().start - 1,
        it.payload_range().end,
        u64::MAX,
    ] {
        assert_eq!(it.arena_of(Offset::new(outside)), None);
    }
}

#[test]
fn parts_of_a_pool_follow_each_other_on_a_grid_of_lengths() {
    for shift in 0..=24 {
        for n in [
            (1_u32 << shift) - 1,
            1 << shift,
            (1 << shift) + 1,
            3 << shift,
        ] {
            if (1..=MAX_POOL_PAGES).contains(&n) {
                assert_pool(&pool(n));
            }
        }
    }
}

#[test]
fn parts_of_an_arena_pool_follow_each_other_on_a_grid_of_sizes() {
    for arenas in [1, 2, 31, 32, 33, 1000, MAX_ARENAS] {
        for arena_bytes in [1, 16, 4095, 4096, 4097, 1 << 20, 1 << 24, MAX_ARENA_BYTES] {
            if let Ok(it) = ArenaGeometry::new(arenas, arena_bytes) {
                assert_arenas(&it);
            }
        }
    }
}

#[test]
fn words_of_a_span_lie_within_its_own_pages_part_of_a_table() {
    let it = pool(MAX_POOL_PAGES);
    for class in SizeClass::all() {
        let lengths = if class.is_large() {
            [1, 64, MAX_POOL_PAGES - 1]
        } else {
            [1, 33, 64]
        };
        for pages in (1..=64).chain(lengths).map(PageCount::new) {
            for first in [0, 1, 31, 32, 1000] {
                let after = PageIndex::new((first + pages.get()).min(MAX_POOL_PAGES - 1));
                let first = PageIndex::new(first);
                let slots = it.slot_run(first, class, pages);
                let shapes = it.shape_run(first, class, pages);
                assert!(slots.start.is_multiple_of(128) && shapes.start.is_multiple_of(128));
                assert!(slots.end <= it.slot_run(after, class, pages).start);
                assert!(shapes.end <= it.shape_run(after, class, pages).start);
            }
        }
    }
}

#[test]
fn every_slot_of_a_span_has_a_word_of_its_own() {
    let it = pool(64);
    for class in SizeClass::all() {
        for first in (0..32).map(PageIndex::new) {
            // The shortest spans are those whose words are turned past their end.
            let pages = class.min_span_pages();
            let n = class.slots(pages);
            let run = it.slot_run(first, class, pages);
            let mut words: Vec<u64> = (0..n)
                .map(|slot| it.slot_offset(first, class, pages, slot))
                .collect();
            words.sort_unstable();
            assert!(
                words.iter().copied().eq(run.step_by(8)),
                "{class:?} at {first}"
            );
        }
    }
}

#[test]
fn fine_runs_are_turned_by_two_cache_lines_a_page() {
    let it = pool(64);
    let class = SizeClass::from_index(3).unwrap();
    let into_run = |first, slot| {
        let first = PageIndex::new(first);
        let offset = it.slot_offset(first, class, PageCount::ONE, slot);
        offset - it.slot_run(first, class, PageCount::ONE).start
    };
    assert_eq!(
        [0, 1, 31, 32].map(|first| into_run(first, 0)),
        [0, 128, 31 * 128, 0]
    );
    assert_eq!(into_run(1, 1024 - 16), 0);
    let dense = SizeClass::from_index(40).unwrap();
    let pages = dense.span_pages();
    let first = PageIndex::new(5);
    assert_eq!(
        it.slot_offset(first, dense, pages, 0),
        it.slot_run(first, dense, pages).start
    );
}

proptest! {
    #[test]
    fn parts_of_any_pool_follow_each_other(n in 1..=MAX_POOL_PAGES) {
        assert_pool(&pool(n));
    }

    #[test]
    fn parts_of_any_arena_pool_follow_each_other(
        arenas in 1..=MAX_ARENAS,
        arena_bytes in prop_oneof![1..=20_000_u64, 1..=MAX_ARENA_POOL_BYTES],
    ) {
        if let Ok(it) = ArenaGeometry::new(arenas, arena_bytes) {
            assert_arenas(&it);
        }
    }

    /// Spans of any class and length side by side: no word is two blocks', and no word is that of
    /// a block on a page of another span.
    #[test]
    fn words_of_adjacent_spans_never_overlap(
        spans in prop::collection::vec((0..=86_usize, 1..=64_u32), 1..40),
        first in 0..100_u32,
    ) {
        let classes: Vec<SizeClass> = SizeClass::all().collect();
        let it = pool(100 + 40 * 64);
        let (mut slot_runs, mut shape_runs) = (Vec::new(), Vec::new());
        let mut first = PageIndex::new(first);
        for (class, pages) in spans {
            let (class, pages) = (classes[class], PageCount::new(pages));
            let (slots, shapes) =
                (it.slot_run(first, class, pages), it.shape_run(first, class, pages));
            for slot in [0, 1, class.slots(pages) / 2, class.slots(pages).saturating_sub(1)] {
                if slot < class.slots(pages) {
                    prop_assert!(slots.contains(&it.slot_offset(first, class, pages, slot)));
                    prop_assert!(shapes.contains(&it.shape_offset(first, class, pages, slot)));
                    let difference = shapes.start - slots.start;
                    let shape = it.shape_offset(first, class, pages, slot);
                    prop_assert_eq!(it.slot_offset(first, class, pages, slot) + difference, shape);
                }
            }
            slot_runs.push(slots);
            shape_runs.push(shapes);
            first = first.checked_add(pages).unwrap();
        }
        let mut runs: Vec<Range<u64>> = slot_runs.into_iter().chain(shape_runs).collect();
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable_by_key(|run| run.start);
        prop_assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let tables = it.dense_slots_range().start..it.fine_shapes_range().end;
        prop_assert!(runs.iter().all(|run| tables.start <= run.start && run.end <= tables.end));
    }
}

#[test]
fn sizes_are_rounded_up_to_pages_and_the_maximum_is_twice_the_capacity() {
    let pages = |capacity, max| {
        let it = PoolGeometry::new(capacity, max).unwrap();
        (it.capacity_pages().get(), it.n_pages().get())
    };
    assert_eq!(pages(1, None), (1, 2));
    assert_eq!(pages(65_537, None), (2, 4));
    assert_eq!(pages(65_537, Some(65_537)), (2, 2));
    assert_eq!(pages(65_537, Some(1 << 40)), (2, MAX_POOL_PAGES));
    assert_eq!(pages(1 << 40, None), (MAX_POOL_PAGES, MAX_POOL_PAGES));
    assert_eq!(
        pages((1 << 39) + 1, None),
        (MAX_POOL_PAGES / 2 + 1, MAX_POOL_PAGES)
    );
}

#[test]
fn sizes_that_no_pool_can_have_are_refused() {
    let refused = |capacity, max| PoolGeometry::new(capacity, max).unwrap_err();
    let too_large = |requested_bytes| GeometryError::TooLarge {
        requested_bytes,
        limit_bytes: 1 << 40,
    };
    assert_eq!(refused(0, None), GeometryError::Empty);
    assert_eq!(refused(0, Some(1)), GeometryError::Empty);
    assert_eq!(refused((1 << 40) + 1, None), too_large((1 << 40) + 1));
    assert_eq!(refused(u64::MAX, None), too_large(u64::MAX));
    assert_eq!(refused(1, Some(u64::MAX)), too_large(u64::MAX));
    for max_capacity_bytes in [0, 1, PAGE_BYTES] {
        let capacity_bytes = PAGE_BYTES + 1;
        let error = GeometryError::MaxBelowCapacity {
            capacity_bytes,
            max_capacity_bytes,
        };
        assert_eq!(refused(capacity_bytes, Some(max_capacity_bytes)), error);
    }
}

#[test]
fn sizes_that_no_arena_pool_can_have_are_refused() {
    let refused = |arenas, arena_bytes| ArenaGeometry::new(arenas, arena_bytes).unwrap_err();
    for arenas in [0, MAX_ARENAS + 1, u32::MAX] {
        let error = GeometryError::ArenaCount {
            arenas,
            limit: MAX_ARENAS,
        };
        assert_eq!(refused(arenas, 4096), error);
    }
    assert_eq!(refused(1, 0), GeometryError::EmptyArena);
    for requested_bytes in [MAX_ARENA_BYTES + 1, u64::MAX] {
        let limit_bytes = MAX_ARENA_BYTES;
        assert_eq!(
            refused(1, requested_bytes),
            GeometryError::TooLarge {
                requested_bytes,
                limit_bytes
            }
        );
    }
    let total = GeometryError::TooLarge {
        requested_bytes: 17 << 36,
        limit_bytes: MAX_ARENA_POOL_BYTES,
    };
    assert_eq!(refused(17, MAX_ARENA_BYTES), total);
    assert!(ArenaGeometry::new(16, MAX_ARENA_BYTES).is_ok());
    assert!(ArenaGeometry::new(MAX_ARENAS, 16 << 20).is_ok());
}
