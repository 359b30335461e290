//! Reading the configuration again, and what is different then.

use super::draft::{Draft, Surroundings};
use super::keys::{Key, Reload};
use super::layers::Layers;
use super::reading::Setting;
use super::{Config, ConfigError, Declared};
use crate::logging::LogConfig;

/// Reads the configuration of a running daemon again.
#[derive(Debug)]
pub(crate) struct Reloader {
    layers: Layers,
    around: Surroundings,
    /// What the daemon runs with, by key.
    running: Vec<Setting>,
    pools: Vec<Declared>,
}

/// What a new reading says.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// All of it, also what a running daemon cannot take.
    pub(crate) config: Config,
    pub(crate) log: LogConfig,
    /// What is not as the daemon runs.
    pub(crate) changes: Vec<Change>,
    /// Pools that were declared and are not any more, or are otherwise.
    pub(crate) pools_left: Vec<String>,
}

/// A key whose value is not what the daemon runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) reload: Reload,
}

impl Reloader {
    /// Returns the reader of a daemon that runs with these values.
    pub(super) fn new(
        layers: Layers,
        around: Surroundings,
        running: Vec<Setting>,
        config: &Config,
    ) -> Self {
        Self {
            layers,
            around,
            running,
            pools: config.pools.clone(),
        }
    }

    /// Reads it again. Keys that a running daemon takes count as taken from now on.
    ///
    /// # Errors
    /// As when the daemon started; nothing counts as taken then.
    pub(crate) fn reload(&mut self) -> Result<Reloaded, ConfigError> {
        let settings = self.layers.read()?;
        let mut changes = Vec::new();
        let mut running = Vec::new();
        for ((key, new), old) in settings.rows().zip(&self.running) {
            let differs = new.value != old.value;
            if differs {
                changes.push(Change {
                    key: key.name,
                    from: shown(key, old),
                    to: shown(key, new),
                    reload: key.reload,
                });
            }
            let taken = !differs || key.reload == Reload::AtOnce;
            running.push(if taken { new.clone() } else { old.clone() });
        }
        let (config, log) = settings.draft.finish(&self.around)?;
        let pools_left = self.pools.iter().filter(|old| !config.pools.contains(old));
        let pools_left = pools_left.map(|old| old.name().to_string()).collect();
        self.running = running;
        self.pools.clone_from(&config.pools);
        Ok(Reloaded {
            config,
            log,
            changes,
            pools_left,
        })
    }
}

fn shown(key: &Key<Draft>, setting: &Setting) -> String {
    let words = || format!("default ({})", key.default);
    setting.value.clone().unwrap_or_else(words)
}
