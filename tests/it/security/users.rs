//! What one user may do to a pool of another one, by every call there is.

use super::*;

/// What reads a pool and leaves it as it is. Whoever may read may pin.
const READS: [&str; 10] = [
    "open-read",
    "memory-read",
    "resolve",
    "read",
    "lookup",
    "stat",
    "map",
    "kept",
    "pin",
    "unpin",
];
/// What only the pool's owner and root may do.
const OWNERS: [&str; 2] = ["capacity", "destroy"];

const GROUP: u32 = 47_300;

struct Scene {
    daemon: DaemonProcess,
    rpc: Rpc,
    alice: Puppet,
    pool_id: u32,
    handle: String,
}

impl Scene {
    /// Alice has a pool of that mode, with a block that has the name "theirs".
    fn with_mode(mode: &str) -> Self {
        let daemon = DaemonProcess::start_for_everybody(PUPPETS);
        let mut alice = user(47_301, 47_401, &[GROUP]);
        alice.must(&format!("connect {}", daemon.socket().display()));
        alice.must(&format!("create-pool p {MIB} mode={mode} gid={GROUP}"));
        alice.must("alloc p a 1000 7");
        alice.must("share a");
        let handle = alice.must("publish a theirs");
        let rpc = daemon.rpc();
        let pools = call!(rpc, pools.list(v1::ListPoolsRequest {}))
            .unwrap()
            .pools;
        Self {
            pool_id: pools[0].pool_id,
            daemon,
            rpc,
            alice,
            handle,
        }
    }

    /// Has somebody try everything; returns what was answered to what.
    fn intrude(&self, by: &mut Puppet) -> Vec<(String, String)> {
        let socket = self.daemon.socket().display();
        let (pool_id, handle) = (self.pool_id, &self.handle);
        let answers = by.must(&format!("intrude {socket} p {pool_id} {handle}"));
        let answers = answers.split("; ").map(|one| one.split_once('=').unwrap());
        answers
            .map(|(call, answer)| (call.to_owned(), answer.to_owned()))
            .collect()
    }

    /// What Alice has is as it was.
    fn is_untouched(&mut self) {
        let stat = self.rpc.stat("p");
        assert_eq!((stat.blocks, stat.named_blocks, stat.pins), (1, 1, 0));
        assert_eq!(stat.pool.unwrap().capacity_bytes, MIB);
        self.alice.must(&format!("look p {} 7", self.handle));
        self.daemon.is_well();
    }
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> Puppet {
    let setup = Setup {
        user: Some((uid, gid, groups.to_vec())),
        ..Setup::default()
    };
    PUPPETS.client_with(&setup).unwrap()
}

fn is_refused(answer: &str) -> bool {
    // "Denied" is how the socket says it where memory is handed out.
    answer.starts_with("PERMISSION_DENIED") || answer == "Denied"
}

#[test]
fn other_user_may_do_nothing_with_a_pool_whose_mode_does_not_say_so() {
    if !is_root() {
        return skip("pools of other users", "only root can become other users");
    }
    let mut scene = Scene::with_mode("660");
    let answers = scene.intrude(&mut user(47_302, 47_402, &[]));
    for (call, answer) in &answers {
        assert!(is_refused(answer), "{call}: {answer}");
    }
    assert!(answers.len() > 25);
    scene.is_untouched();
}

#[test]
fn reader_by_group_reads_and_changes_nothing() {
    if !is_root() {
        return skip("readers of a pool", "only root can become other users");
    }
    let mut scene = Scene::with_mode("640");
    for (call, answer) in scene.intrude(&mut user(47_303, 47_403, &[GROUP])) {
        if READS.contains(&call.as_str()) {
            assert!(["OK", "Ok"].contains(&answer.as_str()), "{call}: {answer}");
        } else {
            assert!(is_refused(&answer), "{call}: {answer}");
        }
    }
    scene.is_untouched();
}

#[test]
fn writer_by_mode_does_everything_but_what_is_the_owners() {
    if !is_root() {
        return skip("writers of a pool", "only root can become other users");
    }
    let scene = Scene::with_mode("666");
    for (call, answer) in scene.intrude(&mut user(47_304, 47_404, &[])) {
        assert_eq!(
            is_refused(&answer),
            OWNERS.contains(&call.as_str()),
            "{call}: {answer}"
        );
    }
    // Root may, whoever the owner is.
    let destroy = v1::DestroyPoolRequest {
        name: "p".to_owned(),
        request_id: 0,
    };
    call!(scene.rpc, pools.destroy(destroy)).unwrap();
}

#[test]
fn refusals_tell_nothing_of_addresses_fds_paths_and_other_users() {
    if !is_root() {
        return skip(
            "what errors tell other users",
            "only root can become other users",
        );
    }
    let mut scene = Scene::with_mode("666");
    scene.alice.must("alloc p rest 500000 1");
    let alice = scene.alice.pid().to_string();
    let mut mallory = user(47_305, 47_405, &[]);
    let mut texts: Vec<_> = scene.intrude(&mut mallory);
    // A full pool says who holds it: to its owner and to root.
    mallory.must(&format!("connect {}", scene.daemon.socket().display()));
    mallory.must("open-pool p rw");
    let full = mallory
        .ask(&format!("alloc p much {} 7", 2 * MIB))
        .unwrap_err();
    assert!(full.starts_with("POOL_EXHAUSTED"), "{full}");
    texts.push(("full".to_owned(), full));
    for (call, text) in texts {
        for secret in ["0x7f", "fd ", "/proc", "/dev/shm", "/tmp", "47301", &alice] {
            assert!(!text.contains(secret), "{call} tells {secret}: {text}");
        }
    }
    let holders = |stat: v1::PoolStat| stat.top_holders.len();
    assert!(holders(scene.rpc.stat("p")) > 0, "root sees them");
}

#[test]
fn names_of_pools_one_may_not_read_are_not_listed() {
    if !is_root() {
        return skip("lists of pools", "only root can become other users");
    }
    let scene = Scene::with_mode("600");
    let mut mallory = user(47_306, 47_406, &[]);
    mallory.must(&format!("connect {}", scene.daemon.socket().display()));
    assert_eq!(mallory.must("pools"), "");
    mallory.must(&format!("create-pool own {MIB}"));
    assert_eq!(mallory.must("pools"), "own");
    assert_eq!(mallory.must("sessions"), "1", "her own");
}

#[test]
fn http_socket_shows_each_user_what_it_may_see() {
    if !is_root() {
        return skip("HTTP of other users", "only root can become other users");
    }
    let mut scene = Scene::with_mode("600");
    let socket = scene.daemon.socket().to_owned();
    let ask = |by: &mut Puppet, path: &str| by.must(&format!("http {} {path}", socket.display()));
    let seen = |answer: &str| {
        let body = answer.strip_prefix("200 ").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let count = |what: &str| body[what].as_array().unwrap().len();
        (count("pools"), count("sessions"))
    };
    let observation = "/api/v1/observation";
    // Alice's session, and that of this process, which is root's.
    assert_eq!(seen(&ask(&mut scene.alice, observation)), (1, 1));
    let (status, body) = harness::http_get(&socket, observation);
    assert_eq!(seen(&format!("{status} {body}")), (1, 2), "root sees all");
    let mut mallory = user(47_307, 47_407, &[]);
    let answer = ask(&mut mallory, observation);
    assert_eq!(seen(&answer), (0, 0));
    for secret in ["theirs", "47301", &scene.alice.pid().to_string()] {
        assert!(!answer.contains(secret), "{secret}: {answer}");
    }
    let map = ask(&mut mallory, "/api/v1/pools/p/map");
    assert!(map.starts_with("403 "), "{map}");
    let map = ask(&mut scene.alice, "/api/v1/pools/p/map");
    assert!(map.starts_with("200 ") && map.contains("theirs"), "{map}");
    scene.is_untouched();
}
