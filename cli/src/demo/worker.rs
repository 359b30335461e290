//! The demo's processes from within: what they are told and what they say, one JSON object a
//! line.

use std::io::{self, Write as _};
use std::path::Path;

use goumem::Handle;
use goumem::blocking::Client;
use serde::{Deserialize, Serialize};

use super::{crash, matrix, share};
use crate::args::WorkerCommand;
use crate::error::Failure;
use crate::output::Output;

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Begin.
    Go,
    /// Sum up what lies in an arena.
    Sum { name: String, handle: String },
    /// Let go of an arena.
    Release { name: String },
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    /// It has connected and opened what it needs.
    Ready,
    /// An arena is filled and has a name.
    Filled {
        name: String,
        handle: String,
        sum: u64,
    },
    /// An arena is summed up.
    Summed {
        name: String,
        sum: u64,
        took_ns: u64,
    },
    /// It holds so much.
    Holds {
        bytes: u64,
        blocks: u64,
        arenas: u32,
    },
    /// It has worked through its matrices.
    Multiplied {
        checksum: u64,
        take_ns: u64,
        work_ns: u64,
    },
}

/// Is one of the demo's processes.
pub(crate) fn run(socket: Option<&Path>, work: &WorkerCommand) -> Result<Output, Failure> {
    let label = match work {
        WorkerCommand::Producer { .. } => "demo producer",
        WorkerCommand::Consumer { .. } => "demo consumer",
        WorkerCommand::Writer { .. } => "demo writer",
        WorkerCommand::Matrix(_) => "demo matrix",
    };
    let connect = || {
        let mut builder = Client::builder().label(label);
        if let Some(socket) = socket {
            builder = builder.socket(socket);
        }
        builder.connect()
    };
    match work {
        WorkerCommand::Producer { pool, arenas } => share::produce(&connect()?, pool, *arenas)?,
        WorkerCommand::Consumer { pool } => share::consume(&connect()?, pool)?,
        WorkerCommand::Writer {
            pool,
            arena_pool,
            holds_bytes,
        } => {
            crash::hold(&connect()?, pool, arena_pool, *holds_bytes)?;
        }
        WorkerCommand::Matrix(work) => match &work.pool {
            Some(pool) => matrix::work_in_pool(&connect()?, pool, work)?,
            None => matrix::work_on_heap(work)?,
        },
    }
    // One that ends unasked has failed.
    orders().for_each(drop);
    Ok(Output::Nothing)
}

/// Says something to the demo.
pub(super) fn report(report: &Report) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

/// Returns what the demo says, until it closes stdin.
pub(super) fn orders() -> impl Iterator<Item = anyhow::Result<Order>> {
    io::stdin()
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
}

/// Returns what a handle's text names.
pub(super) fn parse_handle(text: &str) -> anyhow::Result<Handle> {
    Ok(text.parse::<Handle>()?)
}
