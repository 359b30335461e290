//! Arenas of one process: how fast a cursor is bumped, and how fast an arena comes and goes.

use std::hint::black_box;

use goumem::ArenaPoolOptions;

use crate::daemon::Daemon;
use crate::heaps::{Heap, Measure};
use crate::peers::{self, Peer};
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns, shared_ns};

/// What is allocated: 64 bytes.
pub(crate) type Unit = [u64; 8];

const BUMPS: u32 = 10_000;
const IN_A_CYCLE: usize = 16;

/// 10 000 allocations in an arena held alone, and its reset: nanoseconds for each.
pub(crate) fn bump(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_arena_pool("bench", ArenaPoolOptions::new(1, 1 << 20))?;
    let mut arena = pool.try_get()?;
    let goumem = Box::new(move || {
        shared_ns(BUMPS, || {
            for _ in 0..BUMPS {
                black_box(arena.alloc::<Unit>()?.handle());
            }
            Ok(arena.reset()?)
        })
    });
    let medians = alternate(effort, 500, goumem, bumpalo::bump())?;
    Ok(Line::new(bench, "ns", medians))
}

/// The same with 64 bytes written to each.
pub(crate) fn fill(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_arena_pool("bench", ArenaPoolOptions::new(1, 1 << 20))?;
    let mut arena = pool.try_get()?;
    let goumem = Box::new(move || {
        shared_ns(BUMPS, || {
            for n in 0..BUMPS {
                arena.alloc::<Unit>()?.write([black_box(n.into()); 8])?;
            }
            Ok(arena.reset()?)
        })
    });
    let medians = alternate(effort, 500, goumem, bumpalo::fill())?;
    Ok(Line::new(bench, "ns", medians))
}

/// The arena of one process that is the yardstick.
#[cfg(feature = "peers")]
mod bumpalo {
    use super::*;

    pub(super) fn bump() -> Vec<Peer<'static>> {
        let mut arena = ::bumpalo::Bump::with_capacity(1 << 20);
        let run = Box::new(move || {
            shared_ns(BUMPS, || {
                for _ in 0..BUMPS {
                    black_box(arena.alloc_layout(std::alloc::Layout::new::<Unit>()));
                }
                arena.reset();
                Ok(())
            })
        });
        vec![("bumpalo", run)]
    }

    pub(super) fn fill() -> Vec<Peer<'static>> {
        let mut arena = ::bumpalo::Bump::with_capacity(1 << 20);
        let run = Box::new(move || {
            shared_ns(BUMPS, || {
                for n in 0..BUMPS {
                    black_box(arena.alloc::<Unit>([black_box(n.into()); 8]));
                }
                arena.reset();
                Ok(())
            })
        });
        vec![("bumpalo", run)]
    }
}

#[cfg(not(feature = "peers"))]
mod bumpalo {
    use super::Peer;

    pub(super) fn bump() -> Vec<Peer<'static>> {
        Vec::new()
    }

    pub(super) fn fill() -> Vec<Peer<'static>> {
        Vec::new()
    }
}

/// Getting an arena, 16 allocations of 64 bytes, returning it: nanoseconds for all of it; beside
/// as many blocks of an allocator, and freeing each.
pub(crate) fn cycle(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    const CYCLES: u32 = 1000;
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_arena_pool("bench", ArenaPoolOptions::new(4, 64 << 10))?;
    let goumem = Box::new(move || {
        each_ns(CYCLES, || {
            let arena = pool.try_get()?;
            for _ in 0..IN_A_CYCLE {
                black_box(arena.alloc::<Unit>()?.handle());
            }
            arena.return_arena()?;
            Ok(())
        })
    });
    let blocks = Blocks { cycles: CYCLES };
    let medians = alternate(effort, 500, goumem, peers::allocators(&blocks)?)?;
    Ok(Line::new(bench, "ns", medians))
}

struct Blocks {
    cycles: u32,
}

impl Measure for Blocks {
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>> {
        let cycles = self.cycles;
        let mut blocks = Vec::with_capacity(IN_A_CYCLE);
        Ok(Box::new(move || {
            each_ns(cycles, || {
                for _ in 0..IN_A_CYCLE {
                    blocks.push(heap.alloc::<{ size_of::<Unit>() }>()?);
                }
                black_box(&blocks);
                blocks.clear();
                Ok(())
            })
        }))
    }
}
