//! What observers see: the numbers of Stat and List in one look, the map of each page, and nothing
//! of what is other users' business.

use goumem_alloc::{PAGE_BYTES, PageIndex, SessionNumber};
use goumem_proto::model::{
    ArenaState, BlockState, MapArenaPool, MapPool, PageRun, PoolMap, RunState,
};

use super::*;
use crate::core::Viewer;
use crate::observation::{Observation, ObservedPool, ObservedSession};

impl Daemon {
    fn observe(&self, caller: &Caller) -> Observation {
        self.core.observe(Viewer::Caller(caller), self.now)
    }

    fn observe_all(&self) -> Observation {
        self.core.observe(Viewer::Everything, self.now)
    }

    fn map_all(&self, name: &str) -> PoolMap {
        let request = MapPool::of(PoolName::try_from(name).unwrap());
        let map = self.core.map_pool(Viewer::Everything, &request, self.now);
        map.unwrap()
    }

    fn open_to_all(&self, caller: &Caller, name: &str, mode: u32) -> PoolId {
        let request = CreatePool {
            mode,
            ..create(name, MIB)
        };
        let opened = self.core.create_pool(caller, request, self.now).unwrap();
        opened.pool.pool_id
    }
}

fn attach(memory: &Arc<PoolMemory>, caller: &Caller, span: &SpanInfo) -> LeasedSpan {
    let number = caller.session.as_ref().unwrap().number;
    LeasedSpan::attach(memory, lease_of(span), number, span.survivors).unwrap()
}

fn number(caller: &Caller) -> u16 {
    caller.session.as_ref().unwrap().number.get()
}

fn of<'a>(observation: &'a Observation, caller: &Caller) -> &'a ObservedSession {
    let number = number(caller);
    let mut sessions = observation.sessions.iter();
    sessions.find(|session| session.number == number).unwrap()
}

fn names(observation: &Observation) -> Vec<&str> {
    let pools = observation.pools.iter().map(|pool| &pool.identity.name);
    let arenas = observation.arena_pools.iter();
    pools
        .chain(arenas.map(|pool| &pool.identity.name))
        .map(String::as_str)
        .collect()
}

fn same_as_stat(pool: &ObservedPool, stat: &PoolStat) {
    assert_eq!(pool.capacity_bytes, stat.pool.capacity_bytes);
    assert_eq!(pool.committed_bytes, stat.committed_bytes);
    assert_eq!(pool.table_bytes, stat.table_bytes);
    assert_eq!(pool.leased_bytes, stat.leased_bytes);
    assert_eq!(pool.abandoned_bytes, stat.abandoned_bytes);
    assert_eq!(pool.free_committed_bytes, stat.free_committed_bytes);
    assert_eq!(pool.used_bytes, stat.used_bytes);
    assert_eq!(pool.requested_bytes, stat.requested_bytes);
    assert_eq!(pool.largest_free_bytes, stat.largest_free_bytes);
    assert_eq!(pool.blocks, stat.blocks);
    assert_eq!(pool.kept_blocks, stat.kept_blocks);
    assert_eq!(pool.named_blocks, stat.named_blocks);
    assert_eq!(pool.condemned_blocks, stat.condemned_blocks);
    assert_eq!(pool.pins, stat.pins);
    assert_eq!(pool.identity.sessions, stat.sessions);
}

#[test]
fn one_look_says_what_stat_and_list_say() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let arenas = daemon.arena_pool(&alice, "a", 8);
    let memory = daemon.map(&alice, pool);
    let class = SizeClass::for_simple_layout(100, 16).unwrap();
    let span = daemon.lease(&alice, pool, class).unwrap()[0];
    let leased = attach(&memory, &alice, &span);
    let by_rpc: Vec<Handle> = (0..10)
        .map(|_| daemon.alloc(&bob, pool, 1000).unwrap())
        .collect();
    daemon.alloc(&bob, pool, 2 * MIB).unwrap();
    daemon
        .core
        .keep(&bob, about(by_rpc[0]), daemon.now)
        .unwrap();
    daemon.publish(&bob, by_rpc[1], "named").unwrap();
    for _ in 0..3 {
        daemon
            .core
            .pin(&alice, about(by_rpc[2]), daemon.now)
            .unwrap();
    }
    daemon.free(&bob, by_rpc[2]).unwrap();
    daemon.free(&bob, by_rpc[3]).unwrap();
    let get = GetArena {
        pool_id: arenas,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    for _ in 0..2 {
        daemon.core.get_arena(&bob, get, daemon.now).unwrap();
    }

    let seen = daemon.observe(&alice);
    assert_eq!(names(&seen), ["p", "a"]);
    let stat = daemon.stat(&alice, "p");
    same_as_stat(&seen.pools[0], &stat);
    assert_eq!(
        (stat.blocks, stat.kept_blocks, stat.named_blocks),
        (9, 2, 1)
    );
    assert_eq!((stat.pins, stat.condemned_blocks), (3, 1));
    assert_eq!(seen.pools[0].leases, 3, "alice's, and two of the daemon");
    let span_bytes = span.pages.bytes();
    assert_eq!(
        seen.pools[0].daemon_bytes,
        stat.leased_bytes - span_bytes,
        "the rest is alice's"
    );
    assert_eq!(seen.pools[0].holders.len(), 1);
    assert_eq!(seen.pools[0].holders[0].bytes, span_bytes);
    assert_eq!(seen.pools[0].holders[0].pid, std::process::id());
    let a = &seen.arena_pools[0];
    assert_eq!((a.arenas, a.free, a.exclusive, a.named), (8, 6, 2, 0));
    assert_eq!(a.held.len(), 2);
    assert_eq!(a.held[0].holders[0].session, number(&bob));

    let (a, b) = (of(&seen, &alice), of(&seen, &bob));
    assert_eq!((a.leased_bytes, a.pins, a.mapped_pools), (span_bytes, 3, 1));
    assert_eq!((a.rpc_bytes, a.blocks, a.arenas), (0, 0, 0));
    for (session, listed) in [(a, &alice), (b, &bob)] {
        let list = daemon.core.list_sessions(&alice, daemon.now).unwrap();
        let number = listed.session.as_ref().unwrap().number;
        let info = list.iter().find(|info| info.session == number).unwrap();
        assert_eq!(session.leased_bytes, info.leased_bytes);
        assert_eq!(session.rpc_bytes, info.rpc_bytes);
        assert_eq!(session.arenas, info.arenas_held);
        assert_eq!(session.pins, info.pins);
        assert_eq!(session.command, info.command);
    }
    // 10 and a large one, less two that are kept and two that were freed.
    assert_eq!((b.blocks, b.arenas), (7, 2));
    assert_eq!(seen.daemon.sessions, 2);
    assert_eq!((seen.daemon.pools, seen.daemon.arena_pools), (1, 1));
    drop(leased);
    daemon.check();
}

#[test]
fn a_look_gives_nothing_back_and_drops_nothing() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let block = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.free(&alice, block).unwrap();
    let before = daemon.observe_all();
    assert!(before.pools[0].daemon_bytes > 0, "kept for the next block");
    assert_eq!(daemon.observe_all(), before);
    assert_eq!(
        daemon.stat(&alice, "p").leased_bytes,
        0,
        "Stat gives it back"
    );
}

#[test]
fn others_pools_holders_and_sessions_are_not_shown() {
    let daemon = Daemon::start();
    // Not the user that runs the tests, who sees everything.
    let (alice, bob) = (daemon.caller(71_000), daemon.caller(71_001));
    daemon.pool(&alice, "closed", MIB);
    let open = daemon.open_to_all(&alice, "open", 0o666);
    daemon.arena_pool(&alice, "arenas", 2);
    let class = SizeClass::for_simple_layout(100, 16).unwrap();
    daemon.lease(&alice, open, class).unwrap();
    let by_rpc = daemon.alloc(&alice, open, 100).unwrap();

    let seen = daemon.observe(&bob);
    assert_eq!(names(&seen), ["open", "arenas"]);
    assert!(seen.pools[0].holders.is_empty());
    assert!(seen.pools[0].leased_bytes > 0);
    let [session] = &seen.sessions[..] else {
        panic!("bob sees {:?}", seen.sessions);
    };
    assert_eq!(session.number, number(&bob));
    let map = |caller: &Caller, name: &str| {
        let request = MapPool::of(PoolName::try_from(name).unwrap());
        daemon
            .core
            .map_pool(Viewer::Caller(caller), &request, daemon.now)
    };
    assert_eq!(reason(map(&bob, "closed")), Reason::PermissionDenied);
    let shown = map(&bob, "open").unwrap();
    let nobody = |map: &PoolMap| {
        let spans = map.runs.iter().filter_map(|run| run.span);
        spans
            .chain(None)
            .all(|span| span.uid == 0 && span.session == SessionNumber::NOBODY)
            && map
                .blocks
                .iter()
                .all(|block| block.session == SessionNumber::NOBODY)
    };
    assert_eq!(shown.blocks[0].handle, by_rpc);
    assert!(nobody(&shown));

    // The owner sees who uses its pool, and a user their own.
    daemon.lease(&bob, open, class).unwrap();
    let of_alice = daemon.observe(&alice);
    let holders: Vec<u16> = of_alice.pools[1]
        .holders
        .iter()
        .map(|it| it.session)
        .collect();
    assert!(holders.contains(&number(&bob)) && holders.contains(&number(&alice)));
    assert_eq!(of_alice.sessions.len(), 1);
    let of_bob = daemon.observe(&bob);
    let [holder] = &of_bob.pools[0].holders[..] else {
        panic!("bob sees {:?}", of_bob.pools[0].holders);
    };
    assert_eq!(holder.session, number(&bob));
    assert!(!nobody(&map(&alice, "open").unwrap()));

    // Everything, for root, the daemon's user, and where the configuration says so.
    let root = Caller {
        uid: 0,
        ..bob.clone()
    };
    let own = Caller {
        uid: os::process::own_uid(),
        ..bob.clone()
    };
    for seen in [
        daemon.observe(&root),
        daemon.observe(&own),
        daemon.observe_all(),
    ] {
        assert_eq!(names(&seen), ["closed", "open", "arenas"]);
        assert_eq!(seen.sessions.len(), 2);
        assert_eq!(seen.pools[1].holders.len(), 2);
    }
    // Root of another machine is nobody here.
    let far = Caller {
        local: false,
        ..root
    };
    assert_eq!(names(&daemon.observe(&far)), ["open", "arenas"]);
    assert!(daemon.observe(&far).sessions.is_empty());
}

/// Asserts that runs cover the pool without gaps.
fn covers(map: &PoolMap) {
    let mut next = 0;
    for run in &map.runs {
        assert_eq!(run.first_page.get(), next);
        next += run.pages.get();
    }
    assert_eq!(next, map.total_pages.get());
}

fn in_state(map: &PoolMap, state: RunState) -> Vec<PageRun> {
    let runs = map.runs.iter().filter(|run| run.state == state);
    runs.copied().collect()
}

#[test]
fn map_says_what_each_page_is_and_whose() {
    let mut daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let memory = daemon.map(&alice, pool);
    let class = SizeClass::for_simple_layout(100, 16).unwrap();
    let span = daemon.lease(&alice, pool, class).unwrap()[0];
    let mut leased = attach(&memory, &alice, &span);
    let _private = leased.alloc().unwrap();
    let large = daemon.alloc(&bob, pool, 2 * MIB).unwrap();
    daemon.publish(&bob, large, "big").unwrap();
    daemon.core.pin(&alice, about(large), daemon.now).unwrap();
    let small = daemon.alloc(&bob, pool, 40).unwrap();
    let returned = daemon.lease(&bob, pool, class).unwrap()[0];
    daemon.return_span(&bob, pool, returned).unwrap();
    daemon.now += Duration::from_secs(7);

    let map = daemon.map_all("p");
    covers(&map);
    assert!(!map.truncated && map.next_page.is_none());
    assert_eq!(u64::from(map.total_pages.get()) * PAGE_BYTES, 8 * MIB);
    let [of_alice] = &in_state(&map, RunState::Leased)[..] else {
        panic!("{map:?}");
    };
    assert_eq!(
        (of_alice.first_page, of_alice.pages),
        (span.first_page, span.pages)
    );
    let said = of_alice.span.unwrap();
    assert_eq!(said.session.get(), number(&alice));
    assert_eq!((said.uid, said.size_class), (1000, class));
    assert_eq!(
        said.exported_blocks, 0,
        "a private block is its owner's secret"
    );
    assert_eq!(said.leased_for, Some(Duration::from_secs(7)));
    assert_eq!(in_state(&map, RunState::Daemon).len(), 2);
    assert!(!in_state(&map, RunState::FreeCommitted).is_empty());
    assert!(!in_state(&map, RunState::Free).is_empty());
    assert_eq!(map.blocks.len(), 2);
    let block = map.blocks.iter().find(|it| it.handle == large).unwrap();
    assert_eq!((block.state, block.pinned), (BlockState::Kept, true));
    assert_eq!(
        (block.size_bytes, block.session),
        (2 * MIB, SessionNumber::NOBODY)
    );
    assert_eq!(block.name.as_ref().unwrap().as_str(), "big");
    let block = map.blocks.iter().find(|it| it.handle == small).unwrap();
    assert_eq!((block.state, block.size_bytes), (BlockState::Shared, 40));
    assert_eq!(block.session.get(), number(&bob));

    // When it was leased is forgotten with the daemon; whose it is is not.
    drop(leased);
    let (daemon, [alice]) = daemon.kill_and_restart([&alice]);
    let map = daemon.map_all("p");
    covers(&map);
    let said = in_state(&map, RunState::Leased)[0].span.unwrap();
    assert_eq!(said.leased_for, None);
    assert_eq!(said.session.get(), number(&alice));
}

#[test]
fn long_maps_come_in_parts_that_make_the_whole() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let blocks: Vec<Handle> = (0..40)
        .map(|i| daemon.alloc(&alice, pool, 16 << (i % 12)).unwrap())
        .collect();
    for block in blocks.iter().step_by(3) {
        daemon.free(&alice, *block).unwrap();
    }
    let whole = daemon.map_all("p");
    covers(&whole);
    assert!(whole.runs.len() > 4, "{:?}", whole.runs);
    let mut request = MapPool {
        max_runs: Some(2),
        ..MapPool::of(PoolName::try_from("p").unwrap())
    };
    let (mut runs, mut blocks) = (Vec::new(), Vec::new());
    loop {
        let part = daemon
            .core
            .map_pool(Viewer::Everything, &request, daemon.now)
            .unwrap();
        assert!(part.runs.len() <= 2);
        assert_eq!(part.truncated, part.next_page.is_some());
        runs.extend(part.runs);
        blocks.extend(part.blocks);
        match part.next_page {
            Some(next) => request.first_page = next,
            None => break,
        }
    }
    assert_eq!((runs, blocks), (whole.runs.clone(), whole.blocks.clone()));

    let few = MapPool {
        max_blocks: Some(3),
        ..MapPool::of(PoolName::try_from("p").unwrap())
    };
    let part = daemon
        .core
        .map_pool(Viewer::Everything, &few, daemon.now)
        .unwrap();
    assert!(part.truncated && part.next_page.is_none());
    assert_eq!(part.blocks, whole.blocks[..3]);
    assert_eq!(part.runs, whole.runs, "the counts are of all blocks");
    let past = MapPool {
        first_page: PageIndex::new(u32::MAX),
        ..few
    };
    let part = daemon
        .core
        .map_pool(Viewer::Everything, &past, daemon.now)
        .unwrap();
    assert!(part.runs.is_empty() && !part.truncated);
}

#[test]
fn ten_thousand_blocks_are_mapped_at_once() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    for _ in 0..10_000 {
        daemon.alloc(&alice, pool, 100).unwrap();
    }
    let map = daemon.map_all("p");
    assert_eq!(map.blocks.len(), 10_000);
    assert!(!map.truncated);
    let counted: u32 = map
        .runs
        .iter()
        .filter_map(|run| run.span)
        .map(|span| span.exported_blocks)
        .sum();
    assert_eq!(counted, 10_000);
}

#[test]
fn forged_words_show_no_strangers() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1001));
    let pool = daemon.pool(&alice, "p", MIB);
    let memory = daemon.map(&alice, pool);
    let block = daemon.alloc(&alice, pool, 100).unwrap();
    // A block of bob, who was never here.
    forge(&memory, block, block.generation().get(), number(&bob), 1, 0);
    let map = daemon.map_all("p");
    assert_eq!(map.blocks[0].session, SessionNumber::NOBODY);
    let seen = daemon.observe_all();
    assert_eq!(of(&seen, &bob).blocks, 0);
    assert_eq!(seen.pools[0].blocks, 1);
    // A state that there is not.
    forge(&memory, block, block.generation().get(), number(&bob), 7, 1);
    assert!(daemon.map_all("p").blocks.is_empty());
}

#[test]
fn arena_map_says_who_holds_which() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(71_000), daemon.caller(71_001));
    let pool = daemon.arena_pool(&alice, "a", 5);
    let get = GetArena {
        pool_id: pool,
        request_id: RequestId::NONE,
        wait: Duration::ZERO,
    };
    let Waited::Now(first) = daemon.core.get_arena(&alice, get, daemon.now).unwrap() else {
        panic!("there are free arenas");
    };
    let Waited::Now(_) = daemon.core.get_arena(&bob, get, daemon.now).unwrap() else {
        panic!("there are free arenas");
    };
    let name = ArenaName::try_from("batch/1").unwrap();
    let share = ShareArena {
        arena: first.arena,
        name: name.clone(),
        request_id: RequestId::NONE,
    };
    daemon.core.share_arena(&alice, share, daemon.now).unwrap();
    let attach = AttachArena {
        pool_id: pool,
        name,
        access: Access::ReadOnly,
        request_id: RequestId::NONE,
    };
    daemon.core.attach_arena(&bob, attach, daemon.now).unwrap();
    let map = |viewer: Viewer<'_>, first_arena, max_arenas| {
        let request = MapArenaPool {
            first_arena,
            max_arenas,
            ..MapArenaPool::of(PoolName::try_from("a").unwrap())
        };
        daemon.core.map_arena_pool(viewer, &request).unwrap()
    };
    let all = map(Viewer::Everything, 0, None);
    let states: Vec<ArenaState> = all.arenas.iter().map(|arena| arena.state).collect();
    assert_eq!(states[..2], [ArenaState::Named, ArenaState::Exclusive]);
    assert_eq!(states[2..], [ArenaState::Free; 3]);
    assert_eq!(
        (all.arenas[0].n_holders, all.arenas[0].holders.len()),
        (2, 2)
    );
    assert_eq!(all.arenas[0].holders[1].access, Access::ReadOnly);
    assert_eq!(all.arenas[1].holders[0].session.get(), number(&bob));
    assert_eq!(all.next_arena, None);

    // Bob may read the pool, but alice is none of his business.
    let of_bob = map(Viewer::Caller(&bob), 0, None);
    assert_eq!(
        (of_bob.arenas[0].n_holders, of_bob.arenas[0].holders.len()),
        (2, 1)
    );
    assert_eq!(of_bob.arenas[0].holders[0].session.get(), number(&bob));

    let mut parts = Vec::new();
    let mut first_arena = 0;
    loop {
        let part = map(Viewer::Everything, first_arena, Some(4));
        assert!(!part.arenas.is_empty());
        parts.extend(part.arenas);
        match part.next_arena {
            Some(next) => first_arena = next,
            None => break,
        }
    }
    assert_eq!(parts, all.arenas);
    let beyond = map(Viewer::Everything, 5, None);
    assert!(beyond.arenas.is_empty() && beyond.next_arena.is_none());
}
