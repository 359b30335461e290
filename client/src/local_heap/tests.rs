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

    let idle = heap.trimmed(Trim::idle());
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
fn an_idle_walk_leaves_an_eighth_to_a_large_class() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    heap.add(&pool, class_of(64), 80);
    assert_eq!(heap.trimmed(Trim::idle()).leases.len(), 70);
    assert_eq!(heap.trimmed(Trim::everything()).leases.len(), 10);
}

#[test]
fn a_heap_with_nothing_but_one_empty_span_needs_no_further_walk() {
    let (pool, heap) = (TestPool::new(N_PAGES), Heap::new());
    heap.add(&pool, class_of(64), 1);
    let idle = heap.trimmed(Trim::idle());
    assert!(idle.leases.is_empty() && !idle.again);
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
    let (pool, mut heap) = (TestPool::new(N_PAGES), LargeSpans::default());
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
fn large_spans_are_kept_within_bounds_and_for_one_walk() {
    let (pool, mut heap) = (TestPool::new(N_PAGES), LargeSpans::default());
    for _ in 0..6 {
        let mut span = pool.lease(SizeClass::LARGE, PageCount::new(20));
        drop(span.alloc().unwrap());
        heap.add(span);
    }
    let mut first = Trim::idle();
    heap.trim(&mut first);
    assert_eq!(first.leases.len(), 2, "four stay");
    assert!(first.again);
    let mut second = Trim::idle();
    heap.trim(&mut second);
    assert_eq!(second.leases.len(), 4);
    assert!(!second.again && heap.is_empty());
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
