//! Becomes goumemd as a service manager starts it: with fds at the numbers from 3 on, and its own
//! pid in `LISTEN_PID`, which only this process knows in time.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use goumem_shm::os::fd_pass;
use harness::sys;

/// `args`: the socket on which the fds come, then goumemd's.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let (path, args) = args.split_first().unwrap();
    let socket = UnixStream::connect(path).unwrap();
    let mut word = [0; 16];
    let (_, fds) = fd_pass::recv(&socket, &mut word, fd_pass::MAX_FDS).unwrap();
    drop(socket);
    let count = fds.len();
    sys::place_from_3(fds).unwrap();
    let error = Command::new(std::env::current_exe().unwrap())
        .args(["daemon", "--"])
        .args(args)
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", count.to_string())
        .exec();
    panic!("could not become goumemd: {error}");
}
