//! PoolService: the pools themselves. Blocks are in `block.rs`, leases in `span.rs`.

use goumem_alloc::{PoolId, SessionNumber};

use super::common::chosen_permissions;
use super::message::{Field, list, message};
use super::{Access, Backing, Permissions, ProtocolError, RequestId, parse};
use crate::name::PoolName;
use crate::v1;

/// Creates a pool, or opens it if it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePool {
    /// The name it gets.
    pub name: PoolName,
    /// Quota on granted bytes, to be rounded up to pages of 64 KiB.
    pub capacity_bytes: u64,
    /// The most that capacity may ever be; none: twice the capacity.
    pub max_capacity_bytes: Option<u64>,
    /// What backs it; none: the daemon's default.
    pub backing: Option<Backing>,
    /// Its group; none: the creator's own.
    pub gid: Option<u32>,
    /// Its mode, at most `0o666`. On the wire 0 stands for [`DEFAULT_MODE`](super::DEFAULT_MODE),
    /// so a request for 0 arrives as that.
    pub mode: u32,
    /// Makes a retry harmless.
    pub request_id: RequestId,
}

impl From<CreatePool> for v1::CreatePoolRequest {
    fn from(create: CreatePool) -> Self {
        Self {
            name: create.name.into(),
            capacity_bytes: create.capacity_bytes,
            max_capacity_bytes: create.max_capacity_bytes.into_wire(),
            backing: create.backing.into_wire(),
            permissions: Some(v1::Permissions {
                uid: 0,
                gid: create.gid,
                mode: create.mode,
            }),
            request_id: create.request_id.into_wire(),
        }
    }
}

impl TryFrom<v1::CreatePoolRequest> for CreatePool {
    type Error = ProtocolError;

    fn try_from(wire: v1::CreatePoolRequest) -> Result<Self, ProtocolError> {
        let capacity_bytes = parse::size("capacity_bytes", wire.capacity_bytes)?;
        let max_capacity_bytes =
            parse::optional_size("max_capacity_bytes", wire.max_capacity_bytes)?;
        if let Some(max) = max_capacity_bytes.filter(|&max| max < capacity_bytes) {
            let why = format!("must be at least capacity_bytes, {capacity_bytes}");
            return Err(ProtocolError::invalid("max_capacity_bytes", max, why));
        }
        let (gid, mode) = chosen_permissions(wire.permissions)?;
        Ok(Self {
            name: Field::from_wire("name", wire.name)?,
            capacity_bytes,
            max_capacity_bytes,
            backing: Field::from_wire("backing", wire.backing)?,
            gid,
            mode,
            request_id: RequestId::new(wire.request_id),
        })
    }
}

message! {
    /// Opens a pool.
    OpenPool <=> OpenPoolRequest {
        /// Its name.
        name: PoolName,
        /// What the caller wants to do with it.
        access: Access,
        /// The capacity that it must have; none: any.
        expect_capacity_bytes: Option<u64> = parse::optional_size,
    }
}

message! {
    /// A pool that the caller has opened.
    OpenedPool <=> PoolReply {
        /// The pool.
        pool: PoolInfo,
        /// Whether this call created it.
        created: bool,
        /// What the caller may do with it.
        access: Access,
    }
}

message! {
    /// What a pool is.
    PoolInfo <=> PoolInfo {
        /// Its id, never reused.
        pool_id: PoolId,
        /// Its name.
        name: PoolName,
        /// Quota on granted bytes.
        capacity_bytes: u64 = parse::size,
        /// The most that capacity may ever be.
        max_capacity_bytes: u64 = parse::size,
        /// What backs it.
        backing: Backing,
        /// Who may open it.
        permissions: Permissions,
        /// Named backing: the OS object.
        os_name: Option<String>,
    }
}
list!(PoolInfo => ListPoolsReply.pools);

message! {
    /// Destroys a pool or an arena pool.
    DestroyPool <=> DestroyPoolRequest {
        /// Its name.
        name: PoolName,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Asks for the statistics of a pool or an arena pool.
    StatPool <=> StatPoolRequest {
        /// Its name.
        name: PoolName,
    }
}

message! {
    /// How full a pool is: requested ≤ used ≤ leased + abandoned ≤ committed; leased + abandoned +
    /// free committed = committed; leased + abandoned ≤ capacity.
    PoolStat <=> PoolStat {
        /// What it is.
        pool: PoolInfo,
        /// Asked for, in exported blocks.
        requested_bytes: u64,
        /// The same after rounding to size classes.
        used_bytes: u64,
        /// In spans that a session or the daemon's heap holds.
        leased_bytes: u64,
        /// In spans whose lessee has gone but whose blocks live.
        abandoned_bytes: u64,
        /// Backed by memory, and free.
        free_committed_bytes: u64,
        /// Payload backed by memory.
        committed_bytes: u64,
        /// Slot words and page map backed by memory, on top.
        table_bytes: u64,
        /// The largest block an alloc could get now.
        largest_free_bytes: u64,
        /// Exported blocks alive.
        blocks: u64,
        /// Of these, kept.
        kept_blocks: u64,
        /// Of these, named.
        named_blocks: u64,
        /// Pins on blocks.
        pins: u64,
        /// Blocks freed while pinned.
        condemned_blocks: u64,
        /// Sessions that map it.
        sessions: u32,
        /// Who holds how much, as far as the caller may see.
        top_holders: Vec<Holder>,
    }
}

message! {
    /// Who holds how much.
    #[derive(Copy)]
    Holder <=> Holder {
        /// The session; the daemon's own for blocks that outlive theirs.
        session: SessionNumber,
        /// Its user.
        uid: u32,
        /// Its process as the daemon sees it.
        pid: u32,
        /// Bytes held.
        bytes: u64,
    }
}

message! {
    /// Sets a pool's quota.
    SetCapacity <=> SetCapacityRequest {
        /// Its name.
        name: PoolName,
        /// The new quota on granted bytes.
        capacity_bytes: u64 = parse::size,
    }
}

message! {
    /// Writes a file-backed pool to the disk.
    FlushPool <=> FlushPoolRequest {
        /// Its name.
        name: PoolName,
    }
}

message! {
    /// Gives a pool's free committed memory back to the OS.
    PurgePool <=> PurgePoolRequest {
        /// Its name.
        name: PoolName,
    }
}

message! {
    /// A pool that has been purged.
    #[derive(Copy)]
    PurgedPool <=> PurgePoolReply {
        /// Bytes given back.
        purged_bytes: u64,
    }
}
