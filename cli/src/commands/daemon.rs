//! `ping` and `info`.

use std::time::Instant;

use goumem::blocking::Client;

use crate::error::Failure;
use crate::output::{Cell, Output, Record, human_time};

/// How often to ask. The best of them says what the way costs; the first opens it.
const PINGS: u32 = 10;

pub(super) fn ping(client: &Client) -> Result<Output, Failure> {
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let start = Instant::now();
        client.ping()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let best = times.first().copied().unwrap_or_default();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let socket = client.socket().display().to_string();
    let sentence = format!(
        "goumemd answers at {socket} in {} (best of {PINGS}: {})",
        human_time(median),
        human_time(best),
    );
    let record = Record::new()
        .with("socket", socket)
        .with("median_ms", median)
        .with("best_ms", best);
    Ok(Output::Done(sentence, record))
}

pub(super) fn info(client: &Client) -> Result<Output, Failure> {
    let info = client.info()?;
    let record = Record::new()
        .with("version", info.version)
        .with("pid", info.pid)
        .with("uptime_ms", info.uptime)
        .with("socket", client.socket().display().to_string())
        .with("fd_socket", info.fd_socket)
        .with("pools", info.pools)
        .with("arena_pools", info.arena_pools)
        .with("sessions", info.sessions)
        .with("committed_bytes", Cell::Bytes(info.committed_bytes))
        .with("budget_limit_bytes", Cell::Bytes(info.budget_limit_bytes))
        .with("available_bytes", Cell::Bytes(info.available_bytes))
        .with("page_bytes", Cell::Bytes(info.page_bytes))
        .with("layout_version", info.layout_version);
    Ok(Output::Record(record))
}
