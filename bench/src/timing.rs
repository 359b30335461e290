//! How time is taken: in alternating runs of everything that is compared, and by medians, so that
//! whatever else the machine does meets all of them alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::peers::Peer;

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
    /// Without the peers, for a profiler.
    pub(crate) alone: bool,
}

impl Effort {
    /// Returns `full`, or `quick` where only a look is wanted.
    pub(crate) fn size<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// One run of something: returns what was measured.
pub(crate) type Run<'a> = Box<dyn FnMut() -> anyhow::Result<f64> + 'a>;

/// The medians over all runs.
#[derive(Debug)]
pub(crate) struct Medians {
    pub(crate) goumem: f64,
    pub(crate) peers: BTreeMap<&'static str, f64>,
}

/// Runs goumem, each peer, goumem again and so on, `rounds` times, a hundredth of that to be quick. A
/// first round is not counted: it fills caches and pools.
///
/// # Errors
/// The first error of a run.
pub(crate) fn alternate(
    effort: Effort,
    rounds: usize,
    mut goumem: Run<'_>,
    mut peers: Vec<Peer<'_>>,
) -> anyhow::Result<Medians> {
    let rounds = if effort.quick {
        rounds.div_ceil(100)
    } else {
        rounds
    };
    if effort.alone {
        peers.clear();
    }
    let mut ours = Vec::with_capacity(rounds);
    let mut theirs = vec![Vec::with_capacity(rounds); peers.len()];
    goumem()?;
    for (_, run) in &mut peers {
        run()?;
    }
    for _ in 0..rounds {
        ours.push(goumem()?);
        for ((_, run), measured) in peers.iter_mut().zip(&mut theirs) {
            measured.push(run()?);
        }
    }
    let names = peers.iter().map(|(name, _)| *name);
    Ok(Medians {
        goumem: median(&ours),
        peers: names
            .zip(theirs.iter().map(|times| median(times)))
            .collect(),
    })
}

/// Returns the nanoseconds of each of `n` repetitions, taken as a whole.
///
/// # Errors
/// The first error of a repetition.
pub(crate) fn each_ns(
    n: u32,
    mut repeat: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    shared_ns(n, || {
        for _ in 0..n {
            repeat()?;
        }
        Ok(())
    })
}

/// Returns the nanoseconds of something that does `n` things, for each of them.
///
/// # Errors
/// Its error.
pub(crate) fn shared_ns(n: u32, all: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    Ok(once_ms(all)? * 1e6 / f64::from(n))
}

/// Returns the milliseconds that something takes once.
///
/// # Errors
/// Its error.
pub(crate) fn once_ms(once: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    once()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Returns the median, in microseconds, of `n` repetitions that are timed one by one.
///
/// # Errors
/// The first error of a repetition.
pub(crate) async fn median_us(
    n: usize,
    mut repeat: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let mut times = Vec::with_capacity(n);
    for _ in 0..n {
        let start = Instant::now();
        repeat().await?;
        times.push(us(start.elapsed()));
    }
    Ok(median(&times))
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns the middle one; NaN of nothing.
fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// Returns the value that so many percent are below; NaN of nothing.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len() * percent / 100;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_alternate_and_the_first_round_is_not_counted() {
        let order = std::cell::RefCell::new(String::new());
        let run = |name: char, value: f64| {
            order.borrow_mut().push(name);
            Ok(value)
        };
        let mut n = 0.0;
        let ours = Box::new(|| {
            n += 1.0;
            run('a', n)
        });
        let theirs = Box::new(|| run('b', 7.0));
        let effort = Effort {
            quick: true,
            alone: false,
        };
        let medians = alternate(effort, 300, ours, vec![("b", theirs)]).unwrap();
        assert_eq!(*order.borrow(), "abababab");
        assert_eq!((medians.goumem, medians.peers["b"]), (3.0, 7.0));
    }
}
