//! The processes that the tests start, stop and kill: `puppet ROLE [SETUP] -- ARGS`.
//!
//! * `daemon`: goumemd, from its command line on; its keeper is a puppet too.
//! * `service`: goumemd too, started as a service manager does it, with fds that it is given.
//! * `client`: does what the lines on its standard input say, and answers each with a line.
//! * `churn`: allocates, hands over and frees at random.
//! * `fds`: prints what it has open, for a puppet that starts another program.
//!
//! Each says `ready` when its set-up is done, and ends when its standard input closes.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a puppet that cannot go on ends its test"
)]

mod churn;
mod client;
mod intruder;
mod service;
#[cfg(feature = "otel")]
mod traced;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::Path;
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
        "service" => service::run(&args),
        "client" => client::run(),
        "churn" => churn::run(&args),
        "fds" => print_fds(),
        #[cfg(feature = "otel")]
        "traced" => traced::run(&args),
        role => panic!("no such role: {role}"),
    }
}

fn set_up(arg: &str) -> io::Result<()> {
    let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
    match key {
        "--cgroup" => std::fs::write(format!("{value}/cgroup.procs"), "0"),
        "--dev-shm" => sys::small_dev_shm(value.parse().unwrap()),
        "--disk" => {
            let (bytes, path) = value.split_once(':').unwrap();
            sys::small_disk(Path::new(path), bytes.parse().unwrap())
        }
        "--memlock" => limit(Resource::Memlock, value),
        "--open-files" => limit(Resource::Nofile, value),
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

fn limit(what: Resource, value: &str) -> io::Result<()> {
    let value = value.parse().ok();
    let limit = Rlimit {
        current: value,
        maximum: value,
    };
    Ok(setrlimit(what, limit)?)
}

/// Prints what a program that was started by another one has open, its standard streams and the
/// look at them left out.
fn print_fds() -> ExitCode {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|fd| {
        let fd = fd.ok()?;
        let number: u32 = fd.file_name().to_str()?.parse().ok()?;
        let target = std::fs::read_link(fd.path()).ok()?;
        let is_the_look = target.ends_with("fd");
        (number > 2 && !is_the_look).then(|| target.display().to_string())
    });
    print!("{}", targets.collect::<Vec<_>>().join(" "));
    ExitCode::SUCCESS
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
