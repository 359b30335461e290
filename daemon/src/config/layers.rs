//! The layers of the configuration: flag > environment > file that was named > system's file >
//! built in. Each is checked by itself, so that a mistake does not hide below a better value, and
//! then they are laid on top of each other.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use ::config::{Config as Layered, ConfigError as LayerError, Format as _};
use ::config::{Map, Source, Value, ValueKind};
use clap::ArgMatches;

use super::draft::Draft;
use super::faults::{Fault, FaultKind, Faults, nearest};
use super::keys::{BuiltIn, KEYS, Key};
use super::toml::Toml;
use super::value::Raw;

/// Where a value is from that no layer gives.
pub(super) const BUILT_IN: &str = "built in";

/// The layers of one daemon. Flags and environment stay as they were at its start; files are read
/// anew each time.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    files: Vec<File>,
    environment: Layer,
    flags: Layer,
}

/// A file that is a layer.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Its path.
    pub(super) path: PathBuf,
    /// Whether it may be missing.
    pub(super) optional: bool,
}

/// What the layers say together.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Each key of [`KEYS`] in its order.
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

impl Layers {
    pub(super) fn new(
        files: Vec<File>,
        variable: &dyn Fn(&str) -> Option<OsString>,
        flags: &ArgMatches,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut environment = Layer::default();
        let mut typed = Layer::default();
        for key in KEYS {
            let set = key.variable.and_then(|name| Some((name, variable(name)?)));
            // An empty variable is one that is not set, as everywhere.
            if let Some((name, value)) = set.filter(|(_, value)| !value.is_empty()) {
                environment.insert(key, name, &value, &mut faults);
            }
            let given = key.flag.and_then(|flag| {
                let value = flags.get_raw(key.name)?.next_back()?;
                Some((format!("--{flag}"), value))
            });
            if let Some((flag, value)) = given {
                typed.insert(key, &flag, value, &mut faults);
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        Ok(Self {
            files,
            environment,
            flags: typed,
        })
    }

    /// Reads the files, and lays all layers on top of each other.
    ///
    /// # Errors
    /// Everything that is wrong in any layer.
    pub(crate) fn read(&self) -> Result<Settings, Faults> {
        let mut faults = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for file in &self.files {
            match Layer::of_file(file) {
                Ok(layer) => layers.push(layer),
                Err(fault) => faults.push(fault),
            }
        }
        layers.extend([self.environment.clone(), self.flags.clone()]);
        for layer in &layers {
            faults.extend(Reading::of(&layer.0).faults);
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let builder = layers
            .into_iter()
            .fold(Layered::builder(), |b, layer| b.add_source(layer));
        let table = builder.build().and_then(|all| all.cache.into_table());
        let table = table.map_err(|error| {
            Faults(vec![Fault {
                origin: BUILT_IN.to_owned(),
                what: FaultKind::File {
                    why: error.to_string(),
                },
            }])
        })?;
        let reading = Reading::of(&table);
        if reading.faults.is_empty() {
            Ok(reading.settings)
        } else {
            Err(Faults(reading.faults))
        }
    }
}

impl Settings {
    /// Returns what holds when no layer says anything.
    pub(super) fn built_in() -> Self {
        Reading::of(&Map::new()).settings
    }

    /// Returns each key with its value.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Key<Draft>, &Setting)> {
        KEYS.iter().zip(&self.rows)
    }
}

/// One layer: sections and their values, each with its origin.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, LayerError> {
        Ok(self.0.clone())
    }
}

impl Layer {
    fn of_file(file: &File) -> Result<Self, Fault> {
        let name = file.path.display().to_string();
        let fault = |why| Fault {
            origin: name.clone(),
            what: FaultKind::File { why },
        };
        let text = match std::fs::read_to_string(&file.path) {
            Ok(text) => text,
            Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(fault(format!("could not read it: {error}"))),
        };
        let parsed = Toml.parse(Some(&name), &text);
        parsed
            .map(Self)
            .map_err(|error| fault(format!("is not TOML: {}", error.to_string().trim_end())))
    }

    fn insert(&mut self, key: &Key<Draft>, origin: &str, value: &OsStr, faults: &mut Vec<Fault>) {
        let Some(value) = value.to_str() else {
            faults.push(Fault {
                origin: origin.to_owned(),
                what: FaultKind::Value {
                    key: key.name.to_owned(),
                    value: format!("{value:?}"),
                    expected: "text in UTF-8".to_owned(),
                },
            });
            return;
        };
        let value = Value::new(Some(&origin.to_owned()), value);
        let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
        let section = self
            .0
            .entry(section.to_owned())
            .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
        if let ValueKind::Table(table) = &mut section.kind {
            table.insert(name.to_owned(), value);
        }
    }
}

/// A table of the configuration, being compared with the table of keys.
struct Reading {
    settings: Settings,
    faults: Vec<Fault>,
}

impl Reading {
    fn of(table: &Map<String, Value>) -> Self {
        let mut reading = Self {
            settings: Settings {
                rows: Vec::new(),
                draft: Draft::new(),
            },
            faults: Vec::new(),
        };
        for key in KEYS {
            let setting = reading.setting(key, table);
            reading.settings.rows.push(setting);
        }
        for (section, value) in table {
            reading.look_for_strangers(section, value);
        }
        // The map has no order; the file has.
        reading.faults.sort_by(|a, b| {
            let line = |fault: &Fault| {
                let line = fault.origin.rsplit_once(':');
                line.and_then(|(_, line)| line.parse().ok()).unwrap_or(0u64)
            };
            line(a).cmp(&line(b)).then_with(|| a.origin.cmp(&b.origin))
        });
        reading
    }

    /// Puts the value of a key into the draft.
    fn setting(&mut self, key: &'static Key<Draft>, table: &Map<String, Value>) -> Setting {
        let draft = &mut self.settings.draft;
        let default = |draft: &mut Draft| Setting {
            value: match key.default {
                BuiltIn::Is(text) => {
                    let put = key.kind.put(draft, &Raw::Text(text.to_owned()));
                    Some(put.expect("the table's defaults are values of their keys"))
                }
                BuiltIn::Means(_) => None,
            },
            origin: BUILT_IN.to_owned(),
        };
        let found =
            key.name
                .split_once('.')
                .and_then(|(section, name)| match &table.get(section)?.kind {
                    ValueKind::Table(section) => section.get(name),
                    _ => None,
                });
        let Some(found) = found else {
            return default(draft);
        };
        let (raw, origin) = (raw(found), origin(found));
        match key.kind.put(draft, &raw) {
            Ok(value) => Setting {
                value: Some(value),
                origin,
            },
            Err(expected) => {
                self.faults.push(Fault {
                    origin,
                    what: FaultKind::Value {
                        key: key.name.to_owned(),
                        value: raw.shown(),
                        expected,
                    },
                });
                default(draft)
            }
        }
    }

    /// Finds what no key is called.
    fn look_for_strangers(&mut self, section: &str, value: &Value) {
        let names = || KEYS.iter().map(|key| key.name);
        let mut unknown = |key: String, value: &Value| {
            let nearest = nearest(&key, names());
            self.faults.push(Fault {
                origin: origin(value),
                what: FaultKind::Unknown { key, nearest },
            });
        };
        match &value.kind {
            ValueKind::Table(table) => {
                for (name, value) in table {
                    let key = format!("{section}.{name}");
                    if names().all(|name| name != key) {
                        unknown(key, value);
                    }
                }
            }
            _ => unknown(section.to_owned(), value),
        }
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

/// The files of a daemon: the system's, and the one that was named.
pub(super) fn files(system: &Path, named: Option<PathBuf>) -> Vec<File> {
    let system = File {
        path: system.to_owned(),
        optional: true,
    };
    let named = named.map(|path| File {
        path,
        optional: false,
    });
    std::iter::once(system).chain(named).collect()
}
