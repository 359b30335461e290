//! After a death: how long until the next daemon serves, and until what a dead session held is
//! free.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use goumem::PoolOptions;

use crate::daemon::{Daemon, connect};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, alternate};
use crate::worker::{Serve, Worker};

/// The worker that is killed.
pub(crate) const ROLE: &str = "hold";

const MIB: u64 = 1 << 20;
/// Of each pool, so that a thousand of them come to 10 GiB of mapped address space.
const POOL_BYTES: u64 = 10 * MIB;
/// What the dead session had.
const BLOCKS: usize = 1_000_000;
/// How long the dead may take to be swept before something is wrong.
const DEADLINE: Duration = Duration::from_secs(10);

/// kill -9 of a daemon with 1 000 pools, in each a block: from the start of the next one until it
/// has answered a new client.
pub(crate) fn pools(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let mut daemon = Daemon::start_kept()?;
    let client = daemon.client()?;
    let held = (0..effort.size(1000_u32, 10))
        .map(|i| {
            let pool = client.create_pool(&format!("pool-{i}"), PoolOptions::new(POOL_BYTES))?;
            Ok(pool.alloc_value(u64::from(i))?)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let restart = || {
        let start = daemon.restart()?;
        daemon.client()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let medians = alternate(effort, 10, Box::new(restart), Vec::new())?;
    anyhow::ensure!(
        held.iter().zip(0..).all(|(block, i)| **block == i),
        "blocks are as they were"
    );
    Ok(Line::new(bench, "ms", medians))
}

/// kill -9 of a client that shared a million blocks of 64 bytes: until none of them is left.
pub(crate) fn sweep(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let blocks = effort.size(BLOCKS, 10_000);
    let pool = client.create_pool("p", PoolOptions::new(256 * MIB))?;
    let sweep = || {
        let socket = daemon.socket();
        let args = [socket.into_os_string(), blocks.to_string().into()];
        let worker = Worker::start(ROLE, &args)?;
        let start = Instant::now();
        worker.kill()?;
        // The sweep of a session ends with its number: a look at the sessions costs next to
        // nothing, and waits for no pool.
        while client.info()?.sessions > 1 {
            anyhow::ensure!(start.elapsed() < DEADLINE, "the dead are not swept");
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let medians = alternate(effort, 5, Box::new(sweep), Vec::new())?;
    let left = pool.stat()?.blocks;
    anyhow::ensure!(left == 0, "{left} blocks are left");
    Ok(Line::new(bench, "ms", medians))
}

/// Is the client that is killed: shares its blocks, and waits for its death.
pub(crate) fn hold(args: &[OsString]) -> anyhow::Result<Serve> {
    let [socket, blocks] = args else {
        anyhow::bail!("a socket and a number");
    };
    let blocks = blocks.to_str().context("a number")?.parse()?;
    let client = connect(Path::new(socket))?;
    let pool = client.open_pool("p")?;
    let mut held = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        held.push(pool.alloc::<[u64; 8]>()?.share()?);
    }
    Ok(Box::new(move |_| {
        let _ = &held;
        Ok(0.0)
    }))
}
