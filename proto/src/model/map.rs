//! What each page of a pool, and each arena of an arena pool, is: PoolService and ArenaPoolService,
//! Map.

use std::time::Duration;

use goumem_alloc::{Handle, PageCount, PageIndex, SessionNumber, SizeClass, TypeTag};

use super::message::{Field, message};
use super::{ArenaHolder, ArenaPoolInfo, PoolInfo, ProtocolError};
use crate::name::{ArenaName, BlockName, PoolName};
use crate::v1;

/// The most runs, blocks or arenas of one reply. A block with a name of 64 bytes takes 120 bytes of
/// a message and a run 70, so that the longest reply has 3 of the 4 MiB that a message may have.
pub const MAX_MAP_ITEMS: u32 = 16_384;

/// The most holders that are shown of one arena.
pub const MAX_MAP_HOLDERS: usize = 64;

message! {
    /// Asks what each page of a pool is.
    MapPool <=> MapPoolRequest {
        /// Its name.
        name: PoolName,
        /// Where the map begins.
        first_page: PageIndex,
        /// The most runs to show; none: [`MAX_MAP_ITEMS`].
        max_runs: Option<u32> = items,
        /// The most blocks to show; none: [`MAX_MAP_ITEMS`].
        max_blocks: Option<u32> = items,
    }
}

impl MapPool {
    /// Asks for as much of a pool, from its start, as one reply holds.
    pub fn of(name: PoolName) -> Self {
        Self {
            name,
            first_page: PageIndex::new(0),
            max_runs: None,
            max_blocks: None,
        }
    }

    /// Returns the most runs to show.
    pub fn max_runs(&self) -> usize {
        limit(self.max_runs)
    }

    /// Returns the most blocks to show.
    pub fn max_blocks(&self) -> usize {
        limit(self.max_blocks)
    }
}

fn limit(asked: Option<u32>) -> usize {
    asked.map_or(MAX_MAP_ITEMS, |n| n.min(MAX_MAP_ITEMS)) as usize
}

fn items(field: &'static str, wire: u32) -> Result<Option<u32>, ProtocolError> {
    if wire > MAX_MAP_ITEMS {
        let why = format!("must be {MAX_MAP_ITEMS} or less");
        return Err(ProtocolError::invalid(field, wire, why));
    }
    Ok((wire != 0).then_some(wire))
}

message! {
    /// What each page of a pool is.
    PoolMap <=> MapPoolReply {
        /// The pool.
        pool: PoolInfo,
        /// Bytes of a page.
        page_bytes: u64,
        /// The pool's address space. Its capacity, which is less, may be granted at a time.
        total_pages: PageCount,
        /// By place, without gaps.
        runs: Vec<PageRun>,
        /// The exported blocks of these runs, by place.
        blocks: Vec<MappedBlock>,
        /// There is more from here on.
        next_page: Option<PageIndex>,
        /// Not everything is shown: there is a `next_page`, or more blocks in these runs.
        truncated: bool,
    }
}

message! {
    /// Free pages in a row, or one span.
    #[derive(Copy)]
    PageRun <=> PageRun {
        /// The first of them.
        first_page: PageIndex,
        /// How many.
        pages: PageCount,
        /// What they are.
        state: RunState,
        /// Of leased, the daemon's and abandoned runs. None for the rest of a span that was granted
        /// after the first part of the map was made.
        span: Option<MappedSpan>,
    }
}

message! {
    /// A span: pages cut into blocks of one size.
    #[derive(Copy)]
    MappedSpan <=> MappedSpan {
        /// Its size class.
        size_class: SizeClass,
        /// What a block of it takes.
        block_bytes: u64,
        /// Room for so many blocks.
        slots: u32,
        /// Exported blocks alive. Of the other slots any number may be in use: blocks that were
        /// never exported are known to the lessee alone.
        exported_blocks: u32,
        /// Of these, kept.
        kept_blocks: u32,
        /// Blocks freed while pinned.
        condemned_blocks: u32,
        /// Blocks with a pin on them.
        pinned_blocks: u32,
        /// Asked for, in exported blocks.
        requested_bytes: u64,
        /// The lessee; nobody when there is none, or the caller may not know of it.
        session: SessionNumber,
        /// The lessee's user, as far as `session` is told; else 0.
        uid: u32,
    }
    millis {
        /// How long ago it was leased, a millisecond or more; none when an earlier daemon leased
        /// it.
        leased_for <=> leased_ms: Option<Duration>,
    }
}

message! {
    /// An exported block.
    MappedBlock <=> MappedBlock {
        /// Says where it lies. It names nothing if the block is taken or condemned.
        handle: Handle,
        /// What the slot word says.
        state: BlockState,
        /// Bytes asked for; 0 when a writer of the pool has spoilt what says so.
        size_bytes: u64,
        /// What it takes of the pool.
        used_bytes: u64,
        /// Element type.
        type_tag: TypeTag,
        /// Whether there is a pin on it.
        pinned: bool,
        /// Its owner; nobody when there is none, or the caller may not know of it.
        session: SessionNumber,
        /// Its name in the pool.
        name: Option<BlockName>,
    }
}

message! {
    /// Asks what each arena of a pool is.
    MapArenaPool <=> MapArenaPoolRequest {
        /// Its name.
        name: PoolName,
        /// Where the map begins.
        first_arena: u32,
        /// The most arenas to show; none: [`MAX_MAP_ITEMS`].
        max_arenas: Option<u32> = items,
    }
}

impl MapArenaPool {
    /// Asks for as much of an arena pool, from its start, as one reply holds.
    pub fn of(name: PoolName) -> Self {
        Self {
            name,
            first_arena: 0,
            max_arenas: None,
        }
    }

    /// Returns the most arenas to show.
    pub fn max_arenas(&self) -> usize {
        limit(self.max_arenas)
    }
}

message! {
    /// What each arena of a pool is.
    ArenaPoolMap <=> MapArenaPoolReply {
        /// The pool.
        pool: ArenaPoolInfo,
        /// Calls that wait for an arena.
        waiting: u32,
        /// In order, without gaps.
        arenas: Vec<MappedArena>,
        /// There is more from here on.
        next_arena: Option<u32>,
    }
}

message! {
    /// An arena.
    MappedArena <=> MappedArena {
        /// Which one of its pool.
        index: u32,
        /// Names it, in its present life; nothing while it is free.
        arena: Handle,
        /// What the arena word says.
        state: ArenaState,
        /// Its name, if it is shared.
        name: Option<ArenaName>,
        /// The cursor, as far as its holder has published it.
        used_bytes: u64,
        /// At most [`MAX_MAP_HOLDERS`], of those whom the caller may know of.
        holders: Vec<ArenaHolder>,
        /// How many there are.
        n_holders: u32,
    }
}

/// Declares an enum that stands in messages as a number, of which 0 says nothing.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl Field<i32> for $name {
            fn from_wire(field: &'static str, wire: i32) -> Result<Self, ProtocolError> {
                match v1::$name::try_from(wire) {
                    $(Ok(v1::$name::$variant) => Ok(Self::$variant),)*
                    Ok(v1::$name::Unspecified) => Err(ProtocolError::missing(field)),
                    Err(_) => Err(ProtocolError::invalid(field, wire, "no such state")),
                }
            }

            fn into_wire(self) -> i32 {
                match self {
                    $(Self::$variant => v1::$name::$variant.into(),)*
                }
            }
        }
    };
}

numbered! {
    /// What pages are.
    RunState {
        /// Free, and no memory behind them: never granted, or purged.
        Free,
        /// Free, their memory still there.
        FreeCommitted,
        /// A span of a session.
        Leased,
        /// A span of the daemon, for blocks allocated by RPC.
        Daemon,
        /// A span whose lessee has gone, of which blocks live.
        Abandoned,
        /// Never granted again.
        Retired,
    }
}

numbered! {
    /// What an exported block is.
    BlockState {
        /// Goes with its owner's session.
        Shared,
        /// Outlives every session.
        Kept,
        /// Its owner's alone: no handle names it.
        Taken,
        /// Freed while pinned: its bytes are still there.
        Condemned,
    }
}

numbered! {
    /// Who may use an arena.
    ArenaState {
        /// Nobody.
        Free,
        /// One session.
        Exclusive,
        /// The sessions that hold it by name.
        Named,
    }
}
