//! goumem-bench: goumem beside its yardsticks and peers, one line for each benchmark. README.md
//! says what each measures.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;

use crate::report::Line;
use crate::timing::Effort;

mod control;
mod daemon;
mod pair;
mod report;
mod rpc;
mod timing;

/// Measures goumem beside its yardsticks and peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// One JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// A tenth of the rounds: to see that everything works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Benchmarks to run, by the beginning of their names [default: all].
    names: Vec<String>,
}

/// A benchmark.
struct Bench {
    name: &'static str,
    run: fn(&Self, Effort) -> anyhow::Result<Line>,
}

const BENCHES: [Bench; 6] = [
    Bench {
        name: "rpc_alloc_free",
        run: rpc::alloc_free,
    },
    Bench {
        name: "rpc_batch_1000",
        run: rpc::batch_1000,
    },
    Bench {
        name: "lease_one",
        run: control::one,
    },
    Bench {
        name: "lease_pipelined",
        run: control::pipelined,
    },
    Bench {
        name: "pair_64",
        run: pair::pair::<64>,
    },
    Bench {
        name: "pair_80000",
        run: pair::pair::<80_000>,
    },
];

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os().peekable();
    let program = args.next();
    if args.next_if(|first| first == daemon::SUBCOMMAND).is_some() {
        return Ok(daemon::become_daemon(program.into_iter().chain(args)));
    }
    let args = Args::parse();
    let chosen = choose(&args.names)?;
    let effort = Effort { quick: args.quick };
    if !args.json {
        report::print_head();
    }
    for bench in chosen {
        let line = (bench.run)(bench, effort).with_context(|| bench.name)?;
        line.print(args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the benchmarks that a name selects, each once; all of them without names.
fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Bench>> {
    for name in names {
        ensure!(
            BENCHES
                .iter()
                .any(|bench| bench.name.starts_with(name.as_str())),
            "no benchmark begins with {name:?}; there are {}",
            BENCHES.each_ref().map(|bench| bench.name).join(", ")
        );
    }
    let is_chosen = |bench: &&Bench| {
        names.is_empty()
            || names
                .iter()
                .any(|name| bench.name.starts_with(name.as_str()))
    };
    Ok(BENCHES.iter().filter(is_chosen).collect())
}
