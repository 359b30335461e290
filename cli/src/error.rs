//! What went wrong, as people and programs want it: what, the numbers, who holds it, what to type
//! next, and the exit code.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use goumem::{Error, Reason};
use serde_json::{Map, Value, json};

use crate::args::{ArenaCommand, ArenaPoolCommand, BlockCommand, Command, PoolCommand};
use crate::output::{self, Format, human_bytes};

#[cfg(test)]
mod tests;

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
            self.hints = hints(self.reason, self.exit, command);
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
        match error {
            Error::Daemon { metadata, .. } => failure.numbers = metadata,
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

/// Returns what to type next.
fn hints(reason: Option<Reason>, exit: Exit, command: &Command) -> Vec<String> {
    let subject = Subject::of(command);
    let pool = subject.pool.unwrap_or("POOL");
    let name = subject.name.unwrap_or("NAME");
    let kind = subject.kind;
    let Some(reason) = reason else {
        return match exit {
            Exit::Unreachable => strings(["goumemd", "goumemctl --socket PATH ping"]),
            _ => Vec::new(),
        };
    };
    match reason {
        Reason::PoolNotFound => vec![
            format!("goumemctl {kind} ls"),
            format!("goumemctl {kind} create {pool} {}", subject.sizes),
        ],
        Reason::PoolExists => vec![
            format!("goumemctl {kind} stat {pool}"),
            format!("goumemctl {kind} rm {pool}"),
            "the same with --exist-ok".to_owned(),
        ],
        Reason::GeometryMismatch => {
            vec![
                format!("goumemctl {kind} stat {pool}"),
                format!("goumemctl {kind} rm {pool}"),
            ]
        }
        Reason::NameNotFound => vec![format!("goumemctl block ls {pool}")],
        Reason::NameExists => vec![
            "the same with --replace".to_owned(),
            format!("goumemctl withdraw {pool} {name} --free"),
        ],
        Reason::SessionNotFound => strings(["goumemctl session ls"]),
        Reason::PoolExhausted => vec![
            format!("goumemctl pool set-capacity {pool} SIZE"),
            format!("goumemctl block ls {pool}"),
        ],
        Reason::BudgetExhausted => strings([
            "goumemctl info",
            "goumemctl pool purge POOL",
            "goumemd --budget SIZE",
        ]),
        Reason::QuotaExceeded => {
            vec![
                "goumemctl session ls".to_owned(),
                format!("goumemctl block ls {pool}"),
            ]
        }
        Reason::CapacityTooSmall | Reason::CapacityTooLarge => {
            vec![format!("goumemctl pool stat {pool}")]
        }
        // The message says which one, and why.
        Reason::InvalidField => Vec::new(),
        _ => strings([reason.advice()]),
    }
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

/// What a command is about.
#[derive(Debug)]
struct Subject<'a> {
    pool: Option<&'a str>,
    name: Option<&'a str>,
    /// The subcommand for pools like that, and sizes for an example.
    kind: &'static str,
    sizes: &'static str,
}

impl<'a> Subject<'a> {
    fn of(command: &'a Command) -> Self {
        match command {
            Command::Pool(command) => match command {
                PoolCommand::Create { name, .. }
                | PoolCommand::Stat { name }
                | PoolCommand::Rm { name }
                | PoolCommand::SetCapacity { name, .. }
                | PoolCommand::Purge { name }
                | PoolCommand::Flush { name } => Self::pool(Some(name)),
                PoolCommand::Ls => Self::pool(None),
            },
            Command::ArenaPool(command) => match command {
                ArenaPoolCommand::Create { name, .. }
                | ArenaPoolCommand::Stat { name }
                | ArenaPoolCommand::Rm { name } => Self::arena_pool(Some(name)),
                ArenaPoolCommand::Ls => Self::arena_pool(None),
            },
            Command::Arena(ArenaCommand::Ls { pool }) => Self::arena_pool(Some(pool)),
            Command::Block(BlockCommand::Ls { pool }) => Self::pool(Some(pool)),
            Command::Put { pool, name, .. }
            | Command::Get { pool, name }
            | Command::Withdraw { pool, name, .. } => Self {
                name: Some(name),
                ..Self::pool(Some(pool))
            },
            _ => Self::pool(None),
        }
    }

    fn pool(pool: Option<&'a String>) -> Self {
        Self {
            pool: pool.map(String::as_str),
            name: None,
            kind: "pool",
            sizes: "64MiB",
        }
    }

    fn arena_pool(pool: Option<&'a String>) -> Self {
        Self {
            kind: "arena-pool",
            sizes: "16 1MiB",
            ..Self::pool(pool)
        }
    }
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

/// By no-color.org: set and not empty.
pub(crate) fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
