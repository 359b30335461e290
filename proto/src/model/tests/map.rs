//! Maps of pools: the way over the wire, and that the longest one fits a message.

use std::time::Duration;

use goumem_alloc::{PageCount, PageIndex, SessionNumber, SizeClass, TypeTag};
use prost::Message;

use super::wire::survives;
use super::*;
use crate::name::{ArenaName, BlockName};

#[test]
fn maps_survive_the_wire() {
    survives::<v1::MapPoolRequest, _>(MapPool {
        first_page: PageIndex::new(7),
        max_runs: Some(1),
        max_blocks: Some(MAX_MAP_ITEMS),
        ..MapPool::of("p".parse().unwrap())
    });
    survives::<v1::MapArenaPoolRequest, _>(MapArenaPool::of("a".parse().unwrap()));
    let span = |session, leased_for| MappedSpan {
        size_class: SizeClass::from_index(0).unwrap(),
        block_bytes: 16,
        slots: 4096,
        exported_blocks: 4,
        kept_blocks: 3,
        condemned_blocks: 2,
        pinned_blocks: 1,
        requested_bytes: 9,
        session,
        uid: 0,
        leased_for,
    };
    let run = |state, span| PageRun {
        first_page: PageIndex::new(0),
        pages: PageCount::new(3),
        state,
        span,
    };
    let block = |state, name: Option<BlockName>| MappedBlock {
        handle: handle(),
        state,
        size_bytes: 1,
        used_bytes: 16,
        type_tag: TypeTag::MAX,
        pinned: true,
        session: SessionNumber::NOBODY,
        name,
    };
    for next_page in [None, Some(PageIndex::new(1))] {
        survives::<v1::MapPoolReply, _>(PoolMap {
            pool: pool_info(),
            page_bytes: 65_536,
            total_pages: PageCount::new(3),
            runs: vec![
                run(RunState::Free, None),
                run(RunState::FreeCommitted, None),
                run(RunState::Retired, None),
                run(RunState::Leased, Some(span(SessionNumber::new(1), None))),
                run(
                    RunState::Abandoned,
                    Some(span(SessionNumber::NOBODY, Some(Duration::from_millis(1)))),
                ),
                run(RunState::Daemon, Some(span(SessionNumber::DAEMON, None))),
            ],
            blocks: vec![
                block(BlockState::Shared, None),
                block(BlockState::Kept, Some("n".parse().unwrap())),
                block(BlockState::Taken, None),
                block(BlockState::Condemned, None),
            ],
            next_page,
            truncated: true,
        });
    }
    let arena = |state, name: Option<ArenaName>| MappedArena {
        index: 1,
        arena: handle(),
        state,
        name,
        used_bytes: 5,
        holders: Vec::new(),
        n_holders: 6,
    };
    survives::<v1::MapArenaPoolReply, _>(ArenaPoolMap {
        pool: arena_pool_info(),
        waiting: 3,
        arenas: vec![
            arena(ArenaState::Free, None),
            arena(ArenaState::Exclusive, None),
            arena(ArenaState::Named, Some("batch/1".parse().unwrap())),
        ],
        next_arena: Some(2),
    });
}

#[test]
fn the_longest_map_fits_a_message() {
    const MAX_MESSAGE_BYTES: usize = 4 << 20;
    let n = MAX_MAP_ITEMS as usize;
    let large = |n: u64| n | 1 << 40;
    let run = v1::PageRun {
        first_page: u32::MAX,
        pages: u32::MAX,
        state: 6,
        span: Some(v1::MappedSpan {
            size_class: u32::MAX,
            block_bytes: large(0),
            slots: u32::MAX,
            exported_blocks: u32::MAX,
            kept_blocks: u32::MAX,
            condemned_blocks: u32::MAX,
            pinned_blocks: u32::MAX,
            requested_bytes: large(0),
            session: u32::MAX,
            uid: u32::MAX,
            leased_ms: large(0),
        }),
    };
    let block = v1::MappedBlock {
        handle: Some(v1::Handle {
            high: u64::MAX,
            low: u64::MAX,
        }),
        state: 4,
        size_bytes: large(0),
        used_bytes: large(0),
        type_tag: u32::MAX,
        pinned: true,
        session: u32::MAX,
        name: "n".repeat(64),
    };
    let reply = v1::MapPoolReply {
        runs: vec![run; n],
        blocks: vec![block; n],
        ..v1::MapPoolReply::default()
    };
    assert!(
        reply.encoded_len() < MAX_MESSAGE_BYTES - 4096,
        "{}",
        reply.encoded_len()
    );
    let arena = v1::MappedArena {
        index: u32::MAX,
        arena: Some(v1::Handle {
            high: u64::MAX,
            low: u64::MAX,
        }),
        state: 3,
        name: "n".repeat(64),
        used_bytes: large(0),
        holders: Vec::new(),
        n_holders: u32::MAX,
    };
    let reply = v1::MapArenaPoolReply {
        arenas: vec![arena; n],
        ..v1::MapArenaPoolReply::default()
    };
    assert!(
        reply.encoded_len() < MAX_MESSAGE_BYTES - 4096,
        "{}",
        reply.encoded_len()
    );
}
