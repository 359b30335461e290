//! Many small blocks: 500 000 live ones of 64 bytes, each step replaces a random one. Most of the
//! time is the processor's, which has none of them at hand.

use goumem::PoolOptions;

use crate::daemon::Daemon;
use crate::heaps::{Goumem, Heap, Measure, Touch as _};
use crate::peers;
use crate::random::Random;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns};

const STEPS: u32 = 100_000;
const POOL_BYTES: u64 = 256 << 20;

/// So many live blocks: nanoseconds for each replacement.
struct Replace {
    live: usize,
}

impl Measure for Replace {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        let n = self.live;
        let mut random = Random::new(3);
        let mut live = Vec::with_capacity(n);
        for _ in 0..n {
            live.push(heap.alloc::<64>()?);
        }
        Ok(Box::new(move || {
            each_ns(STEPS, || {
                let at = random.below(n);
                let mut block = heap.alloc::<64>()?;
                block.touch();
                live[at] = block;
                Ok(())
            })
        }))
    }
}

pub(crate) fn replace(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(POOL_BYTES))?;
    let replace = Replace {
        live: effort.size(500_000, 50_000),
    };
    let medians = alternate(
        effort,
        50,
        replace.with(Goumem(pool))?,
        peers::allocators(&replace)?,
    )?;
    Ok(Line::new(bench, "ns", medians))
}
