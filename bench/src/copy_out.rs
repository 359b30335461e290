//! Copying 80 000 bytes out of a block into a new `Vec`; beside a copy between two buffers that
//! are there, at the distance that this processor copies best at.

use std::hint::black_box;

use goumem::PoolOptions;
use goumem::blocking::Pool;

use crate::daemon::Daemon;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, Run, alternate, each_ns};

const BYTES: usize = 80_000;
const OS_PAGE_BYTES: usize = 4096;

/// Copies in a round.
fn copies(effort: Effort) -> u32 {
    effort.size(100, 2)
}

/// Out of a block that others may see, checked: microseconds for each copy.
pub(crate) fn shared(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let copies = copies(effort);
    copy_out(bench, effort, |pool| {
        let shared = pool.alloc_slice_from(&[7_u8; BYTES])?.share()?;
        Ok(Box::new(move || {
            each_us(copies, || {
                black_box(shared.read_slice()?);
                Ok(())
            })
        }))
    })
}

/// Out of a block of one's own, by reference.
pub(crate) fn private(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    let copies = copies(effort);
    copy_out(bench, effort, |pool| {
        let block = pool.alloc_slice_from(&[7_u8; BYTES])?;
        Ok(Box::new(move || {
            each_us(copies, || {
                black_box(black_box(&*block).to_vec());
                Ok(())
            })
        }))
    })
}

fn copy_out(
    bench: &Bench,
    effort: Effort,
    prepare: impl FnOnce(&Pool) -> anyhow::Result<Run<'static>>,
) -> anyhow::Result<Line> {
    let daemon = Daemon::start()?;
    let client = daemon.client()?;
    let pool = client.create_pool("bench", PoolOptions::new(16 << 20))?;
    let medians = alternate(
        effort,
        500,
        prepare(&pool)?,
        vec![("best_placement", best_placement(copies(effort))?)],
    )?;
    Ok(Line::new(bench, "us", medians))
}

/// Copies between two buffers, at the places in their pages that turned out to be the fastest.
fn best_placement(copies: u32) -> anyhow::Result<Run<'static>> {
    let from = vec![7_u8; BYTES + 2 * OS_PAGE_BYTES];
    let mut to = from.clone();
    let mut copy = move |from_at: usize, to_at: usize| {
        let from = &from[from_at..from_at + BYTES];
        let to = &mut to[to_at..to_at + BYTES];
        each_us(copies, || {
            black_box(&mut *to).copy_from_slice(black_box(from));
            Ok(())
        })
    };
    let places = (0..OS_PAGE_BYTES).step_by(OS_PAGE_BYTES / 16);
    let mut best = (f64::INFINITY, 0, 0);
    for from_at in places.clone() {
        for to_at in places.clone() {
            let us = copy(from_at, to_at)?;
            if us < best.0 {
                best = (us, from_at, to_at);
            }
        }
    }
    Ok(Box::new(move || copy(best.1, best.2)))
}

fn each_us(n: u32, repeat: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    Ok(each_ns(n, repeat)? / 1e3)
}
