//! Handles survive every form that they take, and nothing else passes for one.

use proptest::prelude::*;

use super::*;

const KINDS: [HandleKind; 3] = [
    HandleKind::Block,
    HandleKind::Arena,
    HandleKind::ArenaAllocation,
];

fn handle(pool: u32, generation: u64, grains: u64, kind: HandleKind) -> Handle {
    let generation = Generation::new(generation).unwrap();
    Handle::new(
        PoolId::new(pool).unwrap(),
        generation,
        Offset::new(grains * GRAIN_BYTES),
        kind,
    )
}

proptest! {
    #[test]
    fn allocation_in_an_arena_is_named_as_if_by_its_own_offset(
        generation in 0..=Generation::MAX.get(),
        grains in 0_u64..1 << (GRAIN_BITS - 1),
        inside_grains in 0_u64..1 << (GRAIN_BITS - 1),
    ) {
        let arena = handle(9, generation, grains, HandleKind::Arena);
        let kind = HandleKind::ArenaAllocation;
        let expected = handle(9, generation, grains + inside_grains, kind);
        prop_assert_eq!(arena.allocation_at(inside_grains * GRAIN_BYTES), expected);
    }

    #[test]
    fn handles_survive_words_bytes_and_text(
        pool in 1..=u32::MAX,
        generation in 0..=Generation::MAX.get(),
        grains in 0_u64..1 << GRAIN_BITS,
        kind in prop::sample::select(&KINDS),
    ) {
        let it = handle(pool, generation, grains, kind);
        prop_assert_eq!(it.pool().get(), pool);
        prop_assert_eq!(it.generation().get(), generation);
        prop_assert_eq!(it.offset().get(), grains * GRAIN_BYTES);
        prop_assert_eq!(it.kind(), kind);
        let (high, low) = it.to_words();
        prop_assert_eq!(Handle::from_words(high, low), Ok(it));
        prop_assert_eq!(Handle::from_bytes(it.to_bytes()), Ok(it));
        prop_assert_eq!(it.to_string().parse(), Ok(it));
        prop_assert_eq!(&it.to_bytes()[..8], &high.to_be_bytes()[..]);
    }

    #[test]
    fn words_are_a_handle_or_an_error_that_shows_them(high: u64, low: u64) {
        match Handle::from_words(high, low) {
            Ok(it) => prop_assert_eq!(it.to_words(), (high, low)),
            Err(HandleError::NoPool { .. }) => prop_assert_eq!(high >> 32, 0),
            Err(error) => {
                prop_assert_eq!(error, HandleError::UnknownKind { high, low });
                prop_assert!(!(1..=3).contains(&(low & 15)));
            }
        }
    }

    #[test]
    fn text_is_a_handle_or_an_error(text in "(gm1-)?[0-9a-fA-Fx ä]{30,34}") {
        if let Ok(it) = text.parse::<Handle>() {
            prop_assert_eq!(it.to_string(), text.to_lowercase());
        }
    }
}

#[test]
fn bits_lie_where_the_format_says() {
    let it = handle(
        0xAABB_CCDD,
        0x123_4567_89AB,
        0xFEDC_BA98_7654,
        HandleKind::Arena,
    );
    assert_eq!(
        it.to_words(),
        (0xAABB_CCDD_1234_5678, 0x9ABF_EDCB_A987_6542)
    );
    assert_eq!(it.to_string(), "gm1-aabbccdd123456789abfedcba9876542");
    assert_eq!(format!("{it:?}"), it.to_string());
    let greatest = handle(
        u32::MAX,
        Generation::MAX.get(),
        (1 << 48) - 1,
        HandleKind::Block,
    );
    assert_eq!(greatest.to_words(), (u64::MAX, u64::MAX - 14));
}

#[test]
fn words_without_a_pool_or_of_no_known_kind_are_refused() {
    let high = 0xFFFF_FFFF;
    assert_eq!(
        Handle::from_words(high, 1),
        Err(HandleError::NoPool { high, low: 1 })
    );
    assert_eq!(
        Handle::from_words(0, 1),
        Err(HandleError::NoPool { high: 0, low: 1 })
    );
    for kind in (0..16).filter(|kind| !(1..=3).contains(kind)) {
        let (high, low) = (1 << 32, 0x70 | kind);
        assert_eq!(
            Handle::from_words(high, low),
            Err(HandleError::UnknownKind { high, low })
        );
    }
}

#[test]
fn text_with_one_fault_is_refused_for_that_fault() {
    let parse = |text: &str| text.parse::<Handle>();
    let good = "gm1-00000001000000000000000000000011";
    assert!(parse(good).is_ok());
    assert_eq!(
        parse(&good.replace("gm1-", "gm2-")),
        Err(HandleError::Prefix)
    );
    assert_eq!(
        parse(&good.replace("gm1-", "GM1-")),
        Err(HandleError::Prefix)
    );
    assert_eq!(parse(&good[4..]), Err(HandleError::Prefix));
    assert_eq!(parse(""), Err(HandleError::Prefix));
    assert_eq!(parse(&good[..35]), Err(HandleError::Length { digits: 31 }));
    assert_eq!(
        parse(&format!("{good}0")),
        Err(HandleError::Length { digits: 33 })
    );
    assert_eq!(
        parse(&good.replace("11", "+1")),
        Err(HandleError::Digit { position: 30 })
    );
    assert_eq!(
        parse(&good.replace("11", "ä")),
        Err(HandleError::Digit { position: 30 })
    );
    assert!(matches!(
        parse(&good.replace("11", "14")),
        Err(HandleError::UnknownKind { .. })
    ));
    assert!(matches!(
        parse(&good.replace("01", "00")),
        Err(HandleError::NoPool { .. })
    ));
    let upper = "gm1-AABBCCDD123456789ABFEDCBA9876542";
    assert_eq!(parse(upper), parse(&upper.to_lowercase()));
}

#[test]
#[should_panic(expected = "multiple of 16")]
fn an_offset_off_the_grain_makes_no_handle() {
    let pool = PoolId::new(1).unwrap();
    let _ = Handle::new(pool, Generation::ZERO, Offset::new(8), HandleKind::Block);
}
