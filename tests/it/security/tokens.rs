//! Tokens in the wrong hands.

use super::*;

fn hex(token: &[u8]) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has a process show a token everywhere; each time it must be worth nothing.
fn is_worth_nothing(thief: &mut Puppet, socket: &Path, token: &[u8], pool_id: u32) {
    let answers = thief.must(&format!(
        "steal {} {} {pool_id}",
        socket.display(),
        hex(token)
    ));
    let answers: Vec<_> = answers.split("; ").collect();
    assert_eq!(answers.len(), 7, "{answers:?}");
    assert_eq!(answers[0], "memory=BadToken");
    for answer in &answers[1..] {
        assert!(answer.contains("=SESSION_EXPIRED"), "{answer}");
    }
}

#[test]
fn token_of_another_process_is_worth_nothing_anywhere() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    rpc.alloc(pool_id, 100).unwrap();
    let mut thief = PUPPETS.client();
    is_worth_nothing(&mut thief, daemon.socket(), &rpc.token, pool_id);
    let stat = rpc.stat("p");
    assert_eq!(stat.blocks, 1, "the session was not closed");
}

#[test]
fn token_of_a_session_that_has_ended_is_worth_nothing() {
    let daemon = TestDaemon::start();
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    // Replayed by the same process after its end, and then by another one.
    let ended = daemon.rpc();
    let close = v1::CloseSessionRequest { force: false };
    call!(ended, sessions.close(close)).unwrap();
    let error = ended.alloc(pool_id, 100).unwrap_err();
    assert_eq!(error.reason, goumem::Reason::SessionExpired);
    let (status, fds) = ended.ask_for_memory(pool_id, goumem_shm::os::Access::ReadOnly);
    assert_eq!(status, goumem_shm::os::frame::MapStatus::BadToken);
    assert!(fds.is_empty());
    let mut thief = PUPPETS.client();
    is_worth_nothing(&mut thief, daemon.socket(), &ended.token, pool_id);
    is_worth_nothing(&mut thief, daemon.socket(), &[7; 16], pool_id);
    assert_eq!(rpc.stat("p").blocks, 0);
}

/// Over a restart too, when the next daemon knows the session from what was kept.
#[test]
fn token_of_another_process_is_worth_nothing_to_the_next_daemon() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool_id, 100).unwrap();
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let mut thief = PUPPETS.client();
    is_worth_nothing(&mut thief, daemon.socket(), &rpc.token, pool_id);
    let rpc = Rpc::connect(daemon.socket()).with_token(rpc.token);
    call!(rpc, sessions.resume(v1::ResumeSessionRequest {})).unwrap();
    rpc.free(block).unwrap();
}
