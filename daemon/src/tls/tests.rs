//! What protects an address, and files that are refused. That who connects is who it says is
//! tested with certificates and a daemon, in `tests/it/remote`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use super::tokens::Tokens;
use super::*;

fn some(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(name))
}

#[test]
fn address_that_others_reach_needs_tls_and_a_proof() {
    let everywhere = "0.0.0.0:7700".parse().unwrap();
    let loopback = "127.0.0.1:7700".parse().unwrap();
    let none = TcpOptions::default();
    let tls = TcpOptions {
        tls_cert: some("cert"),
        tls_key: some("key"),
        ..none.clone()
    };
    let tokens = TcpOptions {
        tokens_file: some("tokens"),
        ..none.clone()
    };
    for (options, missing) in [
        (&none, "tls_cert and tls_key, and client_ca or tokens_file"),
        (&tls, "client_ca or tokens_file"),
        (&tokens, "tls_cert and tls_key"),
    ] {
        let refused = options.check(everywhere);
        assert!(
            matches!(&refused, Err(TlsError::Unprotected { add, .. }) if *add == missing),
            "{refused:?}"
        );
        options.check(loopback).unwrap();
    }
    let with_tokens = TcpOptions {
        tokens_file: some("tokens"),
        ..tls.clone()
    };
    let with_ca = TcpOptions {
        client_ca: some("ca"),
        ..tls
    };
    with_tokens.check(everywhere).unwrap();
    with_ca.check(everywhere).unwrap();
}

#[test]
fn half_of_what_tls_needs_and_users_that_cannot_be_are_refused() {
    let loopback = "127.0.0.1:7700".parse().unwrap();
    let half = |tls_cert, tls_key, client_ca| {
        let options = TcpOptions {
            tls_cert,
            tls_key,
            client_ca,
            ..TcpOptions::default()
        };
        matches!(options.check(loopback), Err(TlsError::Half { .. }))
    };
    assert!(half(some("cert"), None, None));
    assert!(half(None, some("key"), None));
    assert!(half(None, None, some("ca")));
    for (name, uid) in [
        ("alice", 0),
        ("alice", u32::MAX),
        ("", 1000),
        ("a\nb", 1000),
    ] {
        let users = BTreeMap::from([(name.to_owned(), uid)]);
        let options = TcpOptions {
            users,
            ..TcpOptions::default()
        };
        let refused = options.check(loopback);
        assert!(
            matches!(&refused, Err(TlsError::User { .. } | TlsError::Name { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn users_are_names_and_numbers_and_no_name_is_there_twice() {
    let parse = |text| {
        let mut users = BTreeMap::new();
        parse_users(&mut users, text).then_some(users)
    };
    let users = parse("alice = 1000,spiffe://a?b=c=7").unwrap();
    assert_eq!(
        users,
        [("alice".to_owned(), 1000), ("spiffe://a?b=c".to_owned(), 7)].into()
    );
    for wrong in [
        "alice",
        "alice=bob",
        "alice=1,alice=2",
        "alice=1,,bob=2",
        "",
    ] {
        assert_eq!(parse(wrong), None, "{wrong:?}");
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn tokens_are_found_by_what_they_are_and_by_their_hash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    // printf %s correct-horse-battery | sha256sum
    let hex = "62249369389075490555a758353aec61500c6218fa597252d52dc4bd0148f12d";
    write(
        &path,
        &format!(
            "# who may come\nalice: 0123456789abcdef\n\nbob : sha256:{hex}\nalice:a-newer-one-of-hers\n"
        ),
    );
    let tokens = Tokens::read(&path).unwrap();
    let whose = |token| tokens.name_of(token).map(String::from);
    assert_eq!(whose("0123456789abcdef").as_deref(), Some("alice"));
    assert_eq!(whose("a-newer-one-of-hers").as_deref(), Some("alice"));
    assert_eq!(whose("correct-horse-battery").as_deref(), Some("bob"));
    for wrong in ["", "0123456789abcdeF", "0123456789abcdef ", hex] {
        assert_eq!(whose(wrong), None, "{wrong:?}");
    }
    assert!(!format!("{tokens:?}").contains("0123"));
}

#[test]
fn files_of_tokens_that_make_no_sense_are_refused_without_quoting_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    for (text, line_expected) in [
        ("alice", 1),
        ("alice: secret", 1),
        ("# fine\n: 0123456789abcdef", 2),
        ("alice: sha256:beef", 1),
        ("alice: 0123456789 secret", 1),
    ] {
        write(&path, text);
        let Err(error) = Tokens::read(&path) else {
            panic!("{text:?} was taken for tokens");
        };
        assert!(
            matches!(error, TlsError::Token { line, .. } if line == line_expected),
            "{error:?}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    write(&path, "# nobody\n");
    let refused = Tokens::read(&path);
    assert!(matches!(refused, Err(TlsError::Nothing { .. })));
}

#[test]
fn secrets_that_others_may_read_are_refused_with_the_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    write(&path, "alice: 0123456789abcdef");
    for (bits, tokens_refused, key_refused) in [
        (0o600, false, false),
        (0o640, true, false),
        (0o604, true, true),
        (0o620, true, false),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
        let exposed = |refused: Option<TlsError>| matches!(refused, Some(TlsError::Exposed { mode, .. }) if mode == bits);
        assert_eq!(
            exposed(Tokens::read(&path).err()),
            tokens_refused,
            "{bits:o}"
        );
        // It is no key, but that is found out later.
        assert_eq!(exposed(private_key(&path).err()), key_refused, "{bits:o}");
    }
}

#[test]
fn changed_tokens_count_within_a_second_and_broken_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    write(&path, "alice: 0123456789abcdef");
    let options = TcpOptions {
        tokens_file: Some(path.clone()),
        ..TcpOptions::default()
    };
    let mut now = Instant::now();
    let access = Access::load(options, now).unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let who = |token: Option<&str>, now| {
        access
            .identify(address, None, token, now)
            .map(|caller| caller.name.unwrap().to_string())
    };
    let (old, new) = ("0123456789abcdef", "fedcba9876543210");
    assert_eq!(who(Some(old), now).unwrap(), "alice");
    assert_eq!(who(None, now), Err(Refused::NoProof));
    assert_eq!(who(Some(new), now), Err(Refused::UnknownToken));

    write(&path, "bob: fedcba9876543210 # broken");
    now += Duration::from_secs(1);
    assert_eq!(who(Some(old), now).unwrap(), "alice");
    access.reload(now);
    assert_eq!(who(Some(old), now).unwrap(), "alice");

    write(&path, "bob: fedcba9876543210");
    assert_eq!(who(Some(old), now).unwrap(), "alice", "not looked at yet");
    now += Duration::from_secs(1);
    assert_eq!(who(Some(old), now), Err(Refused::UnknownToken));
    assert_eq!(who(Some(new), now).unwrap(), "bob");

    fs::remove_file(&path).unwrap();
    now += Duration::from_secs(1);
    assert_eq!(who(Some(new), now).unwrap(), "bob");
}
