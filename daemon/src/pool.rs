//! A pool of blocks, as its one owner sees it: the daemon grants spans, takes them back, and
//! keeps the records that outlive sessions. Everything it changes is under one lock; what is
//! shared lies in CONTROL (written here alone) and DATA (written by everybody, believed by
//! nobody).
//!
//! The parts: `span` grants, `returns` takes back, `block` is alloc and free by RPC, `keep` and
//! `pin` are the records, `sweep` is a session's death, `stat` counts, `observe` looks on without
//! changing anything, `recover` and `recall` take over from an earlier daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use goumem_alloc::{PageCount, PageHeap, PageIndex, PoolId, SessionNumber, SizeClass, WORD_BYTES};
use goumem_proto::model::{Access, Backing, Permissions, PoolInfo};
use goumem_proto::name::PoolName;
use goumem_shm::PoolMemory;
use goumem_shm::header::{MadeBy, PoolState as HeaderState};
use goumem_shm::os::{Segment, SegmentError};

use crate::budget::{Budget, Quotas};
use crate::error::Error;
use crate::mappers::Mappers;
use crate::permission;
use crate::session::{Caller, Session};
use crate::turn_lock::TurnLock;

mod back;
mod block;
mod charges;
mod check;
mod keep;
mod local_heap;
mod observe;
mod pin;
mod recall;
mod records;
mod recover;
mod returns;
mod span;
mod stat;
mod sweep;
mod tables;

pub(crate) use observe::{PoolCount, Sees};
pub(crate) use recall::Effect;
pub(crate) use recover::{Owners, recover};
pub use sweep::Holdings;
pub(crate) use tables::TablePages;

use charges::{Charge, Charges};
use local_heap::LocalHeap;
use records::Records;

/// What pools need of the daemon around them.
#[derive(Debug)]
pub(crate) struct Shared {
    /// How much memory may be committed.
    pub(crate) budget: Budget,
    /// How much each user may have.
    pub(crate) quotas: Quotas,
    /// When the daemon started: the zero of page heaps' clocks.
    pub(crate) started: Instant,
    /// How long free memory stays committed.
    pub(crate) purge_after: RwLock<Duration>,
}

impl Shared {
    /// Returns how long free memory stays committed.
    pub(crate) fn purge_after(&self) -> Duration {
        *self
            .purge_after
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it.
    pub(crate) fn set_purge_after(&self, time: Duration) {
        *self
            .purge_after
            .write()
            .unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// Returns `now` in milliseconds since the start.
    pub(crate) fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long after the first look at abandoned spans the second follows, at least.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
/// The longest pause between two looks: what was freed in abandoned spans stays so long, unless
/// somebody needs it.
const RAREST_LOOK: Duration = Duration::from_secs(64);
/// From the shortest to more than the longest.
const MAX_DOUBLINGS: u32 = 13;

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Never reused.
    pub id: PoolId,
    /// Its name.
    pub name: PoolName,
    /// What backs it.
    pub backing: Backing,
    /// Who may open it.
    pub permissions: Permissions,
    shared: Arc<Shared>,
    memory: Arc<PoolMemory>,
    control: Arc<Segment>,
    data: Arc<Segment>,
    state: TurnLock<PoolState>,
}

/// What the lock is for.
#[derive(Debug)]
struct PoolState {
    heap: PageHeap,
    /// Every granted span, by its first page.
    spans: BTreeMap<PageIndex, Span>,
    /// Spans without a lessee, of which blocks are alive.
    abandoned: BTreeSet<PageIndex>,
    /// How often they were looked at since the last of them came or went.
    vain_looks: u32,
    /// The session that last wrote a free committed page; nobody else sees what it wrote.
    last_user: BTreeMap<PageIndex, u64>,
    local: LocalHeap,
    records: Records,
    /// Whose quota pays for blocks in spans that no client leases.
    charges: Charges,
    data_tables: TablePages,
    control_tables: TablePages,
    mapped_by: Mappers,
    destroying: bool,
    /// Everything was given back, and nothing may be taken from the budget any more.
    dismantled: bool,
    /// Retired pages that could not be punched.
    stuck_bytes: u64,
}

/// A granted span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    pages: PageCount,
    class: SizeClass,
    lessee: SessionNumber,
    /// The lessee's session, 0 for the daemon and nobody.
    serial: u64,
    /// Who pays for it: the lessee's user, or the pool's owner when nobody leases it. The daemon's
    /// spans are paid for block by block.
    uid: u32,
    /// When it was granted; not known of one that an earlier daemon granted.
    leased_at: Option<Instant>,
}

/// The segments of a pool to be, and everything about it that is settled.
#[derive(Debug)]
pub(crate) struct PoolParts {
    pub(crate) id: PoolId,
    pub(crate) name: PoolName,
    pub(crate) backing: Backing,
    pub(crate) permissions: Permissions,
    pub(crate) capacity_pages: PageCount,
    pub(crate) memory: PoolMemory,
    pub(crate) control: Arc<Segment>,
    pub(crate) data: Arc<Segment>,
    /// What is committed of the tables already: the headers.
    pub(crate) data_tables: TablePages,
    pub(crate) control_tables: TablePages,
}

impl Pool {
    /// Puts a pool together. What `parts` has committed is in the budget already.
    pub(crate) fn new(parts: PoolParts, shared: Arc<Shared>) -> Self {
        let total = parts.memory.geometry().n_pages();
        let state = PoolState {
            heap: PageHeap::new(total, parts.capacity_pages),
            spans: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            vain_looks: 0,
            last_user: BTreeMap::new(),
            local: LocalHeap::default(),
            records: Records::default(),
            charges: Charges::default(),
            data_tables: parts.data_tables,
            control_tables: parts.control_tables,
            mapped_by: Mappers::default(),
            destroying: false,
            dismantled: false,
            stuck_bytes: 0,
        };
        Self {
            id: parts.id,
            name: parts.name,
            backing: parts.backing,
            permissions: parts.permissions,
            shared,
            memory: Arc::new(parts.memory),
            control: parts.control,
            data: parts.data,
            state: TurnLock::new(state),
        }
    }

    /// Returns what the pool is.
    pub fn info(&self) -> PoolInfo {
        let capacity_bytes = self.lock().heap.quota_pages().bytes();
        self.info_with(capacity_bytes)
    }

    /// Returns the most that its capacity may ever be.
    pub fn max_capacity_bytes(&self) -> u64 {
        self.memory.geometry().n_pages().bytes()
    }

    fn info_with(&self, capacity_bytes: u64) -> PoolInfo {
        PoolInfo {
            pool_id: self.id,
            name: self.name.clone(),
            capacity_bytes,
            max_capacity_bytes: self.max_capacity_bytes(),
            backing: self.backing,
            permissions: self.permissions,
            os_name: self.data.os_name().map(str::to_owned),
        }
    }

    /// Refuses a caller who may not use the pool so.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn require(&self, caller: &Caller, access: Access) -> Result<(), Error> {
        permission::require(caller, &self.permissions, access, self.name.as_str())
    }

    /// Sets the quota on granted bytes.
    ///
    /// # Errors
    /// `CapacityTooSmall`, `CapacityTooLarge`.
    pub fn set_capacity(&self, capacity_bytes: u64) -> Result<(), Error> {
        let max_bytes = self.max_capacity_bytes();
        let pages = PageCount::for_bytes(capacity_bytes).filter(|p| p.bytes() <= max_bytes);
        let pages = pages.ok_or(Error::CapacityTooLarge {
            requested_bytes: capacity_bytes,
            max_bytes,
        })?;
        let mut state = self.lock();
        self.return_idle(&mut state);
        let granted_bytes = state.heap.granted_pages().bytes();
        state
            .heap
            .set_quota(pages)
            .map_err(|_| Error::CapacityTooSmall {
                requested_bytes: capacity_bytes,
                granted_bytes,
            })?;
        self.memory.header().set_unit_bytes(pages.bytes());
        Ok(())
    }

    /// Hands the memory to a session: CONTROL read-only, DATA as `access` says.
    ///
    /// # Errors
    /// `SessionExpired`, `PoolDestroyed`, `Os`.
    pub fn hand_out(
        &self,
        session: &Session,
        access: Access,
        now: Instant,
    ) -> Result<(OwnedFd, OwnedFd), Error> {
        let mut state = self.lock();
        session.require_live()?;
        self.require_usable(&state)?;
        self.note_use(&mut state, session, now)?;
        let control = self
            .control
            .hand_out(false)
            .map_err(|e| Error::os("hand out CONTROL", e))?;
        let data = self
            .data
            .hand_out(access == Access::ReadWrite)
            .map_err(|e| Error::os("hand out DATA", e))?;
        state.mapped_by.add(session.number);
        self.write_member(&state, session);
        Ok((control, data))
    }

    /// Says which run of the daemon has it now.
    pub(crate) fn set_run(&self, instance: u64, epoch: u64) {
        self.memory.header().set_run(instance, epoch);
    }

    /// Leaves its names where they are when it is dropped, for the next daemon.
    pub(crate) fn leave(&self) {
        self.control.keep();
        self.data.keep();
    }

    /// Returns the request that made it.
    pub(crate) fn made_by(&self) -> MadeBy {
        self.memory.header().made_by()
    }

    /// Begins the end: no new opens, leases or allocations. The memory goes with the last session
    /// that maps it. Returns the sessions to tell, or `None` when it has begun before.
    pub fn destroy(&self) -> Option<Vec<SessionNumber>> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.destroying, true) {
            return None;
        }
        self.memory.header().set_state(HeaderState::Destroying);
        // Mappings and fds stay good without it, and the name is free for another pool.
        self.remove_files();
        Some(state.mapped_by.sessions())
    }

    /// Notes that a session has unmapped it, once.
    pub fn unmap(&self, session: &Session) {
        let mut state = self.lock();
        state.mapped_by.remove_one(session.number);
        self.write_member(&state, session);
    }

    /// Returns whether it is being destroyed.
    pub(crate) fn is_destroying(&self) -> bool {
        self.lock().destroying
    }

    /// Returns whether it is being destroyed and nobody maps it any more.
    pub fn is_gone(&self) -> bool {
        let state = self.lock();
        state.destroying && state.mapped_by.is_empty()
    }

    /// Gives everything back: for a pool that is gone. Calls that have it in hand still find it
    /// empty.
    pub(crate) fn dismantle(&self) {
        self.give_everything_back();
        self.remove_files();
    }

    /// Takes the pool out of the budget and out of everybody's quota.
    fn give_everything_back(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.dismantled, true) {
            return;
        }
        let committed = state.heap.committed_pages().bytes()
            + state.stuck_bytes
            + state.data_tables.bytes()
            + state.control_tables.bytes();
        self.shared.budget.release(committed);
        for span in state.spans.values() {
            if span.lessee != SessionNumber::DAEMON {
                self.shared.quotas.discharge(span.uid, span.pages.bytes());
            }
        }
        for charge in state.charges.drain() {
            self.shared.quotas.discharge(charge.uid, charge.bytes);
        }
        state.heap = PageHeap::new(state.heap.total_pages(), state.heap.quota_pages());
        state.spans.clear();
        state.abandoned.clear();
        state.last_user.clear();
        state.local = LocalHeap::default();
        state.data_tables = TablePages::default();
        state.control_tables = TablePages::default();
        state.stuck_bytes = 0;
    }

    /// CONTROL last: it says that the pool is being destroyed, should the daemon die in between.
    fn remove_files(&self) {
        for (segment, what) in [(&self.data, "DATA"), (&self.control, "CONTROL")] {
            if let Err(error) = segment.remove() {
                tracing::warn!(pool = %self.name, %error, "could not remove {what}");
            }
        }
    }

    /// Writes a file-backed pool to the disk: DATA, then CONTROL, so that no record says more than
    /// the bytes can keep.
    ///
    /// # Errors
    /// `BackingUnsupported`, `Os`.
    pub fn flush(&self) -> Result<(), Error> {
        if self.backing != Backing::File {
            return Err(Error::BackingUnsupported {
                backing: self.backing,
                what: "be flushed",
            });
        }
        let _state = self.lock();
        self.data.flush().map_err(|e| Error::os("flush DATA", e))?;
        self.control
            .flush()
            .map_err(|e| Error::os("flush CONTROL", e))
    }

    /// Gives free committed memory back to the OS; returns how many bytes.
    pub fn purge(&self, min_idle: Duration, now: Instant) -> u64 {
        let mut state = self.lock();
        let abandoned = state.abandoned.len();
        self.return_idle(&mut state);
        self.drop_stale_charges(&mut state);
        state.vain_looks = if state.abandoned.len() == abandoned {
            state.vain_looks.saturating_add(1)
        } else {
            0
        };
        drop(state);
        let min_idle_ms = u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX);
        self.purge_idle(self.shared.millis(now), min_idle_ms)
    }

    /// Returns when the next free memory is due for a purge, if any is committed. Abandoned spans,
    /// whose blocks may be meant to stay, are looked at ever more rarely.
    pub fn purge_due(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        let idle = state.heap.free_committed_pages() > PageCount::ZERO || state.local.may_idle();
        let purge_after = self.shared.purge_after();
        if idle {
            return Some(now + purge_after);
        }
        let often = purge_after.max(SHORTEST_LOOK);
        let pause = often.saturating_mul(1 << state.vain_looks.min(MAX_DOUBLINGS));
        (!state.abandoned.is_empty()).then(|| now + pause.min(often.max(RAREST_LOOK)))
    }

    /// Notes that a session is about to hold something here, for the next daemon too.
    ///
    /// # Errors
    /// `BudgetExhausted`, `NoSpace`.
    fn note_use(
        &self,
        state: &mut PoolState,
        session: &Session,
        now: Instant,
    ) -> Result<(), Error> {
        if state.mapped_by.may_hold(session.number) {
            return Ok(());
        }
        let start = self.memory.geometry().members_range().start
            + u64::from(session.number.get()) * WORD_BYTES;
        self.commit_tables(
            state,
            &[],
            std::slice::from_ref(&(start..start + WORD_BYTES)),
            now,
        )?;
        state.mapped_by.note_use(session.number);
        self.write_member(state, session);
        Ok(())
    }

    fn write_member(&self, state: &PoolState, session: &Session) {
        if state.dismantled {
            return;
        }
        let member = state.mapped_by.member(session);
        let word = self.memory.member(session.number);
        // A word that nobody wrote is not backed, and there is nothing to take back in it.
        if word.load() != member {
            word.store(member);
        }
    }

    fn require_usable(&self, state: &PoolState) -> Result<(), Error> {
        if state.destroying {
            Err(Error::PoolDestroyed { pool_id: self.id })
        } else {
            Ok(())
        }
    }

    /// Commits what is missing of the tables under `data` and `control`, after the budget.
    fn commit_tables(
        &self,
        state: &mut PoolState,
        data: &[Range<u64>],
        control: &[Range<u64>],
        now: Instant,
    ) -> Result<(), Error> {
        if state.dismantled {
            return Err(Error::PoolDestroyed { pool_id: self.id });
        }
        let of_data = state.data_tables.missing(data.iter().cloned());
        let of_control = state.control_tables.missing(control.iter().cloned());
        let bytes: u64 = of_data
            .iter()
            .chain(&of_control)
            .map(|run| run.end - run.start)
            .sum();
        self.shared.budget.reserve(bytes, now)?;
        let committed = commit_runs(&self.data, &of_data)
            .and_then(|()| commit_runs(&self.control, &of_control));
        match committed {
            Ok(()) => {
                of_data.iter().for_each(|run| state.data_tables.insert(run));
                of_control
                    .iter()
                    .for_each(|run| state.control_tables.insert(run));
                Ok(())
            }
            Err(source) => {
                // Nothing lives in these pages yet: punch what was committed, or half committed.
                for (segment, runs) in [(&self.data, &of_data), (&self.control, &of_control)] {
                    for run in runs {
                        let _ = segment.purge(run.clone());
                    }
                }
                self.shared.budget.release(bytes);
                Err(Error::NoSpace {
                    requested_bytes: bytes,
                    source,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // The state is checked by `check` in tests after every operation; a handler that
        // panicked in between would be a bug, and refusing every later call would not mend it.
        self.state.lock()
    }

    /// As `lock`, for long work that is done in turns: whoever waits already comes first.
    fn lock_after_others(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock_after_others()
    }
}

fn commit_runs(segment: &Segment, runs: &[Range<u64>]) -> Result<(), SegmentError> {
    runs.iter().try_for_each(|run| segment.commit(run.clone()))
}

#[cfg(test)]
mod tests;
