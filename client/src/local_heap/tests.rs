use std::sync::Arc;

use goumem_alloc::{PageCount, PoolId};
use goumem_shm::header::{Header, PoolKind, PoolState};
use goumem_shm::os::Mapping;
use goumem_shm::page_map::{PageEntry, SpanEpoch};
use goumem_shm::pool_geometry;
use goumem_shm::shape::Shape;

use super::*;

const ALICE: SessionNumber = SessionNumber::new(7);
const N_PAGES: u32 = 256;

/// A pool in private memory, whose daemon is the test.
struct Pool {
    memory: Arc<PoolMemory>,
    next_page: u32,
}

impl Pool {
    fn new() -> Self {
        let geometry = pool_geometry(N_PAGES).unwrap();
        let header = Header {
            kind: PoolKind::Blocks,
            pool_id: PoolId::new(1).unwrap(),
            state: PoolState::Live,
            epoch: 1,
            units: N_PAGES,
            unit_bytes: PageCount::new(N_PAGES).bytes(),
            uid: 0,
            gid: 0,
            mode: 0o600,
            backing: 1,
            data_bytes: geometry.data_bytes(),
            name: "test".to_owned(),
        };
        let control = Mapping::anonymous(geometry.control_bytes()).unwrap();
        let data = Mapping::anonymous(geometry.data_bytes()).unwrap();
        let memory = Arc::new(PoolMemory::create(control, data, &header).unwrap());
        Self {
            memory,
            next_page: 0,
        }
    }

    fn lease(&mut self, class: SizeClass, pages: PageCount) -> LeasedSpan {
        let first_page = PageIndex::new(self.next_page);
        self.next_page += pages.get();
        let epoch = SpanEpoch::ZERO;
        let head = PageEntry::Head {
            class,
            lessee: ALICE,
            epoch,
            pages,
        };
        self.memory.entry_word(first_page).unwrap().publish(head);
        for back in 1..pages.get() {
            let page = first_page.checked_add(PageCount::new(back)).unwrap();
            let back = PageCount::new(back);
            let interior = PageEntry::Interior { class, epoch, back };
            self.memory.entry_word(page).unwrap().publish(interior);
        }
        let lease = SpanLease {
            first_page,
            pages,
            class,
            epoch,
        };
        LeasedSpan::attach(&self.memory, lease, ALICE, true).unwrap()
    }

    fn add(&mut self, heap: &mut LocalHeap, class: SizeClass, spans: u32) {
        for _ in 0..spans {
            heap.add(self.lease(class, class.span_pages()));
        }
    }
}

fn class_of(bytes: u64) -> SizeClass {
    match SizeClass::for_layout(bytes, 16).unwrap() {
        goumem_alloc::Placement::Class(class) => class,
        goumem_alloc::Placement::Large { class, .. } => class,
    }
}

fn trimmed(heap: &mut LocalHeap, mut trim: Trim) -> Trim {
    while !heap.trim(&mut trim) {}
    trim
}

#[test]
fn blocks_freed_in_any_span_are_found_again_before_more_is_leased() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    let class = class_of(8192);
    assert!(heap.alloc(class).is_none());
    pool.add(&mut heap, class, 3);
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
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    let class = class_of(64);
    let mut leased = vec![];
    for _ in 0..6 {
        let wanted = heap.wanted(class);
        leased.push(wanted);
        pool.add(&mut heap, class, wanted);
    }
    assert_eq!(leased, [1, 1, 2, 4, 8, 8]);
    while heap.classes[usize::from(class.index())].spans.len() < 80 {
        pool.add(&mut heap, class, 8);
    }
    assert_eq!(heap.wanted(class), 10);
    // A span of the largest class is 1 MiB or more: at most 32 MiB of them come at once.
    let largest = class_of(1 << 20);
    assert!(u64::from(heap.wanted(largest)) * largest.span_pages().bytes() <= MAX_LEASE_BYTES);
}

#[test]
fn an_idle_walk_leaves_one_empty_span_of_a_class_and_a_thorough_one_none() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    let (small, middle) = (class_of(64), class_of(8192));
    pool.add(&mut heap, small, 3);
    pool.add(&mut heap, middle, 2);
    let block = heap.alloc(small).unwrap();

    let idle = trimmed(&mut heap, Trim::idle());
    assert_eq!(idle.leases.len(), 2);
    assert!(idle.again, "a span has a living block");
    assert_eq!(heap.owned_count(&pool.memory, ALICE), 1);

    let all = trimmed(&mut heap, Trim::everything());
    assert_eq!(all.leases.len(), 2);
    assert!(!heap.is_empty());
    drop(block);
    assert_eq!(trimmed(&mut heap, Trim::everything()).leases.len(), 1);
    assert!(heap.is_empty());
    assert!(heap.alloc(small).is_none());
}

#[test]
fn a_heap_with_nothing_but_one_empty_span_needs_no_further_walk() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    pool.add(&mut heap, class_of(64), 1);
    let idle = trimmed(&mut heap, Trim::idle());
    assert!(idle.leases.is_empty() && !idle.again);
}

#[test]
fn a_walk_through_many_spans_goes_in_slices() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    pool.add(&mut heap, class_of(64), 150);
    let blocks: Vec<_> = std::iter::from_fn(|| heap.alloc(class_of(64))).collect();
    let mut trim = Trim::everything();
    let mut slices = 1;
    while !heap.trim(&mut trim) {
        slices += 1;
    }
    assert_eq!((slices, trim.leases.len()), (3, 0));
    drop(blocks);
    assert_eq!(trimmed(&mut heap, Trim::everything()).leases.len(), 150);
}

#[test]
fn a_freed_large_span_serves_the_next_block_of_about_its_size() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    let (class, align) = (SizeClass::LARGE_COLOURED, PageCount::ONE);
    let mut span = pool.lease(class, PageCount::new(20));
    let block = span.alloc().unwrap();
    heap.add(span);
    let alloc = |heap: &mut LocalHeap, pages| heap.alloc_large(class, PageCount::new(pages), align);
    assert!(alloc(&mut heap, 20).is_none(), "it is in use");
    drop(block);
    assert!(alloc(&mut heap, 21).is_none(), "too short");
    assert!(
        alloc(&mut heap, 15).is_none(),
        "more than a quarter would be wasted"
    );
    assert!(
        heap.alloc_large(SizeClass::LARGE, PageCount::new(20), align)
            .is_none()
    );
    let block = alloc(&mut heap, 16).unwrap();
    assert_eq!(heap.owned_count(&pool.memory, ALICE), 1);
    drop(block);
}

#[test]
fn large_spans_are_kept_within_bounds_and_for_one_walk() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    for _ in 0..6 {
        let mut span = pool.lease(SizeClass::LARGE, PageCount::new(20));
        drop(span.alloc().unwrap());
        heap.add(span);
    }
    let first = trimmed(&mut heap, Trim::idle());
    assert_eq!(first.leases.len(), 2, "four stay");
    assert!(first.again);
    let second = trimmed(&mut heap, Trim::idle());
    assert_eq!(second.leases.len(), 4);
    assert!(!second.again && heap.is_empty());
}

#[test]
fn blocks_of_others_in_our_spans_are_not_counted_as_ours() {
    let (mut pool, mut heap) = (Pool::new(), LocalHeap::new(None));
    let class = class_of(64);
    pool.add(&mut heap, class, 1);
    let shape = Shape {
        type_tag: goumem_alloc::TypeTag::UNTYPED,
        length_bytes: 64,
    };
    let ours = heap.alloc(class).unwrap().export(ALICE, shape).unwrap();
    let adopted = heap.alloc(class).unwrap().export(ALICE, shape).unwrap();
    let _private = heap.alloc(class).unwrap();
    pool.memory.adopt(adopted, SessionNumber::new(8)).unwrap();
    assert_eq!(heap.owned_count(&pool.memory, ALICE), 2);
    assert!(pool.memory.resolve(ours).is_ok());
}
