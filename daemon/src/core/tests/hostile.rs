//! Writers that keep to no rule: they write what they like into DATA, and into the files of pools
//! while no daemon serves them. No model knows what such a pool holds; but no call panics, the
//! daemon's own tables stay whole, no two blocks overlap, and other pools notice nothing.

use super::*;

/// splitmix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// A word that is near to one somebody writes.
    fn word(&mut self) -> u64 {
        let generation = [0, 1, 2, 5, (1 << 44) - 2, (1 << 44) - 1][self.below(6)];
        let owner = [0, 1, 2, 3, 65_534, 65_535][self.below(6)];
        match self.below(4) {
            0 => self.next(),
            1 => [0, u64::MAX, 1 << 63, 1 << 40][self.below(4)],
            _ => generation << 20 | owner << 4 | self.next() & 0xf,
        }
    }
}

/// A few in the usual run; GOUMEM_TEST_SEEDS asks for more.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("GOUMEM_TEST_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    0..asked.unwrap_or(few)
}

/// Overwrites words of the tables of a pool.
fn scribble(memory: &PoolMemory, random: &mut Random, handles: &[Handle]) {
    let geometry = memory.geometry();
    for _ in 0..1 + random.below(12) {
        let at = match random.below(3) {
            0 => handles.get(random.below(handles.len().max(1))),
            _ => None,
        };
        let offset = match at.and_then(|handle| memory.block_at(handle.offset())) {
            Some(at) if random.below(3) > 0 => {
                geometry.slot_offset(at.first_page, at.class, at.pages, at.slot)
            }
            Some(at) => geometry.shape_offset(at.first_page, at.class, at.pages, at.slot),
            None => {
                let page = goumem_alloc::PageIndex::new(
                    u32::try_from(random.below(geometry.n_pages().get() as usize)).unwrap(),
                );
                match memory.entry(page) {
                    Some(goumem_shm::page_map::PageEntry::Head { class, pages, .. }) => {
                        let slots = class.slots(pages) as usize;
                        let slot = u32::try_from(random.below(slots.min(40))).unwrap();
                        match random.below(4) {
                            0 => geometry.note_offset(page),
                            1 => geometry.shape_offset(page, class, pages, slot),
                            _ => geometry.slot_offset(page, class, pages, slot),
                        }
                    }
                    _ => geometry.note_offset(page),
                }
            }
        };
        let word = random.word();
        memory
            .data()
            .atomic_u64(offset)
            .unwrap()
            .store(word, Ordering::SeqCst);
    }
}

/// Asserts that no two blocks that resolve lie over each other.
fn no_overlap(daemon: &Daemon, caller: &Caller, handles: &[Handle]) {
    let mut ranges: Vec<(u64, u64)> = handles
        .iter()
        .filter_map(|&handle| {
            let info = daemon
                .core
                .resolve(caller, about(handle), daemon.now)
                .ok()?;
            Some((
                handle.offset().get(),
                handle.offset().get() + info.size_bytes,
            ))
        })
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    assert!(
        ranges
            .windows(2)
            .all(|pair| pair[0].0 == pair[1].0 || pair[0].1 <= pair[1].0)
    );
}

fn any_call(
    daemon: &Daemon,
    who: &Caller,
    pool: PoolId,
    random: &mut Random,
    handles: &mut Vec<Handle>,
    spans: &mut Vec<SpanInfo>,
) {
    let (core, now) = (&daemon.core, daemon.now);
    let handle = (!handles.is_empty()).then(|| handles[random.below(handles.len())]);
    let size = [1, 40, 300, 5000, 70_000, 1_200_000][random.below(6)];
    match (random.below(14), handle) {
        (0 | 1, _) => handles.extend(daemon.alloc(who, pool, size)),
        (2, Some(handle)) => drop(daemon.free(who, handle)),
        (3, Some(handle)) => drop(core.keep(who, about(handle), now)),
        (4, Some(handle)) => drop(core.adopt(who, about(handle), now)),
        (5, Some(handle)) => handles.extend(core.take(who, about(handle), now).map(|t| t.handle)),
        (6, Some(handle)) => drop(core.pin(who, about(handle), now)),
        (7, Some(handle)) => drop(core.unpin(who, about(handle), now)),
        (8, Some(handle)) => drop(daemon.publish(who, handle, ["a", "b", "c"][random.below(3)])),
        (9, Some(handle)) => {
            let request = Realloc {
                handle,
                size_bytes: size,
                request_id: RequestId::NONE,
            };
            handles.extend(
                core.realloc(who, request, now)
                    .map(|reply| reply.block.handle),
            );
        }
        (10, Some(handle)) => {
            let read = core.read_bytes(who, handle, 0, &mut [0; 64]);
            drop(read.and_then(|()| core.write_bytes(who, handle, 3, &[1; 40])));
        }
        (11, _) => {
            let class = u8::try_from(random.below(85)).unwrap();
            let class = SizeClass::from_index(class).unwrap();
            spans.extend(daemon.lease(who, pool, class).unwrap_or_default());
        }
        (12, _) if !spans.is_empty() => {
            let span = spans[random.below(spans.len())];
            drop(daemon.return_span(who, pool, span));
        }
        _ => {
            daemon.purge(who, "p");
            drop(core.list_kept(who, ListKept { pool_id: pool }, now));
            drop(daemon.lookup(who, pool, "a"));
        }
    }
}

#[test]
fn scribbled_words_break_no_call_and_no_other_pool() {
    for seed in seeds(30) {
        let mut random = Random(seed);
        let daemon = Daemon::start();
        let watcher = daemon.caller(1001);
        let other = daemon.pool(&watcher, "other", MIB);
        let safe = daemon.alloc(&watcher, other, 1000).unwrap();
        let before = daemon.stat(&watcher, "other");
        let mut who = [0; 3].map(|_| daemon.caller(1000));
        let pool = daemon.pool(&who[0], "p", 6 * MIB);
        let memory = daemon.map(&who[0], pool);
        let (mut handles, mut spans) = (Vec::new(), Vec::new());
        for step in 0..150 {
            let w = random.below(3);
            any_call(
                &daemon,
                &who[w],
                pool,
                &mut random,
                &mut handles,
                &mut spans,
            );
            scribble(&memory, &mut random, &handles);
            if random.below(20) == 0 {
                daemon.die(&who[w]);
                who[w] = daemon.caller(1000);
            }
            if step % 5 == 0 {
                daemon.stat(&who[w], "p");
                daemon.check();
            }
        }
        daemon
            .core
            .resolve(&watcher, about(safe), daemon.now)
            .unwrap();
        assert_eq!(daemon.stat(&watcher, "other"), before);
        who.iter().for_each(|caller| daemon.die(caller));
        daemon.check();
        let last = daemon.caller(1000);
        daemon.destroy(&last, "p").unwrap();
        daemon.check();
        assert_eq!(daemon.core.shared.quotas.used_bytes(1000), 0);
    }
}

#[test]
fn files_with_any_bytes_are_refused_or_served_whole() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool {
        backing: Some(Backing::File),
        ..create("p", 2 * MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
    let mut kept = Vec::new();
    for (i, size) in [100, 100, 3000, 3000, 70_000, 600_000]
        .into_iter()
        .enumerate()
    {
        let handle = daemon.alloc(&alice, pool, size).unwrap();
        daemon.publish(&alice, handle, &format!("n{i}")).unwrap();
        kept.push(handle);
    }
    let geometry = daemon.block_pool(pool).geometry().clone();
    let data_dir = daemon.dir.path().join("data");
    let paths = ["control", "data"].map(|half| data_dir.join(format!("p.{half}.goumem")));
    let mut daemon = daemon.restart();
    let saved = paths.each_ref().map(|path| std::fs::read(path).unwrap());
    let (mut served, mut refused) = (0, 0);
    for seed in seeds(60) {
        let mut random = Random(seed);
        let Daemon { core, dir, .. } = daemon;
        drop(core);
        let mut files = saved.clone();
        for _ in 0..1 + random.below(10) {
            // CONTROL: header, page map, floors, records. DATA: the tables' beginnings.
            let (file, ranges) = match random.below(3) {
                0 => (1, [geometry.notes_range(), geometry.dense_slots_range()]),
                1 => (0, [geometry.entries_range(), geometry.page_records_range()]),
                _ => {
                    let records = geometry.records_range();
                    (0, [records.start..records.start + 1024, 0..128 + 64])
                }
            };
            let range = &ranges[usize::from(random.below(8) == 0 || file == 1)];
            let n_words = usize::try_from((range.end - range.start) / 8).unwrap();
            let at = usize::try_from(range.start).unwrap() + 8 * random.below(n_words.min(128));
            let old = u64::from_le_bytes(files[file][at..at + 8].try_into().unwrap());
            let word = match random.below(4) {
                0 => random.word(),
                1 => old ^ 1 << random.below(64),
                2 => old.wrapping_add(1),
                // The word of another place in the same table.
                _ => {
                    let from = at - at % 64 + 8 * random.below(8);
                    u64::from_le_bytes(files[file][from..from + 8].try_into().unwrap())
                }
            };
            files[file][at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        for (path, bytes) in paths.iter().zip(&files) {
            std::fs::write(path, bytes).unwrap();
        }
        daemon = Daemon::start_in(dir, MemoryStore::default(), |limits| {
            limits.budget_bytes = Some(64 * MIB)
        });
        daemon.check();
        // Root sees whatever owner and mode the file says now.
        let root = daemon.caller(0);
        let pools = daemon.core.list_pools(&root).unwrap();
        let Some(info) = pools.first() else {
            refused += 1;
            continue;
        };
        served += 1;
        let id = info.pool_id;
        let listed = daemon
            .core
            .list_kept(&root, ListKept { pool_id: id }, daemon.now)
            .unwrap();
        let mut handles: Vec<Handle> = listed.iter().map(|kept| kept.block.handle).collect();
        handles.extend(&kept);
        no_overlap(&daemon, &root, &handles);
        let mut spans = Vec::new();
        for _ in 0..40 {
            any_call(&daemon, &root, id, &mut random, &mut handles, &mut spans);
        }
        no_overlap(&daemon, &root, &handles);
        daemon.stat(&root, "p");
        daemon.check();
        daemon.die(&root);
        daemon.check();
    }
    assert!(
        served > 10 && refused > 0,
        "{served} served, {refused} refused"
    );
}
