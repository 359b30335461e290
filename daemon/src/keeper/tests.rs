//! The keeper's loop on a thread, and who talks to it. That it is a process which outlives the
//! daemon, tests/it/restart.rs shows.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use goumem_shm::os::keep_frame::{FdName, KEEP_REQUEST_BYTES, KeepRequest};
use goumem_shm::os::peer::PidFd;

use super::connection::Connection;
use super::server::keep;
use crate::fd_store::StoredFd;

struct Keeper {
    path: PathBuf,
    _directory: tempfile::TempDir,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Keeper {
    fn start(max_fds: usize) -> (Self, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper.sock");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn({
            let path = path.clone();
            move || keep(path, theirs, max_fds)
        });
        let mut connection = Connection::new(ours, own_process(), None).unwrap();
        assert!(connection.list().unwrap().is_empty());
        let keeper = Self {
            path,
            _directory: directory,
            thread,
        };
        (keeper, connection)
    }

    /// It ends by itself, and its socket with it.
    fn ends(self) {
        self.thread.join().unwrap().unwrap();
        assert!(!self.path.exists());
    }
}

fn own_process() -> PidFd {
    PidFd::open(std::process::id()).unwrap()
}

fn name(text: &str) -> FdName {
    FdName::new(text).unwrap()
}

fn file() -> Arc<std::fs::File> {
    Arc::new(tempfile::tempfile().unwrap())
}

#[test]
fn next_daemon_finds_what_the_last_one_left() {
    let (keeper, mut first) = Keeper::start(1000);
    // More than one message has room for.
    for n in 0..150 {
        let file = file();
        (&*file).write_all(format!("{n}").as_bytes()).unwrap();
        first.store(&name(&format!("f-{n}")), &*file).unwrap();
    }
    first.remove(&name("f-7")).unwrap();
    first.remove(&name("nothing")).unwrap();
    let again = file();
    (&*again).write_all(b"again").unwrap();
    first.store(&name("f-8"), &*again).unwrap();
    drop(first);
    let mut next = Connection::connect(&keeper.path).unwrap().unwrap();
    let held = next.list().unwrap();
    assert_eq!(held.len(), 149);
    for (name, fd) in held {
        let mut file = std::fs::File::from(fd);
        std::io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let expected = match name.as_str() {
            "f-8" => "again",
            name => name.strip_prefix("f-").unwrap(),
        };
        assert_eq!(text, expected);
    }
    for n in 0..150 {
        next.remove(&name(&format!("f-{n}"))).unwrap();
    }
    next.store(&name("root"), &*file()).unwrap();
    drop(next);
    keeper.ends();
}

#[test]
fn nonsense_ends_its_own_connection_and_no_other() {
    let (keeper, mut daemon) = Keeper::start(1000);
    daemon.store(&name("pool"), &*file()).unwrap();
    let store = KeepRequest::Store(name("x")).encode();
    let unknown = {
        let mut frame = store;
        frame[6] = 9;
        frame
    };
    // Half a frame; a store without its fd; no op of the protocol; noise.
    let noise = [0x5a; 3 * KEEP_REQUEST_BYTES];
    for bytes in [&store[..20], &store, &unknown, &noise] {
        let mut stranger = UnixStream::connect(&keeper.path).unwrap();
        stranger.write_all(bytes).unwrap();
        stranger.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Whatever it says, it hangs up, or resets what it did not read.
        let _ = stranger.read_to_end(&mut answer);
    }
    let held = daemon.list().unwrap();
    assert_eq!(held.into_keys().collect::<Vec<_>>(), [name("pool")]);
    daemon.tell_end().unwrap();
    keeper.ends();
}

#[test]
fn no_more_fds_are_taken_than_can_be_held() {
    let (keeper, mut daemon) = Keeper::start(2);
    let file = file();
    daemon.store(&name("a"), &*file).unwrap();
    daemon.store(&name("b"), &*file).unwrap();
    let full = daemon.store(&name("c"), &*file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    daemon.store(&name("b"), &*file).unwrap();
    daemon.remove(&name("a")).unwrap();
    daemon.store(&name("c"), &*file).unwrap();
    daemon.tell_end().unwrap();
    keeper.ends();
}

/// It kept the pidfds of processes that had died long since, and itself, for ever.
#[test]
fn sessions_that_die_while_there_is_no_daemon_are_not_kept() {
    let (keeper, mut daemon) = Keeper::start(1000);
    let mut children = [(); 2].map(|()| {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        child.unwrap()
    });
    for (child, number) in children.iter().zip(1..) {
        let pidfd = PidFd::open(child.id()).unwrap();
        let session = goumem_alloc::SessionNumber::new(number);
        let process = StoredFd::Process(session, 77);
        daemon.store(&process.name(), &pidfd).unwrap();
    }
    daemon.store(&name("root"), &*file()).unwrap();
    let mut kill = |n: usize| {
        children[n].kill().unwrap();
        children[n].wait().unwrap();
    };
    // As long as a daemon is there, that is its business.
    kill(0);
    assert_eq!(daemon.list().unwrap().len(), 3);
    drop(daemon);
    kill(1);
    keeper.ends();
}
