//! The sums of the last minutes, for the curves.

use std::collections::VecDeque;
use std::time::Duration;

use crate::observation::Totals;

#[cfg(test)]
mod tests;

/// How much of the past the curves show.
pub(super) const WINDOW: Duration = Duration::from_secs(300);
/// The window at the shortest interval.
const MAX_POINTS: usize = 1200;

/// What was, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Duration, Totals)>);

impl History {
    /// Adds what is at `at`, and forgets what lies before the window.
    pub(super) fn push(&mut self, at: Duration, totals: Totals) {
        let start = at.saturating_sub(WINDOW);
        while self.0.front().is_some_and(|&(at, _)| at < start) || self.0.len() >= MAX_POINTS {
            self.0.pop_front();
        }
        self.0.push_back((at, totals));
    }

    /// Returns the window in so many equal steps, each with the most that was in it; `None` from
    /// before anything was known. A step without an observation goes on with the last one. Steps
    /// begin at multiples of their length, so that a curve moves as a whole and does not flicker.
    pub(super) fn steps(&self, n: u16, value: impl Fn(&Totals) -> u64) -> Vec<Option<u64>> {
        let n = usize::from(n.max(1));
        let Some(&(newest, _)) = self.0.back() else {
            return vec![None; n];
        };
        let step = WINDOW.as_millis().div_ceil(n as u128).max(1);
        let index = |at: Duration| at.as_millis() / step;
        let last = index(newest);
        let mut points = self.0.iter().peekable();
        let mut held = None;
        (0..n)
            .map(|i| {
                // Steps from before the start of time have nothing.
                let this = (last + i as u128 + 1).checked_sub(n as u128)?;
                let mut most = None;
                while let Some((_, totals)) = points.next_if(|(at, _)| index(*at) <= this) {
                    held = Some(value(totals));
                    most = most.max(held);
                }
                most.or(held)
            })
            .collect()
    }
}
