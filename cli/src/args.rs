//! The command line, parsed once: everything past this file works with sizes, durations and paths.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use goumem::{Backing, EventKind, Handle};

use crate::output::Format;

#[cfg(test)]
mod tests;

/// Looks at and drives a goumem daemon.
#[derive(Debug, Parser)]
#[command(name = "goumemctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// How to print: a table for people, JSON or tab-separated values for programs.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// The daemon's socket [default: $GOUMEM_SOCKET, else where goumemd puts it].
    // The environment is read by the rule that the daemon uses too, so clap does not.
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// How long the daemon may take to answer.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s",
        value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 permission \
denied, 5 daemon unreachable.\nSizes: 4096, 64KiB, 1.5GiB (powers of two) or 64kB, 1GB (of ten).";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether the daemon answers, and how fast.
    Ping,
    /// Show the daemon's version, budget and totals.
    Info,
    /// Pools: alloc and free blocks of any size.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Arena pools: many arenas of one size.
    #[command(subcommand)]
    ArenaPool(ArenaPoolCommand),
    /// Arenas and who holds them.
    #[command(subcommand)]
    Arena(ArenaCommand),
    /// Sessions: the processes that the daemon knows.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Blocks that outlive sessions, and blocks by their handle.
    #[command(subcommand)]
    Block(BlockCommand),
    /// Watch pools, arena pools and sessions, live. Only looks. Press ? for the keys.
    #[command(after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Print what happens as it happens: pools, sessions, arenas, refusals. Ends with Ctrl-C.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Draw where a pool's memory is: who holds it, blocks of which size, or in which state.
    #[command(after_help = MAP_EXAMPLES)]
    Map(MapArgs),
    /// Look for what goes wrong in practice, and say what mends it. Ends with 1 if something does.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor,
    /// Store stdin as a block with a name.
    Put {
        pool: String,
        name: String,
        /// Free the block that has the name now.
        #[arg(long)]
        replace: bool,
    },
    /// Write the block with that name to stdout.
    #[command(visible_alias = "cat")]
    Get { pool: String, name: String },
    /// Take a block's name away. The block stays, kept.
    #[command(visible_alias = "rm-name")]
    Withdraw {
        pool: String,
        name: String,
        /// Free the block too.
        #[arg(long)]
        free: bool,
    },
    /// Print a completion script: goumemctl completions bash > …/goumemctl.
    Completions { shell: Shell },
    /// Try goumem out: sharing, crashes, speed. Starts a daemon of its own if none runs.
    Demo {
        /// Fewer and smaller: a few seconds.
        #[arg(long)]
        quick: bool,
    },
    /// Write manual pages and completions of both programs below a directory.
    #[command(hide = true)]
    Manual { directory: PathBuf },
    /// Is the demo's daemon.
    #[command(hide = true)]
    Daemon,
    /// Is one of the demo's processes.
    #[command(hide = true, subcommand)]
    Worker(WorkerCommand),
}

/// How to look.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct TopArgs {
    /// Print what there is once, and end. With --interval look twice, and print the changes too.
    #[arg(long)]
    pub(crate) once: bool,
    /// How often to look [default: 1s].
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub(crate) interval: Option<Duration>,
    /// Write the last frame there as SVG, for the documentation.
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "once")]
    pub(crate) picture: Option<PathBuf>,
}

const TOP_EXAMPLES: &str = "Examples:\n  goumemctl top --interval 500ms\n  \
goumemctl top --once -o json | jq '.pools[] | {name, held_bytes}'\n  \
goumemctl top --once --interval 1s -o json | jq '.pools[].change_bytes_per_second'";

/// What to print.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct WatchArgs {
    /// Only events of that kind; several with commas, or the flag again.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = event_kind())]
    pub(crate) kind: Vec<EventKind>,
    /// End after so many events.
    #[arg(short = 'n', long, value_name = "EVENTS",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

const WATCH_EXAMPLES: &str = "Examples:\n  goumemctl watch\n  \
goumemctl watch --kind session_ended,refused\n  \
goumemctl watch -o json | jq -r 'select(.bytes > 1048576) | .what'";

/// Reads the name of a kind of events. The other two kinds always come.
fn event_kind() -> impl TypedValueParser<Value = EventKind> {
    let chosen = |kind: &&EventKind| !matches!(kind, EventKind::Watching | EventKind::Lagged);
    let names = EventKind::ALL
        .iter()
        .filter(chosen)
        .map(|kind| kind.as_str());
    PossibleValuesParser::new(names).map(|name| {
        let kind = EventKind::ALL.iter().find(|kind| kind.as_str() == name);
        *kind.expect("one of the names above")
    })
}

/// What to draw.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct MapArgs {
    /// A pool or an arena pool.
    pub(crate) pool: String,
    /// What the colours mean [default: holder].
    #[arg(long, value_enum)]
    pub(crate) by: Option<MapBy>,
    /// How many columns to draw [default: the terminal's, else 80].
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(8..=1000))]
    pub(crate) width: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MapBy {
    /// Who leases the pages.
    Holder,
    /// How large the blocks are.
    Class,
    /// Leased, abandoned, free.
    State,
}

impl MapBy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Class => "class",
            Self::State => "state",
        }
    }
}

const MAP_EXAMPLES: &str = "Examples:\n  goumemctl map frames\n  \
goumemctl map frames --by class\n  \
goumemctl map frames -o json | jq '.runs[] | select(.state == \"abandoned\")'";

const DOCTOR_EXAMPLES: &str = "Examples:\n  goumemctl doctor\n  \
sudo goumemctl doctor   # sees other users' processes too\n  \
goumemctl doctor -o json | jq -r '.findings[] | select(.level != \"ok\") | .try[]'";

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool.
    Create {
        name: String,
        /// The most that its blocks may take.
        #[arg(value_parser = size)]
        capacity: u64,
        /// The most that the capacity may be raised to [default: twice the capacity].
        #[arg(long, value_name = "SIZE", value_parser = size)]
        max_capacity: Option<u64>,
        #[command(flatten)]
        common: Creation,
    },
    /// List the pools.
    #[command(visible_alias = "list")]
    Ls,
    /// Show how full a pool is, and who holds how much.
    Stat { name: String },
    /// Remove a pool. Its memory goes when the last process that maps it has gone.
    #[command(visible_alias = "destroy")]
    Rm { name: String },
    /// Raise or lower what a pool's blocks may take, while it is in use.
    SetCapacity {
        name: String,
        #[arg(value_parser = size)]
        capacity: u64,
    },
    /// Give a pool's free memory back to the system now.
    Purge { name: String },
    /// Write a file-backed pool to its disk.
    Flush { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArenaPoolCommand {
    /// Create an arena pool.
    Create {
        name: String,
        /// How many arenas.
        arenas: u32,
        /// How large each is.
        #[arg(value_parser = size)]
        arena_size: u64,
        #[command(flatten)]
        common: Creation,
    },
    /// List the arena pools.
    #[command(visible_alias = "list")]
    Ls,
    /// Show how many arenas are free, held and waited for.
    Stat { name: String },
    /// Remove an arena pool. Its memory goes when the last process that maps it has gone.
    #[command(visible_alias = "destroy")]
    Rm { name: String },
}

/// What pools and arena pools are created with alike.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Creation {
    /// What backs its memory [default: the daemon's choice].
    #[arg(long, value_enum)]
    pub(crate) backing: Option<BackingName>,
    /// Who may open it, in octal: read (4) and write (2) for owner, group and others.
    #[arg(long, default_value = "0600", value_parser = mode)]
    pub(crate) mode: u32,
    /// The group that the middle digit of the mode is about [default: yours].
    #[arg(long)]
    pub(crate) gid: Option<u32>,
    /// Be content with a pool that exists and has the same sizes.
    #[arg(long)]
    pub(crate) exist_ok: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackingName {
    /// Anonymous memory: the default on Linux.
    Memfd,
    /// A shared-memory name of the system.
    Named,
    /// A file that survives a reboot.
    File,
}

impl From<BackingName> for Backing {
    fn from(name: BackingName) -> Self {
        match name {
            BackingName::Memfd => Self::Memfd,
            BackingName::Named => Self::Named,
            BackingName::File => Self::File,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ArenaCommand {
    /// List the arenas that are not free, one line for each holder.
    #[command(visible_alias = "holders")]
    Ls { pool: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List your sessions; all of them for root.
    #[command(visible_alias = "list")]
    Ls,
    /// Send SIGKILL to a session's process. What it held is free again.
    Kill {
        /// Its number, as listed.
        #[arg(value_parser = clap::value_parser!(u16).range(1..=65_534))]
        session: u16,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlockCommand {
    /// List the blocks that outlive sessions: kept and named ones.
    #[command(visible_alias = "list")]
    Ls { pool: String },
    /// Show what a handle names.
    Stat { handle: Handle },
    /// Free a block, whoever allocated it.
    #[command(visible_alias = "rm")]
    Free { handle: Handle },
}

/// The demo's processes. They are told the rest on stdin.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Fills arenas.
    Producer { pool: String, arenas: u64 },
    /// Sums arenas up.
    Consumer { pool: String },
    /// Holds memory and is killed.
    Writer {
        pool: String,
        arena_pool: String,
        holds_bytes: u64,
    },
    /// Multiplies matrices.
    Matrix(MatrixWork),
}

/// Which matrices a worker works on, and where they lie.
#[derive(Debug, Clone, PartialEq, Eq, ClapArgs)]
pub(crate) struct MatrixWork {
    /// The pool they come from; none: the process's heap.
    #[arg(long)]
    pub(crate) pool: Option<String>,
    #[arg(long)]
    pub(crate) first: u64,
    #[arg(long)]
    pub(crate) count: u64,
    /// How many are alive at a time; 1 is the hot form.
    #[arg(long)]
    pub(crate) at_a_time: u64,
}

fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("must be 1 byte or more".to_owned()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err("is no size, as 4096, 64KiB or 1.5GiB".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<humantime::Duration>() {
        Ok(duration) if duration.is_zero() => Err("must be above 0".to_owned()),
        Ok(duration) => Ok(duration.into()),
        Err(_) => Err("is no duration, as 500ms, 10s or 2min".to_owned()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o666 == 0 => Ok(mode),
        _ => Err("is no mode of read and write bits, as 0660".to_owned()),
    }
}
