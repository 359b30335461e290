//! How much memory blocks of many sizes take, over what was asked for: after `mixed` in a pool
//! that is 95 % full. The peers do the same in a process of their own, which grows by what they
//! take from the system.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::{Context as _, bail, ensure};
use goumem::{Error, PoolOptions};

use crate::daemon::Daemon;
use crate::heaps::{Goumem, Heap, Measure, Touch as _};
use crate::peers;
use crate::random::{Random, Sizes};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Medians, Run};
use crate::worker::{Serve, Worker};

/// The role of a worker process.
pub(crate) const ROLE: &str = "overhead";

/// Room for 10 000 blocks at 95 %, with what rounding and half-full spans take.
const POOL_BYTES: u64 = 96 << 20;
const FULL: f64 = 0.95;

/// Live blocks that are filled, so that each of their pages is there; an empty place is one whose
/// block was refused.
struct Filled<H: Heap> {
    heap: H,
    live: Vec<Option<(H::Bytes, usize)>>,
    random: Random,
    sizes: Sizes,
    refused: u64,
}

impl<H: Heap> Filled<H> {
    /// As many blocks as there are `places`; places that will be added cost nothing more.
    fn new(heap: H) -> Self {
        Self {
            heap,
            live: Vec::with_capacity(1 << 16),
            random: Random::new(2),
            sizes: Sizes::new(),
            refused: 0,
        }
    }

    fn add(&mut self) -> anyhow::Result<()> {
        let size = self.sizes.pick(&mut self.random);
        let block = self.alloc(size)?;
        self.live.push(block);
        Ok(())
    }

    /// Frees a random block, then allocates: at no time is there more than before.
    fn replace_one(&mut self) -> anyhow::Result<()> {
        let size = self.sizes.pick(&mut self.random);
        let at = self.random.below(self.live.len());
        self.live[at] = None;
        self.live[at] = self.alloc(size)?;
        Ok(())
    }

    fn alloc(&mut self, size: usize) -> anyhow::Result<Option<(H::Bytes, usize)>> {
        match self.heap.alloc_bytes(size) {
            Ok(mut block) => {
                block.fill(1);
                Ok(Some((block, size)))
            }
            Err(error) if matches!(error.downcast_ref(), Some(Error::Exhausted { .. })) => {
                self.refused += 1;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn requested_bytes(&self) -> f64 {
        self.live
            .iter()
            .flatten()
            .map(|&(_, size)| size as f64)
            .sum()
    }
}

pub(crate) fn overhead(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let pool_bytes = effort.size(POOL_BYTES, POOL_BYTES / 4);
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(pool_bytes))?;
    let mut filled = Filled::new(Goumem(pool.clone()));
    // Each look is a call, so it is not taken for each block.
    while (pool.stat()?.leased_bytes as f64) < FULL * pool_bytes as f64 {
        for _ in 0..50 {
            filled.add()?;
        }
    }
    let places = filled.live.len();
    let steps = effort.size(20, 1) * places;
    for _ in 0..steps {
        filled.replace_one()?;
    }
    ensure!(
        filled.refused < filled.live.len() as u64 / 10,
        "{} of {steps} blocks were refused",
        filled.refused
    );
    let stat = pool.stat()?;
    let taken_bytes = stat.committed_bytes + stat.table_bytes;
    let goumem = taken_bytes as f64 / filled.requested_bytes();
    let mut peers = BTreeMap::new();
    for (name, _) in peers::allocators(&Alone { places, steps })? {
        let mut worker = Worker::start(ROLE, &[name.into()])?;
        worker.tell(&format!("{places} {steps}"))?;
        peers.insert(name, worker.answer()?);
    }
    Ok(Line::new(bench, "×", Medians { goumem, peers }))
}

/// The same in a process where nothing else allocates.
struct Alone {
    places: usize,
    steps: usize,
}

impl Measure for Alone {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        let &Self { places, steps } = self;
        Ok(Box::new(move || {
            let mut filled = Filled::new(heap.clone());
            // The list is there before, so that it does not count.
            filled.live.resize_with(places, || None);
            filled.live.clear();
            let before_bytes = resident_bytes()?;
            for _ in 0..places {
                filled.add()?;
            }
            for _ in 0..steps {
                filled.replace_one()?;
            }
            let grown_bytes = resident_bytes()?.saturating_sub(before_bytes);
            Ok(grown_bytes as f64 / filled.requested_bytes())
        }))
    }
}

/// Prepares a worker: for the allocator of that name.
///
/// # Errors
/// That there is none.
pub(crate) fn serve(args: &[OsString]) -> anyhow::Result<Serve> {
    let name = args
        .first()
        .context("a worker without an allocator")?
        .clone();
    Ok(Box::new(move |line| {
        let (places, steps) = line.split_once(' ').context("not two numbers")?;
        let alone = Alone {
            places: places.parse()?,
            steps: steps.parse()?,
        };
        for (found, mut run) in peers::allocators(&alone)? {
            if name == found {
                return run();
            }
        }
        bail!("no allocator is called {}", name.display());
    }))
}

/// Returns how much memory this process has, as the system counts.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    Ok(kib
        .context("no VmRSS in /proc/self/status")?
        .parse::<u64>()?
        << 10)
}
