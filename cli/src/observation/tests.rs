use goumem::{Backing, Label, Permissions, PoolId, PoolName};

use super::*;
use crate::output::Format;

const MIB: u64 = 1 << 20;

fn permissions() -> Permissions {
    Permissions {
        uid: 1000,
        gid: 1000,
        mode: 0o600,
    }
}

fn name(text: &str) -> PoolName {
    PoolName::try_from(text).unwrap()
}

/// A pool of which so much is leased.
pub(crate) fn pool(id: u32, pool: &str, held_bytes: u64, capacity_bytes: u64) -> PoolStat {
    PoolStat {
        pool: PoolInfo {
            pool_id: PoolId::new(id).unwrap(),
            name: name(pool),
            capacity_bytes,
            max_capacity_bytes: 2 * capacity_bytes,
            backing: Backing::Memfd,
            permissions: permissions(),
            os_name: None,
        },
        requested_bytes: held_bytes / 4,
        used_bytes: held_bytes / 2,
        leased_bytes: held_bytes,
        abandoned_bytes: 0,
        free_committed_bytes: 0,
        committed_bytes: held_bytes,
        table_bytes: 4096,
        largest_free_bytes: (capacity_bytes - held_bytes) / 2,
        blocks: 7,
        kept_blocks: 1,
        named_blocks: 1,
        pins: 0,
        condemned_blocks: 0,
        sessions: 2,
        top_holders: vec![
            Holder {
                session: SessionNumber::new(1),
                uid: 1000,
                pid: 4121,
                bytes: held_bytes,
            },
            Holder {
                session: SessionNumber::NOBODY,
                uid: 0,
                pid: 0,
                bytes: 512,
            },
        ],
    }
}

pub(crate) fn arena_pool(id: u32, pool: &str, used_bytes: u64) -> ArenaPoolStat {
    ArenaPoolStat {
        pool: ArenaPoolInfo {
            pool_id: PoolId::new(id).unwrap(),
            name: name(pool),
            arenas: 16,
            arena_bytes: MIB,
            backing: Backing::Memfd,
            permissions: permissions(),
            os_name: None,
        },
        free: 12,
        exclusive: 3,
        named: 1,
        waiting: 0,
        used_bytes,
        committed_bytes: 16 * MIB,
        table_bytes: 4096,
        sessions: 1,
    }
}

pub(crate) fn session(number: u16, label: &str, leased_bytes: u64) -> SessionInfo {
    SessionInfo {
        session: SessionNumber::new(number),
        serial: 100 + u64::from(number),
        uid: 1000,
        pid: 4120 + u32::from(number),
        label: Label::try_from(label).unwrap(),
        may_map: true,
        connected: true,
        leased_bytes,
        rpc_bytes: 0,
        arenas_held: 2,
        pins: 1,
        command: Some("/usr/bin/python3".to_owned()),
        age: Duration::from_secs(90),
    }
}

/// A daemon with three pools, one arena pool and two sessions.
pub(crate) fn observation(seconds: u64, frames_bytes: u64) -> Observation {
    Observation {
        at: Duration::from_secs(seconds),
        daemon: DaemonInfo {
            version: "0.1.0".to_owned(),
            pid: 4100,
            committed_bytes: frames_bytes + 40 * MIB,
            budget_limit_bytes: 512 * MIB,
            available_bytes: 4096 * MIB,
            pools: 3,
            arena_pools: 1,
            sessions: 2,
            page_bytes: 65_536,
            fd_socket: None,
            layout_version: 1,
            epoch: 5,
            quarantined: 0,
            uptime: Duration::from_secs(200),
        },
        pools: vec![
            pool(1, "frames", frames_bytes, 256 * MIB),
            pool(2, "features", 24 * MIB, 64 * MIB),
            pool(3, "empty", 0, 8 * MIB),
        ],
        arena_pools: vec![arena_pool(4, "batches", 3 * MIB)],
        sessions: vec![
            session(1, "trainer", frames_bytes),
            session(2, "", 24 * MIB),
        ],
    }
}

fn cell<'a>(rows: &'a [Row], topic: Topic, name: &str, column: &str) -> &'a Cell {
    let at = topic.columns().iter().position(|&key| key == column);
    let row = rows
        .iter()
        .find(|row| row.cells[0] == Cell::from(name))
        .unwrap();
    &row.cells[at.unwrap()]
}

#[test]
fn every_row_has_a_cell_for_each_column() {
    let now = observation(1, 64 * MIB);
    for topic in Topic::ALL {
        let rows = now.rows(topic, None);
        assert!(!rows.is_empty());
        for row in rows {
            assert_eq!(row.cells.len(), topic.columns().len(), "{topic:?}");
        }
    }
}

#[test]
fn changes_are_bytes_a_second_between_two_observations() {
    let before = observation(1, 100 * MIB);
    let now = observation(3, 64 * MIB);
    let rows = now.rows(Topic::Pools, Some(&before));
    let change = |name| cell(&rows, Topic::Pools, name, "change_bytes_per_second");
    assert_eq!(*change("frames"), Cell::PerSecond(-18 * (1 << 20)));
    assert_eq!(*change("features"), Cell::PerSecond(0));
    let rows = now.rows(Topic::Sessions, Some(&before));
    let change = cell(&rows, Topic::Sessions, "trainer", "change_bytes_per_second");
    assert_eq!(*change, Cell::PerSecond(-18 * (1 << 20)));
}

#[test]
fn what_is_new_has_no_change_yet() {
    let mut before = observation(1, MIB);
    before.pools.remove(0);
    let now = observation(2, MIB);
    let rows = now.rows(Topic::Pools, Some(&before));
    let change = cell(&rows, Topic::Pools, "frames", "change_bytes_per_second");
    assert_eq!(*change, Cell::None);
    let rows = now.rows(Topic::Pools, None);
    let change = cell(&rows, Topic::Pools, "frames", "change_bytes_per_second");
    assert_eq!(*change, Cell::None);
}

#[test]
fn totals_are_sums_over_pools_and_arena_pools() {
    let totals = observation(1, 64 * MIB).totals();
    assert_eq!(totals.used_bytes, (32 + 12 + 3) * MIB);
    assert_eq!(totals.held_bytes, (64 + 24 + 4) * MIB);
    assert_eq!(totals.committed_bytes, 104 * MIB);
}

#[test]
fn fragmentation_is_what_cannot_be_had_at_once() {
    assert_eq!(fragmented_percent(0, 0), 0);
    assert_eq!(fragmented_percent(100, 100), 0);
    assert_eq!(fragmented_percent(100, 25), 75);
    // More than is free: the pool may grow beyond what was free when it was asked.
    assert_eq!(fragmented_percent(100, 200), 0);
    assert_eq!(percent(1, 1_000_000), 1, "something is not nothing");
    assert_eq!(percent(u64::MAX, u64::MAX), 100);
}

#[test]
fn holders_are_called_by_their_label_or_command() {
    let now = observation(1, 64 * MIB);
    let expected = [
        "pid 4121 trainer (uid 1000) 64 MiB",
        "kept blocks of sessions that have ended 512 B",
    ];
    assert_eq!(now.holders(&now.pools[0]), expected);
    assert_eq!(what_is(&now.sessions[1]), "/usr/bin/python3");
}

#[test]
fn one_look_as_a_table() {
    let mut text = Vec::new();
    let output = observation(2, 64 * MIB).output(Some(&observation(1, 60 * MIB)));
    output.write(Format::Table, &mut text).unwrap();
    insta::assert_snapshot!(String::from_utf8(text).unwrap());
}

#[test]
fn one_look_as_json_has_the_documented_fields() {
    let mut text = Vec::new();
    let output = observation(2, 64 * MIB).output(Some(&observation(1, 60 * MIB)));
    output.write(Format::Json, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["pools"][0]["change_bytes_per_second"], 4 << 20);
    let manual = include_str!("../../../docs/goumemctl.md");
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.extend(Topic::ALL.iter().flat_map(|topic| topic.columns()));
    for key in keys {
        assert!(
            manual.contains(&format!("`{key}`")),
            "docs/goumemctl.md lacks `{key}`"
        );
    }
}
