//! The class table, and the arithmetic on it against plain division.

use proptest::prelude::*;

use super::*;
use crate::units::GRAIN_BYTES;

const MAX_BYTES: u64 = MAX_SPAN_PAGES.bytes();

fn class(index: u8) -> SizeClass {
    SizeClass::from_index(index).unwrap()
}

fn ordinary() -> impl Iterator<Item = SizeClass> {
    SizeClass::all().filter(|class| !class.is_large())
}

/// Asserts `slot_of` against division, for a span of `pages`.
#[track_caller]
fn assert_slot_of(class: SizeClass, offset: u64, pages: PageCount) {
    let expected = offset
        .checked_sub(class.colour_bytes())
        .filter(|start| start % class.stride_bytes() == 0)
        .map(|start| start / class.stride_bytes())
        .filter(|slot| (slot + 1) * class.stride_bytes() <= pages.bytes())
        .map(|slot| u32::try_from(slot).unwrap());
    assert_eq!(
        class.slot_of(offset, pages),
        expected,
        "{class:?}, offset {offset}, {pages} pages"
    );
}

#[test]
fn strides_are_four_per_doubling_and_grow() {
    let strides: Vec<u64> = (0..N_PLAIN)
        .map(|index| class(index).stride_bytes())
        .collect();
    assert_eq!(strides[..9], [16, 32, 48, 64, 80, 96, 112, 128, 160]);
    assert_eq!(strides[56..], [640 << 10, 768 << 10, 896 << 10, 1 << 20]);
    for pair in strides.windows(2) {
        assert!(pair[0] < pair[1] && pair[1].is_multiple_of(GRAIN_BYTES));
        assert!(
            pair[1] <= 64 || pair[1] - pair[0] <= pair[1] / 5,
            "{pair:?}"
        );
    }
}

#[test]
fn coloured_classes_are_twins_of_the_plain_ones_from_16_kib() {
    for index in N_PLAIN..N_CLASSES {
        let (twin, plain) = (class(index), class(index - 25));
        assert_eq!(twin.stride_bytes(), plain.stride_bytes());
        assert_eq!(twin.span_pages(), plain.span_pages());
        assert_eq!((twin.colour_bytes(), plain.colour_bytes()), (128, 0));
        assert_eq!(twin.usable_bytes(), plain.usable_bytes() - 128);
    }
    assert_eq!(class(N_PLAIN).stride_bytes(), TWINNED_BYTES);
}

#[test]
fn indices_are_those_of_the_87_classes() {
    let indices: Vec<u8> = SizeClass::all().map(SizeClass::index).collect();
    let expected: Vec<u8> = (0..=84).chain([126, 127]).collect();
    assert_eq!(indices, expected);
}

#[test]
fn fine_classes_are_those_below_1_kib() {
    for class in SizeClass::all() {
        assert_eq!(class.is_fine(), (1..1024).contains(&class.stride_bytes()));
    }
}

#[test]
fn usual_spans_waste_little_and_hold_several_blocks() {
    for class in ordinary() {
        let (pages, stride_bytes) = (class.span_pages(), class.stride_bytes());
        let n = u64::from(class.slots(pages));
        assert!(pages <= MAX_SPAN_PAGES && pages >= class.min_span_pages());
        assert!(
            pages.bytes() - n * stride_bytes <= pages.bytes() / 16,
            "{class:?}"
        );
        assert!(n >= if stride_bytes < 32 << 10 { 8 } else { 1 });
        assert!(n >= 4 || stride_bytes >= 256 << 10);
        assert_eq!(class.slots(class.min_span_pages()).min(1), 1);
        let too_short = PageCount::new(class.min_span_pages().get() - 1);
        assert_eq!(class.slots(too_short), 0);
    }
}

#[test]
fn slots_are_the_quotient_for_every_class_and_length() {
    for class in ordinary() {
        for pages in (0..=64).map(PageCount::new) {
            assert_eq!(
                u64::from(class.slots(pages)),
                pages.bytes() / class.stride_bytes()
            );
        }
        assert_eq!(class.slots(PageCount::new(65)), 0);
        assert_eq!(class.slots(PageCount::new(u32::MAX)), 0);
    }
}

#[test]
fn slot_of_is_exact_at_every_slot_and_beside_it() {
    for class in ordinary() {
        let colour = class.colour_bytes();
        for start in (0..=MAX_BYTES).step_by(usize::try_from(class.stride_bytes()).unwrap()) {
            assert_slot_of(class, start + colour, MAX_SPAN_PAGES);
            assert_slot_of(class, start + colour + 1, MAX_SPAN_PAGES);
            assert_slot_of(class, (start + colour).saturating_sub(1), MAX_SPAN_PAGES);
        }
    }
}

#[test]
fn slot_of_is_exact_at_every_offset_for_a_sample() {
    for class in [2, 4, 29, 63].map(class) {
        for offset in 0..=MAX_BYTES {
            assert_slot_of(class, offset, MAX_SPAN_PAGES);
        }
    }
}

#[test]
fn slot_of_takes_back_offset_of_slot() {
    for class in ordinary() {
        let pages = class.span_pages();
        for slot in 0..class.slots(pages) {
            assert_eq!(class.slot_of(class.offset_of_slot(slot), pages), Some(slot));
        }
        let past = class.offset_of_slot(class.slots(pages));
        assert_eq!(class.slot_of(past, pages), None);
    }
}

#[test]
fn large_spans_have_one_slot() {
    for (class, start) in [(SizeClass::LARGE, 0), (SizeClass::LARGE_COLOURED, 128)] {
        for pages in [1, 17, 65, MAX_POOL_PAGES - 1].map(PageCount::new) {
            assert_eq!(class.slots(pages), 1);
            assert_eq!(class.offset_of_slot(0), start);
            assert_eq!(class.usable_in(pages), pages.bytes() - start);
            for offset in [
                0,
                1,
                127,
                128,
                129,
                256,
                PAGE_BYTES,
                PAGE_BYTES + 128,
                u64::MAX,
            ] {
                assert_eq!(class.slot_of(offset, pages), (offset == start).then_some(0));
            }
        }
        assert_eq!(class.slots(PageCount::ZERO), 0);
        assert_eq!(class.slot_of(start, PageCount::ZERO), None);
        assert_eq!(class.usable_in(PageCount::ZERO), 0);
    }
}

proptest! {
    #[test]
    fn slot_of_holds_for_any_offset_and_length(
        index in 0..N_CLASSES,
        offset in prop_oneof![any::<u64>(), 0..2 * MAX_BYTES, u64::MAX - 4096..=u64::MAX],
        pages: u32,
        few in 0_u32..=70,
    ) {
        for pages in [pages, few].map(PageCount::new) {
            let slot = class(index).slot_of(offset, pages);
            if let Some(slot) = slot {
                prop_assert!(slot < class(index).slots(pages));
                prop_assert_eq!(class(index).offset_of_slot(slot), offset);
            }
            if pages <= MAX_SPAN_PAGES {
                assert_slot_of(class(index), offset, pages);
            }
        }
    }

    #[test]
    fn placements_fit_and_are_aligned(
        size_bytes in prop_oneof![1..=2048_u64, 1..=MAX_CLASS_BYTES, 1..=MAX_BLOCK_PAGES.bytes()],
        align_shift in 0..=21_u32,
    ) {
        let align_bytes = 1 << align_shift;
        match SizeClass::for_layout(size_bytes, align_bytes) {
            Ok(Placement::Class(class)) => {
                prop_assert!(size_bytes <= class.usable_bytes());
                prop_assert_eq!(class.stride_bytes() % align_bytes, 0);
                prop_assert_eq!(class.colour_bytes() % align_bytes.min(128), 0);
                prop_assert!(class.colour_bytes() == 0 || align_bytes <= 128);
                let smaller = (0..N_PLAIN).map(self::class).any(|it| {
                    it.stride_bytes() < class.stride_bytes()
                        && it.stride_bytes() >= size_bytes
                        && it.stride_bytes() % align_bytes == 0
                });
                prop_assert!(!smaller, "a smaller class than {:?} would do", class);
            }
            Ok(Placement::Large { class, pages, align_pages }) => {
                prop_assert!(size_bytes > MAX_CLASS_BYTES || align_bytes > PAGE_BYTES);
                prop_assert!(size_bytes <= class.usable_in(pages));
                let fewer = PageCount::new(pages.get() - 1);
                prop_assert!(size_bytes > class.usable_in(fewer));
                prop_assert!(align_pages.bytes() % align_bytes == 0);
                prop_assert_eq!(class.colour_bytes() == 128, align_bytes <= 128);
            }
            Err(error) => {
                prop_assert_eq!(error, LayoutError::TooLarge { size_bytes });
                prop_assert!(size_bytes > MAX_BLOCK_PAGES.bytes() - COLOUR_BYTES);
            }
        }
    }
}

#[test]
fn every_small_size_goes_to_the_smallest_class() {
    let mut index = 0;
    for size_bytes in 1..=MAX_CLASS_BYTES {
        if size_bytes > plain_stride_bytes(index) {
            index += 1;
        }
        assert_eq!(plain_index(size_bytes), index, "{size_bytes} bytes");
    }
}

#[test]
fn colour_is_left_out_where_size_or_alignment_needs_the_room() {
    let placed = |size, align| SizeClass::for_layout(size, align);
    let stride = TWINNED_BYTES;
    assert_eq!(placed(stride - 128, 16), Ok(Placement::Class(class(60))));
    assert_eq!(placed(stride - 128, 128), Ok(Placement::Class(class(60))));
    assert_eq!(placed(stride - 127, 16), Ok(Placement::Class(class(35))));
    assert_eq!(placed(stride - 128, 256), Ok(Placement::Class(class(35))));
    assert_eq!(placed(1 << 20, 1), Ok(Placement::Class(class(59))));
    let large = |class, pages, align_pages| {
        let [pages, align_pages] = [pages, align_pages].map(PageCount::new);
        Ok(Placement::Large {
            class,
            pages,
            align_pages,
        })
    };
    assert_eq!(
        placed((1 << 20) + 1, 1),
        large(SizeClass::LARGE_COLOURED, 17, 1)
    );
    assert_eq!(placed(2 << 20, 16), large(SizeClass::LARGE_COLOURED, 33, 1));
    assert_eq!(placed(2 << 20, 4096), large(SizeClass::LARGE, 32, 1));
    assert_eq!(placed(100, 2 << 20), large(SizeClass::LARGE, 1, 32));
    assert_eq!(placed(100, 64 << 10), Ok(Placement::Class(class(43))));
    assert_eq!(class(43).stride_bytes(), 64 << 10);
}

#[test]
fn layouts_that_no_block_can_have_are_refused() {
    let refused = |size, align| SizeClass::for_layout(size, align).unwrap_err();
    assert_eq!(refused(0, 1), LayoutError::Empty);
    for align_bytes in [0, 3, 24, 4 << 20, 1 << 63, u64::MAX] {
        assert_eq!(
            refused(1, align_bytes),
            LayoutError::Alignment { align_bytes }
        );
    }
    for size_bytes in [MAX_BLOCK_PAGES.bytes() + 1, 1 << 40, u64::MAX] {
        assert_eq!(refused(size_bytes, 1), LayoutError::TooLarge { size_bytes });
        assert_eq!(
            refused(size_bytes, 4096),
            LayoutError::TooLarge { size_bytes }
        );
    }
    assert!(SizeClass::for_layout(MAX_BLOCK_PAGES.bytes(), 4096).is_ok());
}

#[test]
fn simple_layouts_have_the_class_that_any_layout_has() {
    let sizes = (0..70_000).chain((70_000..=(2 << 20)).step_by(997));
    for size_bytes in sizes.chain([1 << 20, (1 << 20) + 1, u64::MAX]) {
        for align_bytes in [1, 2, 4, 8, 16] {
            let simple = SizeClass::for_simple_layout(size_bytes, align_bytes);
            match SizeClass::for_layout(size_bytes, align_bytes) {
                Ok(Placement::Class(class)) => assert_eq!(simple, Some(class), "{size_bytes}"),
                Ok(Placement::Large { .. }) | Err(_) => assert_eq!(simple, None, "{size_bytes}"),
            }
        }
    }
    assert_eq!(SizeClass::for_simple_layout(64, 32), None);
}
