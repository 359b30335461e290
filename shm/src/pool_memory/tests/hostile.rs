//! Random bits in every shared word of a small pool: each call may refuse, none may panic.

use proptest::prelude::*;

use super::*;
use crate::TakenBlocks;
use crate::sync::Ordering;

/// Bits that look like a word now and then.
fn any_word() -> impl Strategy<Value = u64> {
    let like_a_slot = (any::<u64>(), any::<u8>()).prop_map(|(g, low)| {
        // A small generation, ALICE or BOB as the owner, any state.
        (g & 3) << 20 | (7 + (g >> 2 & 1)) << 4 | u64::from(low & 15)
    });
    prop_oneof![any::<u64>(), like_a_slot, Just(0), Just(u64::MAX)]
}

/// Page-map entries with every field in and out of range.
fn any_entry() -> impl Strategy<Value = u64> {
    let like_an_entry = (0..4u64, 0..128u64, any::<u16>(), any::<u16>(), 0..20u64).prop_map(
        |(state, class, lessee, epoch, pages)| {
            state << 62
                | class << 55
                | u64::from(lessee) << 36
                | u64::from(epoch & 0xfff) << 24
                | pages
        },
    );
    prop_oneof![1 => any::<u64>(), 4 => like_an_entry]
}

/// Everything a process may do with a handle.
fn use_handle(memory: &Arc<PoolMemory>, handle: Handle) {
    let mut into = [0; 64];
    let _ = memory.resolve(handle);
    let _ = memory.read(handle, 0, &mut into);
    let _ = memory.read(handle, 1 << 39, &mut into[..1]);
    let _ = memory.write(handle, 0, &into[..16]);
    let _ = memory
        .atomics::<[crate::sync::AtomicU64; 2]>(handle)
        .map(drop);
    if let Ok(at) = memory.locate(handle) {
        let _ = memory.checked_shape(&at);
        let _ = memory.read_pinned(&at, 0, &mut into);
        let _ = memory.slot(&at).pin(handle.generation());
        let _ = memory.slot(&at).keep(handle.generation(), ALICE);
        let _ = memory.slot(&at).unpin();
    }
    let _ = memory.adopt(handle, BOB);
    if let Ok((block, shape, _)) = TakenBlocks::new(memory, ALICE).unwrap().take_over(handle) {
        let _ = block.export(ALICE, shape).map_err(drop);
    }
    let _ = memory.free(handle);
}

proptest! {
    #[test]
    fn no_bits_in_slot_shape_and_note_words_make_anything_panic(
        size in prop_oneof![Just(16u64), Just(700), Just(1024), Just(20_000)],
        words in prop::collection::vec((any_word(), any_word()), 1..40),
        note in any_word(),
        offset: u64,
    ) {
        let daemon = TestDaemon::new(8);
        let memory = daemon.view();
        let lease = daemon.grant(ALICE, class(size), class(size).span_pages()).unwrap();
        let geometry = memory.geometry();
        let set = |at: u64, bits| {
            memory.data().atomic_u64(at).unwrap().store(bits, Ordering::Relaxed);
        };
        let mut handles = vec![memory.handle(Generation::ZERO, Offset::new(offset >> 12 & !15))];
        set(geometry.note_offset(lease.first_page), note);
        let n_slots = lease.class.slots(lease.pages);
        for (slot, (word, shape)) in (0..n_slots).zip(words) {
            let (first, class, pages) = (lease.first_page, lease.class, lease.pages);
            set(geometry.slot_offset(first, class, pages, slot), word);
            set(geometry.shape_offset(first, class, pages, slot), shape);
            let start = geometry.page_offset(first).get() + class.offset_of_slot(slot);
            let generation = Generation::from_low_bits(word >> 20);
            handles.push(memory.handle(generation, Offset::new(start)));
        }
        let mut span = LeasedSpan::attach(&memory, lease, ALICE, true).unwrap();
        for &handle in &handles {
            use_handle(&memory, handle);
        }
        let held: Vec<_> = std::iter::from_fn(|| span.alloc()).collect();
        for (block, &handle) in held.into_iter().zip(handles.iter().cycle()) {
            // Over again, under the feet of whoever has the blocks.
            use_handle(&memory, handle);
            let _ = block.export(ALICE, bytes(8)).map_err(drop);
        }
        span.collect(true);
        prop_assert!(span.live_count() <= n_slots);
        drop(span);
        daemon.sweep(ALICE);
        daemon.sweep(BOB);
        let words = memory.slot_run(lease.first_page, lease.class, lease.pages).unwrap();
        words.words().for_each(SlotWord::force_free);
        prop_assert_eq!(words.words().filter(|w| w.load().goes_with(ALICE)).count(), 0);
    }

    /// CONTROL is the daemon's, which reads it as outside data when it recovers.
    #[test]
    fn no_bits_in_the_page_map_make_anything_panic(
        entries in prop::collection::vec(any_entry(), 16),
        pages in prop::collection::vec(0..16u64, 1..8),
        in_page: u16,
        words in prop::collection::vec(any::<u64>(), 16),
    ) {
        let daemon = TestDaemon::new(16);
        let memory = daemon.memory();
        let geometry = memory.geometry();
        for (page, bits) in (0..).map(PageIndex::new).zip(entries) {
            let at = geometry.entry_offset(page);
            memory.control().atomic_u64(at).unwrap().store(bits, Ordering::Relaxed);
            if let Some(entry) = memory.entry(page) {
                prop_assert_eq!(PageEntry::from_bits(entry.to_bits()), Some(entry));
                if let PageEntry::Head { class, lessee, epoch, pages } = entry {
                    let lease = crate::SpanLease { first_page: page, pages, class, epoch };
                    let _ = LeasedSpan::attach(memory, lease, lessee, true).map(drop);
                }
            }
        }
        for page in pages {
            for in_page in [0, 128, u64::from(in_page & !15)] {
                let offset = geometry.payload_range().start + (page << 16) + in_page;
                let offset = Offset::new(offset);
                if let Some(at) = memory.block_at(offset) {
                    prop_assert!(at.offset.get() + at.usable_bytes() <= geometry.data_bytes());
                    prop_assert_eq!(at.offset, offset);
                }
                use_handle(memory, memory.handle(Generation::ZERO, offset));
            }
        }
        let record = geometry.record_offset(3);
        for (i, bits) in (0..).zip(words) {
            let word = memory.control().atomic_u64(record + 8 * i).unwrap();
            word.store(bits, Ordering::Relaxed);
        }
        let _ = memory.record(3).unwrap().load();
        let page = memory.page_record(PageIndex::new(0)).unwrap();
        let _ = (page.floor(), page.lease());
    }

    #[test]
    fn no_bits_in_a_header_make_anything_panic(
        words in prop::collection::vec((0..32usize, any::<u64>()), 0..6),
        data_word in (0..32usize, any::<u64>()),
    ) {
        let geometry = pool_geometry(2).unwrap();
        let map = |len_bytes, plan| {
            Mapping::map(&segment(len_bytes), Access::ReadWrite, plan).unwrap()
        };
        let control = map(geometry.control_bytes(), MapPlan::whole(geometry.control_bytes()));
        let data = map(geometry.data_bytes(), data_plan(&geometry));
        let header = header(PoolKind::Blocks, 2, 0);
        write_header(&control, SegmentRole::Control, &header).unwrap();
        write_header(&data, SegmentRole::Data, &header).unwrap();
        for (word, bits) in words {
            let at = 8 * word as u64;
            control.atomic_u64(at).unwrap().store(bits, Ordering::Relaxed);
        }
        let (word, bits) = data_word;
        data.atomic_u64(8 * word as u64).unwrap().store(bits, Ordering::Relaxed);
        let _ = PoolMemory::open(control, data).map(drop);
    }
}
