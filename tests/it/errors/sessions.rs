//! Tokens that are missing, forged or another process's, and sessions that are not there.

use super::*;

#[test]
fn calls_without_their_sessions_token_are_refused() {
    let scene = Scene::new();
    let missing = scene.rpc.with_token(Vec::new());
    let forged = scene.rpc.with_token(vec![7; 16]);
    let garbled = scene.rpc.with_token(vec![7; 3]);
    let mut nearly = scene.rpc.token.clone();
    nearly[15] ^= 1;
    let nearly = scene.rpc.with_token(nearly);
    for (what, rpc, reason) in [
        ("no token", &missing, Reason::SessionRequired),
        ("a forged token", &forged, Reason::SessionExpired),
        (
            "a token that is nearly right",
            &nearly,
            Reason::SessionExpired,
        ),
        ("a token of three bytes", &garbled, Reason::InvalidField),
    ] {
        scene.refuses(|refused| {
            refused.is(what, reason, rpc.alloc(scene.pool_id, 100));
            refused.is(what, reason, rpc.free(scene.block));
            refused.is(what, reason, rpc.read(scene.block, 0, 0));
            refused.is(what, reason, rpc.write(scene.block, 0, &[1]));
            refused.is(what, reason, rpc.get_arena(scene.arenas_id, 0));
            refused.is(what, reason, rpc.return_arena(scene.arena));
            refused.is(what, reason, call!(*rpc, pools.pin(on(scene.block))));
        });
    }
    // Nor is memory handed to them.
    let memory = |rpc: &Rpc| rpc.ask_for_memory(scene.pool_id, Access::ReadOnly);
    for rpc in [&missing, &forged, &nearly] {
        let (status, fds) = memory(rpc);
        assert_eq!((status, fds.len()), (MapStatus::BadToken, 0));
    }
    assert_eq!(memory(&scene.rpc).0, MapStatus::Ok);
    let (status, fds) = scene
        .rpc
        .ask_for_memory(scene.pool_id ^ 1 << 20, Access::ReadOnly);
    assert_eq!((status, fds.len()), (MapStatus::NotFound, 0));
}

#[test]
fn sessions_that_are_not_there_and_too_many_are_refused() {
    let daemon = TestDaemon::start_with(|config| config.limits.max_sessions = 3);
    let rpc = daemon.rpc();
    rpc.open_session();
    rpc.open_session();
    let open = v1::OpenSessionRequest::default();
    let error = call!(rpc, sessions.open(open)).unwrap_err();
    assert_eq!(error.reason, Reason::TooManySessions);
    assert_eq!(error.number("limit"), Some(3));
    let kill = |session, serial| {
        let kill = v1::KillSessionRequest { session, serial };
        call!(rpc, sessions.kill(kill)).map(drop)
    };
    assert_eq!(kill(40_000, 0).unwrap_err().reason, Reason::SessionNotFound);
    assert_eq!(
        kill(rpc.session, 999).unwrap_err().reason,
        Reason::SessionNotFound
    );
    for session in [0, 65_535, u32::MAX] {
        assert_eq!(kill(session, 0).unwrap_err().reason, Reason::InvalidField);
    }
    assert_eq!(rpc.info().sessions, 3);
}

#[test]
fn close_with_something_held_is_refused_and_forced() {
    let scene = Scene::new();
    let other = scene.daemon.rpc();
    let close = |force| {
        let close = v1::CloseSessionRequest { force };
        call!(scene.rpc, sessions.close(close)).map(drop)
    };
    scene.refuses(|refused| {
        refused.is(
            "close with a block and an arena",
            Reason::BlocksOutstanding,
            close(false),
        );
    });
    close(true).unwrap();
    let stat = other.stat("p");
    assert_eq!((stat.blocks, stat.leased_bytes), (0, 0));
    assert_eq!(other.arena_stat("q").free, 2);
    assert_eq!(close(true).unwrap_err().reason, Reason::SessionExpired);
    assert_eq!(
        scene.rpc.alloc(scene.pool_id, 1).unwrap_err().reason,
        Reason::SessionExpired
    );
}
