//! Part one: two processes fill arenas and give them names; two others attach to them by name and
//! sum up what they find, where it lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use goumem::blocking::{Arena, Client};
use goumem::{Access, ArenaPoolOptions};

use super::progress::Progress;
use super::random::Random;
use super::team::Team;
use super::worker::{Order, Report, orders, parse_handle, report};
use super::{Doomed, Findings, Scale};
use crate::output::human_bytes;

/// An arena holds so many numbers: 1 MiB.
const NUMBERS: usize = 1 << 18;
type Numbers = [u32; NUMBERS];
type SharedNumbers = [AtomicU32; NUMBERS];
const ARENA_BYTES: u64 = size_of::<Numbers>() as u64;
/// Fewer than are filled, so that producers wait for what consumers are done with.
const ARENAS: u32 = 8;
const PAIRS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(60);
/// By when the daemon must have all arenas back.
const BACK_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn run(client: &Client, scale: Scale, findings: &mut Findings) -> anyhow::Result<()> {
    let options = ArenaPoolOptions::new(ARENAS, ARENA_BYTES);
    let doomed = Doomed::arena_pool(client, "share", options)?;
    let mut team = Team::new(client.socket());
    let arenas = scale.arenas_filled.to_string();
    for _ in 0..PAIRS {
        team.start(&["producer", &doomed.name, &arenas])?;
    }
    for _ in 0..PAIRS {
        team.start(&["consumer", &doomed.name])?;
    }
    let deadline = Instant::now() + PATIENCE;
    team.all_ready(deadline)?;
    let n_arenas = scale.arenas_filled * PAIRS as u64;
    let progress = Progress::start("share: arenas between 4 processes", n_arenas);
    for producer in 0..PAIRS {
        team.tell(producer, &Order::Go)?;
    }

    // Which producer filled an arena, and its sum.
    let mut filled: HashMap<String, (usize, u64)> = HashMap::new();
    let (mut summed, mut wrong, mut took) = (0_u64, 0_u64, Duration::ZERO);
    let mut consumers = (PAIRS..2 * PAIRS).cycle();
    while summed < n_arenas {
        match team.hear(deadline)? {
            (producer, Report::Filled { name, handle, sum }) => {
                filled.insert(name.clone(), (producer, sum));
                let consumer = consumers.next().context("no consumer")?;
                team.tell(consumer, &Order::Sum { name, handle })?;
            }
            (_, Report::Summed { name, sum, took_ns }) => {
                let (producer, expected) = filled.remove(&name).context("summed before filled")?;
                wrong += u64::from(sum != expected);
                summed += 1;
                took += Duration::from_nanos(took_ns);
                team.tell(producer, &Order::Release { name })?;
                progress.step();
            }
            (_, other) => bail!("unexpected report {other:?}"),
        }
    }
    let per_second = (n_arenas * ARENA_BYTES) as f64 / took.as_secs_f64().max(1e-9);
    let found = format!(
        "{} of {n_arenas} arenas of {}, read in place at {:.1} GiB/s",
        n_arenas - wrong,
        human_bytes(ARENA_BYTES),
        per_second / f64::from(1 << 30)
    );
    progress.say(found.clone());
    findings.check("share: sums in other processes agree", wrong == 0, found);
    team.finish()?;

    let start = Instant::now();
    let free = loop {
        let free = client.stat_arena_pool(&doomed.name)?.free;
        if free == ARENAS || start.elapsed() > BACK_WITHIN {
            break free;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let found = format!("{free} of {ARENAS} free");
    findings.check("share: every arena is free after", free == ARENAS, found);
    Ok(())
}

/// Is a producer: fills arenas, and holds each until it is told that it was summed up.
pub(super) fn produce(client: &Client, pool: &str, n_arenas: u64) -> anyhow::Result<()> {
    let pool = client.open_arena_pool(pool)?;
    report(&Report::Ready)?;
    let Some(Order::Go) = orders().next().transpose()? else {
        return Ok(());
    };
    let held: Arc<Mutex<HashMap<String, Arena>>> = Arc::default();
    let releasing = {
        let held = Arc::clone(&held);
        std::thread::spawn(move || -> anyhow::Result<()> {
            for order in orders() {
                let Order::Release { name } = order? else {
                    bail!("unexpected order")
                };
                let arena = held
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&name);
                arena.context("released what was not filled")?.detach()?;
            }
            Ok(())
        })
    };
    let mut random = Random::new(client.session_serial());
    for n in 0..n_arenas {
        // Waits if others hold them all.
        let mut arena = pool.get()?;
        let numbers = arena.alloc::<Numbers>()?;
        let handle = numbers.handle().to_string();
        let mut sum = 0_u64;
        for number in numbers.atomics::<SharedNumbers>()? {
            let value = random.next_u32();
            // ORDERING: Relaxed; the consumer hears of the arena after this process has said so.
            number.store(value, Ordering::Relaxed);
            sum += u64::from(value);
        }
        let name = format!("batch/{}/{n}", client.session());
        arena.share(&name)?;
        held.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), arena);
        report(&Report::Filled { name, handle, sum })?;
    }
    releasing
        .join()
        .map_err(|_| anyhow::anyhow!("release thread has panicked"))?
}

/// Is a consumer: sums up the arenas that it is told.
pub(super) fn consume(client: &Client, pool: &str) -> anyhow::Result<()> {
    let pool = client.open_arena_pool(pool)?;
    report(&Report::Ready)?;
    for order in orders() {
        let Order::Sum { name, handle } = order? else {
            bail!("unexpected order")
        };
        // To write as well, since atomics are for what others may write.
        let arena = pool.attach(&name, Access::ReadWrite)?;
        let numbers = arena.resolve::<Numbers>(parse_handle(&handle)?)?;
        let start = Instant::now();
        let mut sum = 0_u64;
        for number in numbers.atomics::<SharedNumbers>()? {
            sum += u64::from(number.load(Ordering::Relaxed));
        }
        let took_ns = u64::try_from(start.elapsed().as_nanos())?;
        arena.detach()?;
        report(&Report::Summed { name, sum, took_ns })?;
    }
    Ok(())
}
