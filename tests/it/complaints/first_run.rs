//! Users, containers and machines that nobody has set up.

use super::*;

/// iceoryx2#1810, #1188, iceoryx#1369, #1703, #2494: different users cannot share.
#[test]
fn users_share_by_group_and_mode_and_others_are_refused() {
    if !is_root() {
        return skip("sharing between users", "only root can become other users");
    }
    let daemon = TestDaemon::start_for_everybody();
    let connect = format!("connect {}", daemon.socket().display());
    let user = |uid, gid, groups: &[u32]| {
        let setup = Setup {
            user: Some((uid, gid, groups.to_vec())),
            ..Setup::default()
        };
        let mut puppet = PUPPETS.client_with(&setup).unwrap();
        puppet.must(&connect);
        puppet
    };
    // Alice and Bob are in group 47000, one of them by a supplementary group.
    let mut alice = user(47_001, 47_101, &[47_000]);
    let mut bob = user(47_002, 47_000, &[]);
    let mut carol = user(47_003, 47_103, &[47_104]);

    alice.must(&format!("create-pool team {MIB} mode=660 gid=47000"));
    alice.must(&format!("create-pool notes {MIB} mode=640 gid=47000"));
    alice.must(&format!("create-pool own {MIB}"));
    alice.must("alloc team a 1000 7");
    let handle = alice.must("share a");
    alice.must("alloc notes n 1000 5");
    let note = alice.must("share n");

    bob.must("open-pool team rw");
    bob.must(&format!("look team {handle} 7"));
    bob.must(&format!("take team b {handle}"));
    bob.must("check b 7");

    // The mode lets Bob's group read the notes, and the MMU keeps him to it.
    let error = bob.ask("open-pool notes rw").unwrap_err();
    assert!(error.starts_with("PERMISSION_DENIED"), "{error}");
    bob.must("open-pool notes ro");
    bob.must(&format!("look notes {note} 5"));
    let error = bob.ask(&format!("free notes {note}")).unwrap_err();
    assert!(error.starts_with("PERMISSION_DENIED"), "{error}");
    let protect = bob.must("protect notes");
    let (readable, rest) = protect.split_once(' ').unwrap();
    assert!(
        readable.parse::<u32>().unwrap() >= 2,
        "CONTROL and DATA: {protect}"
    );
    assert_eq!(rest, "0 0", "none is writable, none can be made so");

    for pool in ["team", "notes", "own"] {
        for access in ["rw", "ro"] {
            let error = carol
                .ask(&format!("open-pool {pool} {access}"))
                .unwrap_err();
            assert!(error.starts_with("PERMISSION_DENIED"), "{error}");
        }
    }
    let error = bob.ask("open-pool own ro").unwrap_err();
    assert!(error.starts_with("PERMISSION_DENIED"), "{error}");
    let error = carol
        .ask(&format!("create-pool c {MIB} mode=660 gid=47000"))
        .unwrap_err();
    assert!(
        error.starts_with("PERMISSION_DENIED"),
        "a group that she is not in: {error}"
    );
    // Names do not collide by who made them first: they are one space, and that is said.
    let error = carol.ask(&format!("create-pool own {MIB}")).unwrap_err();
    assert!(error.starts_with("POOL_EXISTS"), "{error}");
    // Nobody else kills one's processes.
    alice.must("check n 5");
}

/// PyTorch, Postgres, iceoryx2, kubernetes#28272: a container has 64 MB of `/dev/shm`.
#[test]
fn memfd_pools_do_not_care_how_large_dev_shm_is() {
    let setup = Setup {
        dev_shm_bytes: Some(16 * MIB),
        ..Setup::default()
    };
    let mut alice = match PUPPETS.embedded_with(&setup) {
        Ok(alice) => alice,
        Err(why) => return skip("64 MiB with a /dev/shm of 16 MiB", &why),
    };
    alice.must(&format!("create-arenas frames 1 {}", 64 * MIB));
    alice.must("get frames a 1000");
    alice.must(&format!("put a {} 7", 64 * MIB));
    assert_eq!(alice.must("check a 7"), (64 * MIB).to_string());
    alice.must(&format!("create-pool blocks {}", 128 * MIB));
    alice.must(&format!("alloc blocks b {} 7", 64 * MIB));
    alice.must("check b 7");
}

/// vineyard's getting started: the default socket path cannot be written by a plain user.
#[test]
fn daemon_and_client_of_a_plain_user_find_each_other_without_any_configuration() {
    if !is_root() {
        return skip(
            "the default socket of a plain user",
            "only root can become another user",
        );
    }
    // One of its own for each run, since the path depends on nothing else.
    let uid = 50_000 + std::process::id() % 10_000;
    let setup = Setup::user(uid, uid);
    let directory = Directory(PathBuf::from(format!("/tmp/goumem-{uid}")));
    let _daemon = PUPPETS
        .daemon(&setup, &["--log-level", "error", "--keeper", "none"])
        .unwrap();
    let mut alice = PUPPETS.client_with(&setup).unwrap();
    eventually(
        PATIENCE,
        "the daemon answers where the client looks",
        || alice.ask("connect-default").is_ok(),
    );
    alice.must(&format!("create-pool p {MIB}"));
    alice.must("alloc p a 1000 7");
    alice.must("check a 7");
    let found = fs::metadata(&directory.0).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (uid, 0o700));
    // Another user finds none, and is told where it was looked for.
    let mut bob = PUPPETS
        .client_with(&Setup::user(uid + 10_000, uid))
        .unwrap();
    let error = bob.ask("connect-default").unwrap_err();
    assert!(
        error.contains("NoDaemon") && error.contains("goumemd.sock"),
        "{error}"
    );
}

/// A directory that is not ours to make, but to remove.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Perhaps it was never made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// eclipse-zenoh/zenoh#2478: a failed mlock was fatal.
#[test]
fn nothing_needs_to_be_locked_in_memory() {
    let setup = Setup {
        user: is_root().then(|| (47_004, 47_004, Vec::new())),
        memlock_bytes: Some(64 << 10),
        ..Setup::default()
    };
    let mut alice = PUPPETS.embedded_with(&setup).unwrap();
    alice.must(&format!("create-pool p {}", 64 * MIB));
    alice.must(&format!("alloc p a {} 7", 32 * MIB));
    alice.must("check a 7");
    alice.must(&format!("create-arenas q 4 {MIB}"));
    alice.must("get q b 1000");
}
