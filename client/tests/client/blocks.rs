//! Pools and blocks: what is refused, what goes back, who sees what.

use goumem::blocking::{Client, wait};
use goumem::{
    Access, AccessError, AllocError, ArenaPoolOptions, Backing, Error, PoolOptions, Reason,
};

use super::{MIB, eventually, guest, is_open, is_read_only};

#[test]
fn idle_spans_go_back_to_the_daemon_by_themselves() {
    let client = Client::embedded().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    let blocks: Vec<_> = (0..100)
        .map(|_| pool.alloc_bytes(64 << 10, 16).unwrap())
        .collect();
    assert!(pool.stat().unwrap().leased_bytes >= 100 * (64 << 10));
    drop(blocks);
    // One empty span stays, of at most 1 MiB.
    eventually("return of idle spans", || {
        pool.stat().unwrap().leased_bytes <= MIB
    });
    pool.purge().unwrap();
    assert_eq!(pool.stat().unwrap().leased_bytes, 0);
}

#[test]
fn a_growing_pool_of_blocks_is_leased_ahead_of_its_use() {
    let client = Client::embedded().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    // 16 to a span. From the fourth span on there is always another one, or comes by itself.
    let mut blocks: Vec<_> = (0..5 * 16)
        .map(|_| pool.alloc::<[u8; 4096]>().unwrap())
        .collect();
    while blocks.len() < 100 * 16 {
        eventually("a block without a call of ours", || {
            blocks.extend(pool.try_alloc::<[u8; 4096]>());
            pool.try_alloc::<[u8; 4096]>().is_ok()
        });
    }
    // At most an eighth more than is used, and what was begun.
    let spans = pool.stat().unwrap().leased_bytes / (64 << 10);
    assert!((100..=125).contains(&spans), "{spans}");
}

#[test]
fn a_full_pool_makes_others_give_back_what_they_do_not_use() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client.create_pool("p", PoolOptions::new(4 * MIB)).unwrap();
    let mine = host.open_pool("p").unwrap();
    drop(pool.alloc_bytes(2 << 20, 16).unwrap()); // kept for the next one, for a while
    assert!(host.stat_pool("p").unwrap().leased_bytes > 2 * MIB);
    let block = mine.alloc_bytes(3 << 20, 16).unwrap();
    let error = pool.alloc_bytes(2 << 20, 16).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PoolExhausted));
    assert!(
        matches!(
            error,
            Error::Exhausted {
                requested_bytes: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    drop(block);
    pool.alloc_bytes(2 << 20, 16).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let client = Client::embedded().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let shared = pool
        .alloc_slice_from(&[1.0_f64, 2.0, 3.0])
        .unwrap()
        .share()
        .unwrap();
    let handle = shared.handle();

    let wrong_type = pool.take_slice::<u64>(handle).unwrap_err();
    assert!(matches!(
        wrong_type,
        Error::Access(AccessError::WrongType { .. })
    ));
    assert_eq!(wrong_type.reason(), Some(Reason::WrongType));
    for wrong_length in [
        pool.take::<f64>(handle).map(drop),
        pool.take_slice::<[f64; 2]>(handle).map(drop),
        pool.adopt::<[f64; 4]>(handle).map(drop),
        pool.resolve::<f64>(handle).map(drop),
    ] {
        let wrong = matches!(
            wrong_length,
            Err(Error::Access(AccessError::WrongLength { .. }))
        );
        assert!(wrong, "{wrong_length:?}");
    }
    assert!(shared.copy_to(&mut [0.0; 4]).is_err());
    assert!(shared.write_at(usize::MAX, &[0.0]).is_err());
    assert_eq!(shared.read_slice().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(pool.resolve_slice::<u8>(handle).unwrap().len(), 24);
    assert_eq!(
        pool.resolve::<[f64; 3]>(handle).unwrap().read().unwrap(),
        [1.0, 2.0, 3.0]
    );

    let other = client.create_pool("q", PoolOptions::new(MIB)).unwrap();
    let error = other.resolve_slice::<f64>(handle).unwrap_err();
    assert!(matches!(
        error,
        Error::Access(AccessError::WrongPool { .. })
    ));

    assert!(matches!(pool.alloc_slice::<u8>(0), Err(Error::Layout(_))));
    assert!(matches!(pool.alloc_bytes(1, 3), Err(Error::Layout(_))));
    assert!(matches!(
        pool.alloc_slice::<u64>(usize::MAX),
        Err(Error::Layout(_))
    ));
    assert!(matches!(
        pool.try_alloc_slice::<u8>(0),
        Err(AllocError::ZeroSize)
    ));
    assert!(matches!(
        pool.alloc_matrix::<f64>(usize::MAX, 2),
        Err(Error::Layout(_))
    ));
}

#[test]
fn a_freed_block_is_stale_for_everybody() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let mine = host.open_pool("p").unwrap();
    let shared = pool.alloc_value(9_u64).unwrap().share().unwrap();
    let handle = shared.handle();
    let view = mine.resolve::<u64>(handle).unwrap();
    mine.free(handle).unwrap(); // anybody may
    assert!(view.read().unwrap_err().is_stale());
    assert!(shared.read().unwrap_err().is_stale());
    assert!(pool.take::<u64>(handle).unwrap_err().is_stale());
    assert!(pool.free(handle).unwrap_err().is_stale());
    assert!(wait(shared.keep()).unwrap_err().is_stale());
    drop(shared); // and that it is freed already is no matter
    client.close().unwrap(); // a pool is no block, and neither is a view
}

#[test]
fn names_are_found_by_others_and_survive_their_publisher() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let session = client.session();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let shared = pool.alloc_value(5_u64).unwrap().share().unwrap();
    let handle = wait(shared.publish("five")).unwrap();
    let second = pool.alloc_value(6_u64).unwrap().share().unwrap();
    assert!(matches!(
        wait(second.publish("five")),
        Err(Error::NameExists { .. })
    ));
    assert_eq!(second.read().unwrap(), 6);
    assert!(matches!(
        pool.lookup("six"),
        Err(Error::NameNotFound { .. })
    ));
    assert!(matches!(pool.lookup("a name"), Err(Error::Name { .. })));
    drop((shared, second, pool, client));
    eventually("end of the session", || !is_open(&host, session));

    let mine = host.open_pool("p").unwrap();
    assert_eq!(mine.lookup("five").unwrap(), handle);
    let kept = mine.kept().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        kept[0].name.as_ref().map(|name| name.as_str()),
        Some("five")
    );
    assert_eq!(mine.withdraw("five").unwrap(), handle);
    let block = mine.take::<u64>(handle).unwrap();
    assert_eq!(*block, 5);
    eventually("end of the record", || mine.kept().unwrap().is_empty());
}

#[test]
fn an_adopted_block_is_kept_no_longer_and_goes_with_its_new_owner() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let handle = wait(pool.alloc_value(8_u64).unwrap().share().unwrap().keep()).unwrap();
    let mine = host.open_pool("p").unwrap();
    assert_eq!(mine.kept().unwrap().len(), 1);
    let adopted = mine.adopt::<u64>(handle).unwrap();
    assert_eq!(adopted.handle(), handle);
    assert!(mine.kept().unwrap().is_empty());
    assert_eq!(pool.resolve::<u64>(handle).unwrap().read().unwrap(), 8);
    // Kept again by its new owner, it stays when that lets go.
    wait(adopted.keep()).unwrap();
    drop(adopted);
    assert_eq!(mine.kept().unwrap().len(), 1);
    drop(mine.adopt::<u64>(handle).unwrap());
    assert!(pool.resolve::<u64>(handle).unwrap_err().is_stale());
}

#[test]
fn a_read_only_pool_can_be_looked_at_and_nothing_else() {
    let host = Client::embedded().unwrap();
    let pool = host.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let shared = pool.alloc_value(1_u32).unwrap().share().unwrap();
    let client = guest(&host);
    let looking = client.open_pool_read_only("p").unwrap();
    assert_eq!(looking.access(), Access::ReadOnly);
    let view = looking.resolve::<u32>(shared.handle()).unwrap();
    assert_eq!(view.read().unwrap(), 1);
    assert!(is_read_only(view.write(2).unwrap_err()));
    assert!(is_read_only(looking.alloc::<u32>().map(drop).unwrap_err()));
    assert!(is_read_only(
        looking.take::<u32>(shared.handle()).map(drop).unwrap_err()
    ));
    assert!(is_read_only(
        looking.adopt::<u32>(shared.handle()).map(drop).unwrap_err()
    ));
    assert!(is_read_only(looking.free(shared.handle()).unwrap_err()));

    let arenas = host
        .create_arena_pool("a", ArenaPoolOptions::new(1, 64))
        .unwrap();
    let mut arena = arenas.get().unwrap();
    arena.share("x").unwrap();
    let handle = arena.alloc::<u32>().unwrap().handle();
    let looking = client.open_arena_pool_read_only("a").unwrap();
    assert!(is_read_only(looking.try_get().map(drop).unwrap_err()));
    let attached = looking.attach("x", Access::ReadOnly).unwrap();
    let seen = attached.resolve::<u32>(handle).unwrap();
    assert!(seen.read().is_ok());
    assert!(is_read_only(seen.write(1).unwrap_err()));
    assert!(is_read_only(attached.alloc::<u32>().map(drop).unwrap_err()));
}

#[test]
fn pools_are_created_once_opened_by_name_and_destroyed() {
    let client = Client::embedded().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let exists = client.create_pool("p", PoolOptions::new(MIB)).unwrap_err();
    assert!(matches!(exists, Error::PoolExists { .. }));
    let same = client
        .open_or_create_pool("p", PoolOptions::new(MIB))
        .unwrap();
    assert_eq!(same.id(), pool.id());
    let other = client
        .open_or_create_pool("p", PoolOptions::new(2 * MIB))
        .unwrap_err();
    assert_eq!(other.reason(), Some(Reason::GeometryMismatch));
    assert!(matches!(
        client.open_pool("q"),
        Err(Error::PoolNotFound { .. })
    ));
    assert_eq!(client.list_pools().unwrap().len(), 1);

    let mut block = pool.alloc_value(1_u64).unwrap();
    client.destroy_pool("p").unwrap();
    assert!(client.list_pools().unwrap().is_empty());
    *block = 2; // what is held goes on
    assert_eq!(*block, 2);
    let refused = (0..10_000).find_map(|_| match pool.alloc_bytes(60_000, 16) {
        Ok(block) => {
            std::mem::forget(block);
            None
        }
        Err(error) => error.reason(),
    });
    assert_eq!(refused, Some(Reason::PoolDestroyed));
}

#[test]
fn many_threads_allocate_and_free_without_ever_sharing_a_block() {
    let client = Client::embedded().unwrap();
    let pool = client.create_pool("p", PoolOptions::new(64 * MIB)).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(64);
    std::thread::scope(|scope| {
        for id in 0..4_u32 {
            let (pool, sender) = (&pool, sender.clone());
            scope.spawn(move || {
                let mut mine = Vec::new();
                for n in 0..5_000_u32 {
                    let value = u64::from(id) << 32 | u64::from(n);
                    let len = 1 + (n as usize * 7) % 200;
                    let mut block = pool.alloc_slice::<u64>(len).unwrap();
                    block.fill(value);
                    mine.push((value, block));
                    if n % 3 == 0 {
                        let (value, block) = mine.swap_remove((n as usize * 31) % mine.len());
                        assert!(block.iter().all(|&element| element == value));
                        sender.send((value, block)).unwrap(); // freed by another thread
                    }
                }
                for (value, block) in mine {
                    assert!(block.iter().all(|&element| element == value));
                }
            });
        }
        drop(sender);
        for (value, block) in receiver {
            assert!(block.iter().all(|&element| element == value));
        }
    });
    client.close().unwrap();
}

#[test]
fn every_backing_serves_blocks_and_arenas() {
    let client = Client::embedded().unwrap();
    for (name, backing) in [
        ("memfd", Backing::Memfd),
        ("named", Backing::Named),
        ("file", Backing::File),
    ] {
        let pool = client
            .create_pool(name, PoolOptions::new(MIB).backing(backing))
            .unwrap();
        assert_eq!(pool.info().backing, backing);
        let shared = pool.alloc_value([1_u8; 100]).unwrap().share().unwrap();
        assert_eq!(shared.read().unwrap(), [1; 100]);
        let arena_name = format!("{name}-arenas");
        let options = ArenaPoolOptions::new(1, 100).backing(backing);
        let arenas = client.create_arena_pool(&arena_name, options).unwrap();
        arenas
            .get()
            .unwrap()
            .alloc::<u64>()
            .unwrap()
            .write(1)
            .unwrap();
    }
    let file = client.open_pool("file").unwrap();
    file.flush().unwrap();
    let memory = client.open_pool("memfd").unwrap();
    assert_eq!(
        memory.flush().unwrap_err().reason(),
        Some(Reason::BackingUnsupported)
    );
}

#[test]
fn two_pools_never_hand_out_each_others_blocks() {
    let client = Client::embedded().unwrap();
    let pools = ["a", "b"].map(|name| client.create_pool(name, PoolOptions::new(8 << 20)).unwrap());
    let mut held = Vec::new();
    let mut x = 88_172_645_463_325_252_u64;
    for _ in 0..20_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let pool = &pools[usize::from(x & 1 == 1)];
        let block = pool
            .alloc_slice::<u8>(16 + (x >> 8) as usize % 5000)
            .unwrap();
        held.push((block, pool.id()));
        if held.len() > 50 {
            let at = (x >> 20) as usize % held.len();
            let (block, id) = held.swap_remove(at);
            let handle = block.into_handle().unwrap();
            assert_eq!(handle.pool(), id);
            pools
                .iter()
                .find(|pool| pool.id() == id)
                .unwrap()
                .free(handle)
                .unwrap();
        }
        if held.len() > 45 && x & 64 == 0 {
            let at = (x >> 30) as usize % held.len();
            drop(held.swap_remove(at));
        }
    }
}
