//! Three processes do anything at all to one pool, one after the other, and a shadow of it says
//! what must come of each step. They are killed, their sessions swept, their spans leased again,
//! and pages come back as other classes.

use std::collections::BTreeMap;

use goumem_alloc::Handle;
use proptest::prelude::*;

use super::*;
use crate::slot::Unpinned;
use crate::test_daemon::Words;

mod mutants;

const N_PAGES: u32 = 96;
/// Bytes of a block that carry its pattern.
const PATTERN_BYTES: usize = 16;

/// One step; the numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Alloc { by: usize, size_bytes: u64 },
    DropPrivate { by: usize, pick: usize },
    Export { by: usize, pick: usize },
    Free { by: usize, pick: usize, hint: bool },
    UseStale { by: usize, pick: usize },
    TakeOver { by: usize, pick: usize },
    Adopt { by: usize, pick: usize },
    Keep { pick: usize },
    Pin { pick: usize },
    Unpin { pick: usize },
    Read { by: usize, pick: usize },
    Collect { by: usize, thorough: bool },
    ReturnEmpty { by: usize },
    Kill { by: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        4 => 16..5000u64,
        2 => 5000..100_000u64,
        1 => 100_000..1_000_000u64,
        1 => 1_100_000..1_300_000u64,
    ];
    let who = (0..3usize, any::<usize>());
    prop_oneof![
        12 => (0..3usize, size).prop_map(|(by, size_bytes)| Step::Alloc { by, size_bytes }),
        4 => who.clone().prop_map(|(by, pick)| Step::DropPrivate { by, pick }),
        10 => who.clone().prop_map(|(by, pick)| Step::Export { by, pick }),
        5 => (who.clone(), any::<bool>())
            .prop_map(|((by, pick), hint)| Step::Free { by, pick, hint }),
        5 => who.clone().prop_map(|(by, pick)| Step::UseStale { by, pick }),
        3 => who.clone().prop_map(|(by, pick)| Step::TakeOver { by, pick }),
        2 => who.clone().prop_map(|(by, pick)| Step::Adopt { by, pick }),
        2 => any::<usize>().prop_map(|pick| Step::Keep { pick }),
        2 => any::<usize>().prop_map(|pick| Step::Pin { pick }),
        2 => any::<usize>().prop_map(|pick| Step::Unpin { pick }),
        3 => who.prop_map(|(by, pick)| Step::Read { by, pick }),
        2 => (0..3usize, any::<bool>()).prop_map(|(by, thorough)| Step::Collect { by, thorough }),
        1 => (0..3usize).prop_map(|by| Step::ReturnEmpty { by }),
        1 => (0..3usize).prop_map(|by| Step::Kill { by }),
    ]
}

/// A block that somebody has alone.
struct Held {
    block: RawBlock,
    pattern: u8,
    length_bytes: u64,
    /// Whether it was taken over, and so has a word that is not FREE.
    taken: bool,
}

/// A block that handles name.
#[derive(Debug, Clone, Copy)]
struct Exported {
    handle: Handle,
    /// Nobody when it is kept.
    owner: SessionNumber,
    pinned: bool,
    pattern: u8,
    length_bytes: u64,
}

struct Process {
    session: SessionNumber,
    memory: Arc<PoolMemory>,
    taken: TakenBlocks,
    spans: Vec<LeasedSpan>,
    held: Vec<Held>,
}

impl Process {
    fn start(daemon: &TestDaemon, session: SessionNumber) -> Self {
        let memory = daemon.view();
        Self {
            session,
            taken: TakenBlocks::new(&memory, session).unwrap(),
            memory,
            spans: Vec::new(),
            held: Vec::new(),
        }
    }
}

/// Known ways to get it wrong, each of which the world must not survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    TwoAgents,
    ReturnedBeforeDetached,
    Granting(Words),
}

/// The pool, and what it must be like.
struct World {
    mutant: Option<Mutant>,
    daemon: TestDaemon,
    processes: Vec<Process>,
    exported: Vec<Exported>,
    /// Freed while pinned.
    condemned: Vec<Handle>,
    stale: Vec<Handle>,
    /// Every block that lives, private ones too: start and end.
    occupied: BTreeMap<u64, u64>,
    patterns: u8,
}

fn one_of<T>(all: &[T], pick: usize) -> Option<usize> {
    pick.checked_rem(all.len())
}

impl World {
    fn new(mutant: Option<Mutant>) -> Self {
        let daemon = match mutant {
            Some(Mutant::Granting(words)) => TestDaemon::granting(N_PAGES, words),
            _ => TestDaemon::new(N_PAGES),
        };
        let start = |session| Process::start(&daemon, session);
        Self {
            mutant,
            processes: [ALICE, BOB, CAROL].map(start).into(),
            daemon,
            exported: Vec::new(),
            condemned: Vec::new(),
            stale: Vec::new(),
            occupied: BTreeMap::new(),
            patterns: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Alloc { by, size_bytes } => self.alloc(by, size_bytes),
            Step::DropPrivate { by, pick } => self.drop_held(by, pick),
            Step::Export { by, pick } => self.export(by, pick),
            Step::Free { by, pick, hint } => self.free(by, pick, hint),
            Step::UseStale { by, pick } => self.use_stale(by, pick),
            Step::TakeOver { by, pick } => self.take_over(by, pick),
            Step::Adopt { by, pick } => self.adopt(by, pick),
            Step::Keep { pick } => self.keep(pick),
            Step::Pin { pick } => self.pin(pick),
            Step::Unpin { pick } => self.unpin(pick),
            Step::Read { by, pick } => self.read(by, pick),
            Step::Collect { by, thorough } => {
                let spans = &mut self.processes[by].spans;
                spans.iter_mut().for_each(|span| span.collect(thorough));
            }
            Step::ReturnEmpty { by } => self.return_empty(by),
            Step::Kill { by } => self.kill(by),
        }
        let taken = self
            .processes
            .iter()
            .flat_map(|p| &p.held)
            .filter(|held| held.taken);
        let words = self.exported.len() + self.condemned.len() + taken.count();
        assert_eq!(self.daemon.living(), words);
    }

    fn alloc(&mut self, by: usize, size_bytes: u64) {
        let (class, pages) = match SizeClass::for_layout(size_bytes, 1).unwrap() {
            Placement::Class(class) => (class, class.span_pages()),
            Placement::Large { class, pages, .. } => (class, pages),
        };
        let process = &mut self.processes[by];
        let mut fitting = process
            .spans
            .iter_mut()
            .filter(|span| span.lease().class == class && span.lease().pages >= pages);
        let found = fitting.find_map(|span| {
            span.alloc().or_else(|| {
                span.collect(false);
                span.alloc().or_else(|| {
                    span.collect(true);
                    span.alloc()
                })
            })
        });
        let Some(block) = found.or_else(|| self.alloc_in_new_span(by, class, pages)) else {
            return; // the pool is full
        };
        let (start, usable) = (block.offset().get(), block.usable_bytes());
        assert!(usable >= size_bytes && start.is_multiple_of(16));
        let before = self.occupied.range(..start + usable).next_back();
        assert!(
            before.is_none_or(|(_, &end)| end <= start),
            "{start} overlaps {before:?}"
        );
        self.occupied.insert(start, start + usable);
        self.patterns = self.patterns.wrapping_add(1);
        let pattern = [self.patterns; PATTERN_BYTES];
        block.memory().data().copy_in(start, &pattern).unwrap();
        let held = Held {
            block,
            pattern: self.patterns,
            length_bytes: size_bytes,
            taken: false,
        };
        self.processes[by].held.push(held);
    }

    /// Leases an abandoned span of the class, else a new one.
    fn alloc_in_new_span(
        &mut self,
        by: usize,
        class: SizeClass,
        pages: PageCount,
    ) -> Option<RawBlock> {
        let process = &mut self.processes[by];
        let abandoned = self.daemon.spans().into_iter().find(|&(_, of, lessee, n)| {
            (of, lessee) == (class, SessionNumber::NOBODY) && n >= pages
        });
        let (lease, survivors) = match abandoned {
            Some((first, ..)) => (self.daemon.grant_abandoned(first, process.session), true),
            None => (self.daemon.grant(process.session, class, pages)?, false),
        };
        let mut span =
            LeasedSpan::attach(&process.memory, lease, process.session, survivors).unwrap();
        let block = span.alloc();
        process.spans.push(span);
        if self.mutant == Some(Mutant::TwoAgents) {
            // Past the table that each view keeps of the spans that are worked on.
            let again = self.daemon.view();
            let second = LeasedSpan::attach(&again, lease, process.session, survivors);
            process.spans.push(second.unwrap());
        }
        block
    }

    fn drop_held(&mut self, by: usize, pick: usize) {
        let held = &mut self.processes[by].held;
        let Some(index) = one_of(held, pick) else {
            return;
        };
        let held = held.swap_remove(index);
        assert_pattern(&held);
        self.occupied.remove(&held.block.offset().get());
    }

    fn export(&mut self, by: usize, pick: usize) {
        let process = &mut self.processes[by];
        let Some(index) = one_of(&process.held, pick) else {
            return;
        };
        let Held {
            block,
            pattern,
            length_bytes,
            ..
        } = process.held.swap_remove(index);
        let owner = process.session;
        let handle = block.export(owner, bytes(length_bytes)).unwrap();
        assert!(!self.stale.contains(&handle), "{handle} was used before");
        self.exported.push(Exported {
            handle,
            owner,
            pinned: false,
            pattern,
            length_bytes,
        });
    }

    fn free(&mut self, by: usize, pick: usize, hint: bool) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        let Exported { handle, pinned, .. } = self.exported.swap_remove(index);
        let memory = &self.processes[by].memory;
        let freed = if hint {
            memory.free(handle).unwrap()
        } else {
            let at = memory.locate(handle).unwrap();
            memory.slot(&at).free(handle.generation()).unwrap()
        };
        let again = memory.free(handle);
        assert_eq!(again, Err(AccessError::DoubleFree { handle }));
        self.gone(handle, pinned);
        assert_eq!(freed == Freed::Condemned, pinned);
    }

    /// Notes what a free leaves of an exported block.
    fn gone(&mut self, handle: Handle, pinned: bool) {
        self.stale.push(handle);
        if pinned {
            self.condemned.push(handle);
        } else {
            self.occupied.remove(&handle.offset().get());
        }
    }

    fn use_stale(&self, by: usize, pick: usize) {
        let Some(index) = one_of(&self.stale, pick) else {
            return;
        };
        let handle = self.stale[index];
        let Process {
            memory,
            taken,
            session,
            ..
        } = &self.processes[by];
        let stale = AccessError::Stale { handle };
        assert_eq!(memory.resolve(handle), Err(stale.clone()));
        assert_eq!(memory.read(handle, 0, &mut [0]), Err(stale.clone()));
        assert_eq!(memory.write(handle, 0, &[0]), Err(stale.clone()));
        assert_eq!(memory.adopt(handle, *session), Err(stale.clone()));
        assert_eq!(taken.take_over(handle).map(drop), Err(stale.clone()));
        let freed = memory.free(handle).unwrap_err();
        assert!(freed == stale || freed == AccessError::DoubleFree { handle });
    }

    fn take_over(&mut self, by: usize, pick: usize) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        let exported = self.exported[index];
        let process = &mut self.processes[by];
        let taken = process.taken.take_over(exported.handle);
        if exported.pinned {
            let handle = exported.handle;
            assert_eq!(taken.map(drop), Err(AccessError::Pinned { handle }));
            return;
        }
        let (block, shape, was_kept) = taken.unwrap();
        assert_eq!(shape, bytes(exported.length_bytes));
        assert_eq!(was_kept, exported.owner == SessionNumber::NOBODY);
        let held = Held {
            block,
            pattern: exported.pattern,
            length_bytes: exported.length_bytes,
            taken: true,
        };
        assert_pattern(&held);
        process.held.push(held);
        self.exported.swap_remove(index);
        self.stale.push(exported.handle);
    }

    fn adopt(&mut self, by: usize, pick: usize) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        let exported = &mut self.exported[index];
        let process = &self.processes[by];
        let was_kept = process
            .memory
            .adopt(exported.handle, process.session)
            .unwrap();
        assert_eq!(was_kept, exported.owner == SessionNumber::NOBODY);
        exported.owner = process.session;
    }

    fn keep(&mut self, pick: usize) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        let exported = &mut self.exported[index];
        assert!(self.daemon.keep(exported.handle, exported.owner));
        exported.owner = SessionNumber::NOBODY;
    }

    fn pin(&mut self, pick: usize) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        assert!(self.daemon.pin(self.exported[index].handle));
        self.exported[index].pinned = true;
    }

    fn unpin(&mut self, pick: usize) {
        if let Some(index) = one_of(&self.condemned, pick) {
            let handle = self.condemned.swap_remove(index);
            assert_eq!(self.daemon.unpin(handle), Unpinned::Freed);
            self.occupied.remove(&handle.offset().get());
        } else if let Some(index) = one_of(&self.exported, pick) {
            let exported = &mut self.exported[index];
            let unpinned = self.daemon.unpin(exported.handle);
            assert_eq!(unpinned == Unpinned::Alive, exported.pinned);
            exported.pinned = false;
        }
    }

    fn read(&self, by: usize, pick: usize) {
        let Some(index) = one_of(&self.exported, pick) else {
            return;
        };
        let exported = self.exported[index];
        let mut copy = [0; PATTERN_BYTES];
        let memory = &self.processes[by].memory;
        memory.read(exported.handle, 0, &mut copy).unwrap();
        assert_eq!(copy, [exported.pattern; PATTERN_BYTES]);
        let past_the_end = memory.read(exported.handle, exported.length_bytes, &mut [0]);
        assert!(matches!(past_the_end, Err(AccessError::OutOfRange { .. })));
    }

    fn return_empty(&mut self, by: usize) {
        let process = &mut self.processes[by];
        if self.mutant == Some(Mutant::ReturnedBeforeDetached) {
            for span in &process.spans {
                // Refused while its words tell of living blocks.
                let _ = self.daemon.take_back(span.lease());
            }
            return;
        }
        for span in std::mem::take(&mut process.spans) {
            match span.detach() {
                Ok(lease) => assert_eq!(self.daemon.take_back(lease), Ok(())),
                Err(span) => process.spans.push(span),
            }
        }
        self.return_abandoned();
    }

    fn return_abandoned(&self) {
        for (first_page, class, lessee, pages) in self.daemon.spans() {
            if lessee == SessionNumber::NOBODY {
                let epoch = SpanEpoch::ZERO;
                let _ = self.daemon.take_back(SpanLease {
                    first_page,
                    pages,
                    class,
                    epoch,
                });
            }
        }
    }

    /// A process dies with everything it has in private memory, and another begins.
    fn kill(&mut self, by: usize) {
        let session = self.processes[by].session;
        let reborn = Process::start(&self.daemon, session);
        let dead = std::mem::replace(&mut self.processes[by], reborn);
        for held in &dead.held {
            self.occupied.remove(&held.block.offset().get());
        }
        std::mem::forget(dead);
        self.daemon.sweep(session);
        let (swept, living): (Vec<_>, Vec<_>) = self
            .exported
            .iter()
            .partition(|exported| exported.owner == session);
        self.exported = living;
        for exported in swept {
            self.gone(exported.handle, exported.pinned);
        }
    }

    /// Frees everything by whoever may, after which every page must be free.
    fn end(&mut self) {
        while !self.exported.is_empty() {
            self.free(0, 0, false);
        }
        while !self.condemned.is_empty() {
            self.unpin(0);
        }
        for by in 0..self.processes.len() {
            while !self.processes[by].held.is_empty() {
                self.drop_held(by, 0);
            }
        }
        for by in 0..self.processes.len() {
            self.return_empty(by);
            assert!(self.processes[by].spans.is_empty(), "a span is not empty");
        }
        assert!(self.occupied.is_empty());
        assert_eq!(self.daemon.spans(), []);
        for by in 0..self.stale.len() {
            self.use_stale(by % 3, by);
        }
    }
}

fn assert_pattern(held: &Held) {
    let mut copy = [0; PATTERN_BYTES];
    let memory = held.block.memory();
    memory
        .data()
        .copy_out(held.block.offset().get(), &mut copy)
        .unwrap();
    assert_eq!(copy, [held.pattern; PATTERN_BYTES]);
}

proptest! {
    #[test]
    fn blocks_never_overlap_stale_handles_never_work_and_nothing_is_lost(
        steps in prop::collection::vec(any_step(), 1..160)
    ) {
        let mut world = World::new(None);
        for step in steps {
            world.step(step);
        }
        world.end();
    }
}
