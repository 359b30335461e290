//! `pool`: named pools of blocks.

use std::collections::HashMap;

use goumem::blocking::Client;
use goumem::{PoolInfo, PoolOptions, PoolStat};

use super::{backing_name, mode, with_permissions};
use crate::args::{Creation, PoolCommand};
use crate::error::Failure;
use crate::observation::{self, what_holds};
use crate::output::{Cell, List, Output, Record, human_bytes};

pub(super) fn run(client: &Client, command: &PoolCommand) -> Result<Output, Failure> {
    match command {
        PoolCommand::Create {
            name,
            capacity,
            max_capacity,
            common,
        } => create(client, name, *capacity, *max_capacity, common),
        PoolCommand::Ls => list(client),
        PoolCommand::Stat { name } => Ok(Output::Record(record(client, client.stat_pool(name)?))),
        PoolCommand::Rm { name } => {
            client.destroy_pool(name)?;
            let done = Record::new().with("destroyed", name.as_str());
            Ok(Output::Done(format!("pool {name} is destroyed"), done))
        }
        PoolCommand::SetCapacity { name, capacity } => {
            let stat = client.open_pool_read_only(name)?.set_capacity(*capacity)?;
            let capacity_bytes = stat.pool.capacity_bytes;
            let done = Record::new()
                .with("name", name.as_str())
                .with("capacity_bytes", Cell::Bytes(capacity_bytes));
            Ok(Output::Done(
                format!("pool {name} may take {}", human_bytes(capacity_bytes)),
                done,
            ))
        }
        PoolCommand::Purge { name } => {
            let purged = client.open_pool_read_only(name)?.purge()?;
            let done = Record::new().with("purged_bytes", Cell::Bytes(purged));
            Ok(Output::Done(
                format!("pool {name} gave back {}", human_bytes(purged)),
                done,
            ))
        }
        PoolCommand::Flush { name } => {
            client.open_pool_read_only(name)?.flush()?;
            let done = Record::new().with("flushed", name.as_str());
            Ok(Output::Done(format!("pool {name} is on its disk"), done))
        }
    }
}

fn create(
    client: &Client,
    name: &str,
    capacity: u64,
    max_capacity: Option<u64>,
    common: &Creation,
) -> Result<Output, Failure> {
    let mut options = PoolOptions::new(capacity).mode(common.mode);
    if let Some(bytes) = max_capacity {
        options = options.max_capacity(bytes);
    }
    if let Some(backing) = common.backing {
        options = options.backing(backing.into());
    }
    if let Some(gid) = common.gid {
        options = options.gid(gid);
    }
    let pool = if common.exist_ok {
        client.open_or_create_pool(name, options)?
    } else {
        client.create_pool(name, options)?
    };
    let info = pool.info();
    let sentence = format!(
        "pool {name} has {} of {} memory",
        human_bytes(info.capacity_bytes),
        backing_name(info.backing)
    );
    Ok(Output::Done(sentence, what_it_is(info)))
}

fn list(client: &Client) -> Result<Output, Failure> {
    let columns = &[
        "name",
        "pool_id",
        "capacity_bytes",
        "max_capacity_bytes",
        "backing",
        "uid",
        "gid",
        "mode",
    ];
    let mut list = List::new(columns);
    for pool in client.list_pools()? {
        list.push([
            pool.name.as_str().into(),
            pool.pool_id.get().into(),
            Cell::Bytes(pool.capacity_bytes),
            Cell::Bytes(pool.max_capacity_bytes),
            backing_name(pool.backing).into(),
            pool.permissions.uid.into(),
            pool.permissions.gid.into(),
            mode(&pool.permissions).into(),
        ]);
    }
    Ok(Output::List(list))
}

fn what_it_is(info: &PoolInfo) -> Record {
    let record = Record::new()
        .with("name", info.name.as_str())
        .with("pool_id", info.pool_id.get())
        .with("capacity_bytes", Cell::Bytes(info.capacity_bytes))
        .with("max_capacity_bytes", Cell::Bytes(info.max_capacity_bytes))
        .with("backing", backing_name(info.backing))
        .with("os_name", info.os_name.clone());
    with_permissions(record, &info.permissions)
}

fn record(client: &Client, stat: PoolStat) -> Record {
    let whats = whats(client);
    let mut holders = List::new(&["session", "pid", "uid", "bytes", "what"]);
    for holder in &stat.top_holders {
        holders.push([
            u32::from(holder.session.get()).into(),
            holder.pid.into(),
            holder.uid.into(),
            Cell::Bytes(holder.bytes),
            what_holds(holder, &whats).into(),
        ]);
    }
    what_it_is(&stat.pool)
        .with("requested_bytes", Cell::Bytes(stat.requested_bytes))
        .with("used_bytes", Cell::Bytes(stat.used_bytes))
        .with("leased_bytes", Cell::Bytes(stat.leased_bytes))
        .with("abandoned_bytes", Cell::Bytes(stat.abandoned_bytes))
        .with(
            "free_committed_bytes",
            Cell::Bytes(stat.free_committed_bytes),
        )
        .with("committed_bytes", Cell::Bytes(stat.committed_bytes))
        .with("table_bytes", Cell::Bytes(stat.table_bytes))
        .with("largest_free_bytes", Cell::Bytes(stat.largest_free_bytes))
        .with("blocks", stat.blocks)
        .with("kept_blocks", stat.kept_blocks)
        .with("named_blocks", stat.named_blocks)
        .with("condemned_blocks", stat.condemned_blocks)
        .with("pins", stat.pins)
        .with("sessions", stat.sessions)
        .with("holders", holders)
}

/// What sessions call themselves, by number.
fn whats(client: &Client) -> HashMap<u16, String> {
    // Without them a holder is a number, which is still worth saying.
    observation::whats(&client.sessions().unwrap_or_default())
}
