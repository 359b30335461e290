//! Who is let in: every proof that is not one is refused, and whoever has one is who it says.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use goumemd::{ListenError, Listeners, TlsError};
use harness::Rpc;

use super::*;

/// What a client hears that does not come past the handshake: by the server's alert, or by the
/// end of the connection.
fn is_cut_off(refused: Result<RemoteClient, Error>) -> bool {
    match refused {
        Err(Error::NoDaemon { .. } | Error::Transport { .. }) => true,
        Err(other) => panic!("{other:?}"),
        Ok(_) => false,
    }
}

fn is_nobody(refused: Result<RemoteClient, Error>) -> bool {
    match refused {
        Err(error) => error.reason() == Some(Reason::CredentialsRequired),
        Ok(_) => false,
    }
}

/// Configures TCP with TLS, and certificates as the only proof.
fn by_certificate(config: &mut Config, files: &Path, ca: &Authority) {
    secured(config, files);
    ca.write(&files.join("clients.pem"));
    config.tcp_options.tokens_file = None;
    config.tcp_options.client_ca = Some(files.join("clients.pem"));
}

#[test]
fn only_a_certificate_of_the_client_ca_that_is_good_today_lets_in() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let (ca, other) = (Authority::new(), Authority::new());
    let daemon = TestDaemon::start_with(|config| by_certificate(config, files, &ca));
    assert!(
        is_cut_off(over_tls(&daemon, files).connect()),
        "none at all"
    );
    assert!(
        is_cut_off(over_tls(&daemon, files).token(ALICE).connect()),
        "a token in its place"
    );
    for (what, wrong) in [
        ("another CA's", other.client("alice")),
        ("an expired one", ca.expired_client("alice")),
        ("one without a name", ca.client("")),
    ] {
        let (certificate, key) = wrong.write(files, "wrong");
        let refused = over_tls(&daemon, files).identity_files(certificate, key);
        assert!(is_cut_off(refused.connect()), "{what}");
    }
    for (client, name) in [
        (ca.client("alice"), "alice"),
        (ca.client_by_alternative_name("bob.example"), "bob.example"),
    ] {
        let (certificate, key) = client.write(files, "right");
        let client = connect(over_tls(&daemon, files).identity_files(certificate, key));
        client.ping().unwrap();
        assert_eq!(names(&client), [name]);
        client.close().unwrap();
    }
    daemon.client().ping().unwrap();
}

/// The names that the caller's sessions are listed with.
fn names(client: &RemoteClient) -> Vec<String> {
    let sessions = client.sessions().unwrap().into_iter();
    let commands = sessions.map(|session| session.command.unwrap());
    commands
        .map(|command| {
            let (name, address) = command.rsplit_once('@').unwrap();
            assert!(address.starts_with("127.0.0.1:"), "{command}");
            name.to_owned()
        })
        .collect()
}

#[test]
fn only_a_token_of_the_file_lets_in_over_tls() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    let builder = || over_tls(&daemon, files);
    assert!(is_nobody(builder().connect()));
    for wrong in ["", "alice", "alice-has-this-toke", "alice-has-this-tokenn"] {
        assert!(is_nobody(builder().token(wrong).connect()), "{wrong:?}");
    }
    let alice = connect(builder().token(ALICE));
    let bob = connect(builder().token(BOB));
    alice.ping().unwrap();
    bob.ping().unwrap();
    assert_eq!(names(&alice), ["alice"]);
    assert_eq!(names(&bob), ["bob"]);
}

#[test]
fn with_both_kinds_of_proof_either_is_enough() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let ca = Authority::new();
    let daemon = TestDaemon::start_with(|config| {
        by_certificate(config, files, &ca);
        config.tcp_options.tokens_file = Some(files.join("tokens"));
    });
    let (certificate, key) = ca.client("carol").write(files, "carol");
    let carol = connect(over_tls(&daemon, files).identity_files(certificate, key));
    carol.ping().unwrap();
    assert_eq!(names(&carol), ["carol"]);
    connect(over_tls(&daemon, files).token(ALICE))
        .ping()
        .unwrap();
    assert!(is_nobody(over_tls(&daemon, files).connect()));
}

#[test]
fn daemon_that_the_client_does_not_know_hears_no_token() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let daemon = TestDaemon::start_with(|config| secured(config, files));
    Authority::new().write(&files.join("another.pem"));
    let another = over_tls(&daemon, files).ca_file(files.join("another.pem"));
    assert!(is_cut_off(another.token(ALICE).connect()));
    let by_name = over_tls(&daemon, files).server_name("shm.example");
    assert!(is_cut_off(by_name.token(ALICE).connect()), "another name");
    let by_name = over_tls(&daemon, files).server_name("localhost");
    connect(by_name.token(ALICE)).ping().unwrap();
}

#[test]
fn plain_text_to_a_tls_port_and_tls_to_a_plain_one_get_nowhere() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let secure = TestDaemon::start_with(|config| secured(config, files));
    assert!(is_cut_off(plainly(secure.tcp().unwrap()).connect()));
    let mut raw = TcpStream::connect(secure.tcp().unwrap()).unwrap();
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An alert, and the end, or only the end.
    let _ = raw.read_to_end(&mut answer);
    assert!(answer.len() < 16, "{answer:?}");

    let plain = TestDaemon::start_with(|config| config.tcp = Some("127.0.0.1:0".parse().unwrap()));
    assert!(is_cut_off(over_tls(&plain, files).connect()));
    connect(plainly(plain.tcp().unwrap())).ping().unwrap();
    secure.client().ping().unwrap();
}

#[test]
fn address_that_others_reach_and_files_that_they_can_read_are_refused_at_the_start() {
    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    let mut config = Config::private(files);
    secured(&mut config, files);
    let bind = |config: &Config| match Listeners::bind(config) {
        Ok(_) => None,
        Err(ListenError::Tls(error)) => Some(error),
        Err(other) => panic!("{other:?}"),
    };
    assert!(bind(&config).is_none());

    let mut open = config.clone();
    open.tcp = Some("0.0.0.0:0".parse().unwrap());
    assert!(bind(&open).is_none(), "TLS and tokens");
    open.tcp_options = TcpOptions::default();
    assert!(matches!(bind(&open), Some(TlsError::Unprotected { .. })));

    let tokens = config.tcp_options.tokens_file.clone().unwrap();
    fs::set_permissions(&tokens, Permissions::from_mode(0o644)).unwrap();
    assert!(
        matches!(bind(&config), Some(TlsError::Exposed { path, mode: 0o644, .. }) if path == tokens)
    );
    write_secret(&tokens, "alice: short");
    assert!(matches!(
        bind(&config),
        Some(TlsError::Token { line: 1, .. })
    ));

    config.tcp_options.tokens_file = None;
    config.tcp_options.tls_cert = Some(files.join("none.pem"));
    assert!(matches!(bind(&config), Some(TlsError::Read { .. })));
    config.tcp_options.tls_cert = config.tcp_options.tls_key.clone();
    assert!(matches!(bind(&config), Some(TlsError::Nothing { .. })));
}

#[test]
fn connection_that_shows_no_token_is_closed_after_a_while() {
    let files = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start_with(|config| with_tokens(config, files.path()));
    let mut silent = TcpStream::connect(daemon.tcp().unwrap()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let start = Instant::now();
    // The daemon's half of HTTP/2's greeting, and then the end: an error would be the timeout.
    silent.read_to_end(&mut Vec::new()).unwrap();
    assert!(
        start.elapsed() > Duration::from_secs(5),
        "it had its chance"
    );

    // One that shows it stays.
    let alice = connect(plainly(daemon.tcp().unwrap()).token(ALICE).ttl(PATIENCE));
    alice.ping().unwrap();
}

#[test]
fn without_proof_no_service_answers() {
    let files = tempfile::tempdir().unwrap();
    let daemon = TestDaemon::start_with(|config| with_tokens(config, files.path()));
    let nobody = Rpc::connect_tcp(daemon.tcp().unwrap());
    let refused = |outcome: Result<(), goumem_proto::reason::ErrorDetail>| {
        assert_eq!(outcome.unwrap_err().reason, Reason::CredentialsRequired);
    };
    use goumem_proto::v1;
    refused(harness::call!(nobody, daemons.ping(v1::PingRequest {})).map(drop));
    refused(harness::call!(nobody, daemons.info(v1::InfoRequest {})).map(drop));
    refused(harness::call!(nobody, pools.list(v1::ListPoolsRequest {})).map(drop));
    refused(harness::call!(nobody, arenas.list(v1::ListArenaPoolsRequest {})).map(drop));
    refused(harness::call!(nobody, sessions.open(v1::OpenSessionRequest::default())).map(drop));
    refused(harness::call!(nobody, bytes.read(v1::ReadRequest::default())).map(drop));
}
