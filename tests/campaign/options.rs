//! The command line.

use clap::Parser;

use crate::wire::Sabotage;

/// Has many processes allocate, hand over and free in one pool while processes are killed, stopped
/// and forked at random, and checks all the time that nothing is lost, doubled or leaked. The last
/// line of its output is the sum, as JSON; the exit code is not 0 if anything is wrong.
#[derive(Debug, Clone, Parser)]
#[command(name = "campaign", max_term_width = 100)]
pub(crate) struct Options {
    /// How long, in seconds.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u64,
    /// What every decision follows from [default: a random one, which is printed].
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Worker processes at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) workers: usize,
    /// Capacity of the pool, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub(crate) pool_mib: u64,
    /// Leave the daemon and its keeper alive; stops of the daemon stay.
    #[arg(long)]
    pub(crate) no_daemon_kills: bool,
    /// The longest pause of a thread that needs no daemon, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub(crate) max_pause_ms: u64,
    /// Plant a wrong, which must be found.
    #[arg(long, value_name = "WRONG")]
    pub(crate) sabotage: Option<Sabotage>,
    /// Say nothing but the sum.
    #[arg(long)]
    pub(crate) json: bool,
}
