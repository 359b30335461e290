//! Allocating in a mapped pool with spans in hand: alloc, write a byte, free, on one thread;
//! beside the system's allocator.

use std::hint::black_box;

use goumem::PoolOptions;
use goumem::blocking::Client;

use crate::Bench;
use crate::daemon::Daemon;
use crate::report::Line;
use crate::timing::{Effort, alternate, each_ns};

const PAIRS: u32 = 10_000;
const POOL_BYTES: u64 = 64 << 20;

/// A block of `BYTES` bytes: nanoseconds for each pair.
pub(crate) fn pair<const BYTES: usize>(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = Client::builder()
        .socket(daemon.socket())
        .label("goumem-bench")
        .connect()?;
    let pool = client.create_pool("bench", PoolOptions::new(POOL_BYTES))?;
    // Leases the first span; from then on there is always a block at hand.
    drop(pool.alloc::<[u8; BYTES]>()?);
    let mut goumem = || {
        each_ns(PAIRS, || {
            let mut block = pool.try_alloc::<[u8; BYTES]>()?;
            black_box(&mut *block)[0] = 1;
            Ok(())
        })
    };
    let mut system = || {
        each_ns(PAIRS, || {
            let mut block = Box::<[u8]>::new_uninit_slice(BYTES);
            black_box(&mut *block)[0].write(1);
            Ok(())
        })
    };
    let medians = alternate(
        effort.rounds(500),
        &mut goumem,
        &mut [("system", &mut system)],
    )?;
    Ok(Line::new(bench.name, "ns", medians))
}
