//! Part two: a process that holds private blocks, shared blocks and arenas is killed while it
//! allocates and frees, again and again. Each time everything it held must be free within a
//! second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use goumem::blocking::{Arena, ArenaPool, Client, Pool};
use goumem::{ArenaPoolOptions, Block, PoolOptions, Shared};

use super::progress::Progress;
use super::random::Random;
use super::team::Team;
use super::worker::{Order, Report, orders, report};
use super::{Doomed, Findings, Scale};
use crate::output::{human_bytes, human_time};

const ARENAS: u32 = 8;
const ARENA_BYTES: u64 = 1 << 20;
/// Arenas that the victim holds: half of them have a name.
const ARENAS_HELD: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// What is promised …
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// … and how long to look, to tell how far off it is.
const GIVE_UP: Duration = Duration::from_secs(10);

/// What a dead process must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    /// In spans that somebody leases, or that have lost their lessee.
    granted_bytes: u64,
    /// In shared blocks.
    used_bytes: u64,
    /// Backed by memory and not free.
    committed_bytes: u64,
    free_arenas: u32,
    /// Sessions that map either pool.
    sessions: u32,
}

impl Usage {
    fn of(client: &Client, pool: &str, arena_pool: &str) -> anyhow::Result<Self> {
        let pool = client.stat_pool(pool)?;
        let arenas = client.stat_arena_pool(arena_pool)?;
        Ok(Self {
            granted_bytes: pool.leased_bytes + pool.abandoned_bytes,
            used_bytes: pool.used_bytes,
            committed_bytes: pool.committed_bytes - pool.free_committed_bytes,
            free_arenas: arenas.free,
            sessions: pool.sessions + arenas.sessions,
        })
    }
}

pub(super) fn run(client: &Client, scale: Scale, findings: &mut Findings) -> anyhow::Result<()> {
    let doomed = Doomed::pool(client, "crash", PoolOptions::new(3 * scale.killed_bytes))?;
    let options = ArenaPoolOptions::new(ARENAS, ARENA_BYTES);
    let doomed_arenas = Doomed::arena_pool(client, "crash-arenas", options)?;
    let usage = || Usage::of(client, &doomed.name, &doomed_arenas.name);
    let before = usage()?;
    let holds_bytes = scale.killed_bytes.to_string();
    let progress = Progress::start("crash: processes killed", scale.kills);
    let mut random = Random::new(scale.kills);
    let mut times = Vec::new();
    let mut last = before;
    for _ in 0..scale.kills {
        let mut team = Team::new(client.socket());
        let victim = team.start(&["writer", &doomed.name, &doomed_arenas.name, &holds_bytes])?;
        let (_, Report::Holds { bytes, arenas, .. }) = team.hear(Instant::now() + PATIENCE)? else {
            bail!("writer does not say what it holds");
        };
        let held = usage()?;
        ensure!(
            held.granted_bytes >= bytes && held.free_arenas == ARENAS - arenas,
            "writer holds {bytes} bytes and {arenas} arenas, the daemon says {held:?}"
        );
        team.tell(victim, &Order::Go)?;
        // It allocates and frees meanwhile, and is hit anywhere.
        std::thread::sleep(Duration::from_micros(random.below(20_000).into()));
        let start = Instant::now();
        team.kill(victim)?;
        loop {
            last = usage()?;
            if last == before || start.elapsed() > GIVE_UP {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(start.elapsed());
        progress.step();
        if last != before {
            break;
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let max = times.last().copied().unwrap_or_default();
    let found = if last == before {
        format!(
            "{} kills of {} each: all back in {} (median), {} (at most)",
            times.len(),
            human_bytes(scale.killed_bytes),
            human_time(median),
            human_time(max)
        )
    } else {
        format!(
            "{last:?}, not {before:?}, {} after kill {}",
            human_time(max),
            times.len()
        )
    };
    progress.say(found.clone());
    let holds = last == before && max <= BACK_WITHIN;
    findings.check("crash: what the dead held is back within 1 s", holds, found);

    doomed.client.open_pool(&doomed.name)?.purge()?;
    let committed = client.stat_pool(&doomed.name)?.committed_bytes;
    let found = format!(
        "{} committed, {} arenas free",
        human_bytes(committed),
        last.free_arenas
    );
    findings.check(
        "crash: nothing has leaked",
        committed == before.committed_bytes,
        found,
    );
    Ok(())
}

/// A block of the victim's.
#[derive(Debug)]
enum Held {
    Private(#[expect(dead_code, reason = "held, not looked at")] Block<[u8]>),
    Shared(#[expect(dead_code, reason = "held, not looked at")] Shared<[u8]>),
}

/// Is the victim: takes what it is told, says so, and allocates and frees until it is killed or
/// the demo has gone.
pub(super) fn hold(
    client: &Client,
    pool: &str,
    arena_pool: &str,
    holds_bytes: u64,
) -> anyhow::Result<()> {
    let pool = client.open_pool(pool)?;
    let arena_pool = client.open_arena_pool(arena_pool)?;
    let mut random = Random::new(client.session_serial());
    let (mut blocks, mut bytes) = (Vec::new(), 0);
    while bytes < holds_bytes {
        let (block, len) = alloc(&pool, &mut random)?;
        blocks.push(block);
        bytes += len;
    }
    let mut arenas = Vec::new();
    for n in 0..ARENAS_HELD {
        arenas.push(get(&arena_pool, n)?);
    }
    let n_blocks = blocks.len() as u64;
    report(&Report::Holds {
        bytes,
        blocks: n_blocks,
        arenas: ARENAS_HELD,
    })?;
    let Some(Order::Go) = orders().next().transpose()? else {
        return Ok(());
    };
    let orphaned = Arc::new(AtomicBool::new(false));
    {
        let orphaned = Arc::clone(&orphaned);
        // The demo says nothing more: it kills this process, or ends itself.
        std::thread::spawn(move || {
            while orders().next().is_some() {}
            // ORDERING: Relaxed; it carries nothing.
            orphaned.store(true, Ordering::Relaxed);
        });
    }
    let n_blocks = u32::try_from(blocks.len())?;
    while !orphaned.load(Ordering::Relaxed) {
        let index = usize::try_from(random.below(n_blocks))?;
        let (block, _) = alloc(&pool, &mut random)?;
        blocks[index] = block;
        if random.below(256) == 0 {
            let n = random.below(ARENAS_HELD);
            let index = usize::try_from(n)?;
            // The name must be free before it can be given again.
            arenas.remove(index).detach()?;
            arenas.insert(index, get(&arena_pool, n)?);
        }
    }
    Ok(())
}

/// Allocates a block of 64 B to 256 KiB, written, every other one shared.
fn alloc(pool: &Pool, random: &mut Random) -> anyhow::Result<(Held, u64)> {
    let len = 64_usize << random.below(13);
    let mut block = pool.alloc_slice::<u8>(len)?;
    block.fill(1);
    let bytes = block.usable_bytes();
    let held = match random.below(2) {
        0 => Held::Private(block),
        _ => Held::Shared(block.share()?),
    };
    Ok((held, bytes))
}

/// Gets an arena and gives every other one a name.
fn get(pool: &ArenaPool, n: u32) -> anyhow::Result<Arena> {
    let mut arena = pool.get_timeout(PATIENCE).context("no arena")?;
    arena.alloc_bytes(1000, 16)?;
    if n.is_multiple_of(2) {
        arena.share(&format!("held/{n}"))?;
    }
    Ok(arena)
}
