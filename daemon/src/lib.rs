//! goumemd: named pools and arena pools of shared memory, served over gRPC.
//!
//! The edge is async and thin: [`listen`] takes connections, `service` answers calls, `fd_server`
//! hands out memory, [`http`] shows what there is. The core behind it is synchronous and takes the time as an argument. [`run`]
//! puts the two together; [`cli_main`] is the program around them, and [`keeper_main`] the process
//! that holds its fds while no daemon runs.

#![forbid(unsafe_code)]

pub mod arena_pool;
pub mod budget;
mod caller;
mod cli;
pub mod config;
pub mod core;
pub mod error;
pub mod events;
mod fd_room;
mod fd_server;
pub mod fd_store;
pub mod http;
mod keeper;
pub mod listen;
pub mod logging;
mod mappers;
pub mod metrics;
pub mod observation;
mod permission;
pub mod pool;
mod reaper;
mod reload;
mod root;
mod run;
mod service;
pub mod session;
mod status;
pub mod systemd;
mod ticker;
pub mod tls;
mod traces;
mod turn_lock;

pub use cli::cli_main;
pub use config::{Config, ConfigError, Declared, DeclaredKind, Keeper, Limits};
pub use keeper::keeper_main;
pub use listen::{ListenError, Listeners};
pub use root::RootError;
pub use run::{RunError, Shutdown, run, run_under, run_until};
pub use systemd::{ServiceEnvironment, ServiceManager};
pub use tls::{TcpOptions, TlsError};
