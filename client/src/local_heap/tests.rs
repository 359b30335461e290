use goumem_alloc::PageCount;
use goumem_shm::shape::Shape;

use super::large::LargeSpans;
use super::*;
use crate::test_pool::{ALICE, TestPool};

const N_PAGES: u32 = 256;

/// A heap of this thread. Blocks are dropped outside of its turns, as they are in use.
struct Heap(&'static HeapAgent);

impl Heap {
    fn new() -> Self {
        let agent = HeapAgent::leak(LocalHeap::new());
        assert!(agent.own());
        Self(agent)
    }

    fn work<R>(&self, work: impl FnOnce(&mut LocalHeap, Right<'_>) -> R) -> R {
        let mut turn = self.0.enter().unwrap();
        let (local, right) = turn.split();
        work(local, right)
    }

    fn add(&self, pool: &TestPool, class: SizeClass, spans: u32) {
        for _ in 0..spans {
            let span = pool.lease(class, class.span_pages());
            self.work(|local, right| local.add(right, span));
        }
    }

    fn alloc(&self, class: SizeClass) -> Option<RawBlock> {
        self.work(|local, right| {
            let at_hand = local.alloc(right, class);
            at_hand.or_else(|| local.alloc_elsewhere(right, class))
        })
    }

    fn wanted(&self, class: SizeClass) -> u32 {
        self.work(|local, _| local.wanted(class))
    }

    fn owned_count(&self, pool: &TestPool) -> u64 {
        self.work(|local, right| local.owned_count(right, &pool.memory, ALICE))
    }

    fn is_empty(&self) -> bool {
        self.work(|local, _| local.is_empty())
    }

    fn trim(&self, trim: &mut Trim) -> bool {
        self.work(|local, right| local.trim(right, trim))
    }

    fn trimmed(&self, mut trim: Trim) -> Trim {
        while !self.trim(&mut trim) {}
        trim
    }
}

fn class_of(bytes: u64) -> SizeClass {
    match SizeClass::for_layout(bytes, 16).unwrap() {
        goumem_alloc::Placement::Class(class) => class,
        goumem_alloc::Placement::Large { class, .. } => class,
    }
}

#[test]
fn blocks_freed_in_any_span_are_found_again_before_more_is_leased() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let class = class_of(8192);
    assert!(heap.alloc(class).is_none());
    heap.add(&pool, class, 3);
    let mut blocks: Vec<_> = std::iter::from_fn(|| heap.alloc(class)).collect();
    assert_eq!(blocks.len(), 24);

    // Private blocks dropped anywhere, and an exported one freed by handle.
    drop(blocks.remove(20));
    drop(blocks.remove(1));
    let shape = Shape {
        type_tag: goumem_alloc::TypeTag::UNTYPED,
        length_bytes: 8192,
    };
    let handle = blocks.remove(9).export(ALICE, shape).unwrap();
    pool.memory.free(handle).map(|_| ()).unwrap();
    let again: Vec<_> = std::iter::from_fn(|| heap.alloc(class)).collect();
    assert_eq!(again.len(), 3);
}

#[test]
fn leases_double_at_first_and_then_grow_by_an_eighth_within_the_byte_limit() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let class = class_of(64);
    let mut leased = vec![];
    for _ in 0..6 {
        let wanted = heap.wanted(class);
        leased.push(wanted);
        heap.add(&pool, class, wanted);
    }
    assert_eq!(leased, [1, 1, 2, 4, 8, 8]);
    let count = |heap: &Heap| heap.work(|h, _| h.classes[usize::from(class.index())].count());
    while count(&heap) < 80 {
        heap.add(&pool, class, 8);
    }
    assert_eq!(heap.wanted(class), 10);
    // A span of the largest class is 1 MiB or more: at most 32 MiB of them come at once.
    let largest = class_of(1 << 20);
    assert!(u64::from(heap.wanted(largest)) * largest.span_pages().bytes() <= MAX_LEASE_BYTES);
}

#[test]
fn an_idle_walk_leaves_one_empty_span_of_a_class_and_a_thorough_one_none() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let (small, middle) = (class_of(64), class_of(8192));
    heap.add(&pool, small, 3);
    heap.add(&pool, middle, 2);
    let block = heap.alloc(small).unwrap();

    for _ in 1..RIPE_WALKS {
        let idle = heap.trimmed(Trim::idle(u64::MAX));
        assert!(idle.leases.is_empty(), "they were in use not long ago");
    }
    let idle = heap.trimmed(Trim::idle(u64::MAX));
    assert_eq!(idle.leases.len(), 2);
    assert!(idle.again, "a span has a living block");
    assert_eq!(heap.owned_count(&pool), 1);

    let all = heap.trimmed(Trim::everything());
    assert_eq!(all.leases.len(), 2);
    assert!(!heap.is_empty());
    drop(block);
    assert_eq!(heap.trimmed(Trim::everything()).leases.len(), 1);
    assert!(heap.is_empty());
    assert!(heap.alloc(small).is_none());
}

#[test]
fn a_heap_with_nothing_but_one_empty_span_needs_no_further_walk() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    heap.add(&pool, class_of(64), 1);
    let idle = heap.trimmed(Trim::idle(u64::MAX));
    assert!(idle.leases.is_empty() && !idle.again);
}

#[test]
fn an_idle_walk_leaves_no_more_than_it_is_told() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let page = PageCount::ONE.bytes();
    heap.add(&pool, class_of(64), 4);
    heap.add(&pool, class_of(128), 4);
    let idle = heap.trimmed(Trim::idle(5 * page));
    assert_eq!((idle.leases.len(), idle.keep_bytes), (3, 0));
    assert!(idle.again, "more of them will be ripe");
    // Those that every class may keep, and one that may not.
    let idle = heap.trimmed(Trim::idle(page));
    assert_eq!(idle.leases.len(), 4);
    assert_eq!(heap.trimmed(Trim::idle(page - 1)).leases.len(), 1);
    assert!(heap.is_empty());
}

#[test]
fn a_span_that_is_used_again_has_to_ripen_again() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let class = class_of(1 << 20);
    assert_eq!(class.slots(class.span_pages()), 1, "each block is a span");
    heap.add(&pool, class, 2);
    for _ in 0..2 * RIPE_WALKS {
        let blocks = [heap.alloc(class).unwrap(), heap.alloc(class).unwrap()];
        assert!(heap.trimmed(Trim::idle(u64::MAX)).leases.is_empty());
        drop(blocks);
        assert!(heap.trimmed(Trim::idle(u64::MAX)).leases.is_empty());
    }
}

#[test]
fn a_walk_sees_whether_anything_has_happened() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    heap.add(&pool, class_of(64), 2);
    let walk = || heap.trimmed(Trim::idle(u64::MAX)).seen;
    let block = heap.alloc(class_of(64)).unwrap();
    let first = walk();
    assert_eq!(walk(), first);
    drop(block);
    assert_ne!(walk(), first);
}

#[test]
fn a_growing_class_runs_dry_with_its_last_fresh_span() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let class = class_of(8192);
    let runs_dry = |heap: &Heap| heap.work(|local, right| local.runs_dry(right, class));
    heap.add(&pool, class, 1);
    let mut blocks = vec![heap.alloc(class).unwrap()];
    assert!(!runs_dry(&heap), "one span is no growth");
    heap.add(&pool, class, u32::try_from(PREFETCH_SPANS).unwrap() - 1);
    for _ in 0..8 * PREFETCH_SPANS - 8 {
        assert!(!runs_dry(&heap), "there are others");
        blocks.push(heap.alloc(class).unwrap());
    }
    assert!(runs_dry(&heap), "the last has been begun");
    blocks.push(heap.alloc(class).unwrap());
    assert!(!runs_dry(&heap), "once only");
    // Full, and then freed here and there: it does not grow.
    blocks.extend(std::iter::from_fn(|| heap.alloc(class)));
    drop(blocks.split_off(30));
    blocks.push(heap.alloc(class).unwrap());
    assert!(!runs_dry(&heap));
}

#[test]
fn a_walk_through_many_spans_goes_in_slices() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    heap.add(&pool, class_of(64), 150);
    let blocks: Vec<_> = std::iter::from_fn(|| heap.alloc(class_of(64))).collect();
    let mut trim = Trim::everything();
    let mut slices = 1;
    while !heap.trim(&mut trim) {
        slices += 1;
    }
    assert_eq!((slices, trim.leases.len()), (3, 0));
    drop(blocks);
    assert_eq!(heap.trimmed(Trim::everything()).leases.len(), 150);
}

#[test]
fn a_freed_large_span_serves_the_next_block_of_about_its_size() {
    let (pool, mut heap) = (TestPool::new(N_PAGES), LargeSpans::new(u64::MAX));
    let (class, align) = (SizeClass::LARGE_COLOURED, PageCount::ONE);
    let mut span = pool.lease(class, PageCount::new(20));
    let block = span.alloc().unwrap();
    heap.add(span);
    let alloc = |heap: &mut LargeSpans, pages| heap.alloc(class, PageCount::new(pages), align);
    assert!(alloc(&mut heap, 20).is_none(), "it is in use");
    drop(block);
    assert!(alloc(&mut heap, 21).is_none(), "too short");
    assert!(
        alloc(&mut heap, 15).is_none(),
        "more than a quarter would be wasted"
    );
    assert!(
        heap.alloc(SizeClass::LARGE, PageCount::new(20), align)
            .is_none()
    );
    let block = alloc(&mut heap, 16).unwrap();
    assert_eq!(heap.owned_count(&pool.memory, ALICE), 1);
    drop(block);
}

#[test]
fn large_spans_are_kept_within_bounds_and_for_a_few_walks() {
    let (pool, mut heap) = (TestPool::new(N_PAGES), LargeSpans::new(u64::MAX));
    for _ in 0..6 {
        let mut span = pool.lease(SizeClass::LARGE, PageCount::new(20));
        drop(span.alloc().unwrap());
        heap.add(span);
    }
    let mut first = Trim::idle(u64::MAX);
    heap.trim(&mut first);
    assert_eq!(first.leases.len(), 2, "four stay");
    assert!(first.again);
    let mut second = Trim::idle(PageCount::new(60).bytes());
    heap.trim(&mut second);
    assert_eq!((second.leases.len(), second.keep_bytes), (1, 0));
    for _ in 2..RIPE_WALKS {
        let mut walk = Trim::idle(u64::MAX);
        heap.trim(&mut walk);
        assert!(walk.leases.is_empty() && walk.again);
    }
    let mut last = Trim::idle(u64::MAX);
    heap.trim(&mut last);
    assert_eq!(last.leases.len(), 3);
    assert!(!last.again && heap.is_empty());
}

#[test]
fn blocks_of_others_in_our_spans_are_not_counted_as_ours() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    let class = class_of(64);
    heap.add(&pool, class, 1);
    let shape = Shape {
        type_tag: goumem_alloc::TypeTag::UNTYPED,
        length_bytes: 64,
    };
    let ours = heap.alloc(class).unwrap().export(ALICE, shape).unwrap();
    let adopted = heap.alloc(class).unwrap().export(ALICE, shape).unwrap();
    let _private = heap.alloc(class).unwrap();
    pool.memory.adopt(adopted, SessionNumber::new(8)).unwrap();
    assert_eq!(heap.owned_count(&pool), 2);
    assert!(pool.memory.resolve(ours).is_ok());
}
