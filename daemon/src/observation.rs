//! What an observer sees of the daemon at one moment, as plain data: for the metrics, the web page
//! and whoever else shows it to people. [`Core::observe`](crate::core::Core::observe) makes it.
//!
//! Nothing in here refers to anything: an observation may be kept, cloned, compared and written as
//! JSON. Sizes are in bytes and end in `_bytes`, durations in milliseconds and end in `_ms`. Pools
//! are looked at one after the other, and a large one in pieces, so the numbers of one observation
//! need not be of the same microsecond.

use serde::Serialize;

/// The daemon at one moment, as far as the viewer may see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observation {
    /// The daemon itself. Its totals are of everything, whoever looks.
    pub daemon: DaemonTotals,
    /// The pools that the viewer may read, by name. Those that are being destroyed come too.
    pub pools: Vec<ObservedPool>,
    /// The arena pools that the viewer may read, by name.
    pub arena_pools: Vec<ObservedArenaPool>,
    /// The sessions of the viewer's user, or all of them, by their serials.
    pub sessions: Vec<ObservedSession>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonTotals {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Which run of the daemon this is; another one after each restart.
    pub epoch: u64,
    /// How long it has run.
    pub uptime_ms: u64,
    /// Committed for all pools.
    pub committed_bytes: u64,
    /// The most that may be committed, by configuration.
    pub budget_limit_bytes: u64,
    /// What machine and cgroup still have, after the reserve.
    pub available_bytes: u64,
    /// Pools that have their name.
    pub pools: u32,
    /// Arena pools that have their name.
    pub arena_pools: u32,
    /// The most pools and arena pools there may be, together.
    pub max_pools: u32,
    /// Sessions.
    pub sessions: u32,
    /// The most sessions there may be.
    pub max_sessions: u32,
    /// Pools, sessions and records that could not be believed at its start.
    pub quarantined: u32,
    /// Bytes of a page of the heap.
    pub page_bytes: u64,
    /// Version of the layout of segments.
    pub layout_version: u32,
}

/// What a pool is, of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolIdentity {
    /// Its id, never reused.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode bits.
    pub mode: u32,
    /// What backs it: `memfd`, `named` or `file`.
    pub backing: &'static str,
    /// Whether it has lost its name and goes with the last session that maps it.
    pub destroying: bool,
    /// Sessions that map it.
    pub sessions: u32,
}

/// A pool of blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObservedPool {
    /// What it is.
    pub identity: PoolIdentity,
    /// Quota on granted bytes.
    pub capacity_bytes: u64,
    /// The most that capacity may ever be.
    pub max_capacity_bytes: u64,
    /// Payload backed by memory.
    pub committed_bytes: u64,
    /// Slot words and page map backed by memory, on top.
    pub table_bytes: u64,
    /// In spans that a session or the daemon's heap holds.
    pub leased_bytes: u64,
    /// Of these, in spans that the daemon holds, for blocks allocated by RPC.
    pub daemon_bytes: u64,
    /// In spans whose lessee has gone but whose blocks live.
    pub abandoned_bytes: u64,
    /// Backed by memory, and free.
    pub free_committed_bytes: u64,
    /// What exported blocks take after rounding to size classes. Blocks that were never exported
    /// are known to their owners alone and count as leased only.
    pub used_bytes: u64,
    /// The same as it was asked for.
    pub requested_bytes: u64,
    /// The largest block an alloc could get now.
    pub largest_free_bytes: u64,
    /// How much of what may still be granted is not in the longest run of free pages: 0 for one
    /// run, towards 1 for many short ones.
    pub fragmentation: f64,
    /// Exported blocks alive.
    pub blocks: u64,
    /// Of these, kept.
    pub kept_blocks: u64,
    /// Of these, named.
    pub named_blocks: u64,
    /// Blocks freed while pinned.
    pub condemned_blocks: u64,
    /// Pins on blocks.
    pub pins: u64,
    /// Leased spans.
    pub leases: u64,
    /// The sessions that lease most, the most first and at most [`MAX_HOLDERS`], as far as the
    /// viewer may see them.
    pub holders: Vec<ObservedHolder>,
}

/// The most holders that are listed of a pool or of one arena.
pub const MAX_HOLDERS: usize = 16;

/// Who holds how much of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ObservedHolder {
    /// The session's number.
    pub session: u16,
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
    /// Bytes of the spans it leases.
    pub bytes: u64,
}

/// An arena pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedArenaPool {
    /// What it is.
    pub identity: PoolIdentity,
    /// How many arenas it has.
    pub arenas: u32,
    /// Usable bytes in each.
    pub arena_bytes: u64,
    /// Arenas that nobody holds.
    pub free: u32,
    /// Arenas with one holder and no name.
    pub exclusive: u32,
    /// Arenas with a name.
    pub named: u32,
    /// Calls that wait for one.
    pub waiting: u32,
    /// Bytes allocated in arenas: the sum of their cursors.
    pub used_bytes: u64,
    /// Arenas' bytes backed by memory.
    pub committed_bytes: u64,
    /// Slots and records backed by memory, on top.
    pub table_bytes: u64,
    /// The arenas that are not free, by their numbers and at most [`MAX_ARENAS_LISTED`].
    pub held: Vec<ObservedArena>,
}

/// The most arenas that are listed of an arena pool; its map has them all.
pub const MAX_ARENAS_LISTED: usize = 256;

/// An arena that is not free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedArena {
    /// Which arena of its pool.
    pub index: u32,
    /// Its name, if it is shared.
    pub name: Option<String>,
    /// Its cursor.
    pub used_bytes: u64,
    /// Who holds it, at most [`MAX_HOLDERS`], as far as the viewer may see them.
    pub holders: Vec<ObservedArenaHolder>,
}

/// Who holds an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ObservedArenaHolder {
    /// The session's number.
    pub session: u16,
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
    /// Whether it may write.
    pub writable: bool,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedSession {
    /// Its number, which is used again when it has ended.
    pub number: u16,
    /// Never repeats.
    pub serial: u64,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What it calls itself.
    pub label: String,
    /// First word of its process's command line, if that can be read.
    pub command: Option<String>,
    /// How long ago it was opened.
    pub age_ms: u64,
    /// Whether it may map memory.
    pub may_map: bool,
    /// Whether it listens to events.
    pub connected: bool,
    /// Pools and arena pools that it maps.
    pub mapped_pools: u32,
    /// Bytes of the spans it leases.
    pub leased_bytes: u64,
    /// Bytes of the blocks it allocated by RPC.
    pub rpc_bytes: u64,
    /// Exported blocks it owns.
    pub blocks: u64,
    /// Arenas it holds.
    pub arenas: u32,
    /// Pins.
    pub pins: u32,
}
