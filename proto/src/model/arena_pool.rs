//! ArenaPoolService: the arena pools themselves. Arenas are in `arena.rs`.

use goumem_alloc::PoolId;

use super::common::chosen_permissions;
use super::message::{Field, list, message};
use super::{Access, Backing, MAX_SIZE_BYTES, Permissions, ProtocolError, RequestId, parse};
use crate::name::PoolName;
use crate::v1;

/// The most arenas of one pool.
pub const MAX_ARENAS: u32 = 65_536;

/// Creates an arena pool, or opens it if it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateArenaPool {
    /// The name it gets.
    pub name: PoolName,
    /// How many arenas, 1 to [`MAX_ARENAS`].
    pub arenas: u32,
    /// Usable bytes in each.
    pub arena_bytes: u64,
    /// What backs it; none: the daemon's default.
    pub backing: Option<Backing>,
    /// Its group; none: the creator's own.
    pub gid: Option<u32>,
    /// Its mode, at most `0o666`; as in [`CreatePool`](super::CreatePool).
    pub mode: u32,
    /// Makes a retry harmless.
    pub request_id: RequestId,
}

impl From<CreateArenaPool> for v1::CreateArenaPoolRequest {
    fn from(create: CreateArenaPool) -> Self {
        Self {
            name: create.name.into(),
            arenas: create.arenas,
            arena_bytes: create.arena_bytes,
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

impl TryFrom<v1::CreateArenaPoolRequest> for CreateArenaPool {
    type Error = ProtocolError;

    fn try_from(wire: v1::CreateArenaPoolRequest) -> Result<Self, ProtocolError> {
        let arenas = arenas("arenas", wire.arenas)?;
        let arena_bytes = parse::size("arena_bytes", wire.arena_bytes)?;
        // 2^16 × 2^40 at most: no overflow.
        if u64::from(arenas) * arena_bytes > MAX_SIZE_BYTES {
            let why = format!("{arenas} of them must be 2^40 or less");
            return Err(ProtocolError::invalid("arena_bytes", arena_bytes, why));
        }
        let (gid, mode) = chosen_permissions(wire.permissions)?;
        Ok(Self {
            name: Field::from_wire("name", wire.name)?,
            arenas,
            arena_bytes,
            backing: Field::from_wire("backing", wire.backing)?,
            gid,
            mode,
            request_id: RequestId::new(wire.request_id),
        })
    }
}

fn arenas(field: &'static str, value: u32) -> Result<u32, ProtocolError> {
    if !(1..=MAX_ARENAS).contains(&value) {
        return Err(ProtocolError::invalid(
            field,
            value,
            format!("must be 1 to {MAX_ARENAS}"),
        ));
    }
    Ok(value)
}

message! {
    /// Opens an arena pool.
    OpenArenaPool <=> OpenArenaPoolRequest {
        /// Its name.
        name: PoolName,
        /// What the caller wants to do with it.
        access: Access,
        /// The number of arenas that it must have; none: any.
        expect_arenas: Option<u32>,
        /// The size that they must have; none: any.
        expect_arena_bytes: Option<u64> = parse::optional_size,
    }
}

message! {
    /// An arena pool that the caller has opened.
    OpenedArenaPool <=> ArenaPoolReply {
        /// The pool.
        pool: ArenaPoolInfo,
        /// Whether this call created it.
        created: bool,
        /// What the caller may do with it.
        access: Access,
    }
}

message! {
    /// What an arena pool is.
    ArenaPoolInfo <=> ArenaPoolInfo {
        /// Its id, never reused.
        pool_id: PoolId,
        /// Its name.
        name: PoolName,
        /// How many arenas it has.
        arenas: u32 = arenas,
        /// Usable bytes in each.
        arena_bytes: u64 = parse::size,
        /// What backs it.
        backing: Backing,
        /// Who may open it.
        permissions: Permissions,
        /// Named backing: the OS object.
        os_name: Option<String>,
    }
}
list!(ArenaPoolInfo => ListArenaPoolsReply.pools);

message! {
    /// How full an arena pool is.
    ArenaPoolStat <=> ArenaPoolStat {
        /// What it is.
        pool: ArenaPoolInfo,
        /// Arenas that nobody holds.
        free: u32,
        /// Arenas with one holder and no name.
        exclusive: u32,
        /// Arenas with a name.
        named: u32,
        /// Calls that wait for one.
        waiting: u32,
        /// Bytes allocated in arenas: the sum of their cursors.
        used_bytes: u64,
        /// Arenas' bytes backed by memory.
        committed_bytes: u64,
        /// Slots and records backed by memory, on top.
        table_bytes: u64,
        /// Sessions that map it.
        sessions: u32,
    }
}
