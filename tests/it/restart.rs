//! kill -9 of the daemon, of its keeper, and of both, with sessions that live on.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use goumem::Reason;
use goumem_proto::v1;
use goumem_shm::os::Access;
use goumem_shm::os::frame::MapStatus;
use goumem_shm::os::peer::PidFd;
use harness::{DaemonProcess, PATIENCE, Rpc, SOON, Setup, call, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::PUPPETS;

const MIB: u64 = 1 << 20;

/// Continues a session on a new connection.
fn resume(daemon: &DaemonProcess, old: &Rpc) -> Rpc {
    let mut rpc = Rpc::connect(daemon.socket()).with_token(old.token.clone());
    let resumed = call!(rpc, sessions.resume(v1::ResumeSessionRequest {})).unwrap();
    assert_eq!(resumed.session, old.session);
    rpc.session = old.session;
    rpc
}

fn kill(pid: u32) -> PidFd {
    let process = PidFd::open(pid).unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    eventually(PATIENCE, "a killed process is dead", || process.is_dead());
    process
}

fn on(handle: v1::Handle, request_id: u64) -> v1::HandleRequest {
    v1::HandleRequest {
        handle: Some(handle),
        request_id,
    }
}

fn publish(rpc: &Rpc, handle: v1::Handle, name: &str) {
    let request = v1::PublishRequest {
        handle: Some(handle),
        name: name.to_owned(),
        ..Default::default()
    };
    call!(*rpc, pools.publish(request)).unwrap();
}

fn lookup(rpc: &Rpc, pool_id: u32, name: &str) -> v1::Handle {
    let name = name.to_owned();
    let block = call!(*rpc, pools.lookup(v1::LookupRequest { pool_id, name })).unwrap();
    block.handle.unwrap()
}

fn lease(rpc: &Rpc, pool_id: u32, request_id: u64) -> Vec<v1::Span> {
    let request = v1::LeaseRequest {
        pool_id,
        size_class: 5,
        request_id,
        ..Default::default()
    };
    call!(*rpc, pools.lease(request)).unwrap().spans
}

#[test]
fn killed_daemon_comes_back_with_everything_that_sessions_held() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", 8 * MIB);
    let arenas = rpc.create_arena_pool("a", 2, 4096);
    let (status, _fds) = rpc.ask_for_memory(pool, Access::ReadWrite);
    assert_eq!(status, MapStatus::Ok);
    let block = rpc.alloc(pool, 1000).unwrap();
    rpc.write(block, 0, b"still here").unwrap();
    let named = rpc.alloc(pool, 100).unwrap();
    publish(&rpc, named, "n");
    call!(rpc, pools.pin(on(block, 1))).unwrap();
    let spans = lease(&rpc, pool, 2);
    let (one, other) = (
        rpc.get_arena(arenas, 0).unwrap(),
        rpc.get_arena(arenas, 0).unwrap(),
    );
    let share = v1::ShareArenaRequest {
        arena: Some(one),
        name: "shared".to_owned(),
        request_id: 3,
    };
    let shared = call!(rpc, arenas.share(share.clone())).unwrap();
    let before = rpc.info();

    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    let info = rpc.info();
    assert_eq!(info.epoch, before.epoch + 1);
    assert_eq!((info.pools, info.arena_pools, info.sessions), (1, 1, 1));
    assert_eq!(info.quarantined, 0);
    assert_eq!(rpc.read(block, 0, 10).unwrap(), b"still here");
    assert_eq!(lookup(&rpc, pool, "n"), named);
    let stat = rpc.stat("p");
    assert_eq!((stat.pins, stat.blocks, stat.sessions), (1, 2, 1));
    // Retried, the calls are answered and nothing is done twice.
    call!(rpc, pools.pin(on(block, 1))).unwrap();
    let again = lease(&rpc, pool, 2);
    assert_eq!(
        (again[0].first_page, again[0].epoch),
        (spans[0].first_page, spans[0].epoch)
    );
    assert_eq!(call!(rpc, arenas.share(share)).unwrap(), shared);
    assert_eq!(rpc.stat("p").pins, 1);
    // Both arenas are held, one by name.
    let refused = rpc.get_arena(arenas, 0).unwrap_err();
    assert_eq!(refused.reason, Reason::NoFreeArena);
    let waiting = {
        let rpc = rpc.clone();
        thread::spawn(move || rpc.get_arena(arenas, 20_000))
    };
    eventually(PATIENCE, "a call waits", || {
        rpc.arena_stat("a").waiting == 1
    });
    rpc.return_arena(other).unwrap();
    waiting.join().unwrap().unwrap();
    // The memory is handed out as before, and new sessions are new.
    assert_eq!(rpc.ask_for_memory(pool, Access::ReadWrite).0, MapStatus::Ok);
    assert_ne!(daemon.rpc().session, rpc.session);
    rpc.free(named).unwrap();
    rpc.alloc(pool, 100).unwrap();
}

#[test]
fn clients_that_died_with_the_daemon_are_swept_by_the_next() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    rpc.create_pool("p", 8 * MIB);
    let mut client = PUPPETS.client();
    client.must(&format!("connect {}", daemon.socket().display()));
    client.must("open-pool p rw");
    client.must("alloc p private 5000 1");
    client.must("alloc p shared 5000 2");
    let handle = client.must("share shared");
    client.must("alloc p kept 300 3");
    client.must("share kept");
    client.must("publish kept k");
    assert!(rpc.stat("p").leased_bytes > 0);
    daemon.kill();
    client.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    eventually(SOON, "what the dead held is free", || {
        let stat = rpc.stat("p");
        (stat.blocks, stat.kept_blocks, rpc.info().sessions) == (1, 1, 1)
    });
    let mut next = PUPPETS.client();
    next.must(&format!("connect {}", daemon.socket().display()));
    next.must("open-pool p rw");
    let stale = next.ask(&format!("look p {handle} 2")).unwrap_err();
    assert!(
        stale.contains("STALE_HANDLE") || stale.contains("stale"),
        "{stale}"
    );
}

#[test]
fn killed_keeper_is_replaced_and_refilled_at_once() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool, 100).unwrap();
    for _ in 0..3 {
        let keeper = daemon.keeper().unwrap();
        kill(keeper);
        eventually(PATIENCE, "another keeper listens", || {
            daemon.keeper().is_some_and(|pid| pid != keeper)
        });
        // Calls that need a keeper wait for the new one.
        let name = format!("made-{keeper}");
        rpc.create_pool(&name, MIB);
    }
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    rpc.free(block).unwrap();
    assert_eq!(rpc.info().pools, 4);
}

#[test]
fn daemon_and_keeper_killed_together_lose_everything_and_say_so() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    // First the daemon, which would replace its keeper.
    let keeper = daemon.keeper().unwrap();
    daemon.kill();
    kill(keeper);
    let daemon = daemon.next(PUPPETS);
    let lost = Rpc::connect(daemon.socket()).with_token(rpc.token.clone());
    let error = call!(lost, sessions.resume(v1::ResumeSessionRequest {})).unwrap_err();
    assert_eq!(error.reason, Reason::SessionExpired);
    let rpc = daemon.rpc();
    let error = call!(
        rpc,
        pools.stat(v1::StatPoolRequest {
            name: "p".to_owned()
        })
    )
    .unwrap_err();
    assert_eq!(error.reason, Reason::PoolNotFound);
    assert_ne!(
        rpc.create_pool("p", MIB),
        pool,
        "handles of the old one name nothing"
    );
}

#[test]
fn stopped_daemon_keeps_a_second_one_from_starting() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    daemon.puppet().signal(Signal::STOP);
    let log = PUPPETS.daemon(
        &Setup::default(),
        &[
            "--listen",
            daemon.socket().to_str().unwrap(),
            "--log-level",
            "off",
        ],
    );
    let mut second = log.unwrap();
    eventually(PATIENCE, "a second daemon gives up", || !second.is_alive());
    daemon.puppet().signal(Signal::CONT);
    let block = rpc.alloc(pool, 100).unwrap();
    rpc.free(block).unwrap();
    // Killed while stopped, it is dead, and the next takes over.
    daemon.puppet().signal(Signal::STOP);
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    rpc.alloc(pool, 100).unwrap();
}

#[test]
fn daemon_that_is_told_to_end_leaves_its_pools_to_the_next() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool, 100).unwrap();
    daemon.puppet().signal(Signal::TERM);
    eventually(PATIENCE, "the daemon ends", || !daemon.puppet().is_alive());
    assert!(daemon.keeper().is_some());
    let mut daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    assert_eq!(rpc.read(block, 0, 0).unwrap().len(), 100);
    // Ctrl-C means: nothing shall be left.
    daemon.puppet().signal(Signal::INT);
    eventually(PATIENCE, "the daemon ends", || !daemon.puppet().is_alive());
    eventually(PATIENCE, "so does the keeper", || daemon.keeper().is_none());
    assert!(!keeper_socket(&daemon).exists());
}

#[test]
fn keeper_ends_with_a_daemon_that_leaves_nothing() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let keeper = PidFd::open(daemon.keeper().unwrap()).unwrap();
    rpc.create_pool("p", MIB);
    let destroy = v1::DestroyPoolRequest {
        name: "p".to_owned(),
        request_id: 0,
    };
    call!(rpc, pools.destroy(destroy)).unwrap();
    call!(
        rpc,
        sessions.close(v1::CloseSessionRequest { force: false })
    )
    .unwrap();
    // Killed, even: all that the keeper has is the root table.
    daemon.kill();
    eventually(PATIENCE, "the keeper ends", || keeper.is_dead());
    assert!(UnixStream::connect(keeper_socket(&daemon)).is_err());
    let daemon = daemon.next(PUPPETS);
    assert_eq!(daemon.rpc().info().pools, 0);
}

#[test]
fn what_a_keeper_holds_can_be_given_up_without_a_daemon() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    rpc.create_pool("p", MIB);
    let socket = daemon.socket().to_owned();
    let drop_kept = || {
        let args = [
            "--listen",
            socket.to_str().unwrap(),
            "--drop",
            "--log-level",
            "off",
        ];
        let mut dropping = PUPPETS.daemon(&Setup::default(), &args).unwrap();
        eventually(PATIENCE, "--drop ends", || !dropping.is_alive());
    };
    drop_kept();
    assert!(daemon.keeper().is_some(), "not while a daemon runs");
    rpc.create_pool("q", MIB);
    daemon.kill();
    assert!(daemon.keeper().is_some());
    drop_kept();
    assert!(daemon.keeper().is_none());
    drop_kept();
    let daemon = daemon.next(PUPPETS);
    assert_eq!(daemon.rpc().info().pools, 0);
}

#[test]
fn pools_of_every_backing_go_on_where_they_were() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let mut blocks = Vec::new();
    for (name, backing) in [
        ("memfd", v1::Backing::Memfd),
        ("named", v1::Backing::Named),
        ("file", v1::Backing::File),
    ] {
        let create = v1::CreatePoolRequest {
            name: name.to_owned(),
            capacity_bytes: MIB,
            backing: backing.into(),
            ..Default::default()
        };
        let pool = call!(rpc, pools.create(create)).unwrap().pool.unwrap();
        let (_, fds) = rpc.ask_for_memory(pool.pool_id, Access::ReadWrite);
        let block = rpc.alloc(pool.pool_id, 1000).unwrap();
        rpc.write(block, 0, name.as_bytes()).unwrap();
        blocks.push((pool, block, fds));
    }
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = resume(&daemon, &rpc);
    for (pool, block, _fds) in &blocks {
        let name = pool.name.as_bytes();
        assert_eq!(rpc.read(*block, 0, name.len() as u64).unwrap(), name);
        let open = v1::OpenPoolRequest {
            name: pool.name.clone(),
            ..Default::default()
        };
        let opened = call!(rpc, pools.open(open)).unwrap().pool.unwrap();
        assert_eq!(opened.os_name, pool.os_name);
        if !pool.os_name.is_empty() {
            assert!(Path::new("/dev/shm").join(&pool.os_name).exists());
        }
        let destroy = v1::DestroyPoolRequest {
            name: pool.name.clone(),
            request_id: 0,
        };
        call!(rpc, pools.destroy(destroy)).unwrap();
        if !pool.os_name.is_empty() {
            assert!(!Path::new("/dev/shm").join(&pool.os_name).exists());
        }
    }
}

fn keeper_socket(daemon: &DaemonProcess) -> std::path::PathBuf {
    daemon.directory().join("goumemd.keeper.sock")
}

/// One call after the other, retried over a daemon that is killed again and again: each happens
/// once.
#[test]
fn calls_retried_over_many_restarts_happen_once() {
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let mut rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", 16 * MIB);
    let mut held = Vec::new();
    for round in 0..12u64 {
        let ids = round * 10 + 1;
        let alloc = |i| v1::AllocRequest {
            pool_id,
            spec: Some(v1::BlockSpec {
                size_bytes: 500,
                ..Default::default()
            }),
            request_id: ids + i,
        };
        let first: Vec<_> = (0..5)
            .map(|i| call!(rpc, pools.alloc(alloc(i))).unwrap())
            .collect();
        let freed = held.pop();
        let free = freed.map(|handle| v1::FreeRequest {
            handle: Some(handle),
            request_id: ids + 5,
        });
        if let Some(free) = free {
            call!(rpc, pools.free(free)).unwrap();
        }
        daemon.kill();
        daemon = daemon.next(PUPPETS);
        rpc = resume(&daemon, &rpc);
        for (i, block) in (0..).zip(&first) {
            assert_eq!(call!(rpc, pools.alloc(alloc(i))).unwrap(), *block);
        }
        if let Some(free) = free {
            call!(rpc, pools.free(free)).unwrap();
        }
        held.extend(
            first
                .into_iter()
                .map(|reply| reply.block.unwrap().handle.unwrap()),
        );
        assert_eq!(rpc.stat("p").blocks, held.len() as u64, "round {round}");
    }
}
