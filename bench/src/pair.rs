//! Allocating with memory at hand: alloc, write a byte, free, on one thread.

use goumem::PoolOptions;

use crate::daemon::Daemon;
use crate::heaps::{Goumem, Heap, Measure, Touch as _};
use crate::peers;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns};

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
