//! What must be true of a pool after a death: by its words, by its records, and by what is to be
//! had of it then.

use goumem_alloc::SessionNumber;
use goumem_shm::page_map::PageEntry;
use goumem_shm::records::{Record, RecordKind};
use goumem_shm::slot::{SlotSnapshot, SlotState};

use super::*;

/// What a world is to be after a death, as far as its words say when it comes.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) alive: BTreeMap<Handle, u64>,
    /// Two blocks with one name: one of them lives.
    either: Vec<Handle>,
    gone: Vec<Handle>,
}

impl BlockWorld {
    /// As `bury_repair_and_check`, for a client's death, after its sweep: bystanders live, and
    /// what they are not is gone.
    pub(in super::super) fn check_after_sweep(mut self) {
        let alice = self.alice.take().expect("she dies once");
        let dead = Arc::clone(alice.caller.session.as_ref().unwrap());
        crash::bury(alice);
        let alive = self
            .bystanders
            .iter()
            .map(|(&handle, &(contents, _))| (handle, contents));
        let mut expected = Expected {
            alive: alive.collect(),
            ..Expected::default()
        };
        expected.gone = self.issued.clone();
        expected
            .gone
            .retain(|handle| !expected.alive.contains_key(handle));
        self.check_sweep(&dead, &expected);
    }

    pub(super) fn check_sweep(self, dead: &Session, expected: &Expected) {
        self.check(expected);
        let pool = self.daemon().block_pool(self.pool);
        let before = pool.image(true);
        pool.sweep_again(dead, self.daemon().now);
        assert_eq!(pool.image(true), before, "a second sweep changes nothing");
        self.check(expected);
        self.fill_and_empty();
    }

    /// Asserts that clients work on what they lease.
    pub(in super::super) fn check_leases(&self) {
        for client in [&self.alice, &self.bob].into_iter().flatten() {
            for span in client.spans.iter().map(LeasedSpan::lease) {
                let head = PageEntry::Head {
                    class: span.class,
                    lessee: client.session(),
                    epoch: span.epoch,
                    pages: span.pages,
                };
                let found = client.memory.entry(span.first_page);
                let who = client.session();
                assert_eq!(
                    found,
                    Some(head),
                    "{who} works on a span that is not leased to it"
                );
            }
        }
    }

    /// What the words say that must come of each block, by who lives.
    pub(super) fn expected(
        &mut self,
        lives: impl Fn(SlotState, SessionNumber) -> bool,
    ) -> Expected {
        let memory = self.memory();
        let mut expected = Expected::default();
        for (handle, word) in words_of(&memory) {
            let Some(state) = word.state().filter(|&state| state != SlotState::Free) else {
                continue;
            };
            if !matches!(state, SlotState::Shared | SlotState::Kept) {
                continue;
            }
            self.issued.push(handle);
            if lives(state, word.owner()) {
                expected.alive.insert(handle, self.read(handle));
            }
        }
        for (handle, &(contents, _)) in &self.bystanders {
            assert_eq!(
                expected.alive.get(handle),
                Some(&contents),
                "{handle} at the death"
            );
        }
        expected.gone = self.issued.clone();
        expected
            .gone
            .retain(|handle| !expected.alive.contains_key(handle));
        expected
    }

    /// After a restart on files, blocks with a keep record live, and no other. `None` when the pool
    /// need not be there any more, or not yet.
    pub(super) fn expected_after_restart(&mut self) -> Option<Expected> {
        let memory = self.memory();
        if memory.header().state() != Some(goumem_shm::header::PoolState::Live) {
            return None;
        }
        // A keep that was done, of a block that is not kept: it was adopted since.
        let is_in_force = |record: &Record| {
            let is_kept = |at| memory.slot(&at).load().state() == Some(SlotState::Kept);
            !record.done || memory.block_at(record.offset).is_some_and(is_kept)
        };
        let keeps: Vec<(Handle, String)> = (0..64)
            .filter_map(|index| memory.record(index)?.load().ok()?)
            .filter(|record| record.kind == RecordKind::Keep && is_in_force(record))
            .map(|record| (memory.handle(record.generation, record.offset), record.name))
            .collect();
        self.bystanders.retain(|_, (_, is_kept)| *is_kept);
        let may_be_kept = |handle| self.keepable.contains(handle) || self.handles.contains(handle);
        for (handle, _) in &keeps {
            assert!(may_be_kept(handle), "{handle} was not to be kept");
        }
        let mut expected = self.expected(|_, _| true);
        expected
            .alive
            .retain(|handle, _| keeps.iter().any(|(kept, _)| kept == handle));
        expected.gone = self.issued.clone();
        expected
            .gone
            .retain(|handle| !expected.alive.contains_key(handle));
        for (handle, name) in &keeps {
            // A block got another's name, and the other's record was still there.
            let namesakes = keeps.iter().filter(|(_, other)| other == name).count();
            if namesakes > 1 && !name.is_empty() && expected.alive.remove(handle).is_some() {
                expected.either.push(*handle);
            }
        }
        Some(expected)
    }

    /// Asserts everything that can be asserted of a pool at rest.
    pub(super) fn check(&self, expected: &Expected) {
        let daemon = self.daemon();
        daemon.check();
        self.check_leases();
        let pool = daemon.block_pool(self.pool);
        pool.check_words(&[class_of(SIZE), class_of(OTHER_SIZE)]);
        for (&handle, &contents) in &expected.alive {
            assert_eq!(self.read(handle), contents, "contents of {handle}");
        }
        if let Some(name) = self.named {
            let handle = daemon
                .lookup(&daemon.caller(1000), self.pool, name)
                .unwrap();
            let lives = expected.alive.contains_key(&handle) || expected.either.contains(&handle);
            assert!(lives, "{name} is not one of the living");
        }
        let memory = self.memory();
        for &handle in &expected.gone {
            assert!(
                memory.resolve(handle).is_err(),
                "{handle} is freed and resolves"
            );
            assert!(memory.free(handle).is_err(), "{handle} was freed twice");
        }
        let of_either = expected
            .either
            .iter()
            .filter(|&&handle| memory.resolve(handle).is_ok());
        let one_of_either = usize::from(!expected.either.is_empty());
        assert_eq!(of_either.count(), one_of_either, "of two with one name");
        let living = words_of(&memory).filter(|(_, word)| {
            matches!(
                word.state(),
                Some(SlotState::Shared | SlotState::Kept | SlotState::Taken)
            )
        });
        let n_alive = expected.alive.len() + one_of_either + self.taken_by_the_living();
        assert_eq!(living.count(), n_alive, "blocks that live");
    }

    fn taken_by_the_living(&self) -> usize {
        self.bob.as_ref().map_or(0, |bob| bob.taken.live_count())
    }

    /// Bob allocates all there is, by what he has and by new spans: every block that is free can be
    /// had, none that lives, and no handle that was given out before. Then all goes back.
    pub(super) fn fill_and_empty(mut self) {
        let mut bob = self.bob.take().expect("bob lives");
        let mut occupied: BTreeMap<u64, u64> = words_of(&self.memory())
            .filter(|(_, word)| word.state() != Some(SlotState::Free))
            .map(|(handle, _)| (handle.offset().get(), SIZE))
            .collect();
        let mine = std::mem::take(&mut bob.blocks);
        occupied.extend(
            mine.iter()
                .map(|block| (block.offset().get(), block.usable_bytes())),
        );
        while let Ok(spans) = self.daemon().lease(&bob.caller, self.pool, class_of(SIZE)) {
            for span in spans {
                bob.spans.push(attach(&bob, &span));
            }
        }
        let capacity_pages = CAPACITY_BYTES / goumem_alloc::PAGE_BYTES;
        let stat = self.daemon().stat(&bob.caller, "p");
        let granted = stat.leased_bytes + stat.abandoned_bytes;
        let unused = capacity_pages * goumem_alloc::PAGE_BYTES - granted;
        assert!(
            unused < class_of(SIZE).span_pages().bytes(),
            "{unused} bytes were not to be had"
        );
        let mut exported = Vec::new();
        for span in &mut bob.spans {
            span.collect(true);
            while let Some(block) = span.alloc() {
                let (start, usable) = (block.offset().get(), block.usable_bytes());
                let before = occupied.range(..start + usable).next_back();
                assert!(
                    before.is_none_or(|(&at, &len)| at + len <= start),
                    "{start} overlaps {before:?}"
                );
                occupied.insert(start, usable);
                let handle = block.export(bob.caller.session.as_ref().unwrap().number, shape());
                let handle = handle.map_err(|(_, error)| error).unwrap();
                assert!(
                    !self.issued.contains(&handle),
                    "{handle} was given out before"
                );
                exported.push(handle);
            }
        }
        drop(mine);
        for handle in exported {
            let _ = bob.memory.free(handle).unwrap();
        }
        // Whatever is left is Bob's, or kept: his session ends, and what is kept is freed.
        let daemon = self.daemon.take().expect("a daemon runs");
        let session = Arc::clone(bob.caller.session.as_ref().unwrap());
        drop(bob);
        daemon.core.session_died(session.serial, daemon.now);
        let owner = daemon.caller(1000);
        let list = ListKept { pool_id: self.pool };
        for kept in daemon.core.list_kept(&owner, list, daemon.now).unwrap() {
            daemon.free(&owner, kept.block.handle).unwrap();
        }
        daemon.purge(&owner, "p");
        let stat = daemon.stat(&owner, "p");
        assert_eq!((stat.blocks, stat.condemned_blocks, stat.pins), (0, 0, 0));
        assert_eq!((stat.leased_bytes, stat.abandoned_bytes), (0, 0));
        assert_eq!(stat.committed_bytes, 0, "nothing is left committed");
        daemon.check();
    }
}

/// Every slot of every span that the page map has, as the handle of its present life, and its word.
fn words_of(memory: &Arc<PoolMemory>) -> impl Iterator<Item = (Handle, SlotSnapshot)> {
    let n_pages = memory.geometry().n_pages().get();
    let mut words = Vec::new();
    for page in (0..n_pages).map(goumem_alloc::PageIndex::new) {
        let Some(PageEntry::Head { class, pages, .. }) = memory.entry(page) else {
            continue;
        };
        let run = memory.slot_run(page, class, pages).unwrap();
        let start = memory.geometry().page_offset(page).get();
        for slot in 0..class.slots(pages) {
            let offset = goumem_alloc::Offset::new(start + class.offset_of_slot(slot));
            let word = run.word(slot).load();
            words.push((memory.handle(word.generation(), offset), word));
        }
    }
    words.into_iter()
}
