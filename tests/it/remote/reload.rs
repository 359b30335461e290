//! New files of TLS and tokens: they count within moments, and nobody loses a connection by it.

use super::*;

#[test]
fn new_certificate_and_tokens_count_and_connections_stay() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    let alice = connect(over_tls(&daemon, files).token(ALICE));
    let pool = alice.create_pool("p", PoolOptions::new(MIB)).unwrap();
    let block = pool.alloc_bytes("still there").unwrap();

    // Another CA certifies the daemon now.
    let ca = Authority::new();
    ca.write(&files.join("ca.pem"));
    ca.server().write(files, "server");
    eventually(PATIENCE, "the new certificate is shown", || {
        over_tls(&daemon, files).token(BOB).connect().is_ok()
    });
    assert_eq!(wait(block.read_all()).unwrap(), b"still there");
    assert_eq!(alice.sessions().unwrap().len(), 1, "on its connection");

    // Bob's token is taken away; his session is there, but his calls are nobody's.
    let bob = connect(over_tls(&daemon, files).token(BOB));
    write_secret(&files.join("tokens"), &format!("alice: {ALICE}\n"));
    eventually(
        PATIENCE,
        "bob is refused",
        || matches!(bob.ping(), Err(error) if error.reason() == Some(Reason::CredentialsRequired)),
    );
    assert_eq!(wait(block.read_all()).unwrap(), b"still there");
}

#[test]
fn files_that_cannot_be_used_change_nothing() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    let alice = connect(over_tls(&daemon, files).token(ALICE));
    fs::write(files.join("server.pem"), "no certificate").unwrap();
    fs::write(files.join("tokens"), "carol: carol-is-new-here-and-late\n").unwrap();
    // It has looked at them once a second has passed, and a connection has come.
    let changed = Instant::now();
    while changed.elapsed() < Duration::from_secs(3) {
        connect(over_tls(&daemon, files).token(ALICE))
            .ping()
            .unwrap();
        alice.ping().unwrap();
    }
    // Mended, they count.
    Authority::new().server().write(files, "unused");
    let ca = Authority::new();
    ca.write(&files.join("ca.pem"));
    ca.server().write(files, "server");
    let carol = || over_tls(&daemon, files).token("carol-is-new-here-and-late");
    eventually(PATIENCE, "carol is let in", || carol().connect().is_ok());
}
