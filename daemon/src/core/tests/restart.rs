//! A core that is dropped as a SIGKILL drops it, and the next one on the same fds: what was held is
//! held, and what was asked for is answered once.

use goumem_proto::model::AllocBatch;
use goumem_shm::root::RequestOp;

use super::*;
use crate::session::Intent;

const ID: RequestId = RequestId::new(7);

/// Two sessions of two users, and a pool that both may write.
fn scene() -> (Daemon, Caller, Caller, PoolId) {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1001));
    let request = CreatePool {
        mode: 0o666,
        ..create("p", 8 * MIB)
    };
    let pool = daemon.core.create_pool(&alice, request, daemon.now);
    let id = pool.unwrap().pool.pool_id;
    (daemon, alice, bob, id)
}

fn spec(size_bytes: u64) -> BlockSpec {
    BlockSpec::new(size_bytes)
}

#[test]
fn pools_sessions_and_everything_they_hold_are_there_after_a_restart() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 3);
    let span = daemon
        .lease(&alice, pool, SizeClass::from_index(3).unwrap())
        .unwrap()[0];
    let memory = daemon.map(&alice, pool);
    let number = alice.session.as_ref().unwrap().number;
    let mut leased = LeasedSpan::attach(&memory, lease_of(&span), number, false).unwrap();
    let mut private = leased.alloc().unwrap();
    private.fill_zero(64);
    let shape = goumem_shm::shape::Shape {
        type_tag: TypeTag::UNTYPED,
        length_bytes: 10,
    };
    let shared = leased.alloc().unwrap().export(number, shape).unwrap();
    let rpc = daemon.alloc(&bob, pool, 300).unwrap();
    let large = daemon.alloc(&bob, pool, 2 * MIB).unwrap();
    let named = daemon.alloc(&bob, pool, 100).unwrap();
    daemon.publish(&bob, named, "n").unwrap();
    daemon.core.pin(&bob, about(rpc), daemon.now).unwrap();
    daemon.core.write_bytes(&bob, rpc, 0, b"bytes").unwrap();
    let arena = got(daemon.get(&alice, arenas, RequestId::NONE));
    let other = got(daemon.get(&bob, arenas, RequestId::NONE));
    daemon.share(&alice, arena, "a", RequestId::NONE).unwrap();
    daemon.attach(&bob, arenas, "a", RequestId::NONE).unwrap();
    let epoch = daemon.core.info(&alice, daemon.now).unwrap().epoch;
    let before = daemon.stat(&alice, "p");

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    daemon.check();
    assert_eq!(
        daemon.core.info(&alice, daemon.now).unwrap().epoch,
        epoch + 1
    );
    assert_eq!(daemon.core.info(&alice, daemon.now).unwrap().quarantined, 0);
    let after = daemon.stat(&alice, "p");
    assert_eq!(
        (
            after.blocks,
            after.kept_blocks,
            after.named_blocks,
            after.sessions
        ),
        (
            before.blocks,
            before.kept_blocks,
            before.named_blocks,
            before.sessions
        )
    );
    assert_eq!(after.leased_bytes, before.leased_bytes);
    for handle in [shared, rpc, large, named] {
        daemon
            .core
            .resolve(&bob, about(handle), daemon.now)
            .unwrap();
    }
    let mut bytes = [0; 5];
    daemon.core.read_bytes(&bob, rpc, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"bytes");
    assert_eq!(daemon.lookup(&bob, pool, "n").unwrap(), named);
    // The pin holds: a free condemns the block, and only the unpin frees it.
    daemon.free(&alice, rpc).unwrap();
    let mut bytes = [0; 5];
    let at = memory.block_at(rpc.offset()).unwrap();
    memory.read_pinned(&at, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"bytes");
    daemon.core.unpin(&bob, about(rpc), daemon.now).unwrap();
    // The lease goes on, and is returned in its own epoch.
    drop(leased.alloc().unwrap());
    drop(private);
    daemon.free(&bob, shared).unwrap();
    leased.collect(true);
    leased.detach().unwrap();
    assert_eq!(daemon.return_span(&alice, pool, span).unwrap(), 1);
    // Nobody else gets an arena that is held, and the name has both its holders.
    assert!(
        daemon
            .core
            .return_arena(&alice, give_back(other), daemon.now)
            .is_err()
    );
    assert!(!daemon.detach(&alice, arena, RequestId::NONE).unwrap());
    assert!(daemon.detach(&bob, arena, RequestId::NONE).unwrap());
    daemon
        .core
        .return_arena(&bob, give_back(other), daemon.now)
        .unwrap();
    // What dies now is swept as ever.
    daemon.die(&bob);
    daemon.check();
    let stat = daemon.stat(&alice, "p");
    assert_eq!((stat.blocks, stat.kept_blocks), (1, 1));
}

#[test]
fn those_who_died_while_no_daemon_ran_are_swept_at_its_start() {
    let (daemon, alice, _, pool) = scene();
    let mut process = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = process.id();
    let carol = daemon.caller_of(Caller {
        uid: 1001,
        gid: 1001,
        pid,
        local: true,
        pidfd: Some(Arc::new(PidFd::open(pid).unwrap())),
        session: None,
    });
    let span = daemon
        .lease(&carol, pool, SizeClass::from_index(0).unwrap())
        .unwrap()[0];
    let block = daemon.alloc(&carol, pool, 1000).unwrap();
    let kept = daemon.alloc(&carol, pool, 1000).unwrap();
    daemon.core.keep(&carol, about(kept), daemon.now).unwrap();
    daemon.core.pin(&carol, about(kept), daemon.now).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();

    let Daemon {
        core, dir, store, ..
    } = daemon;
    drop(core);
    let daemon = Daemon::start_in(dir, store, |_| {});
    daemon.check();
    assert!(daemon.resumed(&carol).is_none());
    let alice = daemon.resumed(&alice).unwrap();
    assert_eq!(daemon.core.sessions().count(), 2);
    assert_eq!(
        reason(daemon.core.resolve(&alice, about(block), daemon.now)),
        Reason::StaleHandle
    );
    daemon
        .core
        .resolve(&alice, about(kept), daemon.now)
        .unwrap();
    daemon.free(&alice, kept).unwrap();
    let stat = daemon.stat(&alice, "p");
    assert_eq!((stat.blocks, stat.pins), (0, 0));
    assert_eq!(
        reason(daemon.return_span(&alice, pool, span)),
        Reason::StaleLease
    );
    let names = daemon.store.names();
    assert_eq!(
        names.len(),
        5,
        "root, two halves and two processes: {names:?}"
    );
}

#[test]
fn a_sweep_that_was_cut_off_is_done_again() {
    let (daemon, alice, bob, pool) = scene();
    let block = daemon.alloc(&bob, pool, 1000).unwrap();
    // As far as a sweep gets whose daemon dies with its first store.
    assert!(bob.session.as_ref().unwrap().mark_dead());
    let Daemon {
        core, dir, store, ..
    } = daemon;
    drop(core);
    let daemon = Daemon::start_in(dir, store, |_| {});
    let alice = daemon.resumed(&alice).unwrap();
    assert!(daemon.resumed(&bob).is_none());
    assert_eq!(
        reason(daemon.core.resolve(&alice, about(block), daemon.now)),
        Reason::StaleHandle
    );
    daemon.check();
}

#[test]
fn every_call_is_answered_once_whether_its_reply_was_lost_or_not() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    let now = daemon.now;
    let mut ids = (1..).map(RequestId::new);
    let mut id = || ids.next().unwrap();
    let core = &daemon.core;
    let kept = daemon.alloc(&alice, pool, 100).unwrap();
    let freed = daemon.alloc(&alice, pool, 100).unwrap();
    let taken = daemon.alloc(&alice, pool, 100).unwrap();
    let created = CreatePool {
        request_id: id(),
        ..create("made", MIB)
    };
    let made = core.create_pool(&bob, created.clone(), now).unwrap();
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(500),
        request_id: id(),
    };
    let allocated = core.alloc(&bob, alloc, now).unwrap();
    let class = SpanSpec::Class(SizeClass::from_index(5).unwrap());
    let lease = Lease {
        pool_id: pool,
        spec: class,
        count: 3,
        request_id: id(),
    };
    let leased = core.lease(&bob, lease, now).unwrap();
    let keep = HandleRequest {
        handle: kept,
        request_id: id(),
    };
    core.keep(&alice, keep, now).unwrap();
    let free = Free {
        handle: freed,
        request_id: id(),
    };
    core.free(&bob, free, now).unwrap();
    let take = HandleRequest {
        handle: taken,
        request_id: id(),
    };
    let took = core.take(&bob, take, now).unwrap();
    let pin = HandleRequest {
        handle: kept,
        request_id: id(),
    };
    core.pin(&bob, pin, now).unwrap();
    let get = id();
    let arena = got(daemon.get(&bob, arenas, get));
    let share = id();
    let shared = daemon.share(&bob, arena, "a", share).unwrap();
    let attach = id();
    daemon.attach(&alice, arenas, "a", attach).unwrap();
    let withdrawn = {
        let handle = daemon.alloc(&bob, pool, 64).unwrap();
        daemon.publish(&bob, handle, "w").unwrap();
        Withdraw {
            pool_id: pool,
            name: BlockName::try_from("w").unwrap(),
            free: true,
            request_id: id(),
        }
    };
    let withdrew = core.withdraw(&bob, withdrawn.clone(), now).unwrap();
    let give = ReturnSpans {
        pool_id: pool,
        spans: vec![leased[0]],
        request_id: id(),
    };
    core.return_spans(&bob, give.clone(), now).unwrap();
    let blocks = daemon.stat(&alice, "p").blocks;

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    let core = &daemon.core;
    let again = core.create_pool(&bob, created, now).unwrap();
    assert_eq!(
        (again.pool.pool_id, again.created),
        (made.pool.pool_id, true)
    );
    assert_eq!(core.alloc(&bob, alloc, now).unwrap(), allocated);
    let spans = core.lease(&bob, lease, now).unwrap();
    let mut firsts: Vec<_> = spans
        .iter()
        .map(|span| (span.first_page, span.epoch))
        .collect();
    firsts.sort_unstable();
    let mut left: Vec<_> = leased[1..]
        .iter()
        .map(|span| (span.first_page, span.epoch))
        .collect();
    left.sort_unstable();
    assert_eq!(firsts, left, "those that were not returned");
    core.keep(&alice, keep, now).unwrap();
    core.free(&bob, free, now).unwrap();
    assert_eq!(core.take(&bob, take, now).unwrap().handle, took.handle);
    core.pin(&bob, pin, now).unwrap();
    assert_eq!(got(daemon.get(&bob, arenas, get)), arena);
    assert_eq!(daemon.share(&bob, arena, "a", share).unwrap(), shared);
    daemon.attach(&alice, arenas, "a", attach).unwrap();
    assert_eq!(core.withdraw(&bob, withdrawn, now).unwrap(), withdrew);
    assert_eq!(core.return_spans(&bob, give, now).unwrap().returned, 1);
    assert_eq!(
        daemon.stat(&alice, "p").blocks,
        blocks,
        "nothing happened twice"
    );
    assert_eq!(core.list_pools(&bob).unwrap().len(), 2);
    // One pin, however often it was asked for.
    core.unpin(&bob, about(kept), now).unwrap();
    assert_eq!(
        reason(core.unpin(&bob, about(kept), now)),
        Reason::StaleHandle
    );
    daemon.check();
}

#[test]
fn a_call_that_had_not_begun_is_done_by_its_retry() {
    let (daemon, alice, bob, pool) = scene();
    let freed = daemon.alloc(&alice, pool, 100).unwrap();
    let core = &daemon.core;
    // A later id is known, so this one is a straggler.
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(500),
        request_id: RequestId::new(9),
    };
    core.alloc(&bob, alloc, daemon.now).unwrap();
    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    let free = Free {
        handle: freed,
        request_id: ID,
    };
    daemon.core.free(&bob, free, daemon.now).unwrap();
    assert_eq!(
        reason(daemon.core.resolve(&bob, about(freed), daemon.now)),
        Reason::StaleHandle
    );
    // One from before everything that is known is refused.
    let session = bob.session.as_ref().unwrap();
    let far = Alloc {
        request_id: RequestId::new(1000),
        ..alloc
    };
    daemon.core.alloc(&bob, far, daemon.now).unwrap();
    let (daemon, [bob]) = {
        let _ = session;
        daemon.kill_and_restart([&bob])
    };
    let old = Free {
        handle: freed,
        request_id: RequestId::new(800),
    };
    assert_eq!(
        reason(daemon.core.free(&bob, old, daemon.now)),
        Reason::RequestExpired
    );
}

/// The notes that a daemon leaves which is killed in the middle, and as much of the effect.
#[test]
fn a_call_that_was_cut_off_is_finished_by_its_retry() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    let session = Arc::clone(bob.session.as_ref().unwrap());
    let class = SizeClass::from_index(5).unwrap();
    let spans = [(); 2].map(|()| daemon.lease(&bob, pool, class).unwrap()[0]);
    let freed = [(); 2].map(|()| daemon.alloc(&bob, pool, 100).unwrap());
    let lost = daemon.alloc(&bob, pool, 100).unwrap();
    let id = RequestId::new;
    // One of two spans was returned, one of two blocks freed.
    session.intend(id(1), Intent::of(RequestOp::ReturnSpans, pool));
    daemon.return_span(&bob, pool, spans[0]).unwrap();
    session.intend(id(2), Intent::of(RequestOp::FreeBatch, pool));
    daemon.free(&bob, freed[0]).unwrap();
    // The block of an Alloc was not exported yet.
    daemon.free(&bob, lost).unwrap();
    session.intend(id(3), Intent::about(RequestOp::Alloc, lost));
    // An arena was claimed for bob and not handed over; another for somebody who left no note.
    let memory = daemon.map_arenas(&bob, arenas, 2);
    let claimed = [(); 2].map(|()| {
        let daemon = goumem_alloc::SessionNumber::DAEMON;
        memory.try_get(daemon, 0).unwrap()
    });
    session.intend(id(4), Intent::about(RequestOp::GetArena, claimed[0]));
    // A batch got as far as nobody knows.
    session.intend(id(5), Intent::of(RequestOp::AllocBatch, pool));

    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    let (core, now) = (&daemon.core, daemon.now);
    let give = ReturnSpans {
        pool_id: pool,
        spans: spans.to_vec(),
        request_id: id(1),
    };
    for _ in 0..2 {
        let returned = core.return_spans(&bob, give.clone(), now).unwrap();
        assert_eq!(returned.returned, 2);
    }
    let batch = FreeBatch {
        handles: freed.to_vec(),
        request_id: id(2),
    };
    let freed = core.free_batch(&bob, batch, now).unwrap();
    assert_eq!((freed.freed, freed.failures.len()), (2, 0));
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(100),
        request_id: id(3),
    };
    let block = core.alloc(&bob, alloc, now).unwrap().block.handle;
    core.resolve(&bob, about(block), now).unwrap();
    assert_eq!(got(daemon.get(&bob, arenas, id(4))), claimed[0]);
    assert_ne!(got(daemon.get(&bob, arenas, RequestId::NONE)), claimed[1]);
    let count = goumem_proto::model::CountedSpec {
        spec: spec(100),
        count: 2,
    };
    let batch = AllocBatch {
        pool_id: pool,
        specs: vec![count],
        request_id: id(5),
    };
    assert_eq!(
        reason(core.alloc_batch(&bob, batch, now)),
        Reason::RequestExpired
    );
    daemon.check();
    assert_eq!(daemon.stat(&bob, "p").blocks, 1);
}

#[test]
fn destroyed_pools_stay_destroyed_and_go_with_their_last_mapper() {
    let (daemon, alice, bob, pool) = scene();
    let _memory = daemon.map(&bob, pool);
    daemon.destroy(&alice, "p").unwrap();
    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    assert!(daemon.core.list_pools(&alice).unwrap().is_empty());
    daemon.pool(&alice, "p", MIB);
    assert!(daemon.core.registry().has_id(pool), "bob maps it still");
    daemon
        .core
        .unmap(&bob, Unmap { pool_id: pool }, daemon.now)
        .unwrap();
    assert!(!daemon.core.registry().has_id(pool));
    daemon.check();
    let names = daemon.store.names();
    assert_eq!(names.len(), 5, "root, one pool, two processes: {names:?}");
}

#[test]
fn what_cannot_be_believed_is_withheld_and_the_rest_is_served() {
    let (daemon, alice, bob, pool) = scene();
    let good = daemon.pool(&alice, "good", MIB);
    let control = daemon.block_pool(pool);
    control.spoil_header();
    let number = bob.session.as_ref().unwrap().number;
    daemon
        .core
        .root
        .row(number)
        .session()
        .commit(&goumem_shm::root::SessionRecord {
            state: goumem_shm::root::SessionRowState::Live,
            number: alice.session.as_ref().unwrap().number,
            serial: 5,
            uid: 0,
            gid: 0,
            pid: 1,
            start_time: 0,
            pidfd_inode: None,
            local: true,
            may_map: true,
            ttl_ms: None,
            token_hash: [0; 32],
            nonce: None,
            label: String::new(),
        });
    let (daemon, [alice]) = daemon.kill_and_restart([&alice]);
    assert_eq!(daemon.core.info(&alice, daemon.now).unwrap().quarantined, 2);
    let pools = daemon.core.list_pools(&alice).unwrap();
    assert_eq!(
        pools.iter().map(|pool| pool.pool_id).collect::<Vec<_>>(),
        [good]
    );
    // The fds of what is withheld are where they were, and the number is nobody's.
    assert!(
        daemon
            .store
            .names()
            .iter()
            .any(|name| name.as_str().contains(&format!("{:08x}", pool.get())))
    );
    for _ in 0..3 {
        assert_ne!(daemon.caller(1000).session.unwrap().number, number);
    }
}

#[test]
fn a_root_of_another_layout_is_refused_and_left_as_it_is() {
    let (daemon, alice, ..) = scene();
    let Daemon {
        core, dir, store, ..
    } = daemon;
    core.root.spoil_version();
    drop(core);
    let start = || {
        let wires = Wires {
            watch: Arc::new(DeathWatch::new().unwrap()),
            earlier: Arc::new(Notify::new()),
        };
        let limits = Config::private(dir.path()).limits;
        Core::start(limits, None, wires, store.kept().unwrap(), Instant::now())
    };
    let before = store.names();
    for _ in 0..2 {
        let refused = start().unwrap_err();
        assert!(
            matches!(
                &refused,
                crate::root::RootError::Refused(goumem_shm::SegmentRefusal::Version { .. })
            ),
            "{refused:?}"
        );
    }
    assert_eq!(store.names(), before, "nothing was given up");
    let _ = alice;
}

fn got(waited: Result<Waited, Error>) -> Handle {
    match waited.unwrap() {
        Waited::Now(arena) => arena.arena,
        Waited::Queued(..) => panic!("no arena was free"),
    }
}

fn give_back(arena: Handle) -> ReturnArena {
    ReturnArena {
        arena,
        request_id: RequestId::NONE,
    }
}

impl Daemon {
    fn get(
        &self,
        caller: &Caller,
        pool_id: PoolId,
        request_id: RequestId,
    ) -> Result<Waited, Error> {
        let request = GetArena {
            pool_id,
            wait: Duration::ZERO,
            request_id,
        };
        self.core.get_arena(caller, request, self.now)
    }

    fn share(
        &self,
        caller: &Caller,
        arena: Handle,
        name: &str,
        request_id: RequestId,
    ) -> Result<goumem_proto::model::ArenaInfo, Error> {
        let name = ArenaName::try_from(name).unwrap();
        let request = ShareArena {
            arena,
            name,
            request_id,
        };
        self.core.share_arena(caller, request, self.now)
    }

    fn attach(
        &self,
        caller: &Caller,
        pool_id: PoolId,
        name: &str,
        request_id: RequestId,
    ) -> Result<goumem_proto::model::ArenaInfo, Error> {
        let name = ArenaName::try_from(name).unwrap();
        let request = AttachArena {
            pool_id,
            name,
            access: Access::ReadWrite,
            request_id,
        };
        self.core.attach_arena(caller, request, self.now)
    }

    fn detach(&self, caller: &Caller, arena: Handle, request_id: RequestId) -> Result<bool, Error> {
        let request = DetachArena { arena, request_id };
        Ok(self.core.detach_arena(caller, request, self.now)?.returned)
    }
}
