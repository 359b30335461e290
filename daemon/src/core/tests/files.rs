//! File-backed pools over a restart.

use super::*;

#[test]
fn a_file_backed_pool_survives_with_what_was_kept_and_nothing_else() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool {
        backing: Some(Backing::File),
        ..create("p", 4 * MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
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
    assert_eq!(
        (stat.blocks, stat.kept_blocks, stat.named_blocks),
        (2, 2, 1)
    );
    assert_eq!(stat.pool.pool_id, pool, "handles stay good");
    let mut bytes = [0; 4];
    daemon.core.read_bytes(&alice, kept, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    let lookup = Lookup {
        pool_id: pool,
        name: BlockName::try_from("n").unwrap(),
    };
    assert_eq!(
        daemon
            .core
            .lookup(&alice, lookup, daemon.now)
            .unwrap()
            .handle,
        named
    );
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
        let request = CreatePool {
            backing: Some(Backing::File),
            ..create(name, MIB)
        };
        daemon
            .core
            .create_pool(&alice, request, daemon.now)
            .unwrap();
    }
    let data = daemon.dir.path().join("data");
    let bad = data.join("bad.control.goumem");
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[8..12].fill(0xff);
    std::fs::write(&bad, &bytes).unwrap();
    let short = std::fs::File::options()
        .write(true)
        .open(data.join("short.data.goumem"))
        .unwrap();
    short.set_len(8192).unwrap();

    let daemon = daemon.restart();
    let alice = daemon.caller(1000);
    let pools = daemon.core.list_pools(&alice).unwrap();
    let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    assert_eq!(std::fs::read(&bad).unwrap(), bytes, "the file is untouched");
}

#[test]
fn a_head_inside_of_another_span_is_not_believed() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool {
        backing: Some(Backing::File),
        ..create("p", 4 * MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap()
        .pool
        .pool_id;
    let outer = daemon.alloc(&alice, pool, 2 * MIB).unwrap();
    let other = daemon.alloc(&alice, pool, 100).unwrap();
    daemon.core.keep(&alice, about(outer), daemon.now).unwrap();
    daemon.core.keep(&alice, about(other), daemon.now).unwrap();
    let geometry = daemon.block_pool(pool).geometry().clone();
    let page_of = |handle: Handle| geometry.page_of(handle.offset()).unwrap();
    let inside = goumem_alloc::PageIndex::new(page_of(outer).get() + 3);
    let path = daemon.dir.path().join("data/p.control.goumem");
    let mut bytes = std::fs::read(&path).unwrap();
    let entry = |page| usize::try_from(geometry.entry_offset(page)).unwrap();
    let head = entry(page_of(other));
    bytes.copy_within(head..head + 8, entry(inside));

    drop(daemon.core);
    std::fs::write(&path, &bytes).unwrap();
    let daemon = Daemon::start_in(daemon.dir, MemoryStore::default(), |_| {});
    let alice = daemon.caller(1000);
    let start = geometry.page_offset(inside).get();
    let shift = other.offset().get() - geometry.page_offset(page_of(other)).get();
    let within = goumem_alloc::Offset::new(start + shift);
    daemon
        .core
        .resolve(&alice, about(outer), daemon.now)
        .unwrap();
    assert!(
        daemon.map(&alice, pool).block_at(within).is_none(),
        "one span to a page"
    );
    daemon.check();
}

#[test]
fn a_file_that_the_budget_has_no_room_for_takes_nothing_of_it() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool {
        backing: Some(Backing::File),
        ..create("p", 4 * MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap();
    let block = daemon.alloc(&alice, pool.pool.pool_id, 2 * MIB).unwrap();
    daemon.core.keep(&alice, about(block), daemon.now).unwrap();

    drop(daemon.core);
    let daemon = Daemon::start_in(daemon.dir, MemoryStore::default(), |limits| {
        limits.budget_bytes = Some(MIB)
    });
    assert_eq!(
        daemon
            .core
            .info(&daemon.caller(1000), daemon.now)
            .unwrap()
            .pools,
        0
    );
    daemon.check();
    let daemon = daemon.restart();
    let alice = daemon.caller(1000);
    daemon
        .core
        .resolve(&alice, about(block), daemon.now)
        .unwrap();
    daemon.check();
}

#[test]
fn a_vast_sparse_pool_costs_what_stands_in_it_when_it_is_opened_again() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let request = CreatePool {
        backing: Some(Backing::File),
        max_capacity_bytes: Some(64 << 30),
        ..create("p", 4 * MIB)
    };
    let pool = daemon
        .core
        .create_pool(&alice, request, daemon.now)
        .unwrap();
    let block = daemon.alloc(&alice, pool.pool.pool_id, 100).unwrap();
    daemon.core.keep(&alice, about(block), daemon.now).unwrap();
    let before = daemon.core.shared.budget.report().0;

    let daemon = daemon.restart();
    let after = daemon.core.shared.budget.report().0;
    assert!(after <= before, "{after} bytes, {before} before");
    daemon.check();
}
