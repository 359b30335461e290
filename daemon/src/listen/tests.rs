//! A dead daemon's socket is replaced, a living one's is not, and none is left behind.

use std::os::unix::net::UnixListener as StdListener;

use super::*;

fn private() -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::private(directory.path());
    (directory, config)
}

#[test]
fn sockets_have_their_mode_and_go_with_the_listeners() {
    let (_directory, mut config) = private();
    config.socket_mode = 0o660;
    let listeners = Listeners::bind(&config).unwrap();
    let sockets = [
        listeners.socket().to_owned(),
        listeners.fd_socket().to_owned(),
    ];
    assert!(sockets[1].ends_with("goumemd.fd.sock"));
    for socket in &sockets {
        let found = fs::metadata(socket).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.mode() & 0o777, 0o660);
    }
    drop(listeners);
    assert!(sockets.iter().all(|socket| !socket.exists()));
}

#[test]
fn stale_socket_is_replaced() {
    let (_directory, config) = private();
    drop(StdListener::bind(&config.socket).unwrap());
    assert!(config.socket.exists(), "std leaves the file");
    let listeners = Listeners::bind(&config).unwrap();
    UnixStream::connect(listeners.socket()).unwrap();
}

#[test]
fn second_daemon_is_told_of_the_first() {
    let (_directory, config) = private();
    let _first = Listeners::bind(&config).unwrap();
    let second = Listeners::bind(&config);
    assert!(
        matches!(&second, Err(ListenError::AlreadyRunning { socket, source: LockError::Held { .. } })
            if *socket == config.socket),
        "{second:?}"
    );
    UnixStream::connect(&config.socket).unwrap();
}

#[test]
fn socket_of_another_program_is_left_alone() {
    let (_directory, config) = private();
    let _other = StdListener::bind(&config.socket).unwrap();
    assert!(matches!(
        Listeners::bind(&config),
        Err(ListenError::InUse { .. })
    ));
    UnixStream::connect(&config.socket).unwrap();
}

#[test]
fn file_in_the_way_is_left_alone() {
    let (_directory, config) = private();
    fs::write(&config.socket, "precious").unwrap();
    assert!(matches!(
        Listeners::bind(&config),
        Err(ListenError::NotASocket { .. })
    ));
    assert_eq!(fs::read_to_string(&config.socket).unwrap(), "precious");
}

#[test]
fn socket_of_a_successor_survives() {
    let (_directory, config) = private();
    let listeners = Listeners::bind(&config).unwrap();
    fs::remove_file(&config.socket).unwrap();
    let _successor = StdListener::bind(&config.socket).unwrap();
    drop(listeners);
    UnixStream::connect(&config.socket).unwrap();
}

#[test]
fn path_that_does_not_fit_is_refused_with_its_length() {
    let (_directory, mut config) = private();
    config.socket = config
        .socket
        .with_file_name(format!("{}.sock", "x".repeat(100)));
    let len = config.socket.as_os_str().len() + ".fd".len();
    assert!(matches!(
        Listeners::bind(&config),
        Err(ListenError::Path(PathError::TooLong { len_bytes, .. })) if len_bytes == len
    ));
}

#[test]
fn directory_that_others_may_enter_is_refused_where_the_daemon_chose_it() {
    let (directory, mut config) = private();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    config.private_directory = true;
    assert!(matches!(
        Listeners::bind(&config),
        Err(ListenError::Path(PathError::NotPrivate { .. }))
    ));
    config.private_directory = false;
    Listeners::bind(&config).unwrap();
}

#[test]
fn directory_of_another_owner_is_refused_where_the_daemon_chose_it() {
    let (directory, mut config) = private();
    // Only root can give a directory away; others meet root's own.
    config.socket = if std::os::unix::fs::chown(directory.path(), Some(65_534), None).is_ok() {
        config.socket
    } else {
        Path::new("/root-owned")
            .with_file_name("usr")
            .join("goumemd.sock")
    };
    config.private_directory = true;
    assert!(matches!(
        Listeners::bind(&config),
        Err(ListenError::Path(PathError::NotPrivate { why, .. })) if why.contains("another user")
    ));
}

#[test]
fn missing_directory_is_made_private() {
    let (directory, mut config) = private();
    let place = directory.path().join("a");
    config.socket = place.join("x.sock");
    let listeners = Listeners::bind(&config).unwrap();
    assert_eq!(fs::metadata(place).unwrap().mode() & 0o777, 0o700);
    assert!(listeners.fd_socket().ends_with("x.fd.sock"));
}

#[test]
fn tcp_port_is_the_one_that_was_bound() {
    let (_directory, mut config) = private();
    assert_eq!(Listeners::bind(&config).unwrap().tcp_address(), None);
    config.tcp = Some("127.0.0.1:0".parse().unwrap());
    let address = Listeners::bind(&config).unwrap().tcp_address().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
}

#[tokio::test]
async fn connection_above_the_limit_is_closed_and_a_place_is_free_again_after_one_ends() {
    use std::sync::Arc;
    use std::time::Instant;

    use crate::events::Hub;
    use crate::metrics::Metrics;
    use tokio::net::{UnixListener as Listener, UnixStream as Stream};
    use tokio::sync::Semaphore;

    let (_directory, config) = private();
    let listener = Listener::bind(&config.socket).unwrap();
    let metrics = Arc::new(Metrics::new(1));
    let hub = Arc::new(Hub::new(Arc::clone(&metrics), Instant::now()));
    let mut acceptor =
        Acceptor::new(listener, "test", Arc::new(Semaphore::new(1))).telling(Arc::clone(&hub));
    let _alice = Stream::connect(&config.socket).await.unwrap();
    let (accepted, permit) = acceptor.accept().await;

    let bob = Stream::connect(&config.socket).await.unwrap();
    let closed = async {
        bob.readable().await.unwrap();
        bob.try_read(&mut [0]).unwrap()
    };
    let read = tokio::select! {
        _ = acceptor.accept() => panic!("one too many was accepted"),
        read = closed => read,
    };
    assert_eq!(read, 0, "bob's connection is at its end");
    assert_eq!(metrics.connections_refused(), 1, "and is counted");
    // So is one whose owner has its share.
    let shares = Shares::new("test", 1).telling(hub);
    let _place = shares.take(vec![Holder::Remote]).unwrap();
    assert!(shares.take(vec![Holder::Remote]).is_none());
    assert_eq!(metrics.connections_refused(), 2);

    drop((accepted, permit));
    let _carol = Stream::connect(&config.socket).await.unwrap();
    let (_accepted, _permit) = acceptor.accept().await;
}

#[tokio::test]
async fn peer_is_whom_the_kernel_says() {
    let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
    let peer = LocalPeer::of(&ours).unwrap();
    assert_eq!(peer.pid, std::process::id());
    assert!(!peer.pidfd.unwrap().is_dead());
}
