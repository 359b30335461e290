//! The core without its edge: several callers in one process, each with its own session, and the
//! time as an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::{Handle, PoolId, SizeClass, TypeTag};
use goumem_proto::model::{
    Access, Alloc, AttachArena, Backing, BlockSpec, CreateArenaPool, CreatePool, DestroyPool,
    DetachArena, Free, GetArena, HandleRequest, Lease, Lookup, OpenPool, OpenSession, PoolStat,
    Publish, PurgePool, Realloc, RequestId, ReturnArena, ReturnSpans, SetCapacity, ShareArena,
    SpanInfo, SpanSpec, StatPool, Unmap, Withdraw,
};
use goumem_proto::name::{ArenaName, BlockName, Label, PoolName};
use goumem_proto::reason::Reason;
use goumem_shm::os::peer::PidFd;
use goumem_shm::os::reaper::DeathWatch;
use proptest::prelude::*;
use tokio::sync::Notify;

use super::Core;
use crate::arena_pool::Waited;
use crate::config::Config;
use crate::error::Error;
use crate::session::Caller;

const MIB: u64 = 1 << 20;

/// A core on a directory of its own.
struct Daemon {
    core: Core,
    now: Instant,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |_| {})
    }

    fn start_with(change: impl FnOnce(&mut crate::config::Limits)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change)
    }

    fn start_in(
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut crate::config::Limits),
    ) -> Self {
        let mut limits = Config::private(dir.path()).limits;
        change(&mut limits);
        let watch = Arc::new(DeathWatch::new().unwrap());
        let now = Instant::now();
        let core = Core::new(limits, None, watch, Arc::new(Notify::new()), now);
        Self { core, now, dir }
    }

    /// Ends this daemon and starts another on the same directory.
    fn restart(self) -> Self {
        let Self { core, dir, .. } = self;
        drop(core);
        Self::start_in(dir, |_| {})
    }

    /// A caller with a session. Its process is this one, which the tests never see die: they say
    /// that a session has died.
    fn caller(&self, uid: u32) -> Caller {
        let pidfd = Arc::new(PidFd::open(std::process::id()).unwrap());
        self.caller_of(Caller {
            uid,
            gid: uid,
            pid: std::process::id(),
            local: true,
            pidfd: Some(pidfd),
            session: None,
        })
    }

    /// The same caller with a new session.
    fn caller_of(&self, anonymous: Caller) -> Caller {
        let open = OpenSession { label: Label::default(), ttl: Duration::from_secs(30) };
        let opened = self.core.open_session(&anonymous, open, self.now).unwrap();
        let session = self.core.sessions().by_token(&opened.token).unwrap();
        Caller { session: Some(session), ..anonymous }
    }

    fn die(&self, caller: &Caller) {
        self.core.session_died(caller.session.as_ref().unwrap().serial, self.now);
    }

    fn pool(&self, caller: &Caller, name: &str, capacity_bytes: u64) -> PoolId {
        self.core.create_pool(caller, create(name, capacity_bytes), self.now).unwrap().pool.pool_id
    }

    fn alloc(&self, caller: &Caller, pool: PoolId, size_bytes: u64) -> Result<Handle, Error> {
        let spec = BlockSpec::new(size_bytes);
        let request = Alloc { pool_id: pool, spec, request_id: RequestId::NONE };
        Ok(self.core.alloc(caller, request, self.now)?.block.handle)
    }

    fn free(&self, caller: &Caller, handle: Handle) -> Result<(), Error> {
        self.core.free(caller, Free { handle, request_id: RequestId::NONE }, self.now)
    }

    fn stat(&self, caller: &Caller, name: &str) -> PoolStat {
        let name = PoolName::try_from(name).unwrap();
        self.core.stat_pool(caller, StatPool { name }, self.now).unwrap()
    }

    fn lease(
        &self,
        caller: &Caller,
        pool_id: PoolId,
        class: SizeClass,
    ) -> Result<Vec<SpanInfo>, Error> {
        let spec = SpanSpec::Class(class);
        let request = Lease { pool_id, spec, count: 1, request_id: RequestId::NONE };
        self.core.lease(caller, request, self.now)
    }
}

fn create(name: &str, capacity_bytes: u64) -> CreatePool {
    CreatePool {
        name: PoolName::try_from(name).unwrap(),
        capacity_bytes,
        max_capacity_bytes: None,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    }
}

fn about(handle: Handle) -> HandleRequest {
    HandleRequest { handle, request_id: RequestId::NONE }
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Reason {
    outcome.unwrap_err().reason()
}

#[test]
fn a_block_is_zeroed_readable_writable_and_stale_once_freed() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let first = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.core.write_bytes(&alice, first, 0, &[7; 100]).unwrap();
    daemon.free(&alice, first).unwrap();
    assert_eq!(reason(daemon.free(&alice, first)), Reason::DoubleFree);
    let second = daemon.alloc(&alice, pool, 100).unwrap();
    let mut bytes = [1u8; 100];
    daemon.core.read_bytes(&alice, second, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100], "what the last owner wrote is not seen");
    assert_eq!(
        reason(daemon.core.read_bytes(&alice, first, 0, &mut bytes)),
        Reason::StaleHandle
    );
    assert_eq!(
        reason(daemon.core.write_bytes(&alice, second, 90, &[0; 11])),
        Reason::OutOfRange
    );
}

#[test]
fn a_retried_call_happens_once_and_an_old_one_is_expired() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let call = |id: u64| {
        let request_id = RequestId::new(id);
        let request = Alloc { pool_id: pool, spec: BlockSpec::new(64), request_id };
        daemon.core.alloc(&alice, request, daemon.now).map(|allocated| allocated.block.handle)
    };
    let first = call(1).unwrap();
    assert_eq!(call(1).unwrap(), first);
    assert_eq!(daemon.stat(&alice, "p").blocks, 1);
    assert_ne!(call(2000).unwrap(), first);
    assert_eq!(reason(call(1)), Reason::RequestExpired);
    let other_kind = Free { handle: first, request_id: RequestId::new(2000) };
    assert_eq!(reason(daemon.core.free(&alice, other_kind, daemon.now)), Reason::RequestExpired);
}

#[test]
fn a_full_pool_says_how_full_and_who_and_stays_as_it_was() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let _kept = daemon.alloc(&alice, pool, 600 << 10).unwrap();
    let before = daemon.stat(&alice, "p");
    let error = daemon.alloc(&alice, pool, 600 << 10).unwrap_err();
    let Error::PoolExhausted { requested_bytes, largest_free_bytes, capacity_bytes, .. } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((requested_bytes, capacity_bytes), (600 << 10, MIB));
    assert!(largest_free_bytes > 0 && largest_free_bytes < 600 << 10, "{largest_free_bytes}");
    assert_eq!(daemon.stat(&alice, "p"), before);
    assert!(daemon.alloc(&alice, pool, largest_free_bytes).is_ok(), "what it says is to be had");
}

#[test]
fn capacity_is_given_back_to_whoever_asks_next_whatever_the_class() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 64 << 10);
    for size in [16, 4096, 60 << 10, 100, 64 << 10] {
        let handle = daemon.alloc(&alice, pool, size).unwrap_or_else(|e| panic!("{size}: {e}"));
        daemon.free(&alice, handle).unwrap();
    }
}

#[test]
fn one_connection_may_have_several_sessions_each_told_of_its_death() {
    let daemon = Daemon::start();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pidfd = Some(Arc::new(PidFd::open(child.id()).unwrap()));
    let alice = daemon.caller_of(Caller { pidfd, ..daemon.caller(1000) });
    let bob = daemon.caller_of(alice.clone());
    let [first, second] = [&alice, &bob].map(|caller| caller.session.as_ref().unwrap().serial);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut dead = Vec::new();
    while dead.len() < 2 {
        let more = daemon.core.watch.wait(Some(Duration::from_secs(10))).unwrap();
        assert!(!more.is_empty(), "only {dead:?} reported within ten seconds");
        dead.extend(more);
    }
    dead.sort_unstable();
    assert_eq!(dead, [first, second]);
}

#[test]
fn everything_a_dead_session_held_comes_back_and_what_is_kept_stays() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", 8 * MIB);
    let baseline = daemon.stat(&bob, "p");
    for size in [16, 1000, 80_000, 2 * MIB] {
        daemon.alloc(&alice, pool, size).unwrap();
    }
    let named = daemon.alloc(&alice, pool, 500).unwrap();
    daemon.core.write_bytes(&alice, named, 0, b"stays").unwrap();
    let publish = Publish {
        handle: named,
        name: BlockName::try_from("answer").unwrap(),
        replace: false,
        request_id: RequestId::NONE,
    };
    daemon.core.publish(&alice, publish, daemon.now).unwrap();
    let pinned = daemon.alloc(&bob, pool, 64).unwrap();
    daemon.core.pin(&alice, about(pinned), daemon.now).unwrap();
    daemon.lease(&alice, pool, SizeClass::from_index(3).unwrap()).unwrap();

    daemon.die(&alice);

    let stat = daemon.stat(&bob, "p");
    assert_eq!((stat.blocks, stat.kept_blocks, stat.named_blocks, stat.pins), (2, 1, 1, 0));
    assert_eq!(reason(daemon.alloc(&alice, pool, 16)), Reason::SessionExpired);
    let lookup = Lookup { pool_id: pool, name: BlockName::try_from("answer").unwrap() };
    let found = daemon.core.lookup(&bob, lookup.clone(), daemon.now).unwrap();
    let mut bytes = [0; 5];
    daemon.core.read_bytes(&bob, found.handle, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"stays");
    daemon.free(&bob, found.handle).unwrap();
    daemon.free(&bob, pinned).unwrap();
    assert_eq!(reason(daemon.core.lookup(&bob, lookup, daemon.now)), Reason::NameNotFound);
    let purge = PurgePool { name: PoolName::try_from("p").unwrap() };
    daemon.core.purge_pool(&bob, purge, daemon.now).unwrap();
    let after = daemon.stat(&bob, "p");
    assert_eq!(
        (after.committed_bytes, after.leased_bytes),
        (baseline.committed_bytes, baseline.leased_bytes)
    );
}

#[test]
fn a_pinned_block_keeps_its_bytes_after_a_free_until_the_last_unpin() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let block = daemon.alloc(&alice, pool, 64).unwrap();
    daemon.core.pin(&bob, about(block), daemon.now).unwrap();
    daemon.core.pin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(
        reason(daemon.core.take(&alice, about(block), daemon.now)),
        Reason::BlockPinned,
        "a pinned block is nobody's alone"
    );
    daemon.free(&alice, block).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 1);
    assert_eq!(reason(daemon.core.resolve(&bob, about(block), daemon.now)), Reason::StaleHandle);
    daemon.core.unpin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 1);
    daemon.core.unpin(&bob, about(block), daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").condemned_blocks, 0);
    assert_eq!(reason(daemon.core.unpin(&bob, about(block), daemon.now)), Reason::StaleHandle);
}

#[test]
fn a_lease_is_returned_once_in_its_own_epoch_by_its_own_session() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let class = SizeClass::from_index(0).unwrap();
    let spans = daemon.lease(&alice, pool, class).unwrap();
    let give_back = |caller: &Caller, spans: Vec<SpanInfo>| {
        let request = ReturnSpans { pool_id: pool, spans, request_id: RequestId::NONE };
        daemon.core.return_spans(caller, request, daemon.now)
    };
    assert_eq!(reason(give_back(&bob, spans.clone())), Reason::StaleLease);
    let mut late = spans.clone();
    late[0].epoch += 1;
    assert_eq!(reason(give_back(&alice, late)), Reason::StaleLease);
    assert_eq!(give_back(&alice, spans.clone()).unwrap().returned, 1);
    assert_eq!(reason(give_back(&alice, spans)), Reason::StaleLease);
}

#[test]
fn quotas_are_per_user_and_over_all_pools() {
    let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(MIB));
    let (alice, bob) = (daemon.caller(1000), daemon.caller(0));
    let (p, q) = (daemon.pool(&alice, "p", 8 * MIB), daemon.pool(&alice, "q", 8 * MIB));
    let first = daemon.alloc(&alice, p, 500_000).unwrap();
    assert!(daemon.alloc(&alice, q, 400_000).is_ok());
    assert_eq!(reason(daemon.alloc(&alice, q, 400_000)), Reason::QuotaExceeded);
    assert!(daemon.alloc(&bob, p, 400_000).is_ok(), "another user has its own");
    daemon.core.keep(&alice, about(first), daemon.now).unwrap();
    daemon.die(&alice);
    let again = daemon.caller(1000);
    assert!(daemon.alloc(&again, q, 300_000).is_ok());
    assert_eq!(
        reason(daemon.alloc(&again, q, 300_000)),
        Reason::QuotaExceeded,
        "what is kept counts"
    );
}

#[test]
fn the_budget_is_checked_before_a_commit_and_nothing_changes() {
    let daemon = Daemon::start_with(|limits| limits.budget_bytes = Some(2 * MIB));
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 64 * MIB);
    let before = daemon.stat(&alice, "p");
    let error = daemon.alloc(&alice, pool, 4 * MIB).unwrap_err();
    let Error::BudgetExhausted { requested_bytes, limit_bytes, .. } = error else {
        panic!("{error:?}")
    };
    assert!(requested_bytes >= 4 * MIB && limit_bytes == 2 * MIB);
    let after = daemon.stat(&alice, "p");
    assert_eq!((after.committed_bytes, after.blocks), (before.committed_bytes, 0));
    assert!(daemon.alloc(&alice, pool, MIB / 2).is_ok());
}

#[test]
fn realloc_keeps_the_contents_and_zeroes_what_is_new() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 8 * MIB);
    let block = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.core.write_bytes(&alice, block, 0, &[9; 100]).unwrap();
    let realloc = |handle, size_bytes| {
        let request = Realloc { handle, size_bytes, request_id: RequestId::NONE };
        daemon.core.realloc(&alice, request, daemon.now).unwrap().block
    };
    let same = realloc(block, 110);
    assert_eq!(same.handle, block, "it stays in its class");
    let grown = realloc(block, 2 * MIB);
    let mut bytes = vec![1; 2 << 20];
    daemon.core.read_bytes(&alice, grown.handle, 0, &mut bytes).unwrap();
    assert!(bytes[..100].iter().all(|&b| b == 9) && bytes[100..].iter().all(|&b| b == 0));
    assert_eq!(reason(daemon.core.resolve(&alice, about(block), daemon.now)), Reason::StaleHandle);
    let shrunk = realloc(grown.handle, 50);
    assert_eq!(shrunk.size_bytes, 50);
    assert_eq!(daemon.stat(&alice, "p").blocks, 1);
}

#[test]
fn capacity_changes_in_use_but_not_below_what_is_granted() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", MIB);
    let _block = daemon.alloc(&alice, pool, 500_000).unwrap();
    let set = |capacity_bytes| {
        let name = PoolName::try_from("p").unwrap();
        daemon.core.set_capacity(&alice, SetCapacity { name, capacity_bytes }, daemon.now)
    };
    assert_eq!(reason(set(64 << 10)), Reason::CapacityTooSmall);
    assert_eq!(reason(set(3 * MIB)), Reason::CapacityTooLarge);
    assert_eq!(set(2 * MIB).unwrap().pool.capacity_bytes, 2 * MIB);
    assert!(daemon.alloc(&alice, pool, MIB).is_ok());
}

#[test]
fn a_destroyed_pool_goes_with_its_last_mapper() {
    let daemon = Daemon::start();
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1000));
    let pool = daemon.pool(&alice, "p", MIB);
    let session = bob.session.clone().unwrap();
    let _fds = daemon.core.map_request(&session, pool, Access::ReadWrite).unwrap();
    let destroy = || DestroyPool {
        name: PoolName::try_from("p").unwrap(),
        request_id: RequestId::NONE,
    };
    let stranger = daemon.caller(1001);
    assert_eq!(
        reason(daemon.core.destroy_pool(&stranger, destroy(), daemon.now)),
        Reason::PermissionDenied
    );
    daemon.core.destroy_pool(&alice, destroy(), daemon.now).unwrap();
    let open = OpenPool {
        name: PoolName::try_from("p").unwrap(),
        access: Access::ReadWrite,
        expect_capacity_bytes: None,
    };
    assert_eq!(reason(daemon.core.open_pool(&alice, open, daemon.now)), Reason::PoolNotFound);
    assert_eq!(reason(daemon.alloc(&alice, pool, 16)), Reason::PoolDestroyed);
    daemon.pool(&alice, "p", MIB);
    let _twice = daemon.core.map_request(&session, pool, Access::ReadOnly);
    let unmap = Unmap { pool_id: pool };
    daemon.core.unmap(&alice, unmap, daemon.now).unwrap();
    assert_eq!(reason(daemon.alloc(&alice, pool, 16)), Reason::PoolDestroyed, "bob maps it");
    daemon.core.unmap(&bob, unmap, daemon.now).unwrap();
    assert_eq!(reason(daemon.alloc(&alice, pool, 16)), Reason::PoolNotFound);
    assert_eq!(daemon.core.info(&alice, daemon.now).unwrap().pools, 1);
}

#[test]
fn a_file_backed_pool_survives_with_what_was_kept_and_nothing_else() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool { backing: Some(Backing::File), ..create("p", 4 * MIB) };
    let pool = daemon.core.create_pool(&alice, request, daemon.now).unwrap().pool.pool_id;
    let shared = daemon.alloc(&alice, pool, 300).unwrap();
    let kept = daemon.alloc(&alice, pool, 70_000).unwrap();
    let named = daemon.alloc(&alice, pool, 2 * MIB).unwrap();
    daemon.core.write_bytes(&alice, kept, 0, b"kept").unwrap();
    daemon.core.write_bytes(&alice, named, 0, b"named").unwrap();
    daemon.core.keep(&alice, about(kept), daemon.now).unwrap();
    let publish = Publish {
        handle: named,
        name: BlockName::try_from("n").unwrap(),
        replace: false,
        request_id: RequestId::NONE,
    };
    daemon.core.publish(&alice, publish, daemon.now).unwrap();

    let daemon = daemon.restart();
    let alice = daemon.caller(1000);
    let stat = daemon.stat(&alice, "p");
    assert_eq!((stat.blocks, stat.kept_blocks, stat.named_blocks), (2, 2, 1));
    assert_eq!(stat.pool.pool_id, pool, "handles stay good");
    let mut bytes = [0; 4];
    daemon.core.read_bytes(&alice, kept, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    let lookup = Lookup { pool_id: pool, name: BlockName::try_from("n").unwrap() };
    assert_eq!(daemon.core.lookup(&alice, lookup, daemon.now).unwrap().handle, named);
    assert_eq!(
        reason(daemon.core.resolve(&alice, about(shared), daemon.now)),
        Reason::StaleHandle
    );
    let new = daemon.alloc(&alice, pool, 300).unwrap();
    assert_ne!(new, shared, "a handle from before is not given again");
    let withdraw = Withdraw {
        pool_id: pool,
        name: BlockName::try_from("n").unwrap(),
        free: true,
        request_id: RequestId::NONE,
    };
    daemon.core.withdraw(&alice, withdraw, daemon.now).unwrap();
    assert_eq!(daemon.stat(&alice, "p").named_blocks, 0);
}

#[test]
fn a_spoilt_file_is_left_alone_and_the_rest_is_served() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    for name in ["good", "bad", "short"] {
        let request = CreatePool { backing: Some(Backing::File), ..create(name, MIB) };
        daemon.core.create_pool(&alice, request, daemon.now).unwrap();
    }
    let data = daemon.dir.path().join("data");
    let bad = data.join("bad.control.goumem");
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[8..12].fill(0xff);
    std::fs::write(&bad, &bytes).unwrap();
    let short = std::fs::File::options().write(true).open(data.join("short.data.goumem")).unwrap();
    short.set_len(8192).unwrap();

    let daemon = daemon.restart();
    let alice = daemon.caller(1000);
    let pools = daemon.core.list_pools(&alice).unwrap();
    let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    assert_eq!(std::fs::read(&bad).unwrap(), bytes, "the file is untouched");
}

#[test]
fn waiters_get_arenas_in_order_and_a_dead_one_gets_none() {
    let daemon = Daemon::start();
    let [alice, bob, carol, dave] = [0; 4].map(|_| daemon.caller(1000));
    let request = CreateArenaPool {
        name: PoolName::try_from("a").unwrap(),
        arenas: 1,
        arena_bytes: 1000,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    };
    let pool_id = daemon.core.create_arena_pool(&alice, request, daemon.now).unwrap().pool.pool_id;
    let get = |caller: &Caller, wait: Duration| {
        let request = GetArena { pool_id, request_id: RequestId::NONE, wait };
        daemon.core.get_arena(caller, request, daemon.now)
    };
    let Waited::Now(first) = get(&alice, Duration::ZERO).unwrap() else { panic!() };
    assert_eq!(reason(get(&bob, Duration::ZERO)), Reason::NoFreeArena);
    let wait = Duration::from_secs(60);
    let [mut dead, mut bobs, mut daves] = [&carol, &bob, &dave].map(|caller| {
        let Waited::Queued(_, receiver) = get(caller, wait).unwrap() else { panic!() };
        receiver
    });
    daemon.die(&carol);
    assert!(dead.try_recv().is_err());
    let give_back = ReturnArena { arena: first.arena, request_id: RequestId::NONE };
    assert_eq!(reason(daemon.core.return_arena(&bob, give_back, daemon.now)), Reason::NotOwner);
    daemon.core.return_arena(&alice, give_back, daemon.now).unwrap();
    let second = bobs.try_recv().unwrap().accept();
    assert_ne!(second.arena, first.arena, "another life of it");
    assert_eq!(
        reason(daemon.core.return_arena(&alice, give_back, daemon.now)),
        Reason::StaleHandle
    );
    assert!(daves.try_recv().is_err());
    // Bob dies with the arena: it goes to the next in line, who does not take it.
    daemon.die(&bob);
    drop(daves.try_recv().unwrap());
    assert!(matches!(get(&alice, Duration::ZERO), Ok(Waited::Now(_))));
}

#[test]
fn a_named_arena_is_freed_by_its_last_holder_or_its_death() {
    let daemon = Daemon::start();
    let [alice, bob] = [0; 2].map(|_| daemon.caller(1000));
    let request = CreateArenaPool {
        name: PoolName::try_from("a").unwrap(),
        arenas: 2,
        arena_bytes: 4096,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id: RequestId::NONE,
    };
    let pool_id = daemon.core.create_arena_pool(&alice, request, daemon.now).unwrap().pool.pool_id;
    let request = GetArena { pool_id, request_id: RequestId::NONE, wait: Duration::ZERO };
    let Waited::Now(arena) = daemon.core.get_arena(&alice, request, daemon.now).unwrap() else {
        panic!()
    };
    let name = ArenaName::try_from("batch/17").unwrap();
    let id = RequestId::NONE;
    let share = ShareArena { arena: arena.arena, name: name.clone(), request_id: id };
    daemon.core.share_arena(&alice, share, daemon.now).unwrap();
    let attach = AttachArena { pool_id, name, access: Access::ReadWrite, request_id: id };
    daemon.core.attach_arena(&bob, attach.clone(), daemon.now).unwrap();
    daemon.die(&alice);
    daemon.core.write_bytes(&bob, arena.arena, 0, b"here").unwrap();
    let detach = DetachArena { arena: arena.arena, request_id: id };
    assert!(daemon.core.detach_arena(&bob, detach, daemon.now).unwrap().returned);
    assert_eq!(
        reason(daemon.core.attach_arena(&bob, attach, daemon.now)),
        Reason::NameNotFound
    );
    let stat = StatPool { name: PoolName::try_from("a").unwrap() };
    let stat = daemon.core.stat_arena_pool(&bob, stat, daemon.now).unwrap();
    assert_eq!((stat.free, stat.named, stat.exclusive), (2, 0, 0));
}

#[test]
fn an_untyped_or_typed_block_says_its_type() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool_id = daemon.pool(&alice, "p", MIB);
    let spec = BlockSpec { type_tag: TypeTag::new(12).unwrap(), ..BlockSpec::new(8) };
    let request = Alloc { pool_id, spec, request_id: RequestId::NONE };
    let block = daemon.core.alloc(&alice, request, daemon.now).unwrap().block;
    let found = daemon.core.resolve(&alice, about(block.handle), daemon.now).unwrap();
    assert_eq!(found, block);
}

/// What the shadow model knows of a block.
#[derive(Debug, Clone, Copy)]
struct Known {
    owner: usize,
    kept: bool,
    size: u64,
}

#[derive(Debug, Clone)]
enum Op {
    Alloc { who: usize, size: u64 },
    Free { who: usize, which: usize },
    Keep { which: usize },
    Take { who: usize, which: usize },
    Adopt { who: usize, which: usize },
    Lease { who: usize, class: u8 },
    Return { which: usize },
    Die { who: usize },
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..3usize;
    let which = 0..1000usize;
    let size = prop_oneof![1..300u64, 300..70_000u64, 70_000..1_500_000u64];
    prop_oneof![
        8 => (who.clone(), size).prop_map(|(who, size)| Op::Alloc { who, size }),
        6 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Free { who, which }),
        1 => which.clone().prop_map(|which| Op::Keep { which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Take { who, which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Adopt { who, which }),
        2 => (who.clone(), 0..85u8).prop_map(|(who, class)| Op::Lease { who, class }),
        1 => which.prop_map(|which| Op::Return { which }),
        1 => who.prop_map(|who| Op::Die { who }),
        1 => Just(Op::Purge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// At every step: no two blocks overlap, the sums hold, stale handles are refused, and what
    /// the model says is alive is alive.
    #[test]
    fn a_pool_agrees_with_its_model_and_conserves_every_byte(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        let daemon = Daemon::start();
        let mut who: Vec<Caller> = (0..3).map(|_| daemon.caller(1000)).collect();
        let watcher = daemon.caller(1000);
        let pool = daemon.pool(&watcher, "p", 6 * MIB);
        let mut live: BTreeMap<Handle, Known> = BTreeMap::new();
        let mut gone: Vec<Handle> = Vec::new();
        let mut leases: Vec<(usize, SpanInfo)> = Vec::new();
        for op in ops {
            let pick = |which: usize, live: &BTreeMap<Handle, Known>| {
                (!live.is_empty()).then(|| *live.keys().nth(which % live.len()).unwrap())
            };
            match op {
                Op::Alloc { who: w, size } => match daemon.alloc(&who[w], pool, size) {
                    Ok(handle) => {
                        prop_assert!(!live.contains_key(&handle) && !gone.contains(&handle));
                        live.insert(handle, Known { owner: w, kept: false, size });
                    }
                    Err(error) => prop_assert_eq!(error.reason(), Reason::PoolExhausted),
                },
                Op::Free { who: w, which } => {
                    if let Some(handle) = pick(which, &live) {
                        daemon.free(&who[w], handle).unwrap();
                        live.remove(&handle);
                        gone.push(handle);
                    }
                }
                Op::Keep { which } => {
                    if let Some(handle) = pick(which, &live) {
                        let known = live.get_mut(&handle).unwrap();
                        daemon.core.keep(&who[known.owner], about(handle), daemon.now).unwrap();
                        known.kept = true;
                    }
                }
                Op::Take { who: w, which } => {
                    if let Some(handle) = pick(which, &live) {
                        let taken = daemon.core.take(&who[w], about(handle), daemon.now).unwrap();
                        let known = live.remove(&handle).unwrap();
                        gone.push(handle);
                        live.insert(taken.handle, Known { owner: w, kept: false, ..known });
                    }
                }
                Op::Adopt { who: w, which } => {
                    if let Some(handle) = pick(which, &live) {
                        daemon.core.adopt(&who[w], about(handle), daemon.now).unwrap();
                        let known = live.get_mut(&handle).unwrap();
                        (known.owner, known.kept) = (w, false);
                    }
                }
                Op::Lease { who: w, class } => {
                    let class = SizeClass::from_index(class).unwrap();
                    match daemon.lease(&who[w], pool, class) {
                        Ok(spans) => leases.extend(spans.into_iter().map(|span| (w, span))),
                        Err(error) => prop_assert_eq!(error.reason(), Reason::PoolExhausted),
                    }
                }
                Op::Return { which } if !leases.is_empty() => {
                    let (w, span) = leases.swap_remove(which % leases.len());
                    let request = ReturnSpans {
                        pool_id: pool, spans: vec![span], request_id: RequestId::NONE,
                    };
                    let outcome = daemon.core.return_spans(&who[w], request, daemon.now);
                    // A span that came with survivors may still hold them.
                    if let Err(error) = outcome {
                        prop_assert!(span.survivors && error.reason() == Reason::SpanInUse);
                        leases.push((w, span));
                    }
                }
                Op::Return { .. } => {}
                Op::Die { who: w } => {
                    daemon.die(&who[w]);
                    who[w] = daemon.caller(1000);
                    leases.retain(|(owner, _)| *owner != w);
                    let dead: Vec<Handle> = live
                        .iter()
                        .filter(|(_, known)| known.owner == w && !known.kept)
                        .map(|(&handle, _)| handle)
                        .collect();
                    for handle in dead {
                        live.remove(&handle);
                        gone.push(handle);
                    }
                }
                Op::Purge => {
                    let name = PoolName::try_from("p").unwrap();
                    daemon.core.purge_pool(&watcher, PurgePool { name }, daemon.now).unwrap();
                }
            }
            let stat = daemon.stat(&watcher, "p");
            daemon.core.registry().by_id(pool).map(|any| match any {
                super::AnyPool::Blocks(pool) => pool.check(),
                super::AnyPool::Arenas(_) => unreachable!("it was made with blocks"),
            }).unwrap();
            prop_assert_eq!(stat.blocks, live.len() as u64);
            prop_assert_eq!(stat.requested_bytes, live.values().map(|k| k.size).sum::<u64>());
            prop_assert!(stat.requested_bytes <= stat.used_bytes);
            prop_assert!(stat.used_bytes <= stat.leased_bytes + stat.abandoned_bytes);
            prop_assert_eq!(
                stat.leased_bytes + stat.abandoned_bytes + stat.free_committed_bytes,
                stat.committed_bytes
            );
            prop_assert!(stat.leased_bytes + stat.abandoned_bytes <= stat.pool.capacity_bytes);
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            for (handle, known) in &live {
                let info = daemon.core.resolve(&watcher, about(*handle), daemon.now).unwrap();
                prop_assert_eq!(info.size_bytes, known.size);
                ranges.push((handle.offset().get(), handle.offset().get() + known.size));
            }
            ranges.sort_unstable();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no overlap");
            for handle in &gone {
                let outcome = daemon.core.resolve(&watcher, about(*handle), daemon.now);
                prop_assert_eq!(reason(outcome), Reason::StaleHandle);
            }
        }
    }
}
