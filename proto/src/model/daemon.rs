//! DaemonService.

use std::time::Duration;

use super::message::message;

message! {
    /// What the daemon says of itself.
    DaemonInfo <=> InfoReply {
        /// Version of the program.
        version: String,
        /// Its process, in its own PID namespace.
        pid: u32,
        /// Bytes committed for all pools.
        committed_bytes: u64,
        /// The most that may be committed, by configuration.
        budget_limit_bytes: u64,
        /// What machine and cgroup still have.
        available_bytes: u64,
        /// Pools that exist.
        pools: u32,
        /// Arena pools that exist.
        arena_pools: u32,
        /// Sessions alive.
        sessions: u32,
        /// The heap's page size.
        page_bytes: u64,
        /// Path of the socket that hands out memory; none for a caller that may not map.
        fd_socket: Option<String>,
        /// Version of the layout of segments.
        layout_version: u32,
        /// Which run of the daemon this is; never 0.
        epoch: u64,
        /// Pools, sessions and records that could not be believed at its start.
        quarantined: u32,
    }
    millis {
        /// How long it has run.
        uptime <=> uptime_ms: Duration,
    }
}
