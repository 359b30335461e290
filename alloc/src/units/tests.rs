//! Bounds of the number types.

use super::*;

#[test]
fn pages_for_bytes_are_rounded_up_and_bounded_by_the_longest_pool() {
    let pages = |bytes| PageCount::for_bytes(bytes).map(PageCount::get);
    assert_eq!(pages(0), Some(0));
    assert_eq!(pages(1), Some(1));
    assert_eq!(pages(PAGE_BYTES), Some(1));
    assert_eq!(pages(PAGE_BYTES + 1), Some(2));
    assert_eq!(pages(1 << 40), Some(MAX_POOL_PAGES));
    assert_eq!(pages((1 << 40) + 1), None);
    assert_eq!(pages(u64::MAX), None);
    assert_eq!(
        PageCount::new(u32::MAX).bytes(),
        u64::from(u32::MAX) * PAGE_BYTES
    );
}

#[test]
fn page_sums_end_at_the_longest_pool() {
    let end = PageIndex::new(MAX_POOL_PAGES);
    let last = PageIndex::new(MAX_POOL_PAGES - 1);
    assert_eq!(last.checked_add(PageCount::ONE), Some(end));
    assert_eq!(end.checked_add(PageCount::ONE), None);
    assert_eq!(end.checked_add(PageCount::new(u32::MAX)), None);
    assert_eq!(end.checked_sub(PageCount::ONE), Some(last));
    assert_eq!(PageIndex::new(0).checked_sub(PageCount::ONE), None);
    assert_eq!(end.pages_since(last), Some(PageCount::ONE));
    assert_eq!(last.pages_since(end), None);
    assert_eq!(
        PageCount::new(MAX_POOL_PAGES).checked_add(PageCount::ONE),
        None
    );
    assert_eq!(PageCount::new(u32::MAX).checked_add(PageCount::ONE), None);
    assert_eq!(
        PageCount::ONE.checked_add(PageCount::ONE),
        Some(PageCount::new(2))
    );
    assert_eq!(
        PageCount::ONE.checked_sub(PageCount::ONE),
        Some(PageCount::ZERO)
    );
    assert_eq!(PageCount::ZERO.checked_sub(PageCount::ONE), None);
}

#[test]
fn the_last_generation_has_no_next() {
    let last = Generation::MAX.get();
    assert_eq!(last, 0xFFF_FFFF_FFFF);
    assert_eq!(Generation::new(last), Some(Generation::MAX));
    assert_eq!(Generation::new(last + 1), None);
    assert_eq!(Generation::ZERO.next().map(Generation::get), Some(1));
    assert_eq!(Generation::MAX.next(), None);
    assert_eq!(Generation::from_low_bits(u64::MAX), Generation::MAX);
    assert_eq!(
        Generation::new(0x123_4567_89AB).unwrap().low32(),
        0x4567_89AB
    );
}

#[test]
fn numbers_with_fewer_bits_than_their_word_are_bounded() {
    assert_eq!(PoolId::new(0), None);
    assert_eq!(PoolId::new(u32::MAX).map(PoolId::get), Some(u32::MAX));
    assert_eq!(TypeTag::new(1 << 24), None);
    assert_eq!(TypeTag::new(0xFF_FFFF), Some(TypeTag::MAX));
    assert_eq!(TypeTag::from_low_bits(0x0100_0000), TypeTag::UNTYPED);
    assert!(!SessionNumber::NOBODY.is_client() && !SessionNumber::DAEMON.is_client());
    assert!(SessionNumber::new(1).is_client() && SessionNumber::new(0xFFFE).is_client());
    assert_eq!(Offset::new(u64::MAX).checked_add(1), None);
    assert_eq!(Offset::new(40).checked_add(2), Some(Offset::new(42)));
}

#[test]
fn rounding_up_ends_before_it_wraps() {
    assert_eq!(round_up(0, 16), Some(0));
    assert_eq!(round_up(1, 16), Some(16));
    assert_eq!(round_up(u64::MAX - 15, 16), Some(u64::MAX - 15));
    assert_eq!(round_up(u64::MAX - 14, 16), None);
}

#[test]
fn numbers_are_shown_bare() {
    assert_eq!(Generation::MAX.to_string(), "17592186044415");
    assert_eq!(format!("{:>5}", PageIndex::new(7)), "    7");
    assert_eq!(TypeTag::new(0xABC).unwrap().to_string(), "000abc");
}
