//! The rule, step by step.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn bare() -> Environment {
    Environment {
        goumem_socket: None,
        xdg_runtime_dir: None,
        system_directory_serves: false,
        user_directory_serves: false,
        uid: 1000,
    }
}

#[test]
fn earlier_rule_wins() {
    let mut environment = bare();
    let path = |explicit: Option<&str>, environment: &Environment| {
        let path = socket_path(explicit.map(Path::new), environment).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    assert_eq!(path(None, &environment), "/tmp/goumem-1000/goumemd.sock");
    environment.system_directory_serves = true;
    assert_eq!(path(None, &environment), "/run/goumem/goumemd.sock");
    environment.xdg_runtime_dir = Some("/run/user/1000".into());
    // A client of somebody who has logged in, and runs no daemon.
    assert_eq!(path(None, &environment), "/run/goumem/goumemd.sock");
    environment.user_directory_serves = true;
    assert_eq!(
        path(None, &environment),
        "/run/user/1000/goumem/goumemd.sock"
    );
    environment.system_directory_serves = false;
    environment.user_directory_serves = false;
    assert_eq!(
        path(None, &environment),
        "/run/user/1000/goumem/goumemd.sock"
    );
    environment.goumem_socket = Some("/srv/g.sock".into());
    assert_eq!(path(None, &environment), "/srv/g.sock");
    assert_eq!(path(Some("/mine.sock"), &environment), "/mine.sock");
}

#[test]
fn fd_socket_lies_beside_the_socket() {
    let of = |path: &str| fd_socket_path(Path::new(path)).unwrap();
    assert_eq!(
        of("/run/goumem/goumemd.sock"),
        Path::new("/run/goumem/goumemd.fd.sock")
    );
    assert_eq!(of("/run/x"), Path::new("/run/x.fd.sock"));
}

#[test]
fn path_that_does_not_fit_is_refused_with_its_length() {
    let of_len = |len: usize| PathBuf::from(format!("/{}.sock", "x".repeat(len - 6)));
    // The fd socket's path is three bytes longer.
    assert!(socket_path(Some(&of_len(104)), &bare()).is_ok());
    let error = socket_path(Some(&of_len(105)), &bare()).unwrap_err();
    assert!(
        matches!(&error, PathError::TooLong { len_bytes: 108, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("108 bytes, at most 107"),
        "{error}"
    );
}

#[test]
fn private_directory_is_made_and_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let (path, uid) = (
        parent.path().join("goumem-x"),
        rustix::process::geteuid().as_raw(),
    );
    ensure_private_directory(&path, uid).unwrap();
    ensure_private_directory(&path, uid).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn directory_of_others_or_open_to_them_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (path, uid) = (
        parent.path().join("goumem-x"),
        rustix::process::geteuid().as_raw(),
    );
    let refused = |path: &Path, uid: u32| match ensure_private_directory(path, uid) {
        Err(PathError::NotPrivate { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(refused(&path, uid), "its mode lets others in");
    assert_eq!(refused(&path, uid + 1), "it belongs to another user");
    let (link, file) = (parent.path().join("link"), parent.path().join("file"));
    symlink(&path, &link).unwrap();
    assert_eq!(refused(&link, uid), "it is a symbolic link");
    fs::write(&file, "").unwrap();
    assert_eq!(refused(&file, uid), "it is not a directory");
    let nowhere = parent.path().join("no/where");
    assert!(matches!(
        ensure_private_directory(&nowhere, uid),
        Err(PathError::Os { .. })
    ));
}

#[test]
fn own_environment_can_be_read() {
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(Environment::read(Side::Client).uid, uid);
    assert_eq!(Environment::read(Side::Daemon).uid, uid);
}
