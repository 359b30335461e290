//! Shared memory that you can malloc: the client library of goumem.
//!
//! goumemd owns named **pools** in memory that many processes map. Any process allocates blocks
//! there at the speed of an in-process allocator, reads and writes them directly, and hands them
//! to others by a 16-byte [`Handle`]. What a process held comes back by itself when it dies.
//! **Arena pools** have arenas instead: filled from the front, freed as a whole.
//!
//! ```
//! use goumem::PoolOptions;
//! use goumem::blocking::Client;
//!
//! let client = Client::embedded()?; // Client::connect() where a goumemd runs
//! let pool = client.create_pool("demo", PoolOptions::new(1 << 20))?;
//!
//! let mut block = pool.alloc::<[f64; 4]>()?; // as a Box, in shared memory
//! *block = [1.0, 2.0, 3.0, 4.0];
//!
//! let shared = block.share()?; // from now on others can see it …
//! let handle = shared.handle(); // … by this: 16 bytes, good in every process
//!
//! let view = pool.resolve::<[f64; 4]>(handle)?; // so in any process
//! assert_eq!(view.read()?, [1.0, 2.0, 3.0, 4.0]);
//!
//! drop(shared); // freed: the handle is stale, everywhere
//! assert!(view.read().unwrap_err().is_stale());
//! # Ok::<(), goumem::Error>(())
//! ```
//!
//! # Which type for what
//!
//! | type | whose is it | used by | its drop |
//! |---|---|---|---|
//! | [`Block`] | this process's alone | reference | frees |
//! | [`Shared`] | this session's, seen by all | copy, or atomics | frees |
//! | [`View`] | somebody's | copy, or atomics | does nothing |
//! | [`Pin`] | somebody's, held in place | copy | unpins |
//! | [`Arena`] | this session's, or several sessions' | copy, or atomics | returns or detaches |
//!
//! [`Block::share`] makes a `Shared`, [`Pool::resolve`] a `View`, [`Pool::take`] a `Block` again,
//! in another process: its handles are stale from then on, so it can be used by reference.
//!
//! A program on another machine maps nothing: [`ClientBuilder::address`] makes a
//! [`RemoteClient`], which does all of it by calls.
//!
//! # What waits, and what does not
//!
//! Freeing, sharing, resolving, reading and writing make no call at all. Allocating makes one
//! when the process has no free block of that size at hand ([`Pool::try_alloc`] says so instead).
//! Everything that may wait is `async`, and works under any executor; [`blocking`] has the same
//! without. Calls go over a thread of the client's own.
//!
//! # Processes that die, and forks
//!
//! The daemon sees the death of a process by itself and takes back what it held, but for blocks
//! that were [kept](Shared::keep) or [published](Pool::publish). If the daemon goes away, whatever
//! makes no call works on, and the client connects again by itself; calls wait for that, up to
//! [a deadline](ClientBuilder::call_deadline). When a daemon comes that does not know the session,
//! what is mapped here stays good until it is dropped, and calls fail with [`Error::PoolLost`] or
//! [`Error::SessionExpired`]: connect a new client. A forked child has none of its parent's
//! memory: calls fail there with [`AccessError::Forked`], drops do nothing, and looking into a
//! block faults. It may connect a client of its own.

#![forbid(unsafe_code)]

pub mod blocking;

mod arena;
mod arena_pool;
mod block;
mod calls;
mod client;
mod connect;
mod connection;
#[cfg(feature = "embedded")]
mod embedded;
mod end;
mod error;
mod fd;
mod housekeeper;
mod in_use;
mod io_thread;
mod link;
mod local_heap;
mod matrix;
mod named_arenas;
mod options;
mod pin;
mod pool;
mod remote;
mod request_ids;
mod session;
mod shared;
#[cfg(test)]
mod test_pool;
mod thread_heaps;
mod trace;
mod view;

pub use arena::{Arena, ArenaRef};
pub use arena_pool::ArenaPool;
pub use block::{Block, StrBlock};
pub use client::{Client, ClientBuilder, Watch};
pub use error::{AllocError, Error};
pub use matrix::Matrix;
pub use options::{ArenaPoolOptions, PoolOptions};
pub use pin::Pin;
pub use pool::Pool;
pub use remote::{
    RemoteArena, RemoteArenaPool, RemoteBlock, RemoteClient, RemoteClientBuilder, RemotePool,
    RemoteReader,
};
pub use shared::Shared;
pub use view::View;

pub use goumem_alloc::{
    Handle, HandleError, HandleKind, PageCount, PageIndex, PoolId, SessionNumber, SizeClass,
    TypeTag,
};
pub use goumem_proto::model::{
    Access, ArenaHolder, ArenaHolders, ArenaPoolInfo, ArenaPoolMap, ArenaPoolStat, ArenaState,
    Backing, BlockInfo, BlockState, DaemonInfo, EndCause, EventKind, Happening, Holder, KeptBlock,
    MappedArena, MappedBlock, MappedSpan, PageRun, Permissions, PoolInfo, PoolMap, PoolStat,
    RunState, SessionInfo, WatchEvent, WatchedArena, WatchedPool, WatchedRefusal, WatchedSession,
};
pub use goumem_proto::name::{ArenaName, BlockName, Label, NameError, PoolName};
pub use goumem_proto::reason::Reason;
pub use goumem_shm::header::LAYOUT_VERSION;
pub use goumem_shm::{AccessError, AtomicElement, Plain, ShmType, shm_type};
/// The version of zerocopy whose traits [`ShmType`] builds on.
pub use zerocopy;
