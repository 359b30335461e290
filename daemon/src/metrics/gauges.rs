//! The metrics that say how things are: made from an observation each time. The largest pools have
//! series of their own; the others are added up under the name `_other`, which no pool can have.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::observation::{DaemonTotals, Observation, ObservedArenaPool, ObservedPool};

/// Stands for all pools that have no series of their own.
const OTHER: &str = "_other";

#[expect(
    clippy::disallowed_types,
    reason = "a number of the metrics alone: no other process sees it, and nothing is ordered by it"
)]
type Ratio = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Labels with values that are made at run time.
type Labels = Vec<(&'static str, String)>;

/// How the pools without series of their own come together in one number.
#[derive(Debug, Clone, Copy)]
enum Together {
    Sum,
    Max,
}
use Together::{Max, Sum};

/// What a gauge is in.
#[derive(Debug, Clone, Copy)]
enum Measure {
    Bytes,
    Seconds,
    Count,
}

/// A gauge of each pool.
struct Row<P> {
    name: &'static str,
    measure: Measure,
    help: &'static str,
    together: Together,
    of: fn(&P) -> u64,
}

const fn bytes<P>(name: &'static str, help: &'static str, of: fn(&P) -> u64) -> Row<P> {
    Row {
        name,
        measure: Measure::Bytes,
        help,
        together: Sum,
        of,
    }
}

const fn count<P>(name: &'static str, help: &'static str, of: fn(&P) -> u64) -> Row<P> {
    Row {
        name,
        measure: Measure::Count,
        help,
        together: Sum,
        of,
    }
}

static DAEMON: &[Row<DaemonTotals>] = &[
    bytes(
        "budget_limit",
        "The most that may be committed, by configuration",
        |d| d.budget_limit_bytes,
    ),
    bytes(
        "committed",
        "Committed for all pools, tables included",
        |d| d.committed_bytes,
    ),
    bytes(
        "available",
        "What machine and cgroup still have, after the reserve",
        |d| d.available_bytes,
    ),
    count("pools", "Pools of blocks that have their name", |d| {
        d.pools.into()
    }),
    count("arena_pools", "Arena pools that have their name", |d| {
        d.arena_pools.into()
    }),
    count(
        "pools_limit",
        "The most pools of both kinds together",
        |d| d.max_pools.into(),
    ),
    count("sessions", "Sessions", |d| d.sessions.into()),
    count("sessions_limit", "The most sessions", |d| {
        d.max_sessions.into()
    }),
    count(
        "quarantined",
        "Pools, sessions and records that could not be believed at the start",
        |d| d.quarantined.into(),
    ),
    count(
        "epoch",
        "Which run of the daemon this is: it changes with each restart",
        |d| d.epoch,
    ),
    Row {
        name: "uptime",
        measure: Measure::Seconds,
        help: "How long the daemon has run",
        together: Sum,
        of: |d| d.uptime_ms / 1000,
    },
];

static POOLS: &[Row<ObservedPool>] = &[
    bytes("pool_capacity", "Quota on granted bytes", |p| {
        p.capacity_bytes
    }),
    bytes("pool_committed", "Payload backed by memory", |p| {
        p.committed_bytes
    }),
    bytes(
        "pool_table",
        "Slot words and page map backed by memory, on top",
        |p| p.table_bytes,
    ),
    bytes(
        "pool_leased",
        "In spans that a session or the daemon's heap holds",
        |p| p.leased_bytes,
    ),
    bytes(
        "pool_daemon",
        "Of the leased bytes, those of the daemon, for blocks allocated by RPC",
        |p| p.daemon_bytes,
    ),
    bytes(
        "pool_abandoned",
        "In spans whose lessee has gone but whose blocks live",
        |p| p.abandoned_bytes,
    ),
    bytes("pool_free_committed", "Backed by memory, and free", |p| {
        p.free_committed_bytes
    }),
    bytes(
        "pool_used",
        "Exported blocks after rounding to size classes; others count as leased only",
        |p| p.used_bytes,
    ),
    bytes("pool_requested", "The same as it was asked for", |p| {
        p.requested_bytes
    }),
    Row {
        together: Max,
        ..bytes(
            "pool_largest_free",
            "The largest block that an alloc could get",
            |p| p.largest_free_bytes,
        )
    },
    count("pool_blocks", "Exported blocks alive", |p| p.blocks),
    count("pool_kept_blocks", "Of these, kept", |p| p.kept_blocks),
    count("pool_named_blocks", "Of these, named", |p| p.named_blocks),
    count("pool_condemned_blocks", "Blocks freed while pinned", |p| {
        p.condemned_blocks
    }),
    count("pool_pins", "Pins on blocks", |p| p.pins),
    count("pool_leases", "Leased spans", |p| p.leases),
    count("pool_sessions", "Sessions that map it", |p| {
        p.identity.sessions.into()
    }),
];

static ARENA_POOLS: &[Row<ObservedArenaPool>] = &[
    bytes(
        "arena_pool_committed",
        "Arenas' bytes backed by memory",
        |p| p.committed_bytes,
    ),
    bytes(
        "arena_pool_table",
        "Slots and records backed by memory, on top",
        |p| p.table_bytes,
    ),
    bytes("arena_pool_used", "The sum of the arenas' cursors", |p| {
        p.used_bytes
    }),
    count("arena_pool_arenas", "Arenas", |p| p.arenas.into()),
    count("arena_pool_free", "Arenas that nobody holds", |p| {
        p.free.into()
    }),
    count(
        "arena_pool_exclusive",
        "Arenas with one holder and no name",
        |p| p.exclusive.into(),
    ),
    count("arena_pool_named", "Arenas with a name", |p| p.named.into()),
    count("arena_pool_waiting", "Calls that wait for an arena", |p| {
        p.waiting.into()
    }),
    count("arena_pool_sessions", "Sessions that map it", |p| {
        p.identity.sessions.into()
    }),
];

/// Makes the gauges of an observation; at most `most_pools` pools of each kind have their own.
pub(super) fn registry(observation: &Observation, most_pools: usize) -> Registry {
    let mut registry = Registry::with_prefix("goumem");
    let build = Family::<Labels, Gauge>::default();
    let version = observation.daemon.version.clone();
    build.get_or_create(&vec![("version", version)]).set(1);
    registry.register("build_info", "Always 1; the label says what runs", build);
    for row in DAEMON {
        let gauge: Gauge = Gauge::default();
        gauge.set(whole((row.of)(&observation.daemon)));
        register(&mut registry, row, gauge);
    }
    let pools = largest(&observation.pools, most_pools, |pool| {
        (pool.committed_bytes, pool.identity.name.as_str())
    });
    add_rows(&mut registry, POOLS, &pools);
    let fragmentation = Family::<Labels, Ratio>::default();
    for &(name, pool) in &pools {
        let gauge = fragmentation.get_or_create(&vec![("pool", name.to_owned())]);
        gauge.set(gauge.get().max(pool.fragmentation));
    }
    registry.register_with_unit(
        "pool_fragmentation",
        "How much of what may still be granted is outside of the longest free run",
        Unit::Other("ratio".to_owned()),
        fragmentation,
    );
    let arena_pools = largest(&observation.arena_pools, most_pools, |pool| {
        (pool.committed_bytes, pool.identity.name.as_str())
    });
    add_rows(&mut registry, ARENA_POOLS, &arena_pools);
    registry
}

/// Returns each pool with the name that its series have.
fn largest<'a, P>(
    pools: &'a [P],
    most: usize,
    size_and_name: impl Fn(&'a P) -> (u64, &'a str),
) -> Vec<(&'a str, &'a P)> {
    let mut pools: Vec<&P> = pools.iter().collect();
    // Equal ones by name, so that the same ones have series at each look.
    pools.sort_by_key(|pool| {
        let (size, name) = size_and_name(pool);
        (std::cmp::Reverse(size), name)
    });
    let named = pools.into_iter().enumerate().map(|(rank, pool)| {
        let (_, name) = size_and_name(pool);
        (if rank < most { name } else { OTHER }, pool)
    });
    named.collect()
}

fn add_rows<P>(registry: &mut Registry, rows: &[Row<P>], pools: &[(&str, &P)]) {
    for row in rows {
        let family = Family::<Labels, Gauge>::default();
        for &(name, pool) in pools {
            let gauge = family.get_or_create(&vec![("pool", name.to_owned())]);
            let value = whole((row.of)(pool));
            // A destroyed pool may have the name of a new one: they come together too.
            match row.together {
                Sum => gauge.set(gauge.get().saturating_add(value)),
                Max => gauge.set(gauge.get().max(value)),
            };
        }
        register(registry, row, family);
    }
}

fn register<P>(
    registry: &mut Registry,
    row: &Row<P>,
    metric: impl prometheus_client::registry::Metric,
) {
    let unit = match row.measure {
        Measure::Bytes => Unit::Bytes,
        Measure::Seconds => Unit::Seconds,
        Measure::Count => return registry.register(row.name, row.help, metric),
    };
    registry.register_with_unit(row.name, row.help, unit, metric);
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
