//! What each command does: ask the daemon, shape the answer. Every command ends at once, so none
//! of them holds anything.

mod arena;
mod block;
mod daemon;
mod named;
mod pool;
mod session;

use std::path::Path;

use goumem::blocking::{Client, ClientBuilder};
use goumem::{Backing, Permissions};

use crate::args::Command;
use crate::error::{Failure, explain};
use crate::map;
use crate::output::{Output, Record};

/// Runs a command that the daemon answers. `input` is what `put` stores.
pub(crate) fn run(
    command: &Command,
    socket: Option<&Path>,
    input: &[u8],
) -> Result<Output, Failure> {
    let client = connect(socket)?;
    answer(&client, command, input).map_err(|failure| explain(&client, command, failure))
}

fn answer(client: &Client, command: &Command, input: &[u8]) -> Result<Output, Failure> {
    match command {
        Command::Ping => daemon::ping(client),
        Command::Map(how) => map::run(client, how),
        Command::Info => daemon::info(client),
        Command::Pool(command) => pool::run(client, command),
        Command::ArenaPool(command) => arena::run_pool(client, command),
        Command::Arena(command) => arena::run(client, command),
        Command::Session(command) => session::run(client, command),
        Command::Block(command) => block::run(client, command),
        Command::Put {
            pool,
            name,
            replace,
        } => named::put(client, pool, name, *replace, input),
        Command::Get { pool, name } => named::get(client, pool, name),
        Command::Withdraw { pool, name, free } => named::withdraw(client, pool, name, *free),
        Command::Completions { .. }
        | Command::Top(_)
        | Command::Watch(_)
        | Command::Manual { .. }
        | Command::Doctor
        | Command::Demo { .. }
        | Command::Daemon
        | Command::Worker(_) => Ok(Output::Nothing),
    }
}

/// Connects to the daemon, which lists this session under the program's name.
pub(crate) fn connect(socket: Option<&Path>) -> Result<Client, goumem::Error> {
    builder(socket).connect()
}

/// Returns what connects, for those that want it otherwise.
pub(crate) fn builder(socket: Option<&Path>) -> ClientBuilder {
    let builder = Client::builder().label("goumemctl");
    match socket {
        Some(socket) => builder.socket(socket),
        None => builder,
    }
}

fn backing_name(backing: Backing) -> &'static str {
    match backing {
        Backing::Memfd => "memfd",
        Backing::Named => "named",
        Backing::File => "file",
    }
}

fn with_permissions(record: Record, permissions: &Permissions) -> Record {
    record
        .with("uid", permissions.uid)
        .with("gid", permissions.gid)
        .with("mode", mode(permissions))
}

fn mode(permissions: &Permissions) -> String {
    format!("0{:03o}", permissions.mode)
}
