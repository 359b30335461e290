//! What the environment says, and which sockets are taken for which.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use std::time::Instant;

use goumem_shm::os::reaper::DeathWatch;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sockets::{ActivatedSockets, ActivationError};
use super::*;
use crate::config::Config;
use crate::core::{Core, Wires};
use crate::fd_store::Kept;

fn read(variables: &[(&str, &str)]) -> ServiceEnvironment {
    let variable = |name: &str| {
        let found = variables.iter().find(|(other, _)| *other == name)?;
        Some(found.1.into())
    };
    ServiceEnvironment::read(variable, 77)
}

#[test]
fn variables_of_another_process_are_not_believed() {
    let ours = read(&[
        ("NOTIFY_SOCKET", "@abstract"),
        ("WATCHDOG_PID", "77"),
        ("WATCHDOG_USEC", "3000000"),
        ("LISTEN_PID", "77"),
        ("LISTEN_FDS", "3"),
        ("LISTEN_FDNAMES", "grpc:root"),
    ]);
    assert_eq!(ours.notify_socket, Some("@abstract".into()));
    assert_eq!(ours.watchdog, Some(Duration::from_secs(3)));
    assert_eq!(ours.names, ["grpc", "root", ""]);
    let anothers = read(&[
        ("NOTIFY_SOCKET", ""),
        ("WATCHDOG_PID", "1"),
        ("WATCHDOG_USEC", "3000000"),
        ("LISTEN_PID", "76"),
        ("LISTEN_FDS", "2"),
        ("LISTEN_FDNAMES", "grpc:root"),
    ]);
    assert_eq!(anothers, ServiceEnvironment::default());
    let without_a_pid = read(&[("WATCHDOG_USEC", "1000")]);
    assert_eq!(without_a_pid.watchdog, Some(Duration::from_millis(1)));
}

#[test]
fn sockets_are_told_by_name_and_by_path_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let listener = |name: &str| OwnedFd::from(UnixListener::bind(at(name)).unwrap());
    let mut sockets = ActivatedSockets::default();
    sockets.add("grpc".to_owned(), listener("a"));
    sockets.add("goumemd.socket".to_owned(), listener("b"));
    sockets.add("x".to_owned(), listener("c"));
    assert!(sockets.take("grpc", &at("a")).unwrap().is_some());
    assert!(sockets.take("grpc", &at("a")).unwrap().is_none());
    assert!(sockets.take("fd", &at("b")).unwrap().is_some());
    assert_eq!(sockets.left().collect::<Vec<_>>(), ["x"]);

    sockets.add("grpc".to_owned(), listener("d"));
    let elsewhere = sockets.take("grpc", &at("e")).unwrap_err();
    assert!(
        matches!(elsewhere, ActivationError::Elsewhere { .. }),
        "{elsewhere}"
    );
    let datagram = UnixDatagram::bind(at("f")).unwrap();
    let (connection, _other) = UnixStream::pair().unwrap();
    for socket in [OwnedFd::from(datagram), OwnedFd::from(connection)] {
        sockets.add("grpc".to_owned(), socket);
        let kind = sockets.take("grpc", &at("f")).unwrap_err();
        assert!(matches!(kind, ActivationError::Kind), "{kind}");
    }
}

/// A timer would go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn watchdog_is_silent_while_the_core_answers_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let wires = Wires {
        watch: Arc::new(DeathWatch::new().unwrap()),
        earlier: Arc::new(Notify::new()),
    };
    let limits = Config::private(directory.path()).limits;
    let core = Core::start(limits, None, wires, Kept::nothing(), Instant::now()).unwrap();
    let core = Arc::new(core);
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let status = Status {
        notifier: Some(Arc::new(Notifier::connect(path.as_os_str()).unwrap())),
        serving: Arc::default(),
    };
    let next = move |patience: Duration| {
        manager.set_read_timeout(Some(patience)).unwrap();
        let mut message = [0; 64];
        let n = manager.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..n]).into_owned())
    };
    let stop = CancellationToken::new();
    let watching = {
        let core = Arc::clone(&core);
        tokio::spawn(watch(status, Duration::from_millis(20), core, stop.clone()))
    };
    let talk = tokio::task::spawn_blocking(move || {
        let alive = Some("WATCHDOG=1\n".to_owned());
        assert_eq!(next(Duration::from_secs(30)), alive);
        let held_up = core.hold_up();
        // The one that was on its way when the core was held up may still come.
        let _ = next(Duration::from_millis(100));
        assert_eq!(next(Duration::from_millis(200)), None);
        drop(held_up);
        assert_eq!(next(Duration::from_secs(30)), alive);
    });
    talk.await.unwrap();
    stop.cancel();
    watching.await.unwrap();
}
