//! The daemon's sockets and files: who may reach them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use harness::eventually;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn sockets_and_files_are_the_daemons_users_alone_unless_configured_otherwise() {
    let daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let create = v1::CreatePoolRequest {
        name: "p".to_owned(),
        capacity_bytes: MIB,
        backing: v1::Backing::File.into(),
        ..Default::default()
    };
    call!(rpc, pools.create(create)).unwrap();
    let in_directory = |name: &str| daemon.directory().join(name);
    for socket in [
        "goumemd.sock",
        "goumemd.fd.sock",
        "goumemd.http.sock",
        "goumemd.keeper.sock",
    ] {
        has_mode(&in_directory(socket), 0o600);
    }
    for half in ["control", "data"] {
        let file = in_directory("data").join(format!("p.{half}.goumem"));
        assert_eq!(mode(&file), 0o600, "{half}");
    }
    // With a mode that was asked for, those that clients use have it, and the keeper's does not.
    let daemon = DaemonProcess::start_for_everybody(PUPPETS);
    for socket in ["goumemd.sock", "goumemd.fd.sock", "goumemd.http.sock"] {
        has_mode(&daemon.directory().join(socket), 0o666);
    }
}

/// Waits until a socket has its mode: it is bound first, so that for a moment only its owner can
/// connect, whatever the mode is to be.
fn has_mode(socket: &Path, expected: u32) {
    let what = format!("{} has mode {expected:o}", socket.display());
    eventually(PATIENCE, &what, || {
        socket.exists() && mode(socket) == expected
    });
}

#[test]
fn other_user_cannot_connect_where_the_sockets_mode_does_not_let_it() {
    if !is_root() {
        return skip(
            "other users at the sockets",
            "only root can become other users",
        );
    }
    let daemon = DaemonProcess::start(PUPPETS);
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o755)).unwrap();
    let mut mallory = PUPPETS.client_with(&Setup::user(47_310, 47_410)).unwrap();
    let fd_socket = goumem_shm::os::paths::fd_socket_path(daemon.socket()).unwrap();
    let http_socket = goumem_shm::os::paths::http_socket_path(daemon.socket()).unwrap();
    for socket in [daemon.socket(), &fd_socket, &http_socket] {
        assert_eq!(mallory.must(&format!("flood {} 1", socket.display())), "0");
    }
}

/// Its socket's mode is the first fence. Behind it, who it is decides.
#[test]
fn keeper_answers_its_own_user_only_whatever_the_mode_of_its_socket() {
    if !is_root() {
        return skip(
            "other users at the keeper",
            "only root can become other users",
        );
    }
    let mut daemon = DaemonProcess::start_kept(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    fs::set_permissions(daemon.directory(), Permissions::from_mode(0o755)).unwrap();
    let socket = daemon.directory().join("goumemd.keeper.sock");
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let keeper = daemon.keeper().unwrap();
    let mut mallory = PUPPETS.client_with(&Setup::user(47_311, 47_411)).unwrap();
    // Connections of hers are closed without an answer; and they take nobody's place.
    assert_eq!(
        mallory.must(&format!("flood {} 50 %47%4f%55%4d", socket.display())),
        "50"
    );
    assert_eq!(mallory.must("flood-ended"), "50");
    assert_eq!(daemon.keeper(), Some(keeper));
    rpc.create_pool("q", MIB);
    daemon.kill();
    let daemon = daemon.next(PUPPETS);
    let rpc = Rpc::connect(daemon.socket()).with_token(rpc.token);
    call!(rpc, sessions.resume(v1::ResumeSessionRequest {})).unwrap();
    rpc.alloc(pool_id, 100).unwrap();
    eventually(PATIENCE, "the keeper takes connections of its user", || {
        UnixStream::connect(&socket).is_ok()
    });
}
