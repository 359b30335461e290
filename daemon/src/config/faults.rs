//! What is wrong with a configuration: everything, not only the first thing, each with the place
//! where it is written.

use std::fmt;

/// Everything that is wrong, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<Fault>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is written: `FILE:LINE`, the name of a variable, or a flag.
    pub origin: String,
    /// What is wrong.
    pub what: FaultKind,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// There is no such key.
    Unknown {
        /// What is written, with its section.
        key: String,
        /// A key of ours that it may have meant.
        nearest: Option<String>,
    },
    /// The key has a value that it cannot have.
    Value {
        /// The key, with its section.
        key: String,
        /// What is written.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// A key that has no default is not there.
    Missing {
        /// The key, with its section.
        key: String,
    },
    /// The file cannot be read, or is not TOML.
    File {
        /// What the OS or the parser said.
        why: String,
    },
}

impl Faults {
    /// Returns them.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults = self.0.iter();
        if let Some(first) = faults.next() {
            write!(f, "{first}")?;
        }
        faults.try_for_each(|fault| write!(f, "\n{fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = &self.origin;
        match &self.what {
            FaultKind::Unknown { key, nearest } => {
                let nearest = did_you_mean(nearest.as_deref());
                write!(f, "{origin}: there is no key {key}{nearest}")
            }
            FaultKind::Value {
                key,
                value,
                expected,
            } => write!(f, "{origin}: {key} is {value}, expected {expected}"),
            FaultKind::Missing { key } => write!(f, "{origin}: {key} is missing"),
            FaultKind::File { why } => write!(f, "{origin}: {why}"),
        }
    }
}

/// Ends a sentence about a key that does not exist.
pub(super) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// How like two keys must be for one to be what the other meant.
const ALIKE: f64 = 0.85;

/// Returns the key that is most like `written`: whole, or by its last part in another section.
pub(super) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let likeness = |name: &str| {
        let whole = strsim::jaro_winkler(written, name);
        let parts = last(written).zip(last(name));
        let part = parts.map_or(0.0, |(a, b)| strsim::jaro_winkler(&a, &b));
        // The right word in the wrong section beats a like word in the right one.
        whole.max(part)
    };
    names
        .map(|name| (likeness(name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
