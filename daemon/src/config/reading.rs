//! A table of the configuration, compared with the table of keys: what has a key goes where that
//! says, and what has none is a mistake.

use ::config::{Map, Value, ValueKind};
use goumem_proto::name::PoolName;

use super::draft::{Draft, PoolDraft};
use super::faults::{Fault, FaultKind, nearest};
use super::keys::{ARENA_POOL_KEYS, BuiltIn, KEYS, Key, POOL_KEYS};
use super::value::Raw;

/// Where a value is from that no layer gives.
pub(super) const BUILT_IN: &str = "built in";
/// The sections whose own sections are named by whoever writes them.
pub(super) const POOLS: &str = "pools";
pub(super) const ARENA_POOLS: &str = "arena_pools";

/// What the layers say together.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Each key of [`KEYS`], in its order.
    rows: Vec<Setting>,
    /// What their values were put into.
    pub(crate) draft: Draft,
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The value, written in the one way that equal values share. `None`: as the table's words
    /// have it.
    pub(crate) value: Option<String>,
    /// Where it is from.
    pub(crate) origin: String,
}

impl Settings {
    /// Returns what holds when no layer says anything.
    pub(super) fn built_in() -> Self {
        Reading::of(&Map::new()).settings
    }

    /// Returns the value of each key, in the order of [`KEYS`].
    pub(super) fn clone_rows(&self) -> Vec<Setting> {
        self.rows.clone()
    }

    /// Returns each key with its value.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static Key<Draft>, &Setting)> {
        KEYS.iter().zip(&self.rows)
    }
}

/// What has come of a comparison.
pub(super) struct Reading {
    pub(super) settings: Settings,
    pub(super) faults: Vec<Fault>,
}

impl Reading {
    /// Reads all layers together: what has to be there is there, or it is a mistake.
    pub(super) fn of(table: &Map<String, Value>) -> Self {
        Self::read(table, true)
    }

    /// Reads one of several layers.
    pub(super) fn of_one_layer(table: &Map<String, Value>) -> Self {
        Self::read(table, false)
    }

    fn read(table: &Map<String, Value>, complete: bool) -> Self {
        let mut draft = Draft::new();
        let mut faults = Vec::new();
        let mut rows = Vec::new();
        for key in KEYS {
            let value = key.name.split_once('.').and_then(|(section, name)| {
                let section = sections(table.get(section)?)?;
                section.get(name)
            });
            rows.push(take(key, key.name, value, &mut draft, &mut faults));
        }
        for (section, value) in table {
            match (section.as_str(), sections(value)) {
                (POOLS, Some(pools)) => {
                    let pools = each(POOLS, POOL_KEYS, pools, complete, &mut faults);
                    draft.pools.extend(pools);
                }
                (ARENA_POOLS, Some(pools)) => {
                    let pools = each(ARENA_POOLS, ARENA_POOL_KEYS, pools, complete, &mut faults);
                    draft.arena_pools.extend(pools);
                }
                (_, Some(keys)) => {
                    let names = || KEYS.iter().map(|key| key.name.to_owned());
                    strangers(section, keys, names, &mut faults);
                }
                (POOLS | ARENA_POOLS, None) => {
                    faults.push(Fault {
                        origin: origin(value),
                        what: FaultKind::Value {
                            key: section.clone(),
                            value: raw(value).shown(),
                            expected: format!("a section for each, as [{section}.NAME]"),
                        },
                    });
                }
                (_, None) => {
                    let names = KEYS.iter().map(|key| key.name);
                    faults.push(Fault {
                        origin: origin(value),
                        what: FaultKind::Unknown {
                            key: section.clone(),
                            nearest: nearest(section, names).map(str::to_owned),
                        },
                    });
                }
            }
        }
        // The maps have no order; a file has.
        faults.sort_by(|a, b| {
            let line = |fault: &Fault| {
                let line = fault.origin.rsplit_once(':');
                line.and_then(|(_, line)| line.parse().ok()).unwrap_or(0u64)
            };
            let place = |fault| (line(fault), fault.to_string());
            place(a).cmp(&place(b))
        });
        Self {
            settings: Settings { rows, draft },
            faults,
        }
    }
}

/// Reads the pools of `[pools]` or `[arena_pools]`, in the order of their names.
fn each(
    kind: &str,
    keys: &'static [Key<PoolDraft>],
    pools: &Map<String, Value>,
    complete: bool,
    faults: &mut Vec<Fault>,
) -> Vec<(PoolName, PoolDraft)> {
    let mut read = Vec::new();
    for (name, value) in pools {
        let section = format!("{kind}.{name}");
        let mut wrong = |value: String, expected: String, at: &Value| {
            faults.push(Fault {
                origin: origin(at),
                what: FaultKind::Value {
                    key: section.clone(),
                    value,
                    expected,
                },
            });
        };
        let Some(table) = sections(value) else {
            wrong(raw(value).shown(), "a section".to_owned(), value);
            continue;
        };
        let name = match name.parse::<PoolName>() {
            Ok(name) => name,
            Err(error) => {
                wrong(
                    format!("{name:?}"),
                    format!("a name, which this is not: it {error}"),
                    value,
                );
                continue;
            }
        };
        let mut pool = PoolDraft::default();
        for key in keys {
            let full = format!("{section}.{}", key.name);
            let found = table.get(key.name);
            if key.default == BuiltIn::Required && found.is_none() {
                if complete {
                    // Layers that were laid together have no place of their own; their keys have.
                    let place = table.values().next().map(origin);
                    faults.push(Fault {
                        origin: place.unwrap_or_else(|| format!("[{section}]")),
                        what: FaultKind::Missing { key: full },
                    });
                }
                continue;
            }
            take(key, &full, found, &mut pool, faults);
        }
        let names = || keys.iter().map(|key| format!("{section}.{}", key.name));
        strangers(&section, table, names, faults);
        read.push((name, pool));
    }
    read.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    read
}

/// Puts a value, or the default if there is none, where the key says.
fn take<T>(
    key: &'static Key<T>,
    name: &str,
    value: Option<&Value>,
    target: &mut T,
    faults: &mut Vec<Fault>,
) -> Setting {
    let built_in = |target: &mut T| Setting {
        value: match key.default {
            BuiltIn::Is(text) => {
                let put = key.kind.put(target, &Raw::Text(text.to_owned()));
                Some(put.expect("the table's defaults are values of their keys"))
            }
            BuiltIn::Means(_) | BuiltIn::Required => None,
        },
        origin: BUILT_IN.to_owned(),
    };
    let Some(value) = value else {
        return built_in(target);
    };
    let raw = raw(value);
    match key.kind.put(target, &raw) {
        Ok(shown) => Setting {
            value: Some(shown),
            origin: origin(value),
        },
        Err(expected) => {
            faults.push(Fault {
                origin: origin(value),
                what: FaultKind::Value {
                    key: name.to_owned(),
                    value: raw.shown(),
                    expected,
                },
            });
            built_in(target)
        }
    }
}

/// Finds what no key is called.
fn strangers<N: Iterator<Item = String>>(
    section: &str,
    table: &Map<String, Value>,
    names: impl Fn() -> N,
    faults: &mut Vec<Fault>,
) {
    for (name, value) in table {
        let key = format!("{section}.{name}");
        let known: Vec<String> = names().collect();
        if known.contains(&key) {
            continue;
        }
        let nearest = nearest(&key, known.iter().map(String::as_str)).map(str::to_owned);
        faults.push(Fault {
            origin: origin(value),
            what: FaultKind::Unknown { key, nearest },
        });
    }
}

fn sections(value: &Value) -> Option<&Map<String, Value>> {
    match &value.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

fn raw(value: &Value) -> Raw {
    match &value.kind {
        ValueKind::String(text) => Raw::Text(text.clone()),
        ValueKind::I64(number) => Raw::Number(*number),
        ValueKind::Boolean(true) => Raw::Other("true"),
        ValueKind::Boolean(false) => Raw::Other("false"),
        ValueKind::Float(_) => Raw::Other("a number with a fraction"),
        ValueKind::Array(_) => Raw::Other("a list"),
        ValueKind::Table(_) => Raw::Other("a section"),
        _ => Raw::Other("a value of another type"),
    }
}

fn origin(value: &Value) -> String {
    value.origin().unwrap_or(BUILT_IN).to_owned()
}
