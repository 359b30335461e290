use std::collections::HashMap;
use std::time::Duration;

use goumem::{
    Access, ArenaHolder, ArenaPoolMap, ArenaState, Handle, MappedArena, MappedSpan, PageCount,
    PageIndex, PageRun, PoolMap, RunState, SessionNumber, SizeClass,
};
use serde_json::Value;

use super::*;
use crate::observation::tests::{arena_pool, pool};
use crate::output::Format;

const PAGE: u64 = 65_536;

fn span(session: u16, block_bytes: u64) -> Option<MappedSpan> {
    Some(MappedSpan {
        size_class: SizeClass::from_index(0).unwrap(),
        block_bytes,
        slots: 64,
        exported_blocks: 3,
        kept_blocks: 0,
        condemned_blocks: 0,
        pinned_blocks: 0,
        requested_bytes: 100,
        session: SessionNumber::new(session),
        uid: 1000,
        leased_for: Some(Duration::from_secs(1)),
    })
}

/// A pool of 64 pages, of which runs of so many pages are like that.
fn map_of(runs: &[(u32, RunState, Option<MappedSpan>)]) -> PoolMap {
    let mut first = 0;
    let mut run = |&(pages, state, span): &(u32, RunState, Option<MappedSpan>)| {
        let run = PageRun {
            first_page: PageIndex::new(first),
            pages: PageCount::new(pages),
            state,
            span,
        };
        first += pages;
        run
    };
    let runs: Vec<_> = runs.iter().map(&mut run).collect();
    PoolMap {
        pool: pool(1, "frames", 0, 64 * PAGE).pool,
        page_bytes: PAGE,
        total_pages: PageCount::new(first),
        runs,
        blocks: Vec::new(),
        next_page: None,
        truncated: false,
    }
}

fn map() -> PoolMap {
    map_of(&[
        (10, RunState::Leased, span(1, 1024)),
        (6, RunState::Leased, span(2, 64)),
        (4, RunState::FreeCommitted, None),
        (2, RunState::Free, None),
        (8, RunState::Leased, span(1, 2 << 20)),
        (3, RunState::Abandoned, span(0, 1024)),
        (1, RunState::Daemon, span(0xffff, 1024)),
        (94, RunState::Free, None),
    ])
}

fn whats() -> HashMap<u16, String> {
    HashMap::from([(1, "trainer".to_owned()), (2, String::new())])
}

fn plain(plan: &Plan, columns: u16) -> String {
    let colour = false;
    picture::text(plan, Look { columns, colour })
}

#[test]
fn holders_as_letters() {
    let plan = Plan::of_pool(&map(), MapBy::Holder, &whats());
    insta::assert_snapshot!(plain(&plan, 16));
}

#[test]
fn classes_and_states_as_letters() {
    let classes = Plan::of_pool(&map(), MapBy::Class, &whats());
    let states = Plan::of_pool(&map(), MapBy::State, &whats());
    insta::assert_snapshot!(format!("{}\n{}", plain(&classes, 32), plain(&states, 32)));
}

#[test]
fn address_space_beyond_the_capacity_is_not_drawn() {
    let plan = Plan::of_pool(&map(), MapBy::State, &whats());
    assert_eq!(plan.units(), 64, "of 128 in the address space");
    // But what is used there is.
    let far = map_of(&[
        (100, RunState::Free, None),
        (2, RunState::Leased, span(1, 16)),
        (26, RunState::Free, None),
    ]);
    assert_eq!(Plan::of_pool(&far, MapBy::State, &whats()).units(), 102);
}

#[test]
fn a_cell_of_many_pages_shows_what_most_of_them_are() {
    let mut runs = Vec::new();
    for _ in 0..1000 {
        runs.push((3, RunState::Leased, span(1, 16)));
        runs.push((1, RunState::Free, None));
    }
    let mut map = map_of(&runs);
    map.pool.capacity_bytes = 4000 * PAGE;
    let plan = Plan::of_pool(&map, MapBy::Holder, &whats());
    let text = plain(&plan, 25);
    // 4 000 pages in 16 rows of 25.
    assert!(text.contains("each cell 10 pages of 640 KiB"), "{text}");
    let rows: Vec<&str> = text.lines().skip(2).take(16).collect();
    assert!(rows.iter().all(|row| *row == "A".repeat(25)), "{text}");
}

#[test]
fn colours_are_two_cells_in_a_character_and_end_with_the_line() {
    let plan = Plan::of_pool(&map(), MapBy::Holder, &whats());
    let look = Look {
        columns: 16,
        colour: true,
    };
    let text = picture::text(&plan, look);
    let rows: Vec<&str> = text.lines().skip(2).take(2).collect();
    for row in rows {
        let cells = row.chars().filter(|c| matches!(c, '█' | '▀')).count();
        assert_eq!(cells, 16, "{row:?}");
        assert!(row.ends_with("\x1b[0m"), "{row:?}");
    }
}

#[test]
fn more_holders_than_letters_share_the_last() {
    let runs: Vec<_> = (1..=40)
        .map(|n| (1, RunState::Leased, span(n, 16)))
        .collect();
    let plan = Plan::of_pool(&map_of(&runs), MapBy::Holder, &HashMap::new());
    let text = plain(&plan, 40);
    assert!(text.contains("+ more"), "{text}");
    let row = text.lines().nth(2).unwrap_or_default();
    assert_eq!(row.matches('+').count(), 15, "{text}");
    assert_eq!(row.matches('Y').count(), 1, "{text}");
}

#[test]
fn sums_say_how_broken_up_it_is() {
    let plan = Plan::of_pool(&map(), MapBy::Holder, &whats());
    let mut json = Vec::new();
    let output = Output::Report {
        text: String::new(),
        facts: plan.facts(),
        failed: false,
    };
    output.write(Format::Json, &mut json).unwrap();
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(value["held_bytes"], 28 * PAGE);
    assert_eq!(value["free_bytes"], 36 * PAGE);
    assert_eq!(value["free_pieces"], 2);
    assert_eq!(value["largest_free_bytes"], 30 * PAGE);
    assert_eq!(value["fragmented_percent"], 17);
    assert_eq!(value["shares"][0]["label"], "session 1 trainer");
    assert_eq!(value["shares"][0]["bytes"], 18 * PAGE);
    assert_eq!(value["runs"][0]["session"], 1);
    assert_eq!(value["runs"][2]["state"], "free, committed");
    assert_eq!(value["runs"].as_array().unwrap().len(), 8);
}

#[test]
fn arenas_are_drawn_one_by_one() {
    let handle: Handle = "gm1-00000001000000000010000000000102".parse().unwrap();
    let arena = |index: u32| MappedArena {
        index,
        arena: handle,
        state: match index {
            0 | 1 => ArenaState::Exclusive,
            2 => ArenaState::Named,
            _ => ArenaState::Free,
        },
        name: None,
        used_bytes: 10,
        holders: vec![ArenaHolder {
            session: SessionNumber::new(1),
            uid: 1000,
            pid: 4121,
            access: Access::ReadWrite,
        }],
        n_holders: if index == 2 { 3 } else { 1 },
    };
    let map = ArenaPoolMap {
        pool: arena_pool(4, "batches", 0).pool,
        waiting: 0,
        arenas: (0..16).map(arena).collect(),
        next_arena: None,
    };
    let plan = Plan::of_arenas(&map, MapBy::Holder, &whats());
    insta::assert_snapshot!(plain(&plan, 40));
}

#[test]
fn what_others_call_themselves_is_escaped() {
    let whats = HashMap::from([(1, "\u{1b}[2Jevil".to_owned())]);
    let plan = Plan::of_pool(&map(), MapBy::Holder, &whats);
    let text = plain(&plan, 16);
    assert!(
        text.contains(r"\u{1b}[2Jevil") && !text.contains('\u{1b}'),
        "{text}"
    );
}

#[test]
fn an_empty_pool_is_drawn_as_free() {
    let map = map_of(&[(128, RunState::Free, None)]);
    let text = plain(&Plan::of_pool(&map, MapBy::Holder, &HashMap::new()), 80);
    assert!(
        text.contains(&".".repeat(64)) && text.contains("0 % fragmented"),
        "{text}"
    );
}
