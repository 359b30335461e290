//! goumem-bench: goumem beside its yardsticks and peers, one line for each benchmark. README.md
//! says what each measures.

#![deny(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::timing::Effort;

mod arena;
mod arena_2p;
mod control;
mod copy_out;
mod daemon;
mod first_touch;
mod handoff;
mod heaps;
mod idle;
mod mixed;
mod pair;
#[expect(unsafe_code, reason = "calls peers as their C and GlobalAlloc want it")]
mod peers;
mod process;
mod random;
mod recovery;
mod replace;
mod report;
mod ring;
mod rpc;
mod suite;
mod timing;
mod worker;

/// Measures goumem beside its yardsticks and peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// One JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// A hundredth of the rounds, and smaller ones: to see that everything works, not to quote.
    #[arg(long)]
    quick: bool,
    /// goumem without its peers: for a profiler.
    #[arg(long)]
    alone: bool,
    /// Benchmarks to run, by the beginning of their names [default: all].
    names: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os().peekable();
    let program = args.next();
    if args.next_if(|first| first == daemon::SUBCOMMAND).is_some() {
        return Ok(daemon::become_daemon(program.into_iter().chain(args)));
    }
    // Started by a daemon that this program is.
    if args.next_if(|first| first == "keeper").is_some() {
        return Ok(goumemd::keeper_main(args));
    }
    if args.next_if(|first| first == worker::SUBCOMMAND).is_some() {
        worker::become_worker(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::parse();
    let chosen = suite::choose(&args.names)?;
    let effort = Effort {
        quick: args.quick,
        alone: args.alone,
    };
    if !peers::ALL {
        say_who_is_missing();
    }
    if !args.json {
        report::print_head();
    }
    for bench in chosen {
        let line = (bench.run)(bench, effort).with_context(|| bench.name)?;
        line.print(args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the figures are on stdout")]
fn say_who_is_missing() {
    eprintln!(
        "built without the feature peers: only the system's allocator is beside goumem, and goals \
         about the best peer are not judged"
    );
}
