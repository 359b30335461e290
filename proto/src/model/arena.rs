//! ArenaPoolService: arenas and their holders.

use std::time::Duration;

use goumem_alloc::{Handle, PoolId, SessionNumber};

use super::message::{list, message};
use super::{Access, ProtocolError, RequestId, parse};
use crate::name::ArenaName;

/// The longest wait for an arena: a day. Longer than that is for the caller to repeat.
pub const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

message! {
    /// Gets an arena.
    #[derive(Copy)]
    GetArena <=> GetArenaRequest {
        /// Where.
        pool_id: PoolId,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
    millis {
        /// How long to wait for one, up to [`MAX_WAIT`]; zero: try once.
        wait <=> wait_ms: Duration = wait,
    }
}

fn wait(field: &'static str, wire: u64) -> Result<Duration, ProtocolError> {
    let wait = Duration::from_millis(wire);
    if wait > MAX_WAIT {
        return Err(ProtocolError::invalid(
            field,
            wire,
            "must be 86400000 or less",
        ));
    }
    Ok(wait)
}

message! {
    /// An arena that the caller holds.
    #[derive(Copy)]
    ArenaInfo <=> ArenaReply {
        /// Names it, in its present life.
        arena: Handle,
        /// Usable bytes in it.
        size_bytes: u64 = parse::size,
        /// What the caller may do with it.
        access: Access,
    }
}

message! {
    /// Returns an arena.
    #[derive(Copy)]
    ReturnArena <=> ReturnArenaRequest {
        /// Names it.
        arena: Handle,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Allocates in an arena.
    #[derive(Copy)]
    ArenaAlloc <=> ArenaAllocRequest {
        /// Names it.
        arena: Handle,
        /// Bytes wanted, 1 or more.
        size_bytes: u64 = parse::size,
        /// A power of two up to 2 MiB.
        align_bytes: u64 = parse::align,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// An allocation in an arena.
    #[derive(Copy)]
    ArenaAllocated <=> ArenaAllocReply {
        /// Names it.
        handle: Handle,
    }
}

message! {
    /// Frees an allocation in an arena.
    #[derive(Copy)]
    ArenaFree <=> ArenaFreeRequest {
        /// Names the allocation.
        handle: Handle,
        /// Its size, as allocated.
        size_bytes: u64 = parse::size,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// What has become of the arena.
    #[derive(Copy)]
    ArenaFreed <=> ArenaFreeReply {
        /// Its cursor now.
        cursor_bytes: u64,
    }
}

message! {
    /// Empties an arena.
    #[derive(Copy)]
    ResetArena <=> ResetArenaRequest {
        /// Names it.
        arena: Handle,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Names an arena, so that others may attach.
    ShareArena <=> ShareArenaRequest {
        /// Names it across processes.
        arena: Handle,
        /// The name it gets in its pool.
        name: ArenaName,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Becomes a holder of a named arena.
    AttachArena <=> AttachArenaRequest {
        /// Where.
        pool_id: PoolId,
        /// Its name.
        name: ArenaName,
        /// What the caller wants to do with it.
        access: Access,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Stops holding an arena.
    #[derive(Copy)]
    DetachArena <=> DetachArenaRequest {
        /// Names it.
        arena: Handle,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// An arena that the caller no longer holds.
    #[derive(Copy)]
    DetachedArena <=> DetachArenaReply {
        /// The caller was the last holder: it is free now.
        returned: bool,
    }
}

message! {
    /// Tells that an arena became free in the mapping while somebody waits.
    #[derive(Copy)]
    Wake <=> WakeRequest {
        /// Where.
        pool_id: PoolId,
    }
}

message! {
    /// Lists the arenas that are not free.
    #[derive(Copy)]
    ListHolders <=> ListHoldersRequest {
        /// Where.
        pool_id: PoolId,
    }
}

message! {
    /// An arena that is not free, and who holds it.
    ArenaHolders <=> ArenaHolders {
        /// Names it.
        arena: Handle,
        /// Its name; none: it has one holder.
        name: Option<ArenaName>,
        /// Its cursor.
        used_bytes: u64,
        /// Who holds it.
        holders: Vec<ArenaHolder>,
    }
}
list!(ArenaHolders => ListHoldersReply.arenas);

message! {
    /// A holder of an arena.
    #[derive(Copy)]
    ArenaHolder <=> ArenaHolder {
        /// The session.
        session: SessionNumber,
        /// Its user.
        uid: u32,
        /// Its process as the daemon sees it.
        pid: u32,
        /// What it may do with the arena.
        access: Access,
    }
}
