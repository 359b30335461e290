//! What the whole-system tests stand on: daemons in this process or in their own, raw gRPC
//! clients, puppets (processes that do as they are told, and are killed), and waiting for a
//! condition with a deadline.
//!
//! Everything here cleans up when it is dropped, also while a test panics: processes are killed
//! by their pid, only own children, and directories are removed. A puppet ends by itself when its
//! standard input closes, so that none is left if the test's process dies.

#![deny(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on ends its test"
)]

mod daemon;
pub mod fuzz;
mod http;
mod memory;
mod proxy;
mod puppet;
mod random;
pub mod rpc;
mod service;
mod skip;
#[expect(unsafe_code, reason = "fork, mounts and users; the only file with any")]
pub mod sys;
mod wait;

pub use daemon::{DaemonProcess, TestDaemon};
pub use http::{http_connect, http_get};
pub use memory::{Mapped, abandoned_segments, mappings_of, open_fds, processes_with};
pub use proxy::Proxy;
pub use puppet::{Puppet, Puppets, Setup};
pub use random::Random;
pub use rpc::Rpc;
pub use service::ServiceManager;
pub use skip::{alone, is_root, skip};
pub use wait::{PATIENCE, SOON, eventually, within};
