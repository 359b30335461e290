//! What the campaign has done and found. What is wrong is said at once, on standard error, and
//! counted; the last line on standard output is the sum.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::wire::{Pauses, Wrong};

/// Of each kind so many are said in full; one bug tends to show a thousand times.
const MAX_SAID: u64 = 20;

/// A count that several threads raise.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn add(&self, n: usize) {
        // ORDERING: Relaxed; it counts, and carries nothing.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) kills_client: Count,
    pub(crate) kills_daemon: Count,
    pub(crate) kills_keeper: Count,
    pub(crate) stops: Count,
    /// Times that every token was compared with the daemon's counts.
    pub(crate) checks: Count,
    /// Times that everybody was dead and everything had to be free.
    pub(crate) baselines: Count,
    /// Blocks that were handed to another process.
    pub(crate) handed_over: Count,
    pub(crate) ops: Count,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    wrongs: BTreeMap<Wrong, u64>,
    leaked_bytes: u64,
    pauses: Pauses,
}

impl Report {
    /// Notes that something is wrong.
    pub(crate) fn wrong(&self, wrong: Wrong, what: impl Display) {
        let mut found = self.found();
        let n = found.wrongs.entry(wrong).or_default();
        *n += 1;
        if *n <= MAX_SAID {
            eprintln!("campaign: WRONG {wrong}: {what}");
        }
    }

    /// Notes that bytes are held by nobody who lives.
    pub(crate) fn leak(&self, bytes: u64, what: impl Display) {
        self.found().leaked_bytes += bytes;
        self.wrong(Wrong::Leak, format!("{what} ({bytes} bytes)"));
    }

    /// Notes how long the steady threads have paused so far.
    pub(crate) fn pauses(&self, pauses: Pauses) {
        self.found().pauses = pauses;
    }

    /// Judges the pauses: one is wrong if it is longer than the limit, and than twice what a
    /// thread without goumem has seen on the same machine.
    pub(crate) fn judge_pauses(&self, limit_ms: u64) {
        let pauses = self.found().pauses;
        if pauses.own_us > 1000 * limit_ms && pauses.own_us > 2 * pauses.control_us {
            let text = format!("a thread inside its lease: {pauses:?}, limit {limit_ms} ms");
            self.wrong(Wrong::Pause, text);
        }
    }

    /// Returns whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.found().wrongs.is_empty()
    }

    /// Returns the last line.
    pub(crate) fn summary(&self, seed: u64, seconds: u64) -> serde_json::Value {
        let found = self.found();
        let n = |wrong| found.wrongs.get(&wrong).copied().unwrap_or(0);
        let others: BTreeMap<String, u64> = found
            .wrongs
            .iter()
            .map(|(wrong, n)| (wrong.to_string(), *n))
            .collect();
        json!({
            "seed": seed,
            "seconds": seconds,
            "kills_client": self.kills_client.get(),
            "kills_daemon": self.kills_daemon.get(),
            "kills_keeper": self.kills_keeper.get(),
            "stops": self.stops.get(),
            "ops": self.ops.get(),
            "handed_over": self.handed_over.get(),
            "checks": self.checks.get(),
            "baselines": self.baselines.get(),
            "lost_blocks": n(Wrong::Lost),
            "overlaps": n(Wrong::Overlap),
            "leaked_bytes": found.leaked_bytes,
            "false_deaths": n(Wrong::FalseDeath),
            "max_pause_ms": ms(found.pauses.own_us),
            "max_pause_by_clock_ms": ms(found.pauses.wall_us),
            "control_pause_ms": ms(found.pauses.control_us),
            "control_pause_by_clock_ms": ms(found.pauses.control_wall_us),
            "wrong": others,
        })
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        // Every change is one step.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ms(us: u64) -> serde_json::Value {
    // Exact: a pause is no 2^53 µs long.
    #[expect(clippy::cast_precision_loss, reason = "pauses are far below 2^53 µs")]
    let ms = us as f64 / 1000.0;
    json!(ms)
}
