//! What went wrong, as people and programs want it: what, the numbers, who holds it, what to type
//! next, and the exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use goumem::{Error, Reason};
use serde_json::{Map, Value, json};

use crate::args::Command;
use crate::output::{self, Format, human_bytes};

mod advice;
mod explain;
#[cfg(test)]
mod tests;

use self::advice::Subject;
pub(crate) use self::explain::explain;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Error = 1,
    Usage = 2,
    NotFound = 3,
    Permission = 4,
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    /// As on the wire, if it is one of the daemon's reasons.
    reason: Option<Reason>,
    /// Lower case, no full stop.
    message: String,
    numbers: Vec<(String, String)>,
    held_by: Vec<String>,
    /// Commands, or a sentence.
    hints: Vec<String>,
}

impl Failure {
    /// Returns a failure without a reason of the daemon's.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            reason: None,
            message: message.into(),
            numbers: Vec::new(),
            held_by: Vec::new(),
            hints: Vec::new(),
        }
    }

    pub(crate) fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(crate) fn saying(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn held_by(mut self, holders: Vec<String>) -> Self {
        self.held_by = holders;
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Adds what to type next, unless the command knew better.
    pub(crate) fn advise(mut self, command: &Command) -> Self {
        if self.hints.is_empty() {
            self.hints = advice::hints(self.reason, self.exit, &Subject::of(command), &self);
        }
        self
    }

    /// Returns the daemon's reason.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Returns a number that came with the reason.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let found = self.numbers.iter().find(|(name, _)| name == key);
        found.and_then(|(_, value)| value.parse().ok())
    }

    /// Adds a number, unless it is there.
    pub(crate) fn with_number(mut self, key: &str, value: u64) -> Self {
        if self.number(key).is_none() {
            self.numbers.push((key.to_owned(), value.to_string()));
        }
        self
    }

    /// Writes it, in bold where that helps.
    pub(crate) fn print(&self, format: Format) {
        let mut stderr = io::stderr().lock();
        let colour = stderr.is_terminal() && !no_colour();
        let text = match format {
            Format::Json => format!("{:#}\n", self.json()),
            Format::Yaml => output::yaml(&self.json()),
            Format::Table | Format::Plain if colour => {
                self.to_string()
                    .replacen("error:", "\x1b[1;31merror:\x1b[0m", 1)
            }
            Format::Table | Format::Plain => self.to_string(),
        };
        // Nobody is left to be told that stderr is closed.
        let _ = stderr.write_all(text.as_bytes());
    }

    fn json(&self) -> Value {
        let numbers = self.numbers.iter().map(|(key, value)| {
            let value = value
                .parse::<u64>()
                .map_or_else(|_| json!(value), Value::from);
            (key.clone(), value)
        });
        json!({ "error": {
            "message": self.message,
            "reason": self.reason.map(Reason::as_str),
            "exit_code": self.exit as u8,
            "metadata": numbers.collect::<Map<_, _>>(),
            "held_by": self.held_by,
            "try": self.hints,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        if !self.held_by.is_empty() {
            writeln!(f, "  held by: {}", self.held_by.join(", "))?;
        }
        if !self.hints.is_empty() {
            writeln!(f, "  try:     {}", self.hints.join("   |   "))?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Self::new(exit_of(&error), chain(&error));
        failure.reason = error.reason();
        if failure.reason.is_some_and(is_about_sizes) {
            failure.message = human_sizes(&failure.message);
        }
        match error {
            Error::Daemon {
                reason, metadata, ..
            } => {
                failure.numbers = metadata;
                if let (Some(what), Some(limit)) = (table(reason), failure.number("limit")) {
                    failure.message = format!("there are {limit} {what}, and no more may be");
                }
            }
            Error::Exhausted {
                requested_bytes,
                largest_free_bytes,
                ..
            } => {
                let numbers = [
                    ("requested_bytes", requested_bytes),
                    ("largest_free_bytes", largest_free_bytes),
                ];
                failure.numbers = numbers
                    .into_iter()
                    .filter_map(|(key, value)| Some((key.to_owned(), value?.to_string())))
                    .collect();
            }
            _ => {}
        }
        failure
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Error, chain(&error))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let exit = error.downcast_ref::<Error>().map_or(Exit::Error, exit_of);
        Self::new(exit, chain(error.as_ref()))
    }
}

/// Returns the exit code for an error of the library.
pub(crate) fn exit_of(error: &Error) -> Exit {
    match error {
        Error::NoDaemon { source, .. } if is_denied(source.as_ref()) => return Exit::Permission,
        Error::NoDaemon { .. } | Error::Transport { .. } | Error::NoAnswer { .. } => {
            return Exit::Unreachable;
        }
        Error::SocketPath(_) => return Exit::Usage,
        _ => {}
    }
    match error.reason() {
        Some(
            Reason::PoolNotFound
            | Reason::NameNotFound
            | Reason::SessionNotFound
            | Reason::StaleHandle
            | Reason::DoubleFree
            | Reason::PoolDestroyed,
        ) => Exit::NotFound,
        Some(Reason::PermissionDenied | Reason::NotOwner) => Exit::Permission,
        Some(Reason::InvalidField) => Exit::Usage,
        Some(Reason::ShuttingDown | Reason::Recovering) => Exit::Unreachable,
        _ => Exit::Error,
    }
}

/// Returns whether the socket is there but for others.
fn is_denied(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns a holder for people: `pid 4121 trainer (uid 1000) 180 MiB`. A pid of 0 is nobody's.
pub(crate) fn holder(pid: u32, what: &str, uid: u32, bytes: u64) -> String {
    let bytes = human_bytes(bytes);
    match (pid, what) {
        (0, what) => format!("{what} {bytes}"),
        (pid, "") => format!("pid {pid} (uid {uid}) {bytes}"),
        (pid, what) => format!("pid {pid} {what} (uid {uid}) {bytes}"),
    }
}

/// Writes an error with its causes, each once.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Returns what there are too many of.
fn table(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::TooManyPools => "pools and arena pools",
        Reason::TooManySessions => "sessions",
        Reason::TooManyRecords => "kept blocks, names, pins and holders in the pool",
        Reason::TooManyWaiters => "waiters for an arena of the pool",
        _ => return None,
    })
}

/// Returns whether the daemon's message for a reason has sizes in it.
fn is_about_sizes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BudgetExhausted
            | Reason::PoolExhausted
            | Reason::QuotaExceeded
            | Reason::CapacityTooSmall
            | Reason::CapacityTooLarge
            | Reason::ArenaFull
            | Reason::OutOfRange
            | Reason::BlocksOutstanding
            | Reason::GeometryMismatch
    )
}

/// Writes the sizes of a message as people do: `67108864 bytes` and `5 of 67108864 used`. The
/// daemon's messages have whole numbers, for whoever cuts them apart.
fn human_sizes(message: &str) -> String {
    /// What stands behind a size, or between two of them.
    const UNITS: [&str; 6] = ["bytes", "of", "used", "granted", "committed", "available"];
    let words: Vec<&str> = message.split(' ').collect();
    let mut written: Vec<String> = Vec::new();
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        let (before, digits) = match word.strip_prefix('(') {
            Some(digits) => ("(", digits),
            None => ("", word),
        };
        let next = words.peek().map(|next| next.trim_end_matches([',', ')']));
        // What follows "of" at the end is one too.
        let last = written.last().map_or("", String::as_str);
        let is_size = next.is_some_and(|next| UNITS.contains(&next))
            || last.ends_with("_bytes")
            || (last == "of" && next.is_none())
            || (last == "free" && next.is_some_and(|next| next.starts_with('(')))
            || (last == "not" && message.contains("_bytes "));
        let (digits, after) = match digits.strip_suffix(',') {
            Some(digits) => (digits, ","),
            None => (digits, ""),
        };
        match digits.parse::<u64>() {
            Ok(bytes) if is_size => {
                let mut text = format!("{before}{}{after}", human_bytes(bytes));
                if next == Some("bytes")
                    && let Some(unit) = words.next()
                {
                    text.push_str(unit.trim_start_matches("bytes"));
                }
                if let Some(field) = written.last_mut()
                    && let Some(what) = field.strip_suffix("_bytes")
                {
                    *field = what.replace('_', " ");
                }
                written.push(text);
            }
            _ => written.push(word.to_owned()),
        }
    }
    written.join(" ")
}

/// By no-color.org: set and not empty.
pub(crate) fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
