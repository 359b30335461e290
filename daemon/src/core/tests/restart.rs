//! A core that is dropped as a SIGKILL drops it, and the next one on the same fds: what was held is
//! held; what was asked for is answered once, as `once` says.

use super::*;

mod gets;
mod once;

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

/// A campaign found it: a block that its maker had kept and then adopted again through a mapping was
/// kept by the next daemon, which took the old record for that of a keep that had been cut off.
#[test]
fn block_that_its_keeper_adopted_again_is_not_kept_by_the_next_daemon() {
    let (daemon, alice, _, pool) = scene();
    let memory = daemon.map(&alice, pool);
    let handle = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.publish(&alice, handle, "n").unwrap();
    let number = alice.session.as_ref().unwrap().number;
    memory.adopt(handle, number).unwrap();

    let (daemon, [alice]) = daemon.kill_and_restart([&alice]);
    daemon.check();
    let stat = daemon.stat(&alice, "p");
    assert_eq!(
        (stat.blocks, stat.kept_blocks, stat.named_blocks),
        (1, 0, 0)
    );
    // It dies with its owner.
    daemon.die(&alice);
    daemon.check();
    let observer = daemon.caller(1000);
    assert_eq!(daemon.stat(&observer, "p").blocks, 0);
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

/// The next daemon waited for its own registry, and never served.
#[test]
fn a_destroy_that_was_cut_off_is_finished_at_the_next_start() {
    let (daemon, alice, _, _) = scene();
    let pool = daemon.pool(&alice, "q", MIB);
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    // Killed before they were let go of.
    daemon.block_pool(pool).destroy().unwrap();
    match daemon.core.registry().by_id(arenas).unwrap() {
        AnyPool::Arenas(pool) => pool.destroy().unwrap(),
        AnyPool::Blocks(_) => unreachable!("it is an arena pool"),
    };
    let (daemon, [_alice]) = daemon.kill_and_restart([&alice]);
    assert_eq!(daemon.core.registry().all().len(), 1);
    assert_eq!(daemon.store.names().len(), 1 + 2 + 2);
    daemon.check();
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
