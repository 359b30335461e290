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
use super::faults::{Fault, FaultKind, Faults};
use super::keys::{KEYS, Key};
use super::reading::{Reading, Settings};
use super::toml::Toml;

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
    path: PathBuf,
    optional: bool,
}

impl File {
    /// One that must be there.
    pub(super) fn named(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            optional: false,
        }
    }

    /// One that may be missing.
    pub(super) fn optional(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            optional: true,
        }
    }
}

impl Layers {
    pub(super) fn new(
        files: Vec<File>,
        variable: &dyn Fn(&str) -> Option<OsString>,
        flags: &ArgMatches,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut layers = Self::of_files(files);
        for key in KEYS {
            let set = key.variable.and_then(|name| Some((name, variable(name)?)));
            // An empty variable is one that is not set, as everywhere.
            if let Some((name, value)) = set.filter(|(_, value)| !value.is_empty()) {
                layers.environment.insert(key, name, &value, &mut faults);
            }
            let given = key.flag.and_then(|flag| {
                let value = flags.get_raw(key.name)?.next_back()?;
                Some((format!("--{flag}"), value))
            });
            if let Some((flag, value)) = given {
                layers.flags.insert(key, &flag, value, &mut faults);
            }
        }
        if faults.is_empty() {
            Ok(layers)
        } else {
            Err(Faults(faults))
        }
    }

    /// Returns the layers of somebody who typed nothing.
    pub(super) fn of_files(files: Vec<File>) -> Self {
        Self {
            files,
            environment: Layer::default(),
            flags: Layer::default(),
        }
    }

    /// Returns the files, and whether each is there.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, bool)> {
        let files = self.files.iter();
        files.map(|file| (file.path.as_path(), file.path.exists()))
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
            faults.extend(Reading::of_one_layer(&layer.0).faults);
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let builder = Layered::builder();
        let builder = layers
            .into_iter()
            .fold(builder, |all, layer| all.add_source(layer));
        let table = builder.build().and_then(|all| all.cache.into_table());
        let reading = Reading::of(&table.expect("the layers are tables"));
        if reading.faults.is_empty() {
            Ok(reading.settings)
        } else {
            Err(Faults(reading.faults))
        }
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
