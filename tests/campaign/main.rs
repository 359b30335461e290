//! `campaign`: any process may die at any moment, and nothing is lost. See [`options::Options`] for
//! the command line, and docs/reliability.md for what is checked and how a run is replayed.
//!
//! The program runs itself again in other roles: as the daemon (`role-daemon`), as the workers
//! (`role-worker`) and as the one that measures pauses (`role-steady`). They end when the director,
//! who has their standard input, does; and so does the daemon's keeper (`keeper`).

#![forbid(unsafe_code)]

mod auditor;
mod daemon;
mod director;
mod keeper;
mod ledger;
mod options;
mod report;
mod stamp;
mod steady;
mod team;
mod wire;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser as _;

use crate::options::Options;
use crate::report::Report;

/// The pool in which everybody works, and the one of the steady worker.
const POOL: &str = "campaign";
const STEADY_POOL: &str = "steady";
/// A pool in a `/dev/shm` that is smaller than it, and full now and then.
const NAMED_POOL: &str = "named";
const NAMED_POOL_BYTES: u64 = 64 << 20;
const DEV_SHM_BYTES: u64 = 24 << 20;
/// The arenas: fewer than the workers' threads would like, so that some wait.
const ARENA_POOL: &str = "arenas";
const ARENAS: u32 = 6;
const ARENA_BYTES: u64 = 64 << 10;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((role, args)) if role == daemon::ROLE => return Ok(daemon::run(args.to_vec())),
        // So goumemd starts its own program again.
        Some((role, _)) if role == keeper::ROLE => {
            return Ok(goumemd::cli_main(std::env::args_os()));
        }
        Some((role, args)) if role == worker::ROLE => return worker::run(args),
        Some((role, args)) if role == steady::ROLE => return steady::run(args),
        _ => {}
    }
    let options = Options::parse();
    let seed = match options.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    if !options.json {
        println!("campaign: seed {seed}");
    }
    let (seconds, report) = (options.seconds, Arc::new(Report::default()));
    // While there is one thread; every process of the campaign is in it.
    let own_dev_shm = harness::sys::small_dev_shm(DEV_SHM_BYTES);
    if let Err(error) = &own_dev_shm {
        harness::skip("a full /dev/shm", &error.to_string());
    }
    let outcome = director::run(options, seed, own_dev_shm.is_ok(), &report);
    if let Err(error) = &outcome {
        report.wrong(wire::Wrong::Error, format!("{error:#}"));
    }
    println!("{}", report.summary(seed, seconds));
    if report.is_clean() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("campaign: to replay, as far as scheduling allows: --seed {seed}");
    Ok(ExitCode::FAILURE)
}

fn random_seed() -> Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes).into())
}
