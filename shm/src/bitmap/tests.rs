//! The three bitmaps alone, against a set of slots; and, under loom, how they are fed.

use super::*;

#[cfg(loom)]
mod loom_models;

#[cfg(not(loom))]
mod alone {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Bit counts around the ends of words.
    const SIZES: [u32; 8] = [0, 1, 63, 64, 65, 128, 200, 4096];

    #[test]
    fn every_slot_is_taken_once_and_no_other() {
        for slots in SIZES {
            let mut free = FreeBits::all(slots);
            assert_eq!(free.count(), slots);
            let mut taken: Vec<u32> = std::iter::from_fn(|| free.take()).collect();
            taken.sort_unstable();
            assert_eq!(taken, (0..slots).collect::<Vec<_>>());
            assert_eq!((free.count(), free.take()), (0, None));
        }
    }

    #[test]
    fn bitmap_without_free_slots_has_none() {
        for slots in SIZES {
            let mut free = FreeBits::none(slots);
            assert_eq!((free.count(), free.take()), (0, None));
        }
    }

    #[test]
    fn slot_given_behind_the_search_is_found() {
        let mut free = FreeBits::all(200);
        while free.take().is_some() {}
        for slot in [0, 199, 64, 63] {
            free.give(slot);
            assert_eq!(free.take(), Some(slot));
        }
    }

    #[test]
    fn slots_given_by_others_are_collected_once() {
        let remote = RemoteBits::new(130);
        let mut free = FreeBits::none(130);
        for slot in [0, 64, 129] {
            let (word, bit) = remote.place(slot);
            word.set(bit);
        }
        remote.collect(&mut free);
        remote.collect(&mut free);
        assert_eq!(free.count(), 3);
        let mut taken: Vec<u32> = std::iter::from_fn(|| free.take()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 64, 129]);
    }

    #[test]
    fn only_marked_slots_are_looked_at_and_only_free_ones_collected() {
        let exported = ExportedBits::new(130);
        let mut free = FreeBits::none(130);
        for slot in [1, 65, 129] {
            let (word, bit) = exported.place(slot);
            word.set(bit);
        }
        let mut looked_at = Vec::new();
        exported.collect(&mut free, |slot| {
            looked_at.push(slot);
            slot == 65
        });
        assert_eq!(looked_at, [1, 65, 129]);
        assert_eq!((free.take(), free.take()), (Some(65), None));
        assert_eq!(exported.count(), 2);
    }

    #[test]
    fn one_slot_is_collected_if_it_is_marked_and_free() {
        let exported = ExportedBits::new(130);
        let mut free = FreeBits::none(130);
        let (word, bit) = exported.place(70);
        word.set(bit);
        assert!(!exported.collect_one(71, &mut free, |_| true));
        assert!(!exported.collect_one(70, &mut free, |_| false));
        assert!(!exported.collect_one(u32::MAX, &mut free, |_| true));
        assert!(exported.collect_one(70, &mut free, |_| true));
        assert!(!exported.collect_one(70, &mut free, |_| true));
        assert_eq!((free.take(), exported.count()), (Some(70), 0));
    }

    proptest! {
        #[test]
        fn bitmap_hands_out_what_a_set_would(
            slots in 1..300u32,
            steps in prop::collection::vec(any::<(bool, u32)>(), 1..400),
        ) {
            let mut free = FreeBits::all(slots);
            let mut taken = BTreeSet::new();
            for (takes, pick) in steps {
                if takes {
                    match free.take() {
                        Some(slot) => prop_assert!(slot < slots && taken.insert(slot)),
                        None => prop_assert_eq!(taken.len(), slots as usize),
                    }
                } else if let Some(&slot) = taken.iter().nth(pick as usize % slots as usize) {
                    taken.remove(&slot);
                    free.give(slot);
                }
                prop_assert_eq!(free.count() as usize + taken.len(), slots as usize);
            }
        }
    }
}
