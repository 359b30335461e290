//! What a daemon costs that nobody uses: memory, the time until it answers, and how often it wakes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::daemon::{Daemon, keeper_of};
use crate::process::{Memory, memory, switches};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Medians, Run, alternate};

const MIB: f64 = (1 << 20) as f64;
/// Memory that comes back comes back within a second of the last call, and what was started for
/// calls ends within ten.
const SETTLE: Duration = Duration::from_secs(12);
/// How long it is watched.
const WATCH: Duration = Duration::from_secs(10);

/// Megabytes of a daemon that has answered its first client; beside it nothing, and also what its
/// keeper has.
pub(crate) fn memory_of(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let mut daemon_memory = None;
    let mut keeper_memory = None;
    let start = || {
        let daemon = Daemon::start_kept()?;
        daemon.client()?.ping()?;
        let of_daemon = memory(daemon.pid())?;
        daemon_memory = Some(of_daemon);
        keeper_memory = Some(memory(keeper_of(&daemon)?)?);
        Ok(of_daemon.rss_bytes / MIB)
    };
    let medians = alternate(effort, 5, Box::new(start), Vec::new())?;
    let daemon = daemon_memory.context("a round was run")?;
    let keeper: Memory = keeper_memory.context("a round was run")?;
    Ok(Line::new(bench, "MiB", medians).also([
        ("pss_mib", daemon.pss_bytes / MIB),
        ("keeper_rss_mib", keeper.rss_bytes / MIB),
        ("keeper_pss_mib", keeper.pss_bytes / MIB),
    ]))
}

/// From the start of a daemon, which starts its keeper, to the first answer that a client has; also
/// without a keeper.
pub(crate) fn start(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let timed = |start: fn() -> anyhow::Result<Daemon>| {
        move || {
            let began = Instant::now();
            let daemon = start()?;
            daemon.client()?.ping()?;
            Ok(began.elapsed().as_secs_f64() * 1e3)
        }
    };
    let kept = Box::new(timed(Daemon::start_kept));
    let without_keeper = Box::new(timed(Daemon::start));
    let beside = vec![("without_keeper", without_keeper as Run<'_>)];
    let medians = alternate(effort, 20, kept, beside)?;
    let without_keeper = medians.peers.get("without_keeper").copied();
    let alone = Medians {
        goumem: medians.goumem,
        peers: BTreeMap::new(),
    };
    let also = without_keeper.map(|ms| ("without_keeper_ms", ms));
    Ok(Line::new(bench, "ms", alone).also(also))
}

/// How often a daemon without a client wakes in ten seconds; also with a client that does nothing,
/// and its keeper.
pub(crate) fn wakeups(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let watch = effort.size(WATCH, Duration::from_millis(300));
    let settle = effort.size(SETTLE, Duration::from_millis(300));
    let daemon = Daemon::start_kept()?;
    let client = daemon.client()?;
    client.ping()?;
    let keeper = keeper_of(&daemon)?;
    let watched = |pid: u32| {
        let before = switches(pid)?;
        thread::sleep(watch);
        anyhow::Ok(switches(pid)? - before)
    };
    thread::sleep(settle);
    let with_client = watched(daemon.pid())?;
    client.close()?;
    drop(client);
    thread::sleep(settle);
    let goumem = watched(daemon.pid())?;
    let of_keeper = watched(keeper)?;
    let peers = BTreeMap::new();
    Ok(Line::new(bench, "switches", Medians { goumem, peers })
        .also([("with_idle_client", with_client), ("keeper", of_keeper)]))
}
