//! What a client hears of a daemon that it watches, and what maps it gets.

use goumem::{Client, EndCause, EventKind, Happening, PoolOptions, RunState, Watch, WatchEvent};
use harness::{DaemonProcess, TestDaemon, within};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = within(watch.next()).await;
    event.expect("the stream goes on").unwrap()
}

/// The first event that is of none of the kinds.
async fn next_but(watch: &mut Watch, kinds: &[EventKind]) -> Happening {
    loop {
        let event = next(watch).await;
        let kind = event.happening.kind().unwrap();
        if !kinds.contains(&kind) {
            return event.happening;
        }
    }
}

async fn watch(client: &Client, kinds: &[EventKind]) -> Watch {
    let mut watch = client.watch(kinds).await.unwrap();
    assert_eq!(next(&mut watch).await.happening, Happening::Watching);
    watch
}

#[tokio::test]
async fn death_of_a_process_is_heard_with_what_came_back() {
    let daemon = TestDaemon::start();
    let client = daemon.client().async_client().clone();
    let mut watch = watch(&client, &[EventKind::SessionEnded]).await;
    let mut alice = PUPPETS.client();
    alice.must(&format!("connect {}", daemon.socket().display()));
    alice.must(&format!("create-pool p {MIB}"));
    alice.must("alloc p a 1000 7");
    let leased = client.stat_pool("p").await.unwrap().leased_bytes;
    assert!(leased > 0);
    alice.kill_unreaped();
    let Happening::SessionEnded {
        session,
        cause,
        reclaimed_bytes,
    } = next(&mut watch).await.happening
    else {
        panic!("only ends were asked for");
    };
    assert_eq!((session.pid, cause), (alice.pid(), EndCause::Died));
    assert_eq!(reclaimed_bytes, leased);
}

#[tokio::test]
async fn watch_begins_again_after_a_killed_daemon() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let client = daemon.client().async_client().clone();
    let mut watch = watch(&client, &[]).await;
    daemon.kill();
    let _daemon = daemon.next(PUPPETS);
    // What happened in between is not known, and this says so.
    assert_eq!(next(&mut watch).await.happening, Happening::Watching);
    client
        .create_pool("p", PoolOptions::new(MIB))
        .await
        .unwrap();
    let noise = [EventKind::SessionEnded, EventKind::Watching];
    let Happening::PoolCreated(pool) = next_but(&mut watch, &noise).await else {
        panic!("a pool was created");
    };
    assert_eq!(pool.name.as_str(), "p");
}

#[tokio::test]
async fn watch_ends_with_its_session() {
    let daemon = TestDaemon::start();
    let client = daemon.client().async_client().clone();
    let mut watch = watch(&client, &[EventKind::PoolCreated]).await;
    client.close().await.unwrap();
    assert!(
        within(watch.next())
            .await
            .is_none_or(|event| event.is_err())
    );
    assert!(within(watch.next()).await.is_none());
}

#[tokio::test]
async fn map_shows_the_leases_of_a_client_and_its_blocks() {
    let daemon = TestDaemon::start();
    let client = daemon.client().async_client().clone();
    let pool = client
        .create_pool("p", PoolOptions::new(MIB))
        .await
        .unwrap();
    let private = pool.alloc_value(1_u64).await.unwrap();
    let shared = pool.alloc_value(2_u64).await.unwrap().share().unwrap();
    let map = client.pool_map("p").await.unwrap();
    let leased: Vec<_> = map
        .runs
        .iter()
        .filter(|run| run.state == RunState::Leased)
        .collect();
    let [run] = &leased[..] else {
        panic!("{leased:?}");
    };
    let span = run.span.unwrap();
    assert_eq!(span.session, client.session());
    assert_eq!(span.exported_blocks, 1, "the private one is ours to know");
    assert!(span.leased_for.is_some());
    assert_eq!(map.blocks[0].handle, shared.handle());
    assert_eq!(*private, 1);
    let missing = client.pool_map("q").await.unwrap_err();
    assert!(
        matches!(missing, goumem::Error::PoolNotFound { .. }),
        "{missing:?}"
    );
}
