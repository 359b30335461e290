//! A pool whose words in DATA somebody scribbles over while two sessions work in it. CONTROL is
//! the daemon's and honest. What resolves lies in its span, and no two private blocks lie over
//! each other, whatever the words say: which slots are free is known from private bitmaps.

use std::ops::Range;
use std::sync::Arc;

use goumem_alloc::{
    Generation, Handle, HandleKind, Offset, PageCount, PageIndex, SessionNumber, SizeClass, TypeTag,
};
use goumem_shm::header::PoolKind;
use goumem_shm::os::{Access, MapPlan, Mapping};
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::shape::Shape;
use goumem_shm::sync::{AtomicU64, Ordering};
use goumem_shm::{
    LeasedSpan, PoolMemory, RawBlock, SpanLease, TakenBlocks, data_plan, pool_geometry,
};

use super::arenas::header;
use super::{Image, Input};

const ALICE: SessionNumber = SessionNumber::new(7);
const BOB: SessionNumber = SessionNumber::new(8);
const PAGES: u32 = 8;

/// First page, pages, size class, lessee of each span: fine, dense, several pages, coloured, large.
const SPANS: [(u32, u32, u8, SessionNumber); 6] = [
    (0, 1, 0, ALICE),
    (1, 1, 18, BOB),
    (2, 2, 32, ALICE),
    (4, 1, 60, BOB),
    (5, 2, 127, ALICE),
    (7, 1, 19, SessionNumber::NOBODY),
];

/// Does what the bytes say in a pool of its own.
///
/// # Panics
/// When a block lies where it must not.
pub fn slots(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut work = Work::new();
    while !input.is_empty() {
        work.step(&mut input);
    }
    work.end();
}

struct Work {
    memory: Arc<PoolMemory>,
    spans: Vec<LeasedSpan>,
    /// Never exported: nobody else has them.
    private: Vec<RawBlock>,
    taken: Vec<RawBlock>,
    places: [TakenBlocks; 2],
    handles: Vec<Handle>,
}

impl Work {
    fn new() -> Self {
        let memory = Arc::new(memory());
        Self {
            places: [ALICE, BOB].map(|session| TakenBlocks::new(&memory, session).unwrap()),
            memory,
            spans: Vec::new(),
            private: Vec::new(),
            taken: Vec::new(),
            handles: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let session = input.one_of(&[ALICE, BOB]);
        match input.below(12) {
            0 => self.attach(input),
            1 | 2 => self.alloc(input),
            3 => drop(input.remove(&mut self.private)),
            4 => self.export(session, input),
            5 => self.take_over(session, input),
            6 => drop(input.remove(&mut self.taken)),
            7 => {
                let at = input.below(8);
                let Some(span) = self.spans.get_mut(at) else {
                    return;
                };
                span.collect(input.u8() & 1 == 0);
                let _ = span.reclaim(u32::from(input.u16()));
                assert!(span.free_count() <= span.slots() && span.live_count() <= span.slots());
            }
            8 => {
                let Some(span) = input.remove(&mut self.spans) else {
                    return;
                };
                let ended = if input.u8() & 1 == 0 {
                    span.detach()
                } else {
                    span.abandon()
                };
                self.spans.extend(ended.err());
            }
            9 => self.sweep(session, input),
            10 => self.reach(session, input),
            _ => self.scribble(input),
        }
    }

    fn attach(&mut self, input: &mut Input<'_>) {
        let (first, pages, class, lessee) = input.one_of(&SPANS);
        let lease = SpanLease {
            first_page: PageIndex::new(first),
            pages: PageCount::new(pages),
            class: SizeClass::from_index(class).unwrap(),
            epoch: SpanEpoch::ZERO,
        };
        let survivors = input.u8() & 1 == 0;
        self.spans
            .extend(LeasedSpan::attach(&self.memory, lease, lessee, survivors));
    }

    fn alloc(&mut self, input: &mut Input<'_>) {
        let at = input.below(8);
        let Some(block) = self.spans.get_mut(at).and_then(LeasedSpan::alloc) else {
            return;
        };
        let range = range_of(&block);
        let span = span_of(&self.memory, self.spans[at].lease());
        assert!(
            span.start <= range.start && range.end <= span.end,
            "{range:?} leaves {span:?}"
        );
        for other in self.private.iter().map(range_of) {
            let apart = other.end <= range.start || range.end <= other.start;
            assert!(apart, "{range:?} and {other:?} are both private");
        }
        self.private.push(block);
        let block = self.private.last_mut().unwrap();
        block.fill_zero(block.usable_bytes().min(64));
    }

    fn export(&mut self, owner: SessionNumber, input: &mut Input<'_>) {
        let from = if input.u8() & 1 == 0 {
            &mut self.private
        } else {
            &mut self.taken
        };
        let Some(block) = input.remove(from) else {
            return;
        };
        let length_bytes = block.usable_bytes().min(u64::from(input.u16()) + 1);
        let shape = Shape {
            type_tag: TypeTag::UNTYPED,
            length_bytes,
        };
        match block.export(owner, shape) {
            Ok(handle) => self.handles.push(handle),
            Err((block, _)) => drop(block),
        }
    }

    fn take_over(&mut self, session: SessionNumber, input: &mut Input<'_>) {
        let handle = self.handle(input);
        let place = &self.places[usize::from(session == BOB)];
        if let Ok((block, shape, _)) = place.take_over(handle) {
            assert_eq!(block.offset(), handle.offset());
            assert!(shape.length_bytes <= block.usable_bytes());
            assert!(
                self.memory.resolve(handle).is_err(),
                "{handle} names what was taken"
            );
            self.taken.push(block);
        }
    }

    /// As the daemon does after a death, and for what nothing vouches for.
    fn sweep(&mut self, dead: SessionNumber, input: &mut Input<'_>) {
        let (first, pages, class, _) = input.one_of(&SPANS);
        let class = SizeClass::from_index(class).unwrap();
        let words = self
            .memory
            .slot_run(PageIndex::new(first), class, PageCount::new(pages));
        for word in words.unwrap().words() {
            let _ = word.sweep(dead);
            assert!(
                !word.load().goes_with(dead),
                "{:?} after the sweep",
                word.load()
            );
        }
        if input.u8() == 0 {
            words
                .unwrap()
                .words()
                .for_each(goumem_shm::slot::SlotWord::force_free);
        }
    }

    /// Does with any handle, made up or not, what a process may do with it.
    fn reach(&mut self, session: SessionNumber, input: &mut Input<'_>) {
        let handle = self.handle(input);
        let memory = &self.memory;
        if let Ok(at) = memory.resolve(handle) {
            let payload = memory.geometry().payload_range();
            let end = at.offset.get() + at.usable_bytes();
            assert_eq!(at.offset, handle.offset());
            assert!(
                payload.start <= at.offset.get() && end <= payload.end,
                "{at:?}"
            );
            if let Ok(shape) = memory.checked_shape(&at) {
                assert!((1..=at.usable_bytes()).contains(&shape.length_bytes));
            }
        }
        let (offset, mut into) = (u64::from(input.u16()), [0; 24]);
        match input.below(9) {
            0 => drop(memory.read(handle, offset, &mut into)),
            1 => drop(memory.write(handle, offset, &into)),
            2 => drop(memory.free(handle)),
            3 => drop(memory.adopt(handle, session)),
            4 => drop(memory.read_value::<u64>(handle, offset)),
            5 => drop(
                memory
                    .atomics::<AtomicU64>(handle)
                    .map(|word| word.load(Ordering::Relaxed)),
            ),
            act => {
                let Ok(at) = memory.locate(handle) else {
                    return;
                };
                let word = memory.slot(&at);
                match act {
                    6 => drop(word.pin(handle.generation())),
                    7 => drop(word.unpin()),
                    _ => drop(word.keep(handle.generation(), session)),
                }
            }
        }
    }

    fn handle(&self, input: &mut Input<'_>) -> Handle {
        if let Some(&handle) = self.handles.get(input.below(16)) {
            return handle;
        }
        let start = self.memory.geometry().payload_range().start;
        let page = u64::from(input.u8()) % u64::from(PAGES + 1);
        let offset = Offset::new(start + (page << 16) + 16 * u64::from(input.u16() % 4096));
        let generation = Generation::from_low_bits(input.word() >> 20);
        Handle::new(self.memory.pool(), generation, offset, HandleKind::Block)
    }

    fn scribble(&self, input: &mut Input<'_>) {
        let (first, pages, class, _) = input.one_of(&SPANS);
        let (first, pages) = (PageIndex::new(first), PageCount::new(pages));
        let class = SizeClass::from_index(class).unwrap();
        let slot = u32::from(input.u8()) % class.slots(pages);
        let geometry = self.memory.geometry();
        let at = match input.below(4) {
            0 => geometry.note_offset(first),
            1 => geometry.shape_offset(first, class, pages, slot),
            _ => geometry.slot_offset(first, class, pages, slot),
        };
        let word = self.memory.data().atomic_u64(at).unwrap();
        word.store(input.word(), Ordering::Relaxed);
    }

    /// Frees everything. A span with private blocks would stay for good.
    fn end(self) {
        let Self {
            private,
            taken,
            spans,
            ..
        } = self;
        drop((private, taken));
        for mut span in spans {
            span.collect(true);
            assert_eq!(span.private_count(), 0, "no private block is left");
        }
    }
}

fn memory() -> PoolMemory {
    let geometry = pool_geometry(PAGES).unwrap();
    let lengths = [geometry.control_bytes(), geometry.data_bytes()];
    let empty = Image::read(&mut Input::new(&[]), lengths);
    let plans = [MapPlan::whole(lengths[0]), data_plan(&geometry)];
    let [control, data] = [0, 1].map(|i: usize| {
        Mapping::map(&empty.memfd(i), Access::ReadWrite, plans[i].clone()).unwrap()
    });
    let header = header(PoolKind::Blocks, PAGES, geometry.payload_range().end);
    let memory = PoolMemory::create(control, data, &header).unwrap();
    for (first, pages, class, lessee) in SPANS {
        let class = SizeClass::from_index(class).unwrap();
        let publish = |page, entry| {
            memory
                .entry_word(PageIndex::new(page))
                .unwrap()
                .publish(entry)
        };
        let epoch = SpanEpoch::ZERO;
        for back in 1..pages {
            let entry = PageEntry::Interior {
                class,
                back: PageCount::new(back),
                epoch,
            };
            publish(first + back, entry);
        }
        publish(
            first,
            PageEntry::Head {
                class,
                lessee,
                epoch,
                pages: PageCount::new(pages),
            },
        );
    }
    memory
}

fn range_of(block: &RawBlock) -> Range<u64> {
    let start = block.offset().get();
    start..start + block.usable_bytes()
}

fn span_of(memory: &PoolMemory, lease: SpanLease) -> Range<u64> {
    let start = memory.geometry().page_offset(lease.first_page).get();
    start..start + lease.pages.bytes()
}
