//! Daemon and clients each in namespaces of their own, as in containers that share the directory of
//! the sockets and nothing else: none has a pid for another.

use goumem_proto::v1;
use harness::{
    DaemonProcess, PATIENCE, Puppet, Rpc, SOON, ServiceManager, Setup, call, eventually, is_root,
    skip,
};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

fn container() -> Setup {
    Setup {
        container: true,
        ..Setup::default()
    }
}

/// Says aloud what is not checked on this machine.
fn can_be_had() -> bool {
    if !is_root() {
        skip("containers", "only root can make namespaces");
        return false;
    }
    if let Err(error) = std::process::Command::new("unshare")
        .arg("--version")
        .output()
    {
        skip("containers", &format!("no unshare: {error}"));
        return false;
    }
    true
}

fn client_at(socket: &std::path::Path) -> Puppet {
    let mut client = PUPPETS.client_with(&container()).unwrap();
    client.must(&format!("connect {}", socket.display()));
    client
}

#[test]
fn containers_share_arenas_and_blocks_through_the_socket_directory_alone() {
    if !can_be_had() {
        return;
    }
    let daemon = DaemonProcess::start_with(PUPPETS, &container(), &[]).unwrap();
    let (mut alice, mut bob) = (client_at(daemon.socket()), client_at(daemon.socket()));
    alice.must(&format!("create-arenas q 2 {MIB}"));
    alice.must("get q a 1000");
    alice.must("share-arena a batch/17");
    bob.must("open-arenas q rw");
    bob.must("attach q b batch/17 rw");
    alice.must(&format!("create-pool p {}", 8 * MIB));
    alice.must("alloc p x 1000 9");
    let handle = alice.must("share x");
    bob.must("open-pool p rw");
    bob.must(&format!("look p {handle} 9"));

    // Their deaths are seen, by a process for which they have no pids either.
    let rpc = daemon.rpc();
    let pids = call!(rpc, sessions.list(v1::ListSessionsRequest::default())).unwrap();
    assert!(
        pids.sessions.iter().all(|session| session.pid == 0),
        "{pids:?}"
    );
    assert_eq!(rpc.info().sessions, 3);
    assert_eq!(rpc.stat("p").blocks, 1);
    alice.kill();
    eventually(SOON, "what she held is free", || {
        (rpc.info().sessions, rpc.stat("p").blocks) == (2, 0)
    });
    bob.kill();
    eventually(SOON, "so is the arena that both held", || {
        rpc.info().sessions == 1 && rpc.arena_stat("q").free == 2
    });
}

#[test]
fn token_is_worth_nothing_to_another_process_without_a_pid() {
    if !can_be_had() {
        return;
    }
    let daemon = DaemonProcess::start_with(PUPPETS, &container(), &[]).unwrap();
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    let mut thief = PUPPETS.client_with(&container()).unwrap();
    let token: String = rpc.token.iter().map(|byte| format!("{byte:02x}")).collect();
    let socket = daemon.socket().display();
    let answers = thief.must(&format!("steal {socket} {token} {pool}"));
    let mut answers = answers.split("; ");
    assert_eq!(answers.next(), Some("memory=BadToken"));
    for answer in answers {
        assert!(answer.contains("=SESSION_EXPIRED"), "{answer}");
    }
}

#[test]
fn sessions_without_a_pid_go_on_with_the_next_daemon() {
    if !can_be_had() {
        return;
    }
    let manager = ServiceManager::start();
    let start = || manager.spawn_with(PUPPETS, &container(), &[], &[("FDSTORE", "100")]);
    let mut daemon = start();
    manager.wait_for("READY=1", 1);
    let (mut alice, mut bob) = (client_at(&manager.socket()), client_at(&manager.socket()));
    alice.must(&format!("create-pool p {}", 8 * MIB));
    alice.must("alloc p a 1000 7");
    bob.must("open-pool p rw");
    bob.must("alloc p b 1000 8");
    bob.must("share b");
    daemon.kill();
    bob.kill();
    let _daemon = start();
    manager.wait_for("READY=1", 2);
    alice.must(&format!("alloc p c {} 9", 2 * MIB));
    alice.must("check a 7");
    let rpc = Rpc::open(&manager.socket());
    eventually(PATIENCE, "the one that died meanwhile is swept", || {
        (rpc.info().sessions, rpc.stat("p").blocks) == (2, 0)
    });
}
