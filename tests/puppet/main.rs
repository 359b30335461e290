//! The processes that the tests start, stop and kill: `puppet ROLE [SETUP] -- ARGS`.
//!
//! * `daemon`: goumemd, from its command line on; its keeper is a puppet too.
//! * `client`: does what the lines on its standard input say, and answers each with a line.
//! * `churn`: allocates, hands over and frees at random.
//!
//! Each says `ready` when its set-up is done, and ends when its standard input closes.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a puppet that cannot go on ends its test"
)]

mod churn;
mod client;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::thread;

use harness::sys;
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    // Started by a daemon, not by a test: its arguments are the keeper's.
    let role = args.next().unwrap_or_default();
    if role == "keeper" {
        return goumemd::keeper_main(args.map(OsString::from));
    }
    for arg in args.by_ref().take_while(|arg| arg != "--") {
        if let Err(error) = set_up(&arg) {
            println!("cannot {arg}: {error}");
            return ExitCode::FAILURE;
        }
    }
    let args: Vec<String> = args.collect();
    match role.as_str() {
        "daemon" => daemon(args),
        "client" => client::run(),
        "churn" => churn::run(&args),
        role => panic!("no such role: {role}"),
    }
}

fn set_up(arg: &str) -> io::Result<()> {
    let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
    match key {
        "--cgroup" => std::fs::write(format!("{value}/cgroup.procs"), "0"),
        "--dev-shm" => sys::small_dev_shm(value.parse().unwrap()),
        "--memlock" => {
            let bytes = value.parse().ok();
            let limit = Rlimit {
                current: bytes,
                maximum: bytes,
            };
            Ok(setrlimit(Resource::Memlock, limit)?)
        }
        "--user" => {
            let mut fields = value.split(':');
            let mut number = || fields.next().unwrap().parse().unwrap();
            let (uid, gid) = (number(), number());
            let groups = fields.next().unwrap_or_default();
            let groups = groups.split(',').filter(|group| !group.is_empty());
            let groups: Vec<u32> = groups.map(|group| group.parse().unwrap()).collect();
            sys::become_user(uid, gid, &groups)
        }
        _ => panic!("no such set-up: {arg}"),
    }
}

fn daemon(args: Vec<String>) -> ExitCode {
    println!("ready");
    // The test is over, or dead.
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        #[expect(clippy::exit, reason = "the test that wanted this process is over")]
        std::process::exit(0);
    });
    let args = ["goumemd".to_owned()].into_iter().chain(args);
    goumemd::cli_main(args.map(OsString::from))
}
