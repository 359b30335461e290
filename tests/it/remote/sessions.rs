//! How long a remote session lasts, whose it is, and what it owns.

use goumem_proto::v1;
use harness::{Rpc, call};

use super::*;

/// Opens a session by plain gRPC.
fn open(address: SocketAddr, token: &str, ttl: Duration) -> Rpc {
    let mut rpc = Rpc::connect_tcp(address).with_bearer(token);
    let request = v1::OpenSessionRequest {
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap(),
        ..Default::default()
    };
    let opened = call!(rpc, sessions.open(request)).unwrap();
    assert_eq!((opened.may_map, opened.ttl_ms), (false, request_ms(ttl)));
    rpc.token = opened.token;
    rpc.session = opened.session;
    rpc
}

fn request_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap()
}

fn reason<T>(outcome: Result<T, goumem_proto::reason::ErrorDetail>) -> Reason {
    match outcome {
        Ok(_) => panic!("was not refused"),
        Err(detail) => detail.reason,
    }
}

fn daemon(files: &Path) -> (TestDaemon, SocketAddr) {
    let daemon = TestDaemon::start_with(|config| with_tokens(config, files));
    let address = daemon.tcp().unwrap();
    (daemon, address)
}

#[test]
fn silent_session_ends_and_what_it_held_is_free() {
    let files = tempfile::tempdir().unwrap();
    let (daemon, address) = daemon(files.path());
    let root = daemon.client();
    let alice = open(address, ALICE, Duration::from_millis(500));
    let pool = alice.create_pool("p", MIB);
    alice.alloc(pool, 1000).unwrap();
    let start = Instant::now();
    eventually(PATIENCE, "its block is free", || {
        root.stat_pool("p").map_or(0, |stat| stat.blocks) == 0
            && root.sessions().unwrap().len() == 1
    });
    assert!(start.elapsed() > Duration::from_millis(400), "not before");
    assert_eq!(reason(alice.alloc(pool, 1000)), Reason::SessionExpired);
}

#[test]
fn keepalive_renews_it_and_the_client_library_does_so_by_itself() {
    let files = tempfile::tempdir().unwrap();
    let (_daemon, address) = daemon(files.path());
    let ttl = Duration::from_secs(2);
    let alice = open(address, ALICE, ttl);
    let bob = connect(plainly(address).token(BOB).ttl(ttl));
    assert_eq!(bob.async_client().ttl(), ttl);
    let bobs = bob.create_pool("b", PoolOptions::new(MIB)).unwrap();
    let block = bobs.alloc_bytes("bob's").unwrap();
    let pool = alice.create_pool("a", MIB);
    let alices = alice.alloc(pool, 1000).unwrap();
    let start = Instant::now();
    while start.elapsed() < 2 * ttl {
        let renewed = call!(alice, sessions.keep_alive(v1::KeepAliveRequest {})).unwrap();
        assert_eq!(renewed.ttl_ms, request_ms(ttl));
        std::thread::sleep(ttl / 10);
    }
    alice.free(alices).unwrap();
    assert_eq!(wait(block.read_all()).unwrap(), b"bob's");
}

#[test]
fn broken_connection_ends_no_session_and_another_one_of_the_same_name_resumes_it() {
    let files = tempfile::tempdir().unwrap();
    let (_daemon, address) = daemon(files.path());
    let alice = open(address, ALICE, PATIENCE);
    let pool = alice.create_pool("p", MIB);
    let block = alice.alloc(pool, 1000).unwrap();
    let (token, session) = (alice.token.clone(), alice.session);
    drop(alice);
    let resume = |bearer: &str| {
        let rpc = Rpc::connect_tcp(address).with_bearer(bearer);
        let rpc = rpc.with_token(token.clone());
        call!(rpc, sessions.resume(v1::ResumeSessionRequest {})).map(|resumed| (rpc, resumed))
    };
    assert_eq!(reason(resume(BOB)), Reason::SessionExpired, "stolen");
    let (alice, resumed) = resume(ALICE).unwrap();
    assert_eq!(resumed.session, session);
    alice.free(block).unwrap();
}

#[test]
fn token_of_a_local_session_is_worth_nothing_over_tcp_and_the_other_way_round() {
    let files = tempfile::tempdir().unwrap();
    let (daemon, address) = daemon(files.path());
    let local = daemon.rpc();
    let stolen = Rpc::connect_tcp(address)
        .with_bearer(ALICE)
        .with_token(local.token.clone());
    let resume = |rpc: &Rpc| call!(*rpc, sessions.resume(v1::ResumeSessionRequest {}));
    assert_eq!(reason(resume(&stolen)), Reason::SessionExpired);
    let alice = open(address, ALICE, PATIENCE);
    let stolen = local.with_token(alice.token.clone());
    assert_eq!(reason(resume(&stolen)), Reason::SessionExpired);
}

#[test]
fn cut_cable_is_not_noticed_when_it_is_mended_within_the_ttl() {
    let files = tempfile::tempdir().unwrap();
    let (daemon, address) = daemon(files.path());
    let cable = Cable::to(address);
    let alice = connect(plainly(cable.address).token(ALICE));
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let block = pool.alloc_bytes("before").unwrap();
    for _ in 0..3 {
        cable.cut();
        let reading = std::thread::scope(|scope| {
            let reading = scope.spawn(|| wait(block.read_all()));
            cable.mend();
            reading.join().unwrap()
        });
        assert_eq!(reading.unwrap(), b"before");
        let another = pool.alloc_bytes("after").unwrap();
        drop(another);
    }
    // Each was allocated once, and has been freed.
    let root = daemon.client();
    eventually(PATIENCE, "what was dropped is free", || {
        root.stat_pool("p").unwrap().blocks == 1
    });
}

#[test]
fn session_that_was_cut_off_for_too_long_has_ended_and_kept_blocks_are_there() {
    let files = tempfile::tempdir().unwrap();
    let (daemon, address) = daemon(files.path());
    let cable = Cable::to(address);
    let ttl = Duration::from_millis(300);
    let alice = connect(plainly(cable.address).token(ALICE).ttl(ttl));
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let lost = pool.alloc_bytes("lost").unwrap();
    let kept = pool.alloc_bytes("kept").unwrap();
    let kept = wait(kept.publish("kept")).unwrap();
    cable.cut();
    let root = daemon.client();
    eventually(PATIENCE, "the session has ended", || {
        root.sessions().unwrap().len() == 1
    });
    cable.mend();
    assert!(matches!(wait(lost.read_all()), Err(Error::SessionExpired)));
    let again = connect(plainly(cable.address).token(ALICE));
    let pool = again.open_pool("p").unwrap();
    assert_eq!(pool.lookup("kept").unwrap().handle, kept);
    assert_eq!(pool.read_all(kept).unwrap(), b"kept");
}

#[test]
fn names_own_what_they_make_and_are_others_to_everybody_else() {
    let files = tempfile::tempdir().unwrap();
    let (daemon, address) = daemon(files.path());
    let alice = connect(plainly(address).token(ALICE));
    let bob = connect(plainly(address).token(BOB));
    let local = daemon.client();
    alice.create_pool("alices", PoolOptions::new(MIB)).unwrap();
    local.create_pool("local", PoolOptions::new(MIB)).unwrap();
    let open_to_all = PoolOptions::new(MIB).mode(0o606);
    local.create_pool("open", open_to_all).unwrap();

    let denied = |outcome: Result<_, Error>| matches!(outcome, Err(Error::PermissionDenied { .. }));
    assert!(denied(bob.open_pool("alices")) && denied(bob.open_pool("local")));
    assert!(denied(alice.open_pool("local")));
    let names = |client: &RemoteClient| -> Vec<String> {
        let pools = client.list_pools().unwrap().into_iter();
        pools.map(|pool| pool.name.to_string()).collect()
    };
    assert_eq!(names(&alice), ["alices", "open"]);
    assert_eq!(names(&bob), ["open"]);
    drop(bob.open_pool("open").unwrap().alloc(100).unwrap());
    assert_eq!(bob.sessions().unwrap().len(), 1, "its own");
    let alices = alice.async_client();
    let refused = bob.kill_session(alices.session(), alices.session_serial());
    assert!(matches!(refused, Err(Error::PermissionDenied { .. })));
    // The same name on another connection is the same owner.
    connect(plainly(address).token(ALICE))
        .destroy_pool("alices")
        .unwrap();
}

#[test]
fn names_that_stand_for_a_user_share_what_the_user_owns() {
    const USER: u32 = 4242;
    let files = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start_with(|config| {
        with_tokens(config, files.path());
        config.tcp_options.users = [("alice".to_owned(), USER), ("bob".to_owned(), USER)].into();
    });
    let address = daemon.tcp().unwrap();
    let alice = connect(plainly(address).token(ALICE));
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    assert_eq!(pool.info().permissions.uid, USER);
    let bob = connect(plainly(address).token(BOB));
    drop(bob.open_pool("p").unwrap().alloc(100).unwrap());
    let alices = alice.async_client();
    bob.kill_session(alices.session(), alices.session_serial())
        .unwrap();
    assert!(matches!(pool.alloc(100), Err(Error::SessionExpired)));
}
