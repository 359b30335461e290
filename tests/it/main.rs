//! The whole system: daemons, clients and their deaths. Each test has its own daemon and its own
//! directory; one file for each topic.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arenas;
mod backings;
mod campaign;
mod complaints;
mod config;
mod containers;
mod corpus;
mod crowd;
mod death;
mod errors;
mod exec;
mod exhaustion;
mod hand_over;
mod hostile;
mod http;
mod link;
mod mutants;
mod once;
#[cfg(feature = "otel")]
mod otel;
mod remote;
mod restart;
mod security;
mod shutdown;
mod systemd;
mod time;
mod watch;

use harness::Puppets;

/// The processes that tests start.
const PUPPETS: Puppets = Puppets {
    binary: env!("CARGO_BIN_EXE_puppet"),
};
