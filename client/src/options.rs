//! What a new pool or arena pool is to be like.

use goumem_proto::model::{Backing, CreateArenaPool, CreatePool, DEFAULT_MODE, RequestId};
use goumem_proto::name::PoolName;

/// What a pool is to be like: its capacity, and defaults for the rest.
///
/// ```
/// use goumem::{Backing, PoolOptions};
///
/// // 64 MiB that may grow to 1 GiB, for the user and the group.
/// let options = PoolOptions::new(64 << 20)
///     .max_capacity(1 << 30)
///     .backing(Backing::Memfd)
///     .mode(0o660);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct PoolOptions {
    capacity_bytes: u64,
    max_capacity_bytes: Option<u64>,
    backing: Option<Backing>,
    gid: Option<u32>,
    mode: u32,
}

impl PoolOptions {
    /// Returns the options of a pool of `capacity_bytes`, 1 to 2^40, rounded up to pages of
    /// 64 KiB. Only its creator's user may open it.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            max_capacity_bytes: None,
            backing: None,
            gid: None,
            mode: DEFAULT_MODE,
        }
    }

    /// Sets the most that the capacity may ever be raised to: address space, not memory. Twice
    /// the capacity unless set.
    pub fn max_capacity(mut self, bytes: u64) -> Self {
        self.max_capacity_bytes = Some(bytes);
        self
    }

    /// Sets what backs the memory. The daemon's default unless set.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = Some(backing);
        self
    }

    /// Sets who may open it, as for a file: read (4) and write (2) for owner, group and others,
    /// at most `0o666`. `0o600` unless set.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the group that the middle digit of the mode is about, which the caller must be in.
    /// The caller's own unless set.
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    pub(crate) fn into_request(self, name: PoolName) -> CreatePool {
        CreatePool {
            name,
            capacity_bytes: self.capacity_bytes,
            max_capacity_bytes: self.max_capacity_bytes,
            backing: self.backing,
            gid: self.gid,
            mode: self.mode,
            request_id: RequestId::NONE,
        }
    }
}

/// What an arena pool is to be like: how many arenas of which size, and defaults for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ArenaPoolOptions {
    arenas: u32,
    arena_bytes: u64,
    backing: Option<Backing>,
    gid: Option<u32>,
    mode: u32,
}

impl ArenaPoolOptions {
    /// Returns the options of an arena pool of `arenas` (1 to 65 536) with `arena_bytes` usable
    /// bytes each. Only its creator's user may open it.
    pub fn new(arenas: u32, arena_bytes: u64) -> Self {
        Self {
            arenas,
            arena_bytes,
            backing: None,
            gid: None,
            mode: DEFAULT_MODE,
        }
    }

    /// As [`PoolOptions::backing`].
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = Some(backing);
        self
    }

    /// As [`PoolOptions::mode`].
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// As [`PoolOptions::gid`].
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    pub(crate) fn into_request(self, name: PoolName) -> CreateArenaPool {
        CreateArenaPool {
            name,
            arenas: self.arenas,
            arena_bytes: self.arena_bytes,
            backing: self.backing,
            gid: self.gid,
            mode: self.mode,
            request_id: RequestId::NONE,
        }
    }
}
