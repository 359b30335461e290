//! A restart with a thousand pools, which have 10 GiB between them.

use goumem::PoolOptions;
use goumem::blocking::Client;

use crate::daemon::Daemon;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, alternate};

const MIB: u64 = 1 << 20;
/// Of each pool: a thousand of them have 10 GiB committed, in as many spans as blocks of that size
/// need. Where the machine has less, so has each pool, and the line says how much.
const POOL_BYTES: u64 = 10 * MIB;
const BLOCK_BYTES: usize = 64 << 10;
/// For tables, and for what is left of the last span.
const SPARE_BYTES: u64 = MIB;

/// kill -9 of a daemon with 1 000 pools of 10 MiB, all of it in use: from the start of the next one
/// until it has answered a new client.
pub(crate) fn pools(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let n_pools = effort.size(1000_u32, 10);
    let mut daemon = Daemon::start_kept()?;
    let client = daemon.client()?;
    let bytes_each = affordable(&client, n_pools)?;
    let (mut pools, mut held) = (Vec::new(), Vec::new());
    for i in 0..n_pools {
        let options = PoolOptions::new(bytes_each + SPARE_BYTES);
        let pool = client.create_pool(&format!("pool-{i}"), options)?;
        for n in 0..bytes_each / BLOCK_BYTES as u64 {
            let mut block = pool.alloc_slice::<u64>(BLOCK_BYTES / size_of::<u64>())?;
            block[0] = u64::from(i) << 32 | n;
            held.push((block, u64::from(i) << 32 | n));
        }
        pools.push(pool);
    }
    let committed_bytes = client.info()?.committed_bytes;
    let restart = || {
        let start = daemon.restart()?;
        daemon.client()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let medians = alternate(effort, 10, Box::new(restart), Vec::new())?;
    anyhow::ensure!(
        held.iter().all(|(block, written)| block[0] == *written),
        "blocks are as they were"
    );
    let in_use = bytes_each * u64::from(n_pools);
    let after = client.info()?.committed_bytes;
    anyhow::ensure!(after >= in_use, "{in_use} B are in use, {after} committed");
    #[expect(clippy::cast_precision_loss, reason = "gibibytes")]
    let committed_gib = committed_bytes as f64 / (1_u64 << 30) as f64;
    Ok(Line::new(bench, "ms", medians).also([
        ("pools", f64::from(n_pools)),
        ("committed_gib", committed_gib),
    ]))
}

/// Returns how much each of the pools may have, in whole blocks: a tenth of what the daemon may
/// commit and the machine has stays free.
fn affordable(client: &Client, n_pools: u32) -> anyhow::Result<u64> {
    let info = client.info()?;
    let free = info.budget_limit_bytes.min(info.available_bytes) / 10 * 9;
    let bytes = (free / u64::from(n_pools)).min(POOL_BYTES);
    let bytes = bytes - bytes % BLOCK_BYTES as u64;
    anyhow::ensure!(bytes > 0, "{free} B are not enough for {n_pools} pools");
    Ok(bytes)
}
