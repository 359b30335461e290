//! What a check has found.

use std::fmt;

use crate::output::{Cell, Record, escape};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// It will go wrong when more is asked for.
    Warning,
    /// It goes wrong now.
    Problem,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Which check.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// Lower case, no full stop.
    pub(super) message: String,
    pub(super) numbers: Record,
    /// Commands, each of which mends it.
    pub(super) mend: Vec<String>,
}

impl Finding {
    pub(super) fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self {
            check,
            level,
            message: message.into(),
            numbers: Record::new(),
            mend: Vec::new(),
        }
    }

    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message)
    }

    pub(super) fn number(mut self, key: &'static str, cell: impl Into<Cell>) -> Self {
        self.numbers = self.numbers.with(key, cell);
        self
    }

    pub(super) fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend.push(command.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, check) = (self.level.name(), self.check);
        writeln!(f, "{level:<8} {check:<11} {}", escape(&self.message))?;
        for command in &self.mend {
            writeln!(f, "{:<20} try: {}", "", escape(command))?;
        }
        Ok(())
    }
}
