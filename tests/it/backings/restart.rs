//! Files of daemons that were killed, while their clients may live on.

use super::*;

#[test]
fn file_pool_that_was_destroyed_or_never_finished_is_gone_at_the_next_start() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let client = daemon.client();
    let data = daemon.directory().join("data");
    let pool = client
        .create_pool("destroyed", options(Backing::File))
        .unwrap();
    let block = pool.alloc_slice_from(&[1u8; 100]).unwrap();
    client.destroy_pool("destroyed").unwrap();
    daemon.kill();
    // As a daemon leaves it that is killed before a pool's header is written.
    for (name, length) in [
        ("early.control", 0),
        ("late.control", 8192),
        ("late.data", 8192),
    ] {
        let file = File::create(data.join(format!("{name}.goumem"))).unwrap();
        file.set_len(length).unwrap();
    }
    // And one of which nobody can say what it is.
    let odd = data.join("odd.control.goumem");
    fs::write(&odd, [0x5a; 8192]).unwrap();

    let next = daemon.next(PUPPETS);
    let client = next.client();
    assert_eq!(data_files(next.directory()), ["odd.control.goumem"]);
    assert!(client.list_pools().unwrap().is_empty());
    assert!(*block == [1; 100], "who maps it still has it");
    for name in ["destroyed", "early", "late"] {
        client.create_pool(name, options(Backing::File)).unwrap();
    }
    let error = client
        .create_pool("odd", options(Backing::File))
        .unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PoolExists), "{error}");
    assert_eq!(fs::read(&odd).unwrap(), [0x5a; 8192], "it is left as it is");
}

/// The next daemon once opened the very files that the living had mapped, and handed their blocks
/// to others. It goes on with copies instead.
#[test]
fn client_of_a_file_pool_whose_daemon_was_killed_spoils_nothing_of_the_next() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let old = daemon.client();
    let pool = old.create_pool("p", options(Backing::File)).unwrap();
    let kept = pool
        .alloc_slice_from(&[1u8; 1000])
        .unwrap()
        .share()
        .unwrap();
    goumem::blocking::wait(kept.publish("kept")).unwrap();
    let mut mine = pool.alloc_slice::<u8>(100_000).unwrap();
    mine.fill(2);
    daemon.kill();
    let next = daemon.next(PUPPETS);
    let new = next.client();
    let theirs = new.open_pool("p").unwrap();
    let mut all = Vec::new();
    while let Ok(mut block) = theirs.alloc_slice::<u8>(100_000) {
        block.fill(3);
        all.push(block);
    }
    assert!(all.len() > 70, "all of the pool but for what is kept");
    // The living client goes on in what it had …
    assert!(*mine == [2; 100_000], "what the living hold is untouched");
    mine.fill(4);
    let mut more = Vec::new();
    while let Ok(mut block) = pool.try_alloc_slice::<u8>(100_000) {
        block.fill(5);
        more.push(block);
    }
    // … and the next daemon's clients do not see any of it.
    assert!(all.iter().all(|block| **block == [3; 100_000]));
    let kept = theirs.lookup("kept").unwrap();
    assert_eq!(
        theirs
            .resolve_slice::<u8>(kept)
            .unwrap()
            .read_slice()
            .unwrap(),
        [1; 1000]
    );
}

#[test]
fn files_of_a_living_daemon_are_not_another_ones() {
    let daemon = DaemonProcess::start(PUPPETS);
    let client = daemon.client();
    client.create_pool("p", options(Backing::File)).unwrap();
    // Another socket, and the same files.
    let data = daemon.directory().join("data");
    let other = TestDaemon::start_with(|config| config.limits.data_dir = data.clone());
    let theirs = other.client();
    assert!(theirs.list_pools().unwrap().is_empty());
    let error = theirs.create_pool("q", options(Backing::File)).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Internal), "{error}");
    theirs.create_pool("q", options(Backing::Memfd)).unwrap();
    assert_eq!(data_files(daemon.directory()).len(), 2);
    client.open_pool("p").unwrap().alloc_value(1u64).unwrap();
}
