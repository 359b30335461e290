//! Blocks of many sizes: 10 000 live ones, sizes spread evenly over the doublings from 16 bytes to
//! 64 KiB, each step replaces a random one. In one process, and in two on one pool.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, bail};
use goumem::PoolOptions;

use crate::daemon::{Daemon, connect};
use crate::heaps::{Goumem, Heap, Measure, Touch as _};
use crate::peers;
use crate::random::{Random, Sizes};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns};
use crate::worker::{Serve, TwoThreads, TwoWorkers, Worker};

pub(crate) mod overhead;

/// The role of a worker process.
pub(crate) const ROLE: &str = "mixed";

const LIVE: usize = 10_000;
/// Some 79 MB are live in each process.
const POOL_BYTES: u64 = 512 << 20;
const POOL: &str = "bench";
/// Replacements in a round: 5 to 20 ms, long beside what it takes to wake two processes.
const STEPS: u32 = 100_000;

/// The live blocks.
struct Population<H: Heap> {
    heap: H,
    live: Vec<H::Bytes>,
    random: Random,
    sizes: Sizes,
}

impl<H: Heap> Population<H> {
    fn new(heap: H) -> anyhow::Result<Self> {
        let mut random = Random::new(1);
        let sizes = Sizes::new();
        let mut live = Vec::with_capacity(LIVE);
        for _ in 0..LIVE {
            let mut block = heap.alloc_bytes(sizes.pick(&mut random))?;
            block.touch();
            live.push(block);
        }
        Ok(Self {
            heap,
            live,
            random,
            sizes,
        })
    }

    #[inline]
    fn replace_one(&mut self) -> anyhow::Result<()> {
        let size = self.sizes.pick(&mut self.random);
        let at = self.random.below(LIVE);
        let mut block = self.heap.alloc_bytes(size)?;
        block.touch();
        self.live[at] = block;
        Ok(())
    }
}

/// So many replacements in a round: nanoseconds for each.
#[derive(Debug, Clone, Copy)]
struct Mixed {
    steps: u32,
}

impl Mixed {
    fn new(effort: Effort) -> Self {
        let steps = effort.size(STEPS, STEPS / 10);
        Self { steps }
    }
}

impl Measure for Mixed {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        let steps = self.steps;
        let mut population = Population::new(heap)?;
        Ok(Box::new(move || {
            each_ns(steps, || population.replace_one())
        }))
    }
}

pub(crate) fn mixed(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool(POOL, PoolOptions::new(POOL_BYTES))?;
    let mixed = Mixed::new(effort);
    let medians = alternate(
        effort,
        50,
        mixed.with(Goumem(pool))?,
        peers::allocators(&mixed)?,
    )?;
    Ok(Line::new(bench, "ns", medians))
}

/// The same in two threads.
struct InTwoThreads(Mixed);

impl Measure for InTwoThreads {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        let mixed = self.0;
        let mut threads = TwoThreads::start(move || mixed.with(heap.clone()))?;
        Ok(Box::new(move || threads.round().map(mean)))
    }
}

pub(crate) fn mixed_2p(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let _pool = client.create_pool(POOL, PoolOptions::new(POOL_BYTES))?;
    let mixed = Mixed::new(effort);
    let args = [
        daemon.socket().into_os_string(),
        mixed.steps.to_string().into(),
    ];
    let mut workers = TwoWorkers([Worker::start(ROLE, &args)?, Worker::start(ROLE, &args)?]);
    let medians = alternate(
        effort,
        50,
        Box::new(move || workers.round("").map(mean)),
        peers::allocators(&InTwoThreads(mixed))?,
    )?;
    Ok(Line::new(bench, "ns", medians))
}

/// Prepares a worker: on the pool of the daemon at the socket, with so many replacements in a
/// round.
///
/// # Errors
/// Those of connecting and allocating.
pub(crate) fn serve(args: &[OsString]) -> anyhow::Result<Serve> {
    let [socket, steps] = args else {
        bail!("not a socket and a number");
    };
    let steps = steps.to_str().context("not a number")?.parse()?;
    let client = connect(Path::new(socket))?;
    let mut run = Mixed { steps }.with(Goumem(client.open_pool(POOL)?))?;
    Ok(Box::new(move |_| run()))
}

fn mean([a, b]: [f64; 2]) -> f64 {
    f64::midpoint(a, b)
}
