//! Allocating with memory at hand: alloc, write a byte, free, on one thread.

use std::hint::black_box;

use goumem::PoolOptions;

use crate::daemon::Daemon;
use crate::heaps::{Goumem, Heap, Measure, Touch as _};
use crate::peers;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns, shared_ns};

const PAIRS: u32 = 10_000;
const POOL_BYTES: u64 = 64 << 20;

/// A block of so many bytes: nanoseconds for each pair.
struct Pair<const BYTES: usize>;

impl<const BYTES: usize> Measure for Pair<BYTES> {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        Ok(Box::new(move || {
            each_ns(PAIRS, || {
                heap.alloc::<BYTES>()?.touch();
                Ok(())
            })
        }))
    }
}

pub(crate) fn pair<const BYTES: usize>(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(POOL_BYTES))?;
    let pair = Pair::<BYTES>;
    let medians = alternate(
        effort,
        500,
        pair.with(Goumem(pool))?,
        peers::allocators(&pair)?,
    )?;
    Ok(Line::new(bench, "ns", medians))
}

/// A handle to an address that was checked, beside a pair of the same run. The handles are those
/// of 1 000 blocks, one after the other.
pub(crate) fn resolve(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    const HANDLES: usize = 1000;
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(POOL_BYTES))?;
    let mut handles = Vec::with_capacity(HANDLES);
    for _ in 0..HANDLES {
        handles.push(pool.alloc::<[u8; 64]>()?.share()?.into_handle());
    }
    let pair = ("pair_64", Pair::<64>.with(Goumem(pool.clone()))?);
    let goumem = Box::new(move || {
        shared_ns(PAIRS, || {
            for handle in handles.iter().cycle().take(PAIRS as usize) {
                black_box(&pool.resolve::<[u8; 64]>(*handle)?);
            }
            Ok(())
        })
    });
    let medians = alternate(effort, 500, goumem, vec![pair])?;
    Ok(Line::new(bench, "ns", medians))
}

/// The pair of 64 bytes in pools with few and with many live blocks: the slowest beside each, so
/// that the ratio is that of the slowest to the fastest.
pub(crate) fn flat(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let many = effort.size(50_000_000, 100_000);
    let mut runs = Vec::new();
    for (name, n) in [
        ("live_1e3", 1000),
        ("live_1e6", many / 50),
        ("live_5e7", many),
    ] {
        // An eighth more is what the last lease may bring at most.
        let bytes = n as u64 * 64 * 5 / 4 + (64 << 20);
        let heap = Goumem(client.create_pool(name, PoolOptions::new(bytes))?);
        let mut live = Vec::with_capacity(n);
        for _ in 0..n {
            live.push(heap.alloc::<64>()?);
        }
        let mut run = Pair::<64>.with(heap)?;
        let with_live: Run<'static> = Box::new(move || {
            black_box(&live);
            run()
        });
        runs.push((name, with_live));
    }
    let nothing = Box::new(|| Ok(0.0));
    // All of them are goumem's.
    let effort = Effort {
        alone: false,
        ..effort
    };
    let mut medians = alternate(effort, 500, nothing, runs)?;
    medians.goumem = medians.peers.values().copied().fold(f64::NAN, f64::max);
    Ok(Line::new(bench, "ns", medians))
}
