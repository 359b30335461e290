//! Part three: a loop over 100 000 matrices of 100 × 100 numbers. Take one, fill it, multiply
//! every element by one random factor, add up, give it back. *Hot*, the same memory comes back
//! each time; *distinct*, as many are alive at once as the machine has room for. In one process
//! and in two, from a pool and, as a yardstick, on the process's own heap. The checksum is the
//! same in all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use goumem::blocking::{Client, Pool};
use goumem::{AllocError, Matrix, PoolOptions};

use super::progress::Progress;
use super::random::Random;
use super::team::Team;
use super::worker::{Order, Report, orders, report};
use super::{Doomed, Findings, Scale};
use crate::args::MatrixWork;
use crate::output::{human_bytes, human_time};

pub(super) const COLUMNS: &[&str] = &[
    "form",
    "memory",
    "processes",
    "alive",
    "total_ms",
    "take_ms",
    "work_ms",
    "per_second",
    "checksum",
];

const SIDE: usize = 100;
/// What one takes from a pool: the size class for its 80 000 bytes.
const MATRIX_BYTES: u64 = 80 << 10;
/// A process leases whole spans, and some ahead.
const SLACK_BYTES: u64 = 64 << 20;
/// Of what the machine has to spare, this part in a hundred: others need some.
const SHARE_PERCENT: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(300);

/// One pass over all matrices.
#[derive(Debug, Clone, Copy)]
struct Run {
    in_pool: bool,
    processes: u64,
    /// Over all processes.
    alive: u64,
}

pub(super) fn run(client: &Client, scale: Scale, findings: &mut Findings) -> anyhow::Result<()> {
    let info = client.info()?;
    let left = info.budget_limit_bytes.saturating_sub(info.committed_bytes);
    let spare = left.min(info.available_bytes);
    let room = (spare / 100 * SHARE_PERCENT).saturating_sub(2 * SLACK_BYTES) / MATRIX_BYTES;
    let distinct = room.clamp(2, scale.matrices);
    let progress = Progress::start("matrix: passes over all matrices", 8);
    progress.say(format!(
        "{distinct} of {} matrices fit into {SHARE_PERCENT} % of {}",
        scale.matrices,
        human_bytes(spare)
    ));
    let mut checksums = Vec::new();
    for (form, alive) in [("hot", 1), ("distinct", distinct)] {
        for processes in [1, 2] {
            for (memory, in_pool) in [("pool", true), ("heap", false)] {
                let run = Run {
                    in_pool,
                    processes,
                    alive: alive.max(processes),
                };
                let pass = pass(client, scale, run)?;
                progress.step();
                let per_second = scale.matrices * 1_000_000 / micros(pass.total);
                progress.say(format!(
                    "{form}, {memory}, {processes} at work: {} ({per_second} matrices/s)",
                    human_time(pass.total)
                ));
                checksums.push(pass.checksum);
                findings.runs.push([
                    form.into(),
                    memory.into(),
                    processes.into(),
                    run.alive.into(),
                    pass.total.into(),
                    pass.take.into(),
                    pass.work.into(),
                    per_second.into(),
                    format!("{:016x}", pass.checksum).into(),
                ]);
            }
        }
    }
    let first = checksums.first().copied().unwrap_or_default();
    let equal = checksums.iter().all(|&checksum| checksum == first);
    let found = format!("{} runs, {first:016x}", checksums.len());
    findings.check("matrix: checksums of all runs are equal", equal, found);
    Ok(())
}

/// At least 1.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// What a pass took.
#[derive(Debug)]
struct Pass {
    /// From the start signal to the last process's report.
    total: Duration,
    /// Taking and filling, by the slowest process.
    take: Duration,
    /// Multiplying, adding up and giving back, by the slowest process.
    work: Duration,
    checksum: u64,
}

fn pass(client: &Client, scale: Scale, run: Run) -> anyhow::Result<Pass> {
    let capacity = run.alive * MATRIX_BYTES + run.processes * SLACK_BYTES;
    let options = PoolOptions::new(capacity).max_capacity(capacity);
    let doomed = run
        .in_pool
        .then(|| Doomed::pool(client, "matrix", options))
        .transpose()?;
    let mut team = Team::new(client.socket());
    for process in 0..run.processes {
        // Together they have each matrix once.
        let first = scale.matrices * process / run.processes;
        let count = scale.matrices * (process + 1) / run.processes - first;
        let (first, count) = (first.to_string(), count.to_string());
        let at_a_time = (run.alive / run.processes).to_string();
        let mut args = vec![
            "matrix",
            "--first",
            &first,
            "--count",
            &count,
            "--at-a-time",
            &at_a_time,
        ];
        if let Some(pool) = &doomed {
            args.extend(["--pool", &pool.name]);
        }
        team.start(&args)?;
    }
    let deadline = Instant::now() + PATIENCE;
    team.all_ready(deadline)?;
    let processes = usize::try_from(run.processes)?;
    let start = Instant::now();
    for process in 0..processes {
        team.tell(process, &Order::Go)?;
    }
    let mut pass = Pass {
        total: Duration::ZERO,
        take: Duration::ZERO,
        work: Duration::ZERO,
        checksum: 0,
    };
    for _ in 0..processes {
        let (
            _,
            Report::Multiplied {
                checksum,
                take_ns,
                work_ns,
            },
        ) = team.hear(deadline)?
        else {
            bail!("unexpected report");
        };
        pass.checksum = pass.checksum.wrapping_add(checksum);
        pass.take = pass.take.max(Duration::from_nanos(take_ns));
        pass.work = pass.work.max(Duration::from_nanos(work_ns));
    }
    pass.total = start.elapsed();
    team.finish()?;
    Ok(pass)
}

/// Works in a pool.
pub(super) fn work_in_pool(client: &Client, pool: &str, work: &MatrixWork) -> anyhow::Result<()> {
    let pool = client.open_pool(pool)?;
    let template = template();
    work_on(work, || take(&pool, &template), Matrix::as_mut_slice)
}

fn take(pool: &Pool, template: &[f64]) -> anyhow::Result<Matrix<f64>> {
    let mut matrix = match pool.try_alloc_matrix::<f64>(SIDE, SIDE) {
        Err(AllocError::NeedsSpan) => pool.alloc_matrix(SIDE, SIDE)?,
        other => other?,
    };
    matrix.as_mut_slice().copy_from_slice(template);
    Ok(matrix)
}

/// Works on the process's heap.
pub(super) fn work_on_heap(work: &MatrixWork) -> anyhow::Result<()> {
    let template = template();
    work_on(work, || Ok(template.clone()), Vec::as_mut_slice)
}

fn work_on<M>(
    work: &MatrixWork,
    mut take: impl FnMut() -> anyhow::Result<M>,
    elements: impl Fn(&mut M) -> &mut [f64],
) -> anyhow::Result<()> {
    report(&Report::Ready)?;
    orders().next().context("demo has ended")??;
    let (mut taking, mut working) = (Duration::ZERO, Duration::ZERO);
    let mut checksum = 0_u64;
    let mut alive = Vec::new();
    let end = work.first + work.count;
    let mut next = work.first;
    while next < end {
        let start = Instant::now();
        for _ in 0..work.at_a_time.min(end - next) {
            alive.push(take()?);
        }
        let taken = Instant::now();
        for mut matrix in alive.drain(..) {
            let sum = multiply_and_add_up(elements(&mut matrix), Random::factor(next));
            // In whatever order and by whatever process: the same at the end.
            checksum = checksum.wrapping_add(sum.to_bits());
            next += 1;
        }
        taking += taken - start;
        working += taken.elapsed();
    }
    report(&Report::Multiplied {
        checksum,
        take_ns: u64::try_from(taking.as_nanos())?,
        work_ns: u64::try_from(working.as_nanos())?,
    })
}

/// Multiplies every element and returns the sum of the products. The columns' sums are kept
/// apart, so that the sum is the same however it is compiled, and the processor can do several at
/// a time.
fn multiply_and_add_up(elements: &mut [f64], factor: f64) -> f64 {
    let mut sums = [0.0; SIDE];
    let mut rest = elements;
    while let Some((row, rows)) = rest.split_first_chunk_mut::<SIDE>() {
        for (sum, element) in sums.iter_mut().zip(row) {
            *element *= factor;
            *sum += *element;
        }
        rest = rows;
    }
    sums.iter().sum()
}

/// What a matrix is filled with.
fn template() -> Vec<f64> {
    (0..SIDE * SIDE)
        .map(|n| f64::from(u32::try_from(n % 1009).expect("below 1009")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_multiplied_and_added_once() {
        let mut elements = template();
        let before = elements.clone();
        let sum = multiply_and_add_up(&mut elements, 2.0);
        assert!(
            elements
                .iter()
                .zip(&before)
                .all(|(after, before)| *after == 2.0 * before)
        );
        // Whole numbers far below 2^53: exact in any order.
        assert_eq!(sum, 2.0 * before.iter().sum::<f64>());
    }
}
