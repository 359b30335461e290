//! A daemon that may open few files.

use super::*;

#[test]
fn daemon_out_of_fds_says_so_by_name_and_serves_who_is_there() {
    let setup = Setup {
        open_files: Some(100),
        ..Setup::default()
    };
    let mut daemon = DaemonProcess::start_with(PUPPETS, &setup, &[]).unwrap();
    let rpc = daemon.rpc();
    let pool = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool, 100).unwrap();
    let mut n = 0;
    let error = loop {
        match create(&rpc, &format!("p{n}"), v1::Backing::Memfd, MIB) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!((10..50).contains(&n), "{n} pools with 100 fds");
    assert_eq!(error.reason, Reason::TooManyPools, "{error}");
    assert!(
        error.number("limit").is_some_and(|limit| limit < 100),
        "{error}"
    );
    // It is the same the second time: nothing is left of the first.
    let before = rpc.info();
    let again = create(&rpc, "again", v1::Backing::Memfd, MIB).unwrap_err();
    assert_eq!(again.reason, error.reason);
    assert_eq!(rpc.info().pools, before.pools);
    // Who is there goes on, and others come in.
    rpc.write(block, 0, &[7; 100]).unwrap();
    rpc.free(block).unwrap();
    let mut bob = PUPPETS.client();
    bob.must(&format!("connect {}", daemon.socket().display()));
    bob.must("open-pool p rw");
    bob.must("alloc p b 1000 7");
    // What is given up can be had again.
    destroy(&rpc, "p0");
    create(&rpc, "again", v1::Backing::Memfd, MIB).unwrap();
    daemon.is_well();
}
