//! Connections in their thousands, and connections that never get anywhere.

use super::*;

/// One process opens far more connections than the daemon takes, to either socket. Whatever it
/// says on them, another process still finds a place.
fn flood(n: u32, text: &str) {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let before = fds_of(&mut daemon);
    let socket = daemon.socket().to_owned();
    for socket_of_flood in [socket.clone(), fd_socket_path(&socket).unwrap()] {
        let mut mallory = PUPPETS.client();
        let flood = format!("flood {} {n} {text}", socket_of_flood.display());
        let opened: u64 = mallory.must(&flood).parse().unwrap();
        assert!(opened >= 1000, "only {opened} connections could be tried");
        others_are_served(&socket);
        // Who was there before goes on too.
        let block = rpc.alloc(pool_id, 100).unwrap();
        rpc.free(block).unwrap();
        mallory.kill();
        fds_come_down_to(&mut daemon, before);
    }
    daemon.is_well();
}

#[test]
fn ten_thousand_silent_connections_keep_nobody_out() {
    flood(10_000, "");
}

#[test]
fn ten_thousand_connections_that_stop_in_the_middle_keep_nobody_out() {
    // The first half of what an HTTP/2 client begins with; of a request for memory, too little.
    flood(10_000, "PRI%20*%20HT");
}

#[test]
fn connections_of_garbage_keep_nobody_out() {
    // Each is answered and closed, which is work: fewer, so that a slow build gets done with it.
    flood(
        2000,
        "garbage%0d%0a%0d%0agarbage%00%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff%ff",
    );
}
