//! The budget: how much memory the daemon may commit, and how much each user may have.
//!
//! A memfd has no limit of its own, and a machine that is full means the OOM killer. So before
//! each commit: committed + request ≤ the configured limit, and request ≤ what the machine and
//! the cgroup have left, after a reserve. `fallocate`'s own error is the second line.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goumem_shm::os::machine::{Machine, MachineMemory};

use crate::error::Error;

/// How old a reading of /proc/meminfo may be. Reading it costs tens of microseconds, a commit of
/// a span as much; what was committed since the reading is counted against it.
const READING_LASTS: Duration = Duration::from_millis(10);

/// How often the log says that memory is refused: a machine that is full refuses thousands of
/// calls a second.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What the daemon may commit.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<BudgetState>,
}

#[derive(Debug)]
struct BudgetState {
    limit_bytes: u64,
    reserve_bytes: u64,
    committed_bytes: u64,
    available_bytes: u64,
    read_at: Option<Instant>,
    /// When a refusal was logged last, and how many there were since.
    said_at: Option<Instant>,
    unsaid: u64,
}

impl Budget {
    /// Returns a budget of `limit_bytes` (half of the machine's memory when `None`) that leaves
    /// `reserve_bytes` to the rest of the machine.
    pub fn new(limit_bytes: Option<u64>, reserve_bytes: u64) -> Self {
        Self {
            state: Mutex::new(BudgetState {
                limit_bytes: limit_bytes.unwrap_or_else(half_of_the_machine),
                reserve_bytes,
                committed_bytes: 0,
                available_bytes: 0,
                read_at: None,
                said_at: None,
                unsaid: 0,
            }),
        }
    }

    /// Changes both. What is committed above a lower limit stays committed.
    pub fn set(&self, limit_bytes: Option<u64>, reserve_bytes: u64) {
        let limit_bytes = limit_bytes.unwrap_or_else(half_of_the_machine);
        let mut state = self.lock();
        state.limit_bytes = limit_bytes;
        state.reserve_bytes = reserve_bytes;
    }

    /// Sets `request_bytes` aside for a commit.
    ///
    /// # Errors
    /// `BudgetExhausted`.
    pub fn reserve(&self, request_bytes: u64, now: Instant) -> Result<(), Error> {
        if request_bytes == 0 {
            return Ok(());
        }
        let mut state = self.lock();
        if state
            .read_at
            .is_none_or(|at| now.saturating_duration_since(at) > READING_LASTS)
        {
            state.available_bytes = available_bytes(Machine::read().ok().as_ref());
            state.read_at = Some(now);
        }
        let available_bytes = state.available_bytes.saturating_sub(state.reserve_bytes);
        let within_limit = state
            .committed_bytes
            .checked_add(request_bytes)
            .is_some_and(|sum| sum <= state.limit_bytes);
        if !within_limit || request_bytes > available_bytes {
            state.say_refused(request_bytes, available_bytes, now);
            return Err(Error::BudgetExhausted {
                requested_bytes: request_bytes,
                committed_bytes: state.committed_bytes,
                limit_bytes: state.limit_bytes,
                available_bytes,
            });
        }
        state.committed_bytes += request_bytes;
        state.available_bytes -= request_bytes;
        Ok(())
    }

    /// Gives back what was reserved or committed.
    pub fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.committed_bytes = state
            .committed_bytes
            .checked_sub(bytes)
            .expect("pools release what they reserved");
        state.available_bytes = state.available_bytes.saturating_add(bytes);
    }

    /// Counts memory that recovery found committed, whatever the limit says.
    pub fn record(&self, bytes: u64) {
        self.lock().committed_bytes += bytes;
    }

    /// Returns (committed, limit, available after the reserve) in bytes.
    pub fn report(&self) -> (u64, u64, u64) {
        let available = available_bytes(Machine::read().ok().as_ref());
        let state = self.lock();
        (
            state.committed_bytes,
            state.limit_bytes,
            available.saturating_sub(state.reserve_bytes),
        )
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BudgetState {
    /// Tells the log, which is for whoever runs the machine: callers hear of each refusal.
    fn say_refused(&mut self, requested_bytes: u64, available_bytes: u64, now: Instant) {
        self.unsaid += 1;
        let lately = |at| now.saturating_duration_since(at) < SAID_EVERY;
        if self.said_at.is_some_and(lately) {
            return;
        }
        tracing::warn!(
            requested_bytes,
            committed_bytes = self.committed_bytes,
            limit_bytes = self.limit_bytes,
            available_bytes,
            refusals = self.unsaid,
            "out of budget: memory refused"
        );
        self.said_at = Some(now);
        self.unsaid = 0;
    }
}

fn half_of_the_machine() -> u64 {
    Machine::read().map_or(u64::MAX, |memory| memory.total_bytes / 2)
}

/// Returns what machine and cgroup have left; without a reading, only the limit protects.
fn available_bytes(memory: Option<&MachineMemory>) -> u64 {
    let Some(memory) = memory else {
        return u64::MAX;
    };
    let in_cgroup = match (memory.cgroup_limit_bytes, memory.cgroup_usage_bytes) {
        (Some(limit), Some(usage)) => limit.saturating_sub(usage),
        _ => u64::MAX,
    };
    memory.available_bytes.min(in_cgroup)
}

/// What each user has, over all pools.
#[derive(Debug)]
pub struct Quotas {
    state: Mutex<QuotaState>,
}

#[derive(Debug)]
struct QuotaState {
    quota_bytes: u64,
    used: BTreeMap<u32, u64>,
}

impl Quotas {
    /// Returns a ledger in which each user may have `quota_bytes`, or any number when `None`.
    pub fn new(quota_bytes: Option<u64>) -> Self {
        Self {
            state: Mutex::new(QuotaState {
                quota_bytes: quota_bytes.unwrap_or(u64::MAX),
                used: BTreeMap::new(),
            }),
        }
    }

    /// Changes what each user may have. Who has more keeps it.
    pub fn set(&self, quota_bytes: Option<u64>) {
        self.lock().quota_bytes = quota_bytes.unwrap_or(u64::MAX);
    }

    /// Charges a user.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub fn charge(&self, uid: u32, bytes: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let quota_bytes = state.quota_bytes;
        let used_bytes = state.used.entry(uid).or_default();
        match used_bytes
            .checked_add(bytes)
            .filter(|&sum| sum <= quota_bytes)
        {
            Some(sum) => {
                *used_bytes = sum;
                Ok(())
            }
            None => Err(Error::QuotaExceeded {
                uid,
                requested_bytes: bytes,
                used_bytes: *used_bytes,
                quota_bytes,
            }),
        }
    }

    /// Charges a user for what it has anyway, above its quota if need be.
    pub fn record(&self, uid: u32, bytes: u64) {
        *self.lock().used.entry(uid).or_default() += bytes;
    }

    /// Takes a charge back.
    pub fn discharge(&self, uid: u32, bytes: u64) {
        if let Some(sum) = self.lock().used.get_mut(&uid) {
            *sum = sum
                .checked_sub(bytes)
                .expect("pools discharge what they charged");
        }
    }

    /// Returns what a user has, in bytes.
    pub fn used_bytes(&self, uid: u32) -> u64 {
        self.lock().used.get(&uid).copied().unwrap_or(0)
    }

    /// Returns what each user has that has anything.
    pub(crate) fn by_user(&self) -> BTreeMap<u32, u64> {
        let state = self.lock();
        let some = state.used.iter().filter(|&(_, &bytes)| bytes > 0);
        some.map(|(&uid, &bytes)| (uid, bytes)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, QuotaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
