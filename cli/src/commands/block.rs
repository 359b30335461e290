//! `block`: blocks that outlive sessions, and blocks by their handle.

use goumem::blocking::{Client, Pool};
use goumem::{Handle, Reason};

use crate::args::BlockCommand;
use crate::error::{Exit, Failure};
use crate::output::{Cell, List, Output, Record, human_bytes};

pub(super) fn run(client: &Client, command: &BlockCommand) -> Result<Output, Failure> {
    match command {
        BlockCommand::Ls { pool } => list(client, pool),
        BlockCommand::Stat { handle } => stat(client, *handle),
        BlockCommand::Free { handle } => free(client, *handle),
    }
}

fn list(client: &Client, pool: &str) -> Result<Output, Failure> {
    let columns = &[
        "handle",
        "name",
        "size_bytes",
        "used_bytes",
        "type_tag",
        "uid",
    ];
    let mut list = List::new(columns);
    for kept in client.open_pool_read_only(pool)?.kept()? {
        list.push([
            kept.block.handle.to_string().into(),
            kept.name.as_ref().map(|name| name.as_str()).into(),
            Cell::Bytes(kept.block.size_bytes),
            Cell::Bytes(kept.block.used_bytes),
            kept.block.type_tag.get().into(),
            kept.uid.into(),
        ]);
    }
    Ok(Output::List(list))
}

fn stat(client: &Client, handle: Handle) -> Result<Output, Failure> {
    let pool = pool_of(client, handle, false)?;
    // Anything may be seen as bytes.
    let view = pool.resolve_slice::<u8>(handle)?;
    let kept = pool
        .kept()?
        .into_iter()
        .find(|kept| kept.block.handle == handle);
    let name = kept
        .as_ref()
        .and_then(|kept| kept.name.as_ref())
        .map(|name| name.as_str());
    let record = Record::new()
        .with("handle", handle.to_string())
        .with("pool", pool.name())
        .with("size_bytes", Cell::Bytes(view.length_bytes()))
        .with(
            "used_bytes",
            kept.as_ref().map(|kept| Cell::Bytes(kept.block.used_bytes)),
        )
        .with(
            "type_tag",
            kept.as_ref().map(|kept| kept.block.type_tag.get()),
        )
        .with("kept", kept.is_some())
        .with("name", name)
        .with("generation", handle.generation().get())
        .with("offset", handle.offset().get());
    Ok(Output::Record(record))
}

fn free(client: &Client, handle: Handle) -> Result<Output, Failure> {
    let pool = pool_of(client, handle, true)?;
    let length_bytes = pool.resolve_slice::<u8>(handle)?.length_bytes();
    pool.free(handle)?;
    let done = Record::new()
        .with("freed", handle.to_string())
        .with("size_bytes", Cell::Bytes(length_bytes));
    Ok(Output::Done(
        format!("block {handle} of {} is free", human_bytes(length_bytes)),
        done,
    ))
}

/// Opens the pool that a handle points into.
fn pool_of(client: &Client, handle: Handle, writable: bool) -> Result<Pool, Failure> {
    let id = handle.pool();
    let pools = client.list_pools()?;
    let Some(info) = pools.iter().find(|pool| pool.pool_id == id) else {
        let gone =
            format!("handle {handle} belongs to pool {id}, which is gone or not a pool of blocks");
        let reason = Reason::PoolNotFound;
        return Err(Failure::new(Exit::NotFound, gone)
            .because(reason)
            .hint("goumemctl pool ls"));
    };
    let name = info.name.as_str();
    Ok(if writable {
        client.open_pool(name)?
    } else {
        client.open_pool_read_only(name)?
    })
}
