//! `goumemctl demo`: shows what goumem promises, and checks it. Three parts with processes of
//! their own: memory is shared without copies, what the dead held comes back, and what a pool costs
//! beside the heap. Where no daemon runs it brings one of its own.

mod crash;
pub(crate) mod daemon;
mod matrix;
mod progress;
mod random;
mod share;
mod team;
pub(crate) mod worker;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use goumem::blocking::Client;
use goumem::{ArenaPoolOptions, Error, PoolOptions};

use self::daemon::PrivateDaemon;
use crate::commands;
use crate::error::{Failure, chain};
use crate::output::{Cell, List, Output, Record, human_bytes};

/// By when the memory of a destroyed pool must be back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Arenas that each producer fills.
    arenas_filled: u64,
    /// Processes that are killed.
    kills: u64,
    /// What each of them holds.
    killed_bytes: u64,
    /// Matrices of a run.
    matrices: u64,
}

const FULL: Scale = Scale {
    arenas_filled: 128,
    kills: 20,
    killed_bytes: 64 << 20,
    matrices: 100_000,
};
const QUICK: Scale = Scale {
    arenas_filled: 8,
    kills: 3,
    killed_bytes: 16 << 20,
    matrices: 2_000,
};

/// What the parts find.
#[derive(Debug)]
struct Findings {
    checks: List,
    runs: List,
    all_hold: bool,
}

impl Findings {
    fn new() -> Self {
        Self {
            checks: List::new(&["check", "holds", "found"]),
            runs: List::new(matrix::COLUMNS),
            all_hold: true,
        }
    }

    fn check(&mut self, claim: &str, holds: bool, found: impl Into<String>) {
        self.all_hold &= holds;
        self.checks
            .push([claim.into(), holds.into(), found.into().into()]);
    }

    /// Notes that a part did not come to its end.
    fn part(&mut self, name: &str, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.check(
                &format!("{name} runs to its end"),
                false,
                chain(error.as_ref()),
            );
        }
    }
}

/// Runs all of it.
pub(crate) fn run(socket: Option<&Path>, quick: bool) -> Result<Output, Failure> {
    let scale = if quick { QUICK } else { FULL };
    // The client goes before the daemon does.
    let (daemon, client) = find_daemon(socket)?;
    let mut findings = Findings::new();
    let outcome = share::run(&client, scale, &mut findings);
    findings.part("share", outcome);
    let outcome = crash::run(&client, scale, &mut findings);
    findings.part("crash", outcome);
    let outcome = matrix::run(&client, scale, &mut findings);
    findings.part("matrix", outcome);
    // Of somebody else's daemon, others may have taken memory meanwhile.
    if daemon.is_some() {
        let outcome = all_is_back(&client, &mut findings);
        findings.part("all", outcome);
    }
    let Findings {
        checks,
        runs,
        all_hold,
    } = findings;
    let record = Record::new()
        .with("all_hold", Cell::Flag(all_hold))
        .with("matrices", runs)
        .with("checks", checks);
    Ok(if all_hold {
        Output::Record(record)
    } else {
        Output::Failed(record)
    })
}

/// Waits until the daemon has given back the memory of the pools that are destroyed.
fn all_is_back(client: &Client, findings: &mut Findings) -> anyhow::Result<()> {
    let start = Instant::now();
    let committed = loop {
        let committed = client.info()?.committed_bytes;
        if committed == 0 || start.elapsed() > BACK_WITHIN {
            break committed;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let found = format!("{} committed at the end", human_bytes(committed));
    findings.check(
        "all: the memory of destroyed pools is back",
        committed == 0,
        found,
    );
    Ok(())
}

/// Connects to the daemon that runs, or to one that is started for the demo.
fn find_daemon(socket: Option<&Path>) -> Result<(Option<PrivateDaemon>, Client), Failure> {
    match commands::connect(socket) {
        Err(Error::NoDaemon { .. }) if socket.is_none() => {}
        connected => {
            let client = connected?;
            eprintln!("using goumemd at {}", client.socket().display());
            return Ok((None, client));
        }
    }
    eprintln!("no goumemd runs: the demo starts one of its own");
    let daemon = PrivateDaemon::start()?;
    let client = commands::connect(Some(daemon.socket()))?;
    Ok((Some(daemon), client))
}

/// A pool, or arena pool, of the demo: it is destroyed at the end, also after an error. It has a
/// session of its own, because a pool's memory goes with the last session that has mapped it.
struct Doomed {
    client: Client,
    name: String,
    destroy: fn(&Client, &str) -> Result<(), Error>,
}

impl Doomed {
    fn pool(client: &Client, part: &str, options: PoolOptions) -> Result<Self, Error> {
        let pool = Self::new(client, part, Client::destroy_pool)?;
        pool.client.create_pool(&pool.name, options)?;
        Ok(pool)
    }

    fn arena_pool(client: &Client, part: &str, options: ArenaPoolOptions) -> Result<Self, Error> {
        let pool = Self::new(client, part, Client::destroy_arena_pool)?;
        pool.client.create_arena_pool(&pool.name, options)?;
        Ok(pool)
    }

    fn new(
        client: &Client,
        part: &str,
        destroy: fn(&Client, &str) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        // Two demos may run with one daemon.
        let name = format!("demo-{}-{part}", std::process::id());
        Ok(Self {
            client: commands::connect(Some(client.socket()))?,
            name,
            destroy,
        })
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        // It may not have come to be created.
        let _ = (self.destroy)(&self.client, &self.name);
    }
}
