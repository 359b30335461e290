//! Bad input: each kind gets its reason, and changes nothing.

use goumem::{Handle, PoolOptions, Reason};
use goumem_alloc::{Generation, HandleKind, Offset, PoolId};
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use goumem_shm::os::Access;
use goumem_shm::os::frame::MapStatus;
use harness::{Rpc, TestDaemon, call};

mod handles;
mod sessions;
mod sizes;

const MIB: u64 = 1 << 20;

/// A daemon, a session with it, and a pool with a block and an arena pool with an arena.
struct Scene {
    daemon: TestDaemon,
    rpc: Rpc,
    pool_id: u32,
    block: v1::Handle,
    arenas_id: u32,
    arena: v1::Handle,
}

/// What a refused call must leave as it is.
#[derive(Debug, PartialEq)]
struct State {
    pool: v1::PoolStat,
    arenas: v1::ArenaPoolStat,
    pools: Vec<v1::PoolInfo>,
    sessions: u32,
    /// Of the one block.
    bytes: u64,
}

impl Scene {
    fn new() -> Self {
        let daemon = TestDaemon::start_with(|config| {
            config.limits.max_pools = 4;
            config.limits.budget_bytes = Some(64 * MIB);
            config.limits.quota_per_user_bytes = Some(32 * MIB);
        });
        let rpc = daemon.rpc();
        let pool_id = rpc.create_pool("p", 8 * MIB);
        let block = rpc.alloc(pool_id, 1000).unwrap();
        rpc.write(block, 0, &[7; 1000]).unwrap();
        let arenas_id = rpc.create_arena_pool("q", 2, 4096);
        let arena = rpc.get_arena(arenas_id, 0).unwrap();
        Self {
            daemon,
            rpc,
            pool_id,
            block,
            arenas_id,
            arena,
        }
    }

    fn state(&self) -> State {
        // What is backed by memory may be more than before: tables, and free spans for a while.
        let mut pool = self.rpc.stat("p");
        (
            pool.table_bytes,
            pool.committed_bytes,
            pool.free_committed_bytes,
        ) = (0, 0, 0);
        let bytes = self.rpc.read(self.block, 0, 0).unwrap();
        State {
            pool,
            arenas: self.rpc.arena_stat("q"),
            pools: call!(self.rpc, pools.list(v1::ListPoolsRequest {}))
                .unwrap()
                .pools,
            sessions: self.rpc.info().sessions,
            bytes: bytes.iter().map(|&byte| u64::from(byte)).sum(),
        }
    }

    /// Makes calls that must be refused, each for its reason, and looks that nothing has changed.
    fn refuses(&self, calls: impl FnOnce(&Refused<'_>)) {
        calls(&Refused {
            scene: self,
            before: self.state(),
        });
    }

    fn create(&self, change: impl FnOnce(&mut v1::CreatePoolRequest)) -> Result<(), ErrorDetail> {
        let mut create = v1::CreatePoolRequest {
            name: "new".to_owned(),
            capacity_bytes: MIB,
            ..Default::default()
        };
        change(&mut create);
        call!(self.rpc, pools.create(create)).map(|_| ())
    }

    fn create_arenas(
        &self,
        change: impl FnOnce(&mut v1::CreateArenaPoolRequest),
    ) -> Result<(), ErrorDetail> {
        let mut create = v1::CreateArenaPoolRequest {
            name: "new".to_owned(),
            arenas: 1,
            arena_bytes: 4096,
            ..Default::default()
        };
        change(&mut create);
        call!(self.rpc, arenas.create(create)).map(|_| ())
    }

    fn alloc(&self, spec: v1::BlockSpec) -> Result<(), ErrorDetail> {
        let alloc = v1::AllocRequest {
            pool_id: self.pool_id,
            spec: Some(spec),
            request_id: 0,
        };
        call!(self.rpc, pools.alloc(alloc)).map(|_| ())
    }
}

/// Looks at calls that must have been refused.
struct Refused<'a> {
    scene: &'a Scene,
    before: State,
}

impl Refused<'_> {
    fn is<T: std::fmt::Debug>(&self, what: &str, reason: Reason, outcome: Result<T, ErrorDetail>) {
        let error = outcome.expect_err(what);
        assert_eq!(error.reason, reason, "{what}: {error}");
        assert!(
            !error.message.is_empty() && !error.message.ends_with('.'),
            "{error}"
        );
        assert_eq!(
            self.scene.state(),
            self.before,
            "{what} has changed something"
        );
    }
}

/// A block of so many bytes.
fn sized(size_bytes: u64) -> v1::BlockSpec {
    v1::BlockSpec {
        size_bytes,
        ..Default::default()
    }
}

fn on(handle: v1::Handle) -> v1::HandleRequest {
    v1::HandleRequest {
        handle: Some(handle),
        request_id: 0,
    }
}

#[test]
fn pools_that_differ_from_what_was_expected_are_not_opened() {
    let scene = Scene::new();
    let open = |name: &str, expect_capacity_bytes| {
        let open = v1::OpenPoolRequest {
            name: name.to_owned(),
            expect_capacity_bytes,
            ..Default::default()
        };
        call!(scene.rpc, pools.open(open)).map(|_| ())
    };
    let or_create = |capacity_bytes, backing: v1::Backing| {
        let create = v1::CreatePoolRequest {
            name: "p".to_owned(),
            capacity_bytes,
            backing: backing.into(),
            ..Default::default()
        };
        call!(scene.rpc, pools.open_or_create(create)).map(|_| ())
    };
    let arenas = |expect_arenas, expect_arena_bytes| {
        let open = v1::OpenArenaPoolRequest {
            name: "q".to_owned(),
            expect_arenas,
            expect_arena_bytes,
            ..Default::default()
        };
        call!(scene.rpc, arenas.open(open)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is(
            "another capacity",
            Reason::GeometryMismatch,
            open("p", 4 * MIB),
        );
        refused.is("no such pool", Reason::PoolNotFound, open("none", 0));
        refused.is("arenas as blocks", Reason::PoolNotFound, open("q", 0));
        refused.is(
            "another capacity, or create",
            Reason::GeometryMismatch,
            or_create(4 * MIB, v1::Backing::Unspecified),
        );
        refused.is(
            "another backing, or create",
            Reason::GeometryMismatch,
            or_create(8 * MIB, v1::Backing::Named),
        );
        refused.is(
            "another number of arenas",
            Reason::GeometryMismatch,
            arenas(3, 0),
        );
        refused.is(
            "another size of arenas",
            Reason::GeometryMismatch,
            arenas(0, 8192),
        );
    });
    assert_eq!(open("p", 8 * MIB), Ok(()));
    assert_eq!(open("p", 8 * MIB - 100), Ok(()), "as the daemon rounds it");
    assert_eq!(or_create(8 * MIB, v1::Backing::Memfd), Ok(()));
    assert_eq!(arenas(2, 4096), Ok(()));
}

#[test]
fn library_says_the_same_as_the_daemon() {
    let daemon = TestDaemon::start();
    let client = daemon.client();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let other = client.create_pool("other", PoolOptions::new(MIB)).unwrap();
    let reason = |error: goumem::Error| error.reason();
    let create = |name: &str| client.create_pool(name, PoolOptions::new(MIB)).unwrap_err();
    assert_eq!(reason(create("p")), Some(Reason::PoolExists));
    assert_eq!(reason(create("no/name")), Some(Reason::InvalidField));
    let error = client.create_pool("zero", PoolOptions::new(0)).unwrap_err();
    assert_eq!(reason(error), Some(Reason::InvalidField));
    assert_eq!(
        reason(client.open_pool("none").unwrap_err()),
        Some(Reason::PoolNotFound)
    );
    assert_eq!(
        reason(client.destroy_pool("none").unwrap_err()),
        Some(Reason::PoolNotFound)
    );
    assert_eq!(
        reason(pool.lookup("none").unwrap_err()),
        Some(Reason::NameNotFound)
    );

    let shared = pool.alloc_value(1u64).unwrap().share().unwrap();
    let handle = shared.handle();
    let error = other.resolve::<u64>(handle).unwrap_err();
    assert_eq!(reason(error), Some(Reason::WrongPool));
    assert_eq!(
        reason(other.free(handle).unwrap_err()),
        Some(Reason::WrongPool)
    );
    let error = pool.alloc_slice::<u64>(0).unwrap_err();
    assert_eq!(reason(error), Some(Reason::InvalidField));
    let error = pool.alloc_bytes(8, 3).unwrap_err();
    assert_eq!(reason(error), Some(Reason::InvalidField));
    let error = pool.alloc_slice::<u64>(1 << 60).unwrap_err();
    assert_eq!(reason(error), Some(Reason::InvalidField));
    let error = pool.alloc_slice::<u64>(1 << 18).unwrap_err();
    assert_eq!(reason(error), Some(Reason::PoolExhausted));
    pool.free(handle).unwrap();
    assert_eq!(
        reason(pool.free(handle).unwrap_err()),
        Some(Reason::DoubleFree)
    );
    assert_eq!(
        reason(pool.resolve::<u64>(handle).unwrap_err()),
        Some(Reason::StaleHandle)
    );
    assert_eq!(
        reason(pool.pin(handle).unwrap_err()),
        Some(Reason::StaleHandle)
    );
    assert_eq!(
        reason(pool.keep(handle).unwrap_err()),
        Some(Reason::StaleHandle)
    );
    assert_eq!(pool.stat().unwrap().blocks, 0);
}
