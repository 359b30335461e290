//! The text that monitors read: OpenMetrics, bounded, listed in docs/metrics.md, and shown by the
//! dashboard.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;
use crate::observation::{DaemonTotals, ObservedArenaPool, ObservedPool, PoolIdentity};

fn identity(name: &str) -> PoolIdentity {
    PoolIdentity {
        id: 1,
        name: name.to_owned(),
        uid: 0,
        gid: 0,
        mode: 0o600,
        backing: "memfd",
        destroying: false,
        sessions: 2,
    }
}

fn pool(name: &str, committed_bytes: u64) -> ObservedPool {
    ObservedPool {
        identity: identity(name),
        capacity_bytes: 10 * committed_bytes,
        max_capacity_bytes: 20 * committed_bytes,
        committed_bytes,
        table_bytes: 1,
        leased_bytes: 2,
        daemon_bytes: 3,
        abandoned_bytes: 4,
        free_committed_bytes: 5,
        used_bytes: 6,
        requested_bytes: 7,
        largest_free_bytes: committed_bytes,
        fragmentation: 0.25,
        blocks: 8,
        kept_blocks: 9,
        named_blocks: 10,
        condemned_blocks: 11,
        pins: 12,
        leases: 13,
        holders: Vec::new(),
    }
}

fn arena_pool(name: &str, committed_bytes: u64) -> ObservedArenaPool {
    ObservedArenaPool {
        identity: identity(name),
        arenas: 8,
        arena_bytes: 1000,
        free: 4,
        exclusive: 3,
        named: 1,
        waiting: 2,
        used_bytes: 5,
        committed_bytes,
        table_bytes: 6,
        held: Vec::new(),
    }
}

fn observation(pools: Vec<ObservedPool>, arena_pools: Vec<ObservedArenaPool>) -> Observation {
    Observation {
        daemon: DaemonTotals {
            version: "1.2.3".to_owned(),
            pid: 1,
            epoch: 7,
            uptime_ms: 65_000,
            committed_bytes: 1 << 40,
            budget_limit_bytes: 1 << 41,
            available_bytes: u64::MAX,
            pools: 1,
            arena_pools: 2,
            max_pools: 3,
            sessions: 4,
            max_sessions: 5,
            quarantined: 6,
            page_bytes: 65_536,
            layout_version: 1,
        },
        pools,
        arena_pools,
        sessions: Vec::new(),
    }
}

/// Everything that there can be, once.
fn everything() -> String {
    let metrics = Metrics::new(64);
    let alloc = MethodIndex::of("goumem.v1.PoolService/Alloc");
    metrics.called(alloc, Code::Ok, Duration::from_micros(30));
    metrics.encode(&observation(vec![pool("p", 1)], vec![arena_pool("a", 1)]))
}

/// What one family says of itself, and the names of its labels.
#[derive(Debug, Default)]
struct FamilyText {
    kind: String,
    unit: String,
    help: String,
    samples: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// Reads OpenMetrics text, strictly: each sample belongs to the family above it.
fn families(text: &str) -> BTreeMap<String, FamilyText> {
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF, once");
    assert!(!body.contains("# EOF"));
    let mut families = BTreeMap::<String, FamilyText>::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            let value = words.next().unwrap_or_default().to_owned();
            if what == "HELP" {
                assert!(!families.contains_key(name), "{name} twice");
                current = name.to_owned();
            }
            assert_eq!(name, current);
            let family = families.entry(current.clone()).or_default();
            match what {
                "HELP" => family.help = value,
                "TYPE" => family.kind = value,
                "UNIT" => family.unit = value,
                other => panic!("{other}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        assert!(
            ["", "_total", "_bucket", "_sum", "_count"].contains(&suffix),
            "{line} below {current}"
        );
        let family = families.get_mut(&current).unwrap();
        family.samples.insert(name.to_owned());
        let label = |pair: &str| pair.split_once('=').unwrap().0.to_owned();
        family
            .labels
            .extend(labels.split(',').filter(|pair| !pair.is_empty()).map(label));
        family.labels.remove("le");
    }
    families
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    value.trim().parse().unwrap()
}

#[test]
fn numbers_of_an_observation_are_written_as_they_are() {
    let text = everything();
    for (series, expected) in [
        ("goumem_build_info{version=\"1.2.3\"}", 1.0),
        ("goumem_committed_bytes ", 1_099_511_627_776.0),
        ("goumem_available_bytes ", 9_223_372_036_854_775_807.0),
        ("goumem_uptime_seconds ", 65.0),
        ("goumem_epoch ", 7.0),
        ("goumem_pool_capacity_bytes{pool=\"p\"}", 10.0),
        ("goumem_pool_leased_bytes{pool=\"p\"}", 2.0),
        ("goumem_pool_fragmentation_ratio{pool=\"p\"}", 0.25),
        ("goumem_pool_blocks{pool=\"p\"}", 8.0),
        ("goumem_arena_pool_waiting{pool=\"a\"}", 2.0),
        (
            "goumem_calls_total{method=\"goumem.v1.PoolService/Alloc\",code=\"OK\"}",
            1.0,
        ),
        (
            "goumem_call_seconds_count{method=\"goumem.v1.PoolService/Alloc\"}",
            1.0,
        ),
        (
            "goumem_call_seconds_bucket{le=\"0.000025\",method=\"goumem.v1.PoolService/Alloc\"}",
            0.0,
        ),
        (
            "goumem_call_seconds_bucket{le=\"0.00005\",method=\"goumem.v1.PoolService/Alloc\"}",
            1.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert!(value(&text, "process_open_fds ") >= 3.0);
    assert!(value(&text, "process_resident_memory_bytes ") > 1e6);
}

#[test]
fn only_the_largest_pools_have_series_of_their_own() {
    let pools = (1..=200).map(|i| pool(&format!("p{i}"), i)).collect();
    let arena_pools = (1..=200).map(|i| arena_pool(&format!("a{i}"), i)).collect();
    let text = Metrics::new(3).encode(&observation(pools, arena_pools));
    let names: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once("{pool=\"")?.1.split('"').next())
        .collect();
    let expected = ["_other", "a198", "a199", "a200", "p198", "p199", "p200"];
    assert_eq!(names, BTreeSet::from(expected));
    let of_others = |name: &str| value(&text, &format!("goumem_{name}{{pool=\"_other\"}}"));
    assert_eq!(of_others("pool_committed_bytes"), f64::from(197 * 198 / 2));
    assert_eq!(of_others("pool_largest_free_bytes"), 197.0, "no sum");
    assert_eq!(of_others("pool_fragmentation_ratio"), 0.25);
    assert_eq!(of_others("pool_blocks"), 197.0 * 8.0);
    assert_eq!(of_others("arena_pool_waiting"), 197.0 * 2.0);

    let text = Metrics::new(0).encode(&observation(vec![pool("p", 1)], Vec::new()));
    assert!(!text.contains("pool=\"p\""));
    families(&text);
}

#[test]
fn pools_of_one_name_come_together() {
    let text = Metrics::new(9).encode(&observation(vec![pool("p", 1), pool("p", 2)], Vec::new()));
    assert_eq!(value(&text, "goumem_pool_committed_bytes{pool=\"p\"}"), 3.0);
    families(&text);
}

#[test]
fn calls_of_methods_that_there_are_not_are_one_series() {
    let metrics = Metrics::new(1);
    for name in ["x/y", "goumem.v1.PoolService/Nothing", "", "goumem.v1"] {
        let method = MethodIndex::of(name);
        metrics.called(method, Code::Unimplemented, Duration::ZERO);
    }
    for code in 0..30 {
        let method = MethodIndex::of("goumem.v1.DaemonService/Ping");
        metrics.called(method, Code::from_i32(code), Duration::ZERO);
    }
    let text = metrics.encode(&observation(Vec::new(), Vec::new()));
    let series = "goumem_calls_total{method=\"_unknown\",code=\"UNIMPLEMENTED\"}";
    assert_eq!(value(&text, series), 4.0);
    let n = text.matches("goumem_calls_total{").count();
    assert_eq!(n, 1 + CODES.len());
}

#[test]
fn methods_are_those_of_the_protocol_in_order() {
    assert!(METHODS.is_sorted());
    assert!(METHODS.len() > 40);
    for name in [
        "goumem.v1.PoolService/Alloc",
        "goumem.v1.DaemonService/Watch",
    ] {
        assert_ne!(MethodIndex::of(name), MethodIndex(METHODS.len()), "{name}");
    }
}

#[test]
fn codes_have_the_names_of_the_protocol() {
    for (number, name) in (0..).zip(CODES) {
        let code = Code::from_i32(number);
        let debug = format!("{code:?}").to_uppercase();
        let expected = if debug == "CANCELLED" {
            "CANCELLED"
        } else {
            name
        };
        assert_eq!(debug, expected.replace('_', ""));
    }
}

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         `GET /metrics` of the HTTP listener answers in OpenMetrics text. This page is made from \
         the code.\n\n\
         The number of series is bounded: the largest pools, 64 of each kind unless \
         `http.metrics_pools` says otherwise, have series of their own under `pool`. All others \
         are added up as `_other`, of `largest_free` and `fragmentation` the largest is taken. \
         Whoever asks sees the pools that it may see.\n\n\
         Rates of restarts: `changes(goumem_epoch[1h])`. Leaks of dead clients: \
         `rate(goumem_reclaimed_bytes_total{cause=\"died\"}[5m])`. A full pool: \
         `goumem_pool_leased_bytes / goumem_pool_capacity_bytes`. The dashboard in \
         `packaging/grafana/goumem.json` shows all of it.\n\n\
         | name | type | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for (name, family) in families(&everything()) {
        let sample = match family.kind.as_str() {
            "counter" => format!("{name}_total"),
            _ => name,
        };
        let labels: Vec<String> = family.labels.iter().map(|it| format!("`{it}`")).collect();
        let (kind, unit, help) = (family.kind, family.unit, family.help);
        text.push_str(&format!(
            "| `{sample}` | {kind} | {unit} | {} | {help} |\n",
            labels.join(", ")
        ));
    }
    text
}

#[test]
fn metrics_reference_is_up_to_date() {
    let file = repository("docs/metrics.md");
    let made = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap();
    assert!(
        written == made,
        "docs/metrics.md is not what the code says; to renew it: \
         UPDATE_DOCS=1 cargo test -p goumemd --lib metrics_reference_is_up_to_date"
    );
}

/// The names of metrics in an expression.
fn names_in(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    expression
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("goumem_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&key.as_str()) => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                expressions(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn dashboard_shows_metrics_that_there_are() {
    let file = repository("packaging/grafana/goumem.json");
    let text = std::fs::read_to_string(file).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");
    let there_are: BTreeSet<String> = families(&everything())
        .into_values()
        .flat_map(|family| family.samples)
        .collect();
    for expression in &found {
        let names = names_in(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(there_are.contains(&name), "no {name}, in {expression}");
        }
    }
    let ids: Vec<i64> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}
