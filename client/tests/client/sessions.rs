//! How clients begin, what they hold, and how they end.

use std::time::Duration;

use goumem::blocking::{Client, wait};
use goumem::{AllocError, ArenaPoolOptions, Error, PoolOptions};

use super::{MIB, eventually, guest, is_open};

#[test]
fn a_block_outlives_its_pool_and_client_and_then_the_session_ends() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let session = client.session();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let mut block = pool.alloc_value(1_u64).unwrap();
    drop((pool, client));
    *block += 1;
    assert_eq!(*block, 2);
    assert!(is_open(&host, session));
    drop(block);
    eventually("end of the session", || !is_open(&host, session));
    assert_eq!(host.stat_pool("p").unwrap().leased_bytes, 0);
}

#[test]
fn a_block_can_still_be_shared_when_its_client_is_gone() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let session = client.session();
    let block = client
        .create_pool("p", PoolOptions::new(MIB))
        .unwrap()
        .alloc_value(7_u32)
        .unwrap();
    drop(client);
    let shared = block.share().unwrap();
    let pool = host.open_pool("p").unwrap();
    assert_eq!(
        pool.resolve::<u32>(shared.handle())
            .unwrap()
            .read()
            .unwrap(),
        7
    );
    let kept = wait(shared.keep()).unwrap();
    drop(shared);
    eventually("end of the session", || !is_open(&host, session));
    assert_eq!(pool.resolve::<u32>(kept).unwrap().read().unwrap(), 7);
}

#[test]
fn a_handle_that_was_given_away_keeps_the_session_until_somebody_takes_the_block() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let session = client.session();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let handle = pool
        .alloc_value(3_u8)
        .unwrap()
        .share()
        .unwrap()
        .into_handle();
    assert!(matches!(
        client.close(),
        Err(Error::BlocksOutstanding { n: 1 })
    ));
    drop((pool, client));
    std::thread::sleep(Duration::from_millis(150)); // long enough for a wrong end to show
    assert!(is_open(&host, session));
    let mine = host.open_pool("p").unwrap().take::<u8>(handle).unwrap();
    eventually("end of the session", || !is_open(&host, session));
    assert_eq!(*mine, 3);
}

#[test]
fn close_counts_everything_that_is_held_and_ends_the_session_when_nothing_is() {
    let host = Client::embedded().unwrap();
    let client = guest(&host);
    let session = client.session();
    let pool = client.create_pool("p", PoolOptions::new(16 * MIB)).unwrap();
    let arenas = client
        .create_arena_pool("a", ArenaPoolOptions::new(1, 100))
        .unwrap();

    let private = pool.alloc::<u64>().unwrap();
    let large = pool.alloc_bytes(3 << 20, 16).unwrap();
    let shared = pool.alloc_value(1_u8).unwrap().share().unwrap();
    let handle = pool
        .alloc_value(2_u8)
        .unwrap()
        .share()
        .unwrap()
        .into_handle();
    let taken = pool.take::<u8>(handle).unwrap();
    let pin = pool.pin(shared.handle()).unwrap();
    let arena = arenas.get().unwrap();
    let foreign = host
        .open_pool("p")
        .unwrap()
        .alloc_value(4_u8)
        .unwrap()
        .share()
        .unwrap();
    let adopted = pool.adopt::<u8>(foreign.into_handle()).unwrap();
    assert!(matches!(
        client.close(),
        Err(Error::BlocksOutstanding { n: 7 })
    ));

    // It goes on as before.
    drop(pool.alloc::<u64>().unwrap());
    drop((private, large, taken, adopted, arena));
    assert!(matches!(
        client.close(),
        Err(Error::BlocksOutstanding { n: 2 })
    ));
    drop((shared, pin));
    client.close().unwrap();
    assert!(!is_open(&host, session));
    assert!(matches!(client.close(), Err(Error::Closed)));
    assert!(matches!(
        pool.alloc::<u64>(),
        Err(Error::Alloc(AllocError::Closed))
    ));
    assert!(matches!(arenas.try_get(), Err(Error::Closed)));
    assert!(matches!(pool.free(handle), Err(Error::Closed)));
    host.open_pool("p").unwrap().purge().unwrap(); // of what the host has leased itself
    assert_eq!(host.stat_pool("p").unwrap().leased_bytes, 0);
    assert_eq!(host.stat_arena_pool("a").unwrap().free, 1);
}

#[test]
fn a_lost_daemon_gives_errors_and_leaves_blocks_alone() {
    let host = Client::embedded().unwrap();
    let client = Client::builder()
        .socket(host.socket())
        .call_deadline(Duration::from_millis(100))
        .connect()
        .unwrap();
    let pool = client.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let mut block = pool.alloc_value(1_u64).unwrap();
    drop(host);
    *block = 2;
    let more = pool.alloc_value(3_u64).unwrap(); // from what is at hand
    assert_eq!(*block + *more, 5);
    let error = client.ping().unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    let error = pool.alloc_bytes(2 << 20, 16).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    drop((block, more));
    client.close().unwrap();
}

#[test]
fn no_daemon_is_an_error_that_names_the_socket() {
    let path = std::env::temp_dir().join("goumem-no-such.sock");
    let error = Client::builder().socket(&path).connect().unwrap_err();
    assert!(
        matches!(&error, Error::NoDaemon { socket, .. } if *socket == path),
        "{error:?}"
    );
    let long = "x".repeat(200);
    assert!(matches!(
        Client::builder().socket(long).connect(),
        Err(Error::SocketPath(_))
    ));
    let label = Client::builder().socket(&path).label("\u{7}").connect();
    assert!(matches!(label, Err(Error::Name { what: "label", .. })));
}

#[test]
fn async_methods_work_inside_and_outside_of_tokio_and_so_does_blocking() {
    async fn work(client: &goumem::Client, name: &str) -> Result<u64, Error> {
        let pool = client.create_pool(name, PoolOptions::new(MIB)).await?;
        let block = pool.alloc_value(21_u64).await?;
        Ok(*block * 2)
    }
    let client = wait(goumem::Client::embedded()).unwrap();
    assert_eq!(wait(work(&client, "a")).unwrap(), 42);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(work(&client, "b")).unwrap(), 42);
    runtime.block_on(async {
        let blocking = Client::from(client.clone());
        let pool = blocking.open_pool("b").unwrap();
        assert_eq!(*pool.alloc_value(1_u8).unwrap(), 1);
    });
    fn is_send<T: Send>(_: &T) {}
    is_send(&work(&client, "c"));
    fn is_shareable<T: Send + Sync>() {}
    is_shareable::<goumem::Client>();
    is_shareable::<goumem::Pool>();
    is_shareable::<goumem::Block<[u64]>>();
    is_shareable::<goumem::Shared<[u64]>>();
    is_shareable::<goumem::View<'_, u64>>();
    is_shareable::<goumem::ArenaPool>();
    is_shareable::<goumem::ArenaRef<'_, u64>>();

    /// An arena bumps without an atomic, so it is for one thread at a time; but it moves with its
    /// task, and so does what points into it.
    async fn fill(pool: goumem::ArenaPool) -> Result<u64, Error> {
        let arena = pool.get().await?;
        let number = arena.alloc::<u64>()?;
        tokio::task::yield_now().await;
        number.write(7)?;
        number.read()
    }
    let pool = wait(client.create_arena_pool("arenas", ArenaPoolOptions::new(1, 100)));
    let future = fill(pool.unwrap());
    is_send(&future);
    assert_eq!(wait(future).unwrap(), 7);
}
