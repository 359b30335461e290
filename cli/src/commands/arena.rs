//! `arena-pool` and `arena`: arenas, and who holds them.

use goumem::blocking::Client;
use goumem::{Access, ArenaPoolInfo, ArenaPoolOptions};

use super::{backing_name, mode, with_permissions};
use crate::args::{ArenaCommand, ArenaPoolCommand, Creation};
use crate::error::Failure;
use crate::output::{Cell, List, Output, Record, human_bytes};

pub(super) fn run_pool(client: &Client, command: &ArenaPoolCommand) -> Result<Output, Failure> {
    match command {
        ArenaPoolCommand::Create {
            name,
            arenas,
            arena_size,
            common,
        } => create(client, name, *arenas, *arena_size, common),
        ArenaPoolCommand::Ls => list(client),
        ArenaPoolCommand::Stat { name } => stat(client, name),
        ArenaPoolCommand::Rm { name } => {
            client.destroy_arena_pool(name)?;
            let done = Record::new().with("destroyed", name.as_str());
            Ok(Output::Done(
                format!("arena pool {name} is destroyed"),
                done,
            ))
        }
    }
}

/// Lists the arenas that are not free, one row for each holder.
pub(super) fn run(
    client: &Client,
    ArenaCommand::Ls { pool }: &ArenaCommand,
) -> Result<Output, Failure> {
    let columns = &[
        "arena",
        "name",
        "used_bytes",
        "session",
        "pid",
        "uid",
        "access",
    ];
    let mut list = List::new(columns);
    for arena in client.open_arena_pool_read_only(pool)?.holders()? {
        let first = [
            Cell::from(arena.arena.to_string()),
            arena.name.as_ref().map(|name| name.as_str()).into(),
            Cell::Bytes(arena.used_bytes),
        ];
        if arena.holders.is_empty() {
            let [arena, name, used] = first.clone();
            list.push([
                arena,
                name,
                used,
                Cell::None,
                Cell::None,
                Cell::None,
                Cell::None,
            ]);
        }
        for holder in arena.holders {
            let [arena, name, used] = first.clone();
            let access = match holder.access {
                Access::ReadOnly => "read-only",
                Access::ReadWrite => "read-write",
            };
            let session = u32::from(holder.session.get());
            list.push([
                arena,
                name,
                used,
                session.into(),
                holder.pid.into(),
                holder.uid.into(),
                access.into(),
            ]);
        }
    }
    Ok(Output::List(list))
}

fn create(
    client: &Client,
    name: &str,
    arenas: u32,
    arena_size: u64,
    common: &Creation,
) -> Result<Output, Failure> {
    let mut options = ArenaPoolOptions::new(arenas, arena_size).mode(common.mode);
    if let Some(backing) = common.backing {
        options = options.backing(backing.into());
    }
    if let Some(gid) = common.gid {
        options = options.gid(gid);
    }
    let pool = if common.exist_ok {
        client.open_or_create_arena_pool(name, options)?
    } else {
        client.create_arena_pool(name, options)?
    };
    let info = pool.info();
    let sentence = format!(
        "arena pool {name} has {} arenas of {} of {} memory",
        info.arenas,
        human_bytes(info.arena_bytes),
        backing_name(info.backing)
    );
    Ok(Output::Done(sentence, what_it_is(info)))
}

fn list(client: &Client) -> Result<Output, Failure> {
    let columns = &[
        "name",
        "pool_id",
        "arenas",
        "arena_bytes",
        "backing",
        "uid",
        "gid",
        "mode",
    ];
    let mut list = List::new(columns);
    for pool in client.list_arena_pools()? {
        list.push([
            pool.name.as_str().into(),
            pool.pool_id.get().into(),
            pool.arenas.into(),
            Cell::Bytes(pool.arena_bytes),
            backing_name(pool.backing).into(),
            pool.permissions.uid.into(),
            pool.permissions.gid.into(),
            mode(&pool.permissions).into(),
        ]);
    }
    Ok(Output::List(list))
}

fn stat(client: &Client, name: &str) -> Result<Output, Failure> {
    let stat = client.stat_arena_pool(name)?;
    let record = what_it_is(&stat.pool)
        .with("free", stat.free)
        .with("exclusive", stat.exclusive)
        .with("named", stat.named)
        .with("waiting", stat.waiting)
        .with("used_bytes", Cell::Bytes(stat.used_bytes))
        .with("committed_bytes", Cell::Bytes(stat.committed_bytes))
        .with("table_bytes", Cell::Bytes(stat.table_bytes))
        .with("sessions", stat.sessions);
    Ok(Output::Record(record))
}

fn what_it_is(info: &ArenaPoolInfo) -> Record {
    let record = Record::new()
        .with("name", info.name.as_str())
        .with("pool_id", info.pool_id.get())
        .with("arenas", info.arenas)
        .with("arena_bytes", Cell::Bytes(info.arena_bytes))
        .with("backing", backing_name(info.backing))
        .with("os_name", info.os_name.clone());
    with_permissions(record, &info.permissions)
}
