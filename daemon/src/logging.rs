//! The log: where it goes (stderr), how it looks, how much of it. Only the program sets it up; a
//! program that embeds a daemon has its own.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FromEnvError};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Json` elsewhere.
    Auto,
    /// Several lines per event, for people.
    Pretty,
    /// One line per event, for people.
    Compact,
    /// One JSON object per event, for programs.
    Json,
}

/// What to log and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// How much, of the daemon's own events. `RUST_LOG` has the last word.
    pub level: LevelFilter,
    /// How it looks.
    pub format: LogFormat,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is no filter.
    #[error("could not read RUST_LOG")]
    Filter(#[from] FromEnvError),
    /// The process has a log already.
    #[error("could not set up the log")]
    Taken(#[from] TryInitError),
}

/// Sets up the process's log.
///
/// # Errors
///
/// Any [`LogError`].
pub fn init(config: LogConfig) -> Result<(), LogError> {
    let filter = filter(config.level)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match config.format {
        LogFormat::Auto if io::stderr().is_terminal() => log.pretty().finish().try_init()?,
        // The journal has its own clock.
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => {
            log.json().without_time().finish().try_init()?;
        }
        LogFormat::Auto | LogFormat::Json => log.json().finish().try_init()?,
        LogFormat::Pretty => log.pretty().finish().try_init()?,
        LogFormat::Compact => log.compact().finish().try_init()?,
    }
    Ok(())
}

/// `level` is about this crate: what the gRPC library thinks at the level of debug is for those
/// who ask for it by RUST_LOG.
fn filter(level: LevelFilter) -> Result<EnvFilter, FromEnvError> {
    if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some_and(|filter| !filter.is_empty()) {
        return EnvFilter::try_from_default_env();
    }
    let others = level.min(LevelFilter::WARN);
    Ok(EnvFilter::new(format!("{others},goumemd={level}")))
}
