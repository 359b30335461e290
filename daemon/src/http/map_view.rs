//! The map of a pool as the page gets it: column by column, which is a third of the text of an
//! object for each block, and what a browser draws from.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use goumem_alloc::{PAGE_BYTES, PageIndex, PoolGeometry};
use goumem_proto::model::{BlockState, MapPool, MappedBlock, PageRun, PoolMap, RunState};
use goumem_proto::name::PoolName;
use serde::Serialize;

use crate::core::{Core, Viewer};
use crate::error::Error;

/// The most blocks, and the most runs, of one map; a large pool is read in several pieces of the
/// core's.
const MAX_ITEMS: usize = 65_536;

/// A pool's pages and exported blocks at one moment, or nearly so.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct MapView {
    pool: String,
    capacity_bytes: u64,
    page_bytes: u64,
    /// Of the pool's address space; more than its capacity.
    total_pages: u32,
    /// Where page 0 lies in the pool's memory.
    payload_offset_bytes: u64,
    /// What the times in here count to.
    now_ms: u64,
    run_states: [&'static str; 6],
    block_states: [&'static str; 4],
    runs: Runs,
    blocks: Blocks,
    /// There are more.
    truncated: bool,
}

/// Free pages in a row, or spans; by place. All columns have one length.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Runs {
    first_page: Vec<u32>,
    pages: Vec<u32>,
    /// Places in `run_states`.
    state: Vec<u8>,
    /// Whose spans they are; 0 if nobody's, or not to be told.
    session: Vec<u16>,
    /// What a block of it takes; 0 if it is no span.
    block_bytes: Vec<u64>,
    slots: Vec<u32>,
    exported_blocks: Vec<u32>,
    /// -1 if it is not known.
    leased_at_ms: Vec<i64>,
}

/// Exported blocks, by place. All columns have one length.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Blocks {
    /// From page 0 on.
    offset_bytes: Vec<u64>,
    /// As asked for; 0 if that is not known.
    size_bytes: Vec<u64>,
    used_bytes: Vec<u64>,
    /// Places in `block_states`.
    state: Vec<u8>,
    pinned: Vec<u8>,
    /// The owner; 0 if nobody, or not to be told.
    session: Vec<u16>,
    /// Names, of those that have one.
    names: BTreeMap<usize, String>,
}

impl MapView {
    /// Looks at a pool. `since` is where times count from.
    ///
    /// # Errors
    /// `PoolNotFound`, `PermissionDenied`.
    pub(super) fn look(
        core: &Core,
        viewer: Viewer<'_>,
        pool: &PoolName,
        since: Instant,
        now: Instant,
    ) -> Result<Self, Error> {
        let mut request = MapPool::of(pool.clone());
        let mut piece = core.map_pool(viewer, &request, now)?;
        let mut view = Self::begin(&piece, millis(now.saturating_duration_since(since)));
        loop {
            view.add(&piece, now.saturating_duration_since(since));
            let is_full = view.blocks.offset_bytes.len().max(view.runs.pages.len()) >= MAX_ITEMS;
            match piece.next_page {
                Some(next) if !is_full => request.first_page = next,
                next => {
                    view.truncated |= next.is_some() || piece.truncated;
                    return Ok(view);
                }
            }
            piece = core.map_pool(viewer, &request, now)?;
        }
    }

    fn begin(map: &PoolMap, now_ms: u64) -> Self {
        // Where the payload begins depends on the length of the address space alone.
        let geometry = PoolGeometry::new(PAGE_BYTES, Some(map.total_pages.bytes()));
        Self {
            pool: map.pool.name.to_string(),
            capacity_bytes: map.pool.capacity_bytes,
            page_bytes: map.page_bytes,
            total_pages: map.total_pages.get(),
            payload_offset_bytes: geometry
                .map_or(0, |geometry| geometry.page_offset(PageIndex::new(0)).get()),
            now_ms,
            run_states: [
                "free",
                "free_committed",
                "leased",
                "daemon",
                "abandoned",
                "retired",
            ],
            block_states: ["shared", "kept", "taken", "condemned"],
            runs: Runs::default(),
            blocks: Blocks::default(),
            truncated: false,
        }
    }

    fn add(&mut self, map: &PoolMap, now: Duration) {
        map.runs.iter().for_each(|run| self.runs.add(run, now));
        for block in &map.blocks {
            self.blocks.add(block, self.payload_offset_bytes);
        }
    }

    /// Returns whether somebody who has seen `before` would see something else.
    pub(super) fn differs_from(&self, before: &Self) -> bool {
        (&self.pool, self.capacity_bytes, self.truncated)
            != (&before.pool, before.capacity_bytes, before.truncated)
            || self.runs != before.runs
            || self.blocks != before.blocks
    }
}

impl Runs {
    fn add(&mut self, run: &PageRun, now: Duration) {
        self.first_page.push(run.first_page.get());
        self.pages.push(run.pages.get());
        self.state.push(match run.state {
            RunState::Free => 0,
            RunState::FreeCommitted => 1,
            RunState::Leased => 2,
            RunState::Daemon => 3,
            RunState::Abandoned => 4,
            RunState::Retired => 5,
        });
        let span = run.span.as_ref();
        self.session.push(span.map_or(0, |span| span.session.get()));
        self.block_bytes
            .push(span.map_or(0, |span| span.block_bytes));
        self.slots.push(span.map_or(0, |span| span.slots));
        self.exported_blocks
            .push(span.map_or(0, |span| span.exported_blocks));
        let leased_for = span.and_then(|span| span.leased_for);
        let leased_at = leased_for.and_then(|time| now.checked_sub(time));
        let leased_at = leased_at.and_then(|at| i64::try_from(at.as_millis()).ok());
        self.leased_at_ms.push(leased_at.unwrap_or(-1));
    }
}

impl Blocks {
    fn add(&mut self, block: &MappedBlock, payload: u64) {
        let offset = block.handle.offset().get();
        if let Some(name) = &block.name {
            self.names.insert(self.offset_bytes.len(), name.to_string());
        }
        self.offset_bytes.push(offset.saturating_sub(payload));
        self.size_bytes.push(block.size_bytes);
        self.used_bytes.push(block.used_bytes);
        self.state.push(match block.state {
            BlockState::Shared => 0,
            BlockState::Kept => 1,
            BlockState::Taken => 2,
            BlockState::Condemned => 3,
        });
        self.pinned.push(block.pinned.into());
        self.session.push(block.session.get());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
