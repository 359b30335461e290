//! Mappings, slot words, page map and leased spans of goumem: all of its unsafe code.
//!
//! Bottom up: [`os`] (segments, mappings, fds, pidfds) and [`sync`] (atomics) → the words
//! ([`slot`], [`shape`], [`page_map`], [`note`], [`records`], [`member`], [`header`], [`arena`],
//! [`root`]) →
//! [`pool_memory`] and [`arena_memory`] (from a handle to a block) → [`leased_span`] (which
//! blocks are free) → [`block`] (typed references). docs/layout.md has every bit.
//!
//! # Exclusivity
//!
//! [`OwnedBlock`] gives `&T` and `&mut T` into memory that other processes map writable. That is
//! sound under one condition, stated here once: **every writer of the pool uses this library**
//! (or keeps to docs/layout.md). Then a block that is private, or taken over, is written by its
//! holder alone: its slot is taken in the one bitmap of the span's one agent, or its word is TAKEN
//! by this session, a state in which no handle names it, made up or not. A writer that does not
//! keep to it can change *values* under a reference. It cannot break *validity*: references are
//! given only for types of which every bit pattern is a value ([`Plain`]), lengths and addresses
//! come from private memory, and the mapping cannot shrink. The writers of a pool are one trust
//! domain; whoever needs protection from another uses another pool.
//!
//! Blocks that others can reach are never seen as `&T`: they are copied in and out by raw
//! pointers (see [`os::mapping`], "The payload rule"), or seen as atomics ([`AtomicElement`]). Of
//! these two, *writes* are on the writer's word: [`PoolMemory::write`] that races with the block's
//! free, and atomics that are kept after it, write to whatever lies there next. Whoever writes to
//! a block that others may free pins it, or takes it over, first.
//!
//! # Who may call what
//!
//! This crate is the workspace's own. What `goumem` makes of it for its users keeps all of the
//! above; here the parts of the protocol lie open, and with them the duty to keep to it: the words
//! and mappings that [`PoolMemory`] gives out, [`slot::SlotWord::initialise`], `sweep` and
//! `force_free`, and everything that writes CONTROL are for the daemon; a process has one
//! [`PoolMemory`] for a session and pool, since that is what knows the spans it works on.

#![cfg_attr(
    loom,
    expect(dead_code, reason = "models use the words, not what maps them")
)]

#[cfg(not(loom))]
pub mod agent;
#[cfg(not(loom))]
pub mod arena_memory;
#[cfg(not(loom))]
pub mod block;
#[cfg(not(loom))]
mod bound_span;
#[cfg(not(loom))]
pub mod element;
#[cfg(not(loom))]
pub mod held_arena;
#[cfg(not(loom))]
pub mod leased_span;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod pool_memory;
#[cfg(not(loom))]
mod raw_block;
#[cfg(not(loom))]
mod recent;
#[cfg(test)]
#[cfg(not(loom))]
mod test_daemon;

pub mod arena;
mod bitmap;
#[cfg(crash)]
pub mod crash;
pub mod error;
pub mod header;
pub mod member;
pub mod note;
pub mod page_map;
pub mod records;
pub mod root;
pub mod shape;
pub mod slot;
pub mod sync;
mod turn;

pub use error::{AccessError, SegmentRefusal};
pub use goumem_alloc::TypeTag;

#[cfg(not(loom))]
pub use {
    agent::{Agent, Claim, Right, Turn},
    arena_memory::{ArenaMemory, arena_data_plan},
    block::OwnedBlock,
    bound_span::BoundSpan,
    element::{AtomicElement, Plain, ShmType, type_tag_of_name},
    held_arena::{ArenaBytes, HeldArena},
    leased_span::{LeasedSpan, RawBlock, SpanLease, TakenBlocks},
    pool_memory::{BlockPlace, Living, PoolMemory, data_plan, pool_geometry},
};
