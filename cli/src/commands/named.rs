//! `put`, `get` and `withdraw`: blocks by name, as a shell sees them.

use goumem::blocking::Client;

use crate::error::{Exit, Failure};
use crate::output::{Cell, Output, Record, human_bytes};

/// Stores bytes as a block with a name.
pub(super) fn put(
    client: &Client,
    pool: &str,
    name: &str,
    replace: bool,
    input: &[u8],
) -> Result<Output, Failure> {
    if input.is_empty() {
        let message = "stdin is empty: a block has 1 byte or more";
        let hint = format!("echo hello | goumemctl put {pool} {name}");
        return Err(Failure::new(Exit::Usage, message).hint(hint));
    }
    let pool = client.open_pool(pool)?;
    let block = pool.alloc_slice_from(input)?;
    let shared = block.share()?;
    let handle = shared.handle();
    if replace {
        pool.publish_replacing(name, handle)?;
    } else {
        pool.publish(name, handle)?;
    }
    // The name has it now.
    shared.into_handle();
    let sentence = format!("{name} is {handle}, {}", human_bytes(input.len() as u64));
    let done = Record::new()
        .with("name", name)
        .with("handle", handle.to_string())
        .with("size_bytes", Cell::Bytes(input.len() as u64));
    Ok(Output::Done(sentence, done))
}

/// Returns the bytes of the block with that name.
pub(super) fn get(client: &Client, pool: &str, name: &str) -> Result<Output, Failure> {
    let pool = client.open_pool_read_only(pool)?;
    let handle = pool.lookup(name)?;
    Ok(Output::Raw(pool.resolve_slice::<u8>(handle)?.read_slice()?))
}

/// Takes a name away.
pub(super) fn withdraw(
    client: &Client,
    pool: &str,
    name: &str,
    free: bool,
) -> Result<Output, Failure> {
    let pool = client.open_pool(pool)?;
    let handle = pool.withdraw(name)?;
    if free {
        pool.free(handle)?;
    }
    let done = Record::new()
        .with("name", name)
        .with("handle", handle.to_string())
        .with("freed", free);
    let fate = if free { "is free" } else { "stays, kept" };
    Ok(Output::Done(
        format!("{name} is no name now; block {handle} {fate}"),
        done,
    ))
}
