//! A new configuration for a core that runs, and the pools that it declares.

use crate::config::{Declared, DeclaredKind};

use super::*;

fn blocks(name: &str, capacity_bytes: u64, max_capacity_bytes: Option<u64>) -> Declared {
    Declared {
        uid: None,
        create: DeclaredKind::Pool(CreatePool {
            name: name.parse().unwrap(),
            capacity_bytes,
            max_capacity_bytes,
            backing: None,
            gid: None,
            mode: 0o640,
            request_id: RequestId::NONE,
        }),
    }
}

fn arenas(name: &str, arenas: u32, arena_bytes: u64) -> Declared {
    Declared {
        uid: None,
        create: DeclaredKind::ArenaPool(CreateArenaPool {
            name: name.parse().unwrap(),
            arenas,
            arena_bytes,
            backing: None,
            gid: None,
            mode: 0o600,
            request_id: RequestId::NONE,
        }),
    }
}

impl Daemon {
    fn declare(&self, declared: &Declared) -> Result<(), Error> {
        let outcome = self.core.declare(declared, self.now);
        outcome.map_err(|error| *error.source)
    }

    fn reload(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::private(self.dir.path());
        change(&mut config);
        self.core.reload(&config, self.now);
    }
}

#[test]
fn declared_pool_is_made_once_and_belongs_to_the_daemons_user() {
    let daemon = Daemon::start();
    let (frames, batches) = (blocks("frames", 8 * MIB, None), arenas("batches", 4, 4096));
    for _ in 0..2 {
        daemon.declare(&frames).unwrap();
        daemon.declare(&batches).unwrap();
    }
    assert_eq!(daemon.core.registry().counts(), (1, 1));
    let own = rustix::process::geteuid().as_raw();
    let owner = daemon.caller(own);
    let info = daemon.stat(&owner, "frames").pool;
    assert_eq!(info.capacity_bytes, 8 * MIB);
    let permissions = info.permissions;
    assert_eq!((permissions.uid, permissions.mode), (own, 0o640));

    // The next daemon finds it, and so does its configuration.
    let (daemon, [owner]) = daemon.kill_and_restart([&owner]);
    daemon.declare(&frames).unwrap();
    daemon.declare(&batches).unwrap();
    assert_eq!(daemon.stat(&owner, "frames").pool.pool_id, info.pool_id);
    assert_eq!(daemon.core.registry().counts(), (1, 1));
    daemon.core.check();
}

#[test]
fn pool_that_is_otherwise_is_refused_and_stays_as_it_is() {
    let daemon = Daemon::start();
    daemon
        .declare(&blocks("p", 4 * MIB, Some(8 * MIB)))
        .unwrap();
    daemon.declare(&arenas("a", 4, 4096)).unwrap();
    for (declared, what) in [
        (
            blocks("p", 4 * MIB, Some(16 * MIB)),
            "max_capacity_bytes 8388608, not 16777216",
        ),
        (
            blocks("p", 9 * MIB, None),
            "max_capacity_bytes 8388608, not 9437184",
        ),
        (arenas("p", 4, 4096), "kind blocks, not arenas"),
        (blocks("a", 4 * MIB, None), "kind arenas, not blocks"),
        (arenas("a", 5, 4096), "arenas 4, not 5"),
        (arenas("a", 4, 8192), "arena_bytes 4096, not 8192"),
    ] {
        let error = daemon.declare(&declared).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
    }
    let named = |mut declared: Declared| {
        if let DeclaredKind::Pool(create) = &mut declared.create {
            create.backing = Some(Backing::Named);
        }
        declared
    };
    let error = daemon
        .declare(&named(blocks("p", 4 * MIB, None)))
        .unwrap_err();
    assert!(error.to_string().contains("backing"), "{error}");
    // Another capacity within the maximum is what SetCapacity is for, and so is another owner.
    daemon.declare(&blocks("p", 8 * MIB, None)).unwrap();
    daemon.declare(&blocks("p", MIB, None)).unwrap();
    let owner = daemon.caller(rustix::process::geteuid().as_raw());
    assert_eq!(daemon.stat(&owner, "p").pool.capacity_bytes, 4 * MIB);
    daemon.core.check();
}

#[test]
fn new_limits_hold_for_what_comes_next() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 64 * MIB);
    daemon.alloc(&alice, pool, 4 * MIB).unwrap();
    let committed = daemon
        .core
        .info(&alice, daemon.now)
        .unwrap()
        .committed_bytes;
    assert!(committed > MIB);

    daemon.reload(|config| config.limits.budget_bytes = Some(MIB));
    let refused = daemon.alloc(&alice, pool, 4 * MIB);
    assert!(
        matches!(
            refused,
            Err(Error::BudgetExhausted {
                limit_bytes: MIB,
                ..
            })
        ),
        "{refused:?}"
    );
    let after = daemon.core.info(&alice, daemon.now).unwrap();
    assert_eq!(after.committed_bytes, committed, "what is there stays");

    daemon.reload(|config| config.limits.quota_per_user_bytes = Some(5 * MIB));
    let refused = daemon.alloc(&alice, pool, 4 * MIB);
    assert_eq!(reason(refused), Reason::QuotaExceeded);

    daemon.reload(|config| {
        config.limits.max_pools = 1;
        config.limits.max_sessions = 1;
    });
    let create = |name: &str| CreatePool {
        name: name.parse().unwrap(),
        capacity_bytes: MIB,
        max_capacity_bytes: None,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    };
    let refused = daemon.core.create_pool(&alice, create("q"), daemon.now);
    assert_eq!(reason(refused), Reason::TooManyPools);

    daemon.reload(|_| {});
    daemon.alloc(&alice, pool, 4 * MIB).unwrap();
    daemon
        .core
        .create_pool(&alice, create("q"), daemon.now)
        .unwrap();
    daemon.caller(1000);
    daemon.core.check();
}

#[test]
fn reload_makes_what_it_can_of_the_declared_pools() {
    let daemon = Daemon::start();
    daemon.declare(&arenas("taken", 4, 4096)).unwrap();
    daemon.reload(|config| {
        config.pools = vec![blocks("taken", MIB, None), blocks("new", MIB, None)];
    });
    assert_eq!(daemon.core.registry().counts(), (1, 1));
    daemon.reload(|_| {});
    assert_eq!(daemon.core.registry().counts(), (1, 1), "none is destroyed");
}

#[test]
fn free_memory_goes_by_the_new_time() {
    let daemon = Daemon::start_with(|limits| limits.purge_after = Duration::from_secs(3600));
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 64 * MIB);
    let handle = daemon.alloc(&alice, pool, 4 * MIB).unwrap();
    daemon.free(&alice, handle).unwrap();
    let committed = |daemon: &Daemon| daemon.stat(&alice, "p").committed_bytes;
    let before = committed(&daemon);
    daemon.core.tick(daemon.now + Duration::from_secs(60));
    assert_eq!(committed(&daemon), before);
    daemon.reload(|config| config.limits.purge_after = Duration::from_secs(1));
    daemon.core.tick(daemon.now + Duration::from_secs(61));
    assert!(committed(&daemon) < before, "{before}");
}
