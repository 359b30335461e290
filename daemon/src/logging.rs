//! The log: where it goes (stderr), how it looks, how much of it. Only the program sets it up; a
//! program that embeds a daemon has its own.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FromEnvError};
use tracing_subscriber::fmt::format::{Compact, Format, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

#[cfg(test)]
mod tests;

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `Pretty` on a terminal, `Compact` for the journal, `Json` elsewhere.
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
    /// The environment names a collector that cannot be used.
    #[cfg(feature = "otel")]
    #[error("could not set up traces")]
    Traces(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The process has a log already.
    #[error("could not set up the log")]
    Taken(#[from] TryInitError),
}

/// The log of this process, to change how much it says.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    #[cfg(feature = "otel")]
    traces: Option<std::sync::Arc<crate::traces::Traces>>,
}

impl LogHandle {
    /// Logs as much as `level` says from now on, unless `RUST_LOG` says how much.
    pub fn set_level(&self, level: LevelFilter) {
        // The filter of RUST_LOG was read once already. The log is there as long as the process.
        if let Ok(filter) = filter(level) {
            let _ = self.filter.reload(filter);
        }
    }

    /// Sends on what is kept for later: traces, if there are any. Waits for that, but not for long.
    pub fn end(&self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = &self.traces {
            traces.end();
        }
    }
}

/// Sets up the process's log.
///
/// # Errors
///
/// Any [`LogError`].
pub fn init(config: LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(filter(config.level)?);
    let place = Place {
        terminal: io::stderr().is_terminal(),
        journal: is_journal(std::env::var_os("JOURNAL_STREAM").as_deref()),
    };
    let lines = lines_to(io::stderr, config.format, place).with_filter(filter);
    let log = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otel")]
    let traces = crate::traces::Traces::from_environment(|name| std::env::var_os(name))
        .map_err(LogError::Traces)?;
    #[cfg(feature = "otel")]
    let log = log.with(traces.as_ref().map(crate::traces::Traces::layer));
    log.try_init()?;
    Ok(LogHandle {
        filter: handle,
        #[cfg(feature = "otel")]
        traces: traces.map(std::sync::Arc::new),
    })
}

/// What stderr is.
#[derive(Debug, Clone, Copy)]
struct Place {
    terminal: bool,
    journal: bool,
}

/// Returns what writes events as lines.
fn lines_to<S, W>(writer: W, format: LogFormat, place: Place) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(place.terminal);
    // The journal has its own clock.
    match (format, place.journal) {
        (LogFormat::Auto | LogFormat::Compact, true) => layer
            .event_format(Journal(
                format::format().with_ansi(false).without_time().compact(),
            ))
            .boxed(),
        (LogFormat::Pretty, true) => layer.pretty().without_time().boxed(),
        (LogFormat::Json, true) => layer.json().without_time().boxed(),
        (LogFormat::Auto, false) if place.terminal => layer.pretty().boxed(),
        (LogFormat::Pretty, false) => layer.pretty().boxed(),
        (LogFormat::Compact, false) => layer.compact().boxed(),
        (LogFormat::Auto | LogFormat::Json, false) => layer.json().boxed(),
    }
}

/// One line for each event, which begins with its priority, as the journal takes it off again
/// (sd-daemon(3)).
struct Journal(Format<Compact, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// Returns whether stderr is the journal: `JOURNAL_STREAM` names its device and inode, and a
/// process whose stderr was redirected later inherits the variable all the same.
fn is_journal(stream: Option<&OsStr>) -> bool {
    let named = stream.and_then(|stream| {
        let (device, inode) = stream.to_str()?.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    rustix::fs::fstat(io::stderr()).is_ok_and(|found| named == Some((found.st_dev, found.st_ino)))
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
