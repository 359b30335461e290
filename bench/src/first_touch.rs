//! Memory that has to be got from the system first: 1 GiB in blocks of 64 KiB, each written in
//! full; in a new pool, and again after all of it was freed; beside anonymous memory.

use anyhow::Context as _;
use goumem::PoolOptions;
use memmap2::MmapMut;

use crate::daemon::Daemon;
use crate::heaps::{Goumem, Heap as _, Touch as _};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, alternate, once_ms};

const BLOCK_BYTES: usize = 64 << 10;

/// In a new pool, beside a new mapping: milliseconds for all of it.
pub(crate) fn fresh(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let n_blocks = n_blocks(effort);
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let goumem = || {
        let pool = client.create_pool("bench", PoolOptions::new(capacity(n_blocks)))?;
        let heap = Goumem(pool);
        let mut live = Vec::with_capacity(n_blocks);
        let ms = once_ms(|| allocate_and_write(&heap, n_blocks, &mut live))?;
        client.destroy_pool("bench")?;
        Ok(ms)
    };
    let anonymous = || {
        let mut mapping = None;
        once_ms(|| {
            let mapping = mapping.insert(MmapMut::map_anon(n_blocks * BLOCK_BYTES)?);
            write(mapping);
            Ok(())
        })
    };
    let peers = vec![("anonymous", Box::new(anonymous) as _)];
    let medians = alternate(effort, 10, Box::new(goumem), peers)?;
    Ok(Line::new(bench, "ms", medians))
}

/// In a pool that had as many blocks a moment ago, beside a mapping that is written again.
pub(crate) fn again(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let n_blocks = n_blocks(effort);
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(capacity(n_blocks)))?;
    let heap = Goumem(pool);
    let mut live = Vec::with_capacity(n_blocks);
    let goumem = move || {
        allocate_and_write(&heap, n_blocks, &mut live)?;
        live.clear();
        let ms = once_ms(|| allocate_and_write(&heap, n_blocks, &mut live))?;
        live.clear();
        Ok(ms)
    };
    let mut mapping = MmapMut::map_anon(n_blocks * BLOCK_BYTES)?;
    let anonymous = move || {
        once_ms(|| {
            write(&mut mapping);
            Ok(())
        })
    };
    let peers = vec![("anonymous", Box::new(anonymous) as _)];
    let medians = alternate(effort, 10, Box::new(goumem), peers)?;
    Ok(Line::new(bench, "ms", medians))
}

fn n_blocks(effort: Effort) -> usize {
    effort.size(1 << 30, 64 << 20) / BLOCK_BYTES
}

/// With room for rounding to size classes.
fn capacity(n_blocks: usize) -> u64 {
    let bytes = (n_blocks * BLOCK_BYTES) as u64;
    bytes + bytes / 2
}

fn allocate_and_write(
    heap: &Goumem,
    n_blocks: usize,
    live: &mut Vec<<Goumem as crate::heaps::Heap>::Bytes>,
) -> anyhow::Result<()> {
    for _ in 0..n_blocks {
        let mut block = heap.alloc_bytes(BLOCK_BYTES).context("a block of 64 KiB")?;
        block.fill(1);
        live.push(block);
    }
    Ok(())
}

fn write(mapping: &mut MmapMut) {
    for block in mapping.chunks_exact_mut(BLOCK_BYTES) {
        std::hint::black_box(block).fill(1);
    }
}
