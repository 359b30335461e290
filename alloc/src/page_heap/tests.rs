//! The page heap against a model that holds one state per page.

use proptest::prelude::*;

use super::*;

const TOTAL: u32 = 96;

fn pages(pages: u32) -> PageCount {
    PageCount::new(pages)
}

fn heap(total: u32) -> PageHeap {
    PageHeap::new(pages(total), pages(total))
}

/// Reserves and commits, for tests that are about something else.
#[track_caller]
fn grant(heap: &mut PageHeap, n: u32) -> PageIndex {
    let reservation = heap.reserve(pages(n), PageCount::ONE).unwrap();
    let first = reservation.first();
    heap.commit(reservation);
    first
}

/// What the heap should be: the state of each page, and who holds which.
struct Model {
    heap: PageHeap,
    states: Vec<State>,
    reserved: Vec<(Reservation, Vec<State>)>,
    granted: Vec<(PageIndex, PageCount)>,
    now_ms: u64,
}

#[derive(Clone, Debug)]
enum Operation {
    Reserve { pages: u32, align_shift: u32 },
    Commit(usize),
    Abort(usize),
    Give(usize),
    Discard(usize),
    Retire(usize),
    Purge { min_idle_ms: u64, keep: usize },
    SetQuota(u32),
    Record { first: u32, pages: u32 },
    Wait { ms: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let which = any::<usize>();
    prop_oneof![
        8 => (0..24_u32, 0..6_u32)
            .prop_map(|(pages, align_shift)| Operation::Reserve { pages, align_shift }),
        2 => (TOTAL / 2..=TOTAL).prop_map(|pages| Operation::Reserve { pages, align_shift: 0 }),
        6 => which.prop_map(Operation::Commit),
        2 => which.prop_map(Operation::Abort),
        5 => which.prop_map(Operation::Give),
        1 => which.prop_map(Operation::Discard),
        2 => (0..40_u64, 0..4_usize)
            .prop_map(|(min_idle_ms, keep)| Operation::Purge { min_idle_ms, keep }),
        1 => (0..=TOTAL + 4).prop_map(Operation::SetQuota),
        1 => (0..=TOTAL, 0..12_u32).prop_map(|(first, pages)| Operation::Record { first, pages }),
        3 => (0..20_u64).prop_map(|ms| Operation::Wait { ms }),
    ]
}

impl Model {
    fn new() -> Self {
        Self {
            heap: heap(TOTAL),
            states: vec![State::Uncommitted; TOTAL as usize],
            reserved: Vec::new(),
            granted: Vec::new(),
            now_ms: 0,
        }
    }

    fn part(&mut self, first: PageIndex, pages: PageCount) -> &mut [State] {
        let first = first.get() as usize;
        &mut self.states[first..first + pages.get() as usize]
    }

    /// Returns whether some place at a multiple of `align` has `pages` pages that all pass.
    fn has_place(&self, pages: u32, align: u32, passes: impl Fn(State) -> bool) -> bool {
        let align = align as usize;
        let windows = self.states.windows(pages as usize).step_by(align);
        windows
            .into_iter()
            .any(|window| window.iter().all(|&state| passes(state)))
    }

    fn count(&self, passes: impl Fn(State) -> bool) -> u32 {
        u32::try_from(self.states.iter().filter(|&&state| passes(state)).count()).unwrap()
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Reserve { pages, align_shift } => self.reserve(pages, 1 << align_shift),
            Operation::Commit(which) => {
                if let Some((reservation, _)) = pick(&mut self.reserved, which) {
                    let (first, pages) = (reservation.first(), reservation.pages());
                    self.heap.commit(reservation);
                    self.part(first, pages).fill(State::Granted);
                    self.granted.push((first, pages));
                }
            }
            Operation::Abort(which) => {
                if let Some((reservation, before)) = pick(&mut self.reserved, which) {
                    let (first, pages) = (reservation.first(), reservation.pages());
                    self.heap.abort(reservation);
                    self.part(first, pages).copy_from_slice(&before);
                }
            }
            Operation::Give(which) => {
                if let Some((first, pages)) = pick(&mut self.granted, which) {
                    let since_ms = self.now_ms;
                    self.heap.give(first, pages, since_ms);
                    self.part(first, pages).fill(State::Committed { since_ms });
                }
            }
            Operation::Discard(which) => {
                if let Some((first, pages)) = pick(&mut self.granted, which) {
                    self.heap.discard(first, pages);
                    self.part(first, pages).fill(State::Uncommitted);
                }
            }
            Operation::Retire(which) => {
                if let Some((first, pages)) = pick(&mut self.granted, which) {
                    self.heap.retire(first, pages);
                    self.part(first, pages).fill(State::Retired);
                }
            }
            Operation::Purge { min_idle_ms, keep } => self.purge(min_idle_ms, keep),
            Operation::SetQuota(quota) => {
                let granted = self.count(|it| matches!(it, State::Reserved | State::Granted));
                let possible = (granted..=TOTAL).contains(&quota);
                assert_eq!(self.heap.set_quota(pages(quota)).is_ok(), possible);
            }
            Operation::Record { first, pages } => {
                let (first, pages) = (PageIndex::new(first), PageCount::new(pages));
                let free = first.get() + pages.get() <= TOTAL
                    && self.part(first, pages).iter().all(|state| state.is_free());
                let left = self
                    .heap
                    .quota_pages()
                    .checked_sub(self.heap.granted_pages());
                let possible = free && pages > PageCount::ZERO && Some(pages) <= left;
                assert_eq!(self.heap.record_alloc(first, pages), possible);
                if possible {
                    self.part(first, pages).fill(State::Granted);
                    self.granted.push((first, pages));
                }
            }
            Operation::Wait { ms } => self.now_ms += ms,
        }
    }

    fn reserve(&mut self, n: u32, align: u32) {
        let fits_free = n > 0 && self.has_place(n, align, State::is_free);
        let fits_committed =
            n > 0 && self.has_place(n, align, |it| matches!(it, State::Committed { .. }));
        let left = self.heap.quota - self.heap.granted;
        match self.heap.reserve(pages(n), pages(align)) {
            Ok(reservation) => {
                let first = reservation.first();
                assert!(first.get().is_multiple_of(align) && reservation.pages() == pages(n));
                assert!(n <= left);
                let before = self.part(first, pages(n)).to_vec();
                assert!(
                    before.iter().all(|state| state.is_free()),
                    "handed out twice"
                );
                assert!(!fits_committed || reservation.uncommitted_pages() == PageCount::ZERO);
                let mut listed = vec![false; n as usize];
                for &(run, length) in reservation.uncommitted() {
                    let start = run.pages_since(first).unwrap().get() as usize;
                    listed[start..start + length.get() as usize].fill(true);
                }
                let uncommitted = before.iter().map(|&state| state == State::Uncommitted);
                assert!(uncommitted.eq(listed), "what is to be committed");
                self.part(first, pages(n)).fill(State::Reserved);
                self.reserved.push((reservation, before));
            }
            Err(ReserveError::Invalid { .. }) => assert_eq!(n, 0),
            Err(ReserveError::Full {
                quota_left_pages, ..
            }) => {
                assert_eq!(quota_left_pages.get(), left);
                assert!(
                    n > left || !fits_free,
                    "refused, with room for {n} at {align}"
                );
            }
        }
    }

    fn purge(&mut self, min_idle_ms: u64, keep: usize) {
        let now_ms = self.now_ms;
        let idle = |state: State| match state {
            State::Committed { since_ms } => now_ms - since_ms >= min_idle_ms,
            _ => false,
        };
        let runs = idle_runs(&self.heap, now_ms, min_idle_ms);
        let listed: u32 = runs.iter().map(|(_, pages)| pages.get()).sum();
        assert_eq!(listed, self.count(idle));
        for (first, pages) in runs.into_iter().skip(keep) {
            assert!(self.part(first, pages).iter().all(|&state| idle(state)));
            self.heap.mark_purged(first, pages);
            self.part(first, pages).fill(State::Uncommitted);
        }
    }

    /// Asserts that the heap is what the model says, page by page and in its counts.
    fn compare(&self) {
        self.heap.check();
        let runs = self.heap.runs.starting_in(0, TOTAL);
        let states: Vec<State> = runs
            .flat_map(|run| std::iter::repeat_n(run.state, run.pages as usize))
            .collect();
        assert_eq!(states, self.states);
        self.compare_from(u32::try_from(self.now_ms % u64::from(TOTAL)).unwrap());
        let granted = self.count(|it| matches!(it, State::Reserved | State::Granted));
        let free_committed = self.count(|it| matches!(it, State::Committed { .. }));
        assert_eq!(self.heap.granted_pages(), pages(granted));
        assert_eq!(self.heap.free_committed_pages(), pages(free_committed));
        assert_eq!(self.heap.committed_pages(), pages(granted + free_committed));
        assert!(self.heap.committed_pages() <= self.heap.total_pages());
        assert!(self.heap.granted_pages() <= self.heap.quota_pages());
        let areas = self.states.split(|state| !state.is_free());
        let longest = areas.map(<[State]>::len).max().unwrap_or(0);
        let left = self.heap.quota - granted;
        assert_eq!(
            self.heap.largest_free_pages().get() as usize,
            longest.min(left as usize)
        );
    }

    /// Asserts that a look from some page on, also in the middle of a run, shows the same.
    fn compare_from(&self, page: u32) {
        let mut next = page;
        for (first, length, state) in self.heap.runs_from(PageIndex::new(page)) {
            assert_eq!(first.get(), next);
            next += length.get();
            let run = &self.states[first.get() as usize..next as usize];
            assert!(run.iter().all(|it| state
                == match it {
                    State::Uncommitted => PageState::Free,
                    State::Committed { .. } => PageState::FreeCommitted,
                    State::Reserved | State::Granted => PageState::Granted,
                    State::Retired => PageState::Retired,
                }));
        }
        assert_eq!(next, TOTAL);
    }

    /// Gives everything back and purges it; then what is left must be in one piece.
    fn drain(mut self) {
        while !self.reserved.is_empty() {
            self.apply(Operation::Abort(0));
        }
        while !self.granted.is_empty() {
            self.apply(Operation::Give(0));
        }
        self.compare();
        self.apply(Operation::Purge {
            min_idle_ms: 0,
            keep: 0,
        });
        self.compare();
        assert_eq!(self.heap.committed_pages(), PageCount::ZERO);
        self.heap.set_quota(pages(TOTAL)).unwrap();
        if self.heap.retired_pages() == PageCount::ZERO {
            assert_eq!(grant(&mut self.heap, TOTAL), PageIndex::new(0));
        }
    }
}

fn pick<T>(items: &mut Vec<T>, which: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(which % items.len()))
}

fn run(operations: Vec<Operation>) {
    let mut model = Model::new();
    for operation in operations {
        model.apply(operation);
        model.compare();
    }
    model.drain();
}

proptest! {
    #[test]
    fn any_operations_leave_what_the_model_says(
        operations in prop::collection::vec(operation(), 1..150),
    ) {
        run(operations);
    }

    #[test]
    fn any_operations_with_retired_pages_leave_what_the_model_says(
        operations in prop::collection::vec(
            prop_oneof![
                20 => operation(),
                1 => any::<usize>().prop_map(Operation::Retire),
            ],
            1..150,
        ),
    ) {
        run(operations);
    }
}

#[test]
fn committed_pages_are_granted_before_others() {
    let mut heap = heap(64);
    let [a, b, c] = [8, 4, 8].map(|n| grant(&mut heap, n));
    heap.discard(a, pages(8));
    heap.give(b, pages(4), 0);
    let reservation = heap.reserve(pages(4), PageCount::ONE).unwrap();
    assert_eq!(
        (reservation.first(), reservation.uncommitted()),
        (b, &[][..])
    );
    heap.abort(reservation);
    // Not all of it is committed anywhere: the shorter area, at the end with less to commit.
    let reservation = heap.reserve(pages(6), PageCount::ONE).unwrap();
    assert_eq!(reservation.first(), PageIndex::new(6));
    assert_eq!(reservation.uncommitted(), [(PageIndex::new(6), pages(2))]);
    assert_eq!(reservation.uncommitted_pages(), pages(2));
    heap.abort(reservation);
    heap.give(c, pages(8), 0);
    heap.check();
}

#[test]
fn runs_given_back_at_different_times_are_reserved_as_one() {
    let mut heap = heap(64);
    let firsts = [4, 4, 4].map(|n| grant(&mut heap, n));
    for (first, now_ms) in firsts.into_iter().zip([30, 10, 20]) {
        heap.give(first, pages(4), now_ms);
    }
    let reservation = heap.reserve(pages(12), PageCount::ONE).unwrap();
    assert_eq!(reservation.uncommitted_pages(), PageCount::ZERO);
    heap.abort(reservation);
    // And the times are kept through the abort.
    assert_eq!(idle_runs(&heap, 30, 10), [(PageIndex::new(4), pages(8))]);
    assert_eq!(idle_runs(&heap, 30, 11), [(PageIndex::new(4), pages(4))]);
    assert_eq!(idle_runs(&heap, 30, 0), [(PageIndex::new(0), pages(12))]);
    assert_eq!(idle_runs(&heap, 0, 1), []);
    heap.mark_purged(PageIndex::new(2), pages(9));
    heap.check();
    assert_eq!(heap.free_committed_pages(), pages(3));
}

#[test]
fn idle_runs_come_in_pieces_and_each_once() {
    let mut heap = PageHeap::new(pages(64), pages(64));
    let spans: Vec<PageIndex> = (0..4).map(|_| grant(&mut heap, 8)).collect();
    for (&first, since_ms) in spans.iter().zip([0, 5, 50, 0]) {
        heap.give(first, pages(8), since_ms);
    }
    let at = |page| PageIndex::new(page);
    let next = |heap: &PageHeap, from| heap.next_idle_run(at(from), pages(12), 10, 5);
    assert_eq!(next(&heap, 0), Some((at(0), pages(12))));
    heap.mark_purged(at(0), pages(12));
    assert_eq!(next(&heap, 12), Some((at(12), pages(4))));
    assert_eq!(
        next(&heap, 13),
        Some((at(24), pages(8))),
        "what reaches across"
    );
    assert_eq!(next(&heap, 32), None);
}

#[test]
fn a_page_map_comes_to_what_its_runs_one_by_one_come_to() {
    use Recorded::{Granted, Retired};
    let at = |page| PageIndex::new(page);
    let map = [
        (3, 2, Granted),
        (5, 8, Granted),
        (20, 1, Retired),
        (21, 43, Granted),
    ];
    let map = map.map(|(first, n, recorded)| (at(first), pages(n), recorded));
    let whole = PageHeap::from_page_map(pages(64), map).unwrap();
    whole.check();
    let mut one_by_one = PageHeap::new(pages(64), pages(64));
    for (first, n, recorded) in map {
        assert!(match recorded {
            Granted => one_by_one.record_alloc(first, n),
            Retired => one_by_one.record_retired(first, n),
        });
    }
    assert_eq!(format!("{whole:?}"), format!("{one_by_one:?}"));
    PageHeap::from_page_map(pages(64), []).unwrap().check();
    for impossible in [
        vec![(60, 5, Granted)],
        vec![(u32::MAX, 2, Granted)],
        vec![(3, 0, Granted)],
        vec![(3, 2, Granted), (4, 1, Retired)],
        vec![(8, 1, Granted), (4, 1, Granted)],
    ] {
        let map = impossible.into_iter();
        let map = map.map(|(first, n, recorded)| (at(first), pages(n), recorded));
        assert!(PageHeap::from_page_map(pages(64), map).is_none());
    }
}

#[test]
fn a_full_pool_says_what_is_left() {
    let mut heap = PageHeap::new(pages(64), pages(20));
    grant(&mut heap, 8);
    let refused = |heap: &mut PageHeap, n, align| heap.reserve(pages(n), pages(align)).unwrap_err();
    let full = ReserveError::Full {
        requested_pages: pages(13),
        largest_free_pages: pages(12),
        quota_left_pages: pages(12),
    };
    assert_eq!(refused(&mut heap, 13, 1), full);
    assert!(matches!(
        refused(&mut heap, u32::MAX, 1),
        ReserveError::Full { .. }
    ));
    assert!(matches!(
        refused(&mut heap, 1, 1 << 31),
        ReserveError::Full { .. }
    ));
    for (n, align) in [(0, 1), (1, 0), (1, 3)] {
        assert!(matches!(
            refused(&mut heap, n, align),
            ReserveError::Invalid { .. }
        ));
    }
    let error = QuotaError::BelowGranted {
        requested_pages: pages(7),
        granted_pages: pages(8),
    };
    assert_eq!(heap.set_quota(pages(7)), Err(error));
    let error = QuotaError::AboveTotal {
        requested_pages: pages(65),
        total_pages: pages(64),
    };
    assert_eq!(heap.set_quota(pages(65)), Err(error));
    heap.set_quota(pages(64)).unwrap();
    assert_eq!(grant(&mut heap, 56), PageIndex::new(8));
    assert_eq!(heap.largest_free_pages(), PageCount::ZERO);
    heap.check();
}

#[test]
fn an_aligned_place_is_found_behind_many_that_are_too_short() {
    // 100 free areas of 3 pages that hold no 2 pages at a multiple of 4, one that does, and a
    // long one at the end that would be found at once.
    let mut heap = heap(1000);
    let spans: Vec<PageIndex> = (0..250).map(|_| grant(&mut heap, 4)).collect();
    assert_eq!(heap.largest_free_pages(), PageCount::ZERO);
    for first in spans.iter().step_by(2).take(100) {
        heap.discard(*first, pages(4));
        assert!(heap.record_alloc(*first, PageCount::ONE));
    }
    heap.discard(spans[249], pages(4));
    assert!(heap.record_alloc(PageIndex::new(999), PageCount::ONE));
    heap.check();
    let reservation = heap.reserve(pages(2), pages(4)).unwrap();
    assert_eq!(reservation.first(), spans[249]);
    heap.abort(reservation);
    heap.discard(spans[247], pages(4));
    heap.discard(spans[248], pages(4));
    let reservation = heap.reserve(pages(2), pages(4)).unwrap();
    assert_eq!(reservation.first(), spans[247]);
    heap.commit(reservation);
}

#[test]
fn retired_pages_are_never_granted_again() {
    let mut heap = heap(16);
    let first = grant(&mut heap, 4);
    heap.retire(first, pages(4));
    assert!(heap.record_retired(PageIndex::new(8), PageCount::ONE));
    assert!(!heap.record_retired(PageIndex::new(8), PageCount::ONE));
    heap.check();
    assert_eq!(
        (heap.granted_pages(), heap.retired_pages()),
        (PageCount::ZERO, pages(5))
    );
    assert_eq!(heap.largest_free_pages(), pages(7));
    assert!(!heap.record_alloc(first, PageCount::ONE));
    while let Ok(reservation) = heap.reserve(PageCount::ONE, PageCount::ONE) {
        assert!(reservation.first() >= PageIndex::new(4));
        assert_ne!(reservation.first(), PageIndex::new(8));
        heap.commit(reservation);
    }
    assert_eq!(heap.granted_pages(), pages(11));
}

#[test]
fn a_corrupt_page_map_is_told_not_panicked_over() {
    let mut heap = PageHeap::new(pages(64), pages(40));
    assert!(heap.record_alloc(PageIndex::new(10), pages(10)));
    for (first, n) in [
        (10, 10),
        (5, 6),
        (19, 1),
        (0, 0),
        (60, 5),
        (64, 1),
        (0, u32::MAX),
        (u32::MAX, 1),
        (u32::MAX, u32::MAX),
        (20, 31), // over the quota
    ] {
        assert!(
            !heap.record_alloc(PageIndex::new(first), pages(n)),
            "{first} + {n}"
        );
    }
    assert!(heap.record_alloc(PageIndex::new(20), pages(30)));
    heap.check();
    heap.give(PageIndex::new(10), pages(10), 0);
    heap.check();
}

#[test]
#[should_panic(expected = "not one run that is Granted")]
fn part_of_a_granted_run_cannot_be_given_back() {
    let mut heap = heap(16);
    let first = grant(&mut heap, 4);
    heap.give(first, pages(2), 0);
}

#[test]
#[should_panic(expected = "not one run that is Granted")]
fn pages_cannot_be_given_back_twice() {
    let mut heap = heap(16);
    let first = grant(&mut heap, 4);
    heap.give(first, pages(4), 0);
    heap.give(first, pages(4), 0);
}

#[test]
#[should_panic(expected = "not all free and committed")]
fn granted_pages_cannot_be_purged() {
    let mut heap = heap(16);
    let first = grant(&mut heap, 4);
    heap.mark_purged(first, pages(4));
}

#[test]
fn the_longest_pool_is_as_cheap_as_a_short_one() {
    let mut heap = heap(MAX_POOL_PAGES);
    let spans: Vec<PageIndex> = (0..10_000).map(|_| grant(&mut heap, 8)).collect();
    for first in spans.iter().step_by(2) {
        heap.give(*first, pages(8), 1);
    }
    for _ in 0..5_000 {
        let first = grant(&mut heap, 8);
        assert!(first < PageIndex::new(80_000));
    }
    heap.check();
    assert_eq!(heap.largest_free_pages(), pages(MAX_POOL_PAGES - 80_000));
}

/// All that are idle, as the purge comes to them.
fn idle_runs(heap: &PageHeap, now_ms: u64, min_idle_ms: u64) -> Vec<(PageIndex, PageCount)> {
    let mut runs = Vec::new();
    let mut from = PageIndex::new(0);
    while let Some((first, pages)) =
        heap.next_idle_run(from, PageCount::new(u32::MAX), now_ms, min_idle_ms)
    {
        runs.push((first, pages));
        from = first.checked_add(pages).unwrap();
    }
    runs
}
