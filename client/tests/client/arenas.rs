//! Arena pools and arenas between sessions.

use std::time::Duration;

use goumem::blocking::Client;
use goumem::{Access, AccessError, ArenaPoolOptions, Error};

use super::{eventually, guest};

#[test]
fn a_waiter_gets_the_arena_that_another_session_returns() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 1000))
        .unwrap();
    let mine = host.open_arena_pool("a").unwrap();
    let arena = pool.get().unwrap();
    assert!(matches!(mine.try_get(), Err(Error::NoFreeArena)));
    let short = mine.get_timeout(Duration::from_millis(20));
    assert!(matches!(short, Err(Error::TimedOut { .. })), "{short:?}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mine.get().unwrap().handle());
        eventually("a waiter", || pool.stat().unwrap().waiting == 1);
        let first = arena.handle();
        drop(arena);
        let second = waiting.join().unwrap();
        assert!(second != first, "another life of the same arena");
    });
    eventually("its return", || pool.stat().unwrap().free == 1);
}

#[test]
fn a_wait_that_is_given_up_costs_nobody_an_arena() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 1000))
        .unwrap();
    let mine = host.open_arena_pool("a").unwrap();
    let arena = pool.get().unwrap();
    {
        let mut waiting = Box::pin(goumem::ArenaPool::get(&mine));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        eventually("a waiter", || pool.stat().unwrap().waiting == 1);
    }
    drop(arena);
    drop(pool.get().unwrap());
    eventually("its return", || pool.stat().unwrap().free == 1);
}

#[test]
fn a_shared_arena_is_returned_by_the_last_detach() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let pool = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 1000))
        .unwrap();
    let mine = host.open_arena_pool("a").unwrap();
    let mut arena = pool.get().unwrap();
    let number = arena.alloc::<u64>().unwrap();
    number.write(11).unwrap();
    let handle = number.handle();
    arena.share("batch/17").unwrap();
    assert!(arena.is_shared());
    assert!(matches!(
        arena.reset(),
        Err(Error::Access(AccessError::Shared { .. }))
    ));

    let attached = mine.attach("batch/17", Access::ReadWrite).unwrap();
    assert_eq!(attached.resolve::<u64>(handle).unwrap().read().unwrap(), 11);
    attached
        .alloc_slice::<u8>(100)
        .unwrap()
        .write(&[1; 100])
        .unwrap();
    assert_eq!(arena.used_bytes().unwrap(), attached.used_bytes().unwrap());
    assert_eq!(mine.holders().unwrap()[0].holders.len(), 2);
    assert!(!arena.detach().unwrap());
    assert!(attached.detach().unwrap());
    assert!(matches!(
        mine.attach("batch/17", Access::ReadOnly),
        Err(Error::NameNotFound { .. })
    ));
    assert_eq!(pool.stat().unwrap().free, 1);
}
