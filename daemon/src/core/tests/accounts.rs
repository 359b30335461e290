//! Whose quota and what budget pays for what.

use super::*;

#[test]
fn quotas_are_per_user_and_over_all_pools() {
    let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(MIB));
    let (alice, bob) = (daemon.caller(1000), daemon.caller(0));
    let (p, q) = (
        daemon.pool(&alice, "p", 8 * MIB),
        daemon.pool(&alice, "q", 8 * MIB),
    );
    let first = daemon.alloc(&alice, p, 500_000).unwrap();
    assert!(daemon.alloc(&alice, q, 400_000).is_ok());
    assert_eq!(
        reason(daemon.alloc(&alice, q, 400_000)),
        Reason::QuotaExceeded
    );
    assert!(
        daemon.alloc(&bob, p, 400_000).is_ok(),
        "another user has its own"
    );
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
    let Error::BudgetExhausted {
        requested_bytes,
        limit_bytes,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(requested_bytes >= 4 * MIB && limit_bytes == 2 * MIB);
    let after = daemon.stat(&alice, "p");
    assert_eq!(
        (after.committed_bytes, after.blocks),
        (before.committed_bytes, 0)
    );
    assert!(daemon.alloc(&alice, pool, MIB / 2).is_ok());
}

fn open_to_all(name: &str, capacity_bytes: u64) -> CreatePool {
    CreatePool {
        mode: 0o666,
        ..create(name, capacity_bytes)
    }
}

#[test]
fn pages_whose_generations_are_spent_give_their_memory_and_budget_back() {
    let daemon = Daemon::start();
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 4 * MIB);
    let memory = daemon.map(&alice, pool);
    let span = daemon
        .lease(&alice, pool, SizeClass::from_index(0).unwrap())
        .unwrap()[0];
    let first = memory.geometry().page_offset(span.first_page);
    let forged = memory.handle(Generation::ZERO, first);
    forge(&memory, forged, Generation::MAX.get(), 0, 0, 0);
    daemon.return_span(&alice, pool, span).unwrap();
    daemon.check();
    assert_eq!(daemon.stat(&alice, "p").committed_bytes, 0);
    daemon.destroy(&alice, "p").unwrap();
    daemon
        .core
        .unmap(&alice, Unmap { pool_id: pool }, daemon.now)
        .unwrap();
    daemon.check();
}

#[test]
fn survivors_of_a_dead_lessee_are_paid_for_by_the_pools_owner() {
    let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(64 * MIB));
    let (owner, alice) = (daemon.caller(1000), daemon.caller(1001));
    let pool = daemon
        .core
        .create_pool(&owner, open_to_all("p", 8 * MIB), daemon.now)
        .unwrap();
    let pool = pool.pool.pool_id;
    let memory = daemon.map(&alice, pool);
    let class = SizeClass::from_index(3).unwrap();
    let span = daemon.lease(&alice, pool, class).unwrap()[0];
    let mut leased = LeasedSpan::attach(
        &memory,
        lease_of(&span),
        alice.session.as_ref().unwrap().number,
        span.survivors,
    )
    .unwrap();
    let shape = goumem_shm::shape::Shape {
        type_tag: TypeTag::UNTYPED,
        length_bytes: 10,
    };
    let number = alice.session.as_ref().unwrap().number;
    let block = leased.alloc().unwrap().export(number, shape).unwrap();
    daemon.core.keep(&alice, about(block), daemon.now).unwrap();
    daemon.die(&alice);
    daemon.check();
    let quotas = &daemon.core.shared.quotas;
    assert_eq!(quotas.used_bytes(1001), 0);
    assert_eq!(quotas.used_bytes(1000), span.pages.bytes());
    // The daemon takes the span for blocks of its own: from here on each is paid for by itself.
    let bob = daemon.caller(1001);
    let beside = daemon.alloc(&bob, pool, 60).unwrap();
    daemon.check();
    assert_eq!(quotas.used_bytes(1000), class.stride_bytes());
    daemon.free(&bob, block).unwrap();
    daemon.free(&bob, beside).unwrap();
    daemon.check();
    assert_eq!((quotas.used_bytes(1000), quotas.used_bytes(1001)), (0, 0));
}

#[test]
fn whoever_adopts_takes_or_keeps_a_block_pays_for_it() {
    let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(MIB));
    let (alice, bob) = (daemon.caller(1000), daemon.caller(1001));
    let pool = daemon
        .core
        .create_pool(&alice, open_to_all("p", 8 * MIB), daemon.now)
        .unwrap();
    let pool = pool.pool.pool_id;
    let quotas = &daemon.core.shared.quotas;
    let adopted = daemon.alloc(&alice, pool, 1000).unwrap();
    daemon.core.adopt(&bob, about(adopted), daemon.now).unwrap();
    assert_eq!(
        (quotas.used_bytes(1000), quotas.used_bytes(1001)),
        (0, 1024)
    );
    let back = daemon
        .core
        .take(&alice, about(adopted), daemon.now)
        .unwrap()
        .handle;
    assert_eq!(
        (quotas.used_bytes(1000), quotas.used_bytes(1001)),
        (1024, 0)
    );
    daemon.core.keep(&alice, about(back), daemon.now).unwrap();
    daemon.publish(&bob, back, "n").unwrap();
    assert_eq!(
        (quotas.used_bytes(1000), quotas.used_bytes(1001)),
        (0, 1024)
    );
    // Whoever cannot pay gets nothing, and nothing changes.
    let _full = daemon.alloc(&alice, pool, 900 << 10).unwrap();
    let large = daemon.alloc(&bob, pool, 500 << 10).unwrap();
    assert_eq!(
        reason(daemon.core.take(&alice, about(large), daemon.now)),
        Reason::QuotaExceeded
    );
    daemon.core.resolve(&bob, about(large), daemon.now).unwrap();
    daemon.check();
}

#[test]
fn what_was_freed_through_a_mapping_counts_against_no_quota() {
    let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(MIB));
    let alice = daemon.caller(1000);
    let pool = daemon.pool(&alice, "p", 8 * MIB);
    let memory = daemon.map(&alice, pool);
    for _ in 0..5 {
        let block = daemon.alloc(&alice, pool, 700 << 10).unwrap();
        let _ = memory.free(block).unwrap();
    }
    daemon.check();
}
