//! The types that a value of the configuration can have: how each is written, what is said when it
//! is written otherwise, and where it goes.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// A type, and the field of `T` that takes its value.
pub(crate) enum Kind<T: 'static> {
    /// Bytes, as "64MiB". A number without a unit is bytes.
    Size(fn(&mut T, u64)),
    /// A time, as "10s".
    Duration(fn(&mut T, Duration)),
    /// A number in a range.
    Count(RangeInclusive<u32>, fn(&mut T, u32)),
    /// Permission bits in octal, of those in the mask.
    Mode(u32, fn(&mut T, u32)),
    /// A path.
    Path(fn(&mut T, PathBuf)),
    /// IP address and port.
    Address(fn(&mut T, SocketAddr)),
    /// One of these words.
    Choice(&'static [Word<T>]),
    /// Any other text or number, with what is expected of it. The function returns false for what
    /// it does not take.
    Text(&'static str, fn(&mut T, &str) -> bool),
}

/// A word that can be chosen, and what that does.
pub(crate) type Word<T> = (&'static str, fn(&mut T));

/// A value as a layer has it: files have numbers, everything else is text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// A text.
    Text(String),
    /// A number, as TOML writes it.
    Number(i64),
    /// Anything else that TOML has, which no key takes.
    Other(&'static str),
}

impl Raw {
    /// Returns it as the layer has it, for messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Other(what) => (*what).to_owned(),
        }
    }
}

impl<T> Kind<T> {
    /// Puts a value where it belongs, and returns how it is written when nobody had a choice:
    /// equal values have equal texts.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn put(&self, target: &mut T, raw: &Raw) -> Result<String, String> {
        let put = match self {
            Self::Size(put) => size(raw).map(|bytes| {
                put(target, bytes);
                shown_size(bytes)
            }),
            Self::Duration(put) => text(raw).and_then(|text| {
                let time: humantime::Duration = text.parse().ok()?;
                put(target, time.into());
                Some(time.to_string())
            }),
            Self::Count(range, put) => count(raw).filter(|n| range.contains(n)).map(|n| {
                put(target, n);
                n.to_string()
            }),
            Self::Mode(mask, put) => text(raw).and_then(|text| {
                let mode = u32::from_str_radix(text, 8).ok()?;
                (mode & !mask == 0).then(|| put(target, mode))?;
                Some(format!("{mode:04o}"))
            }),
            Self::Path(put) => text(raw).filter(|text| !text.is_empty()).map(|text| {
                put(target, PathBuf::from(text));
                text.to_owned()
            }),
            Self::Address(put) => text(raw).and_then(|text| {
                let address = SocketAddr::from_str(text).ok()?;
                put(target, address);
                Some(address.to_string())
            }),
            Self::Choice(choices) => text(raw).and_then(|text| {
                let (word, put) = choices.iter().find(|(word, _)| *word == text)?;
                put(target);
                Some((*word).to_owned())
            }),
            Self::Text(_, put) => {
                let text = match raw {
                    Raw::Text(text) => Some(text.clone()),
                    Raw::Number(number) => Some(number.to_string()),
                    Raw::Other(_) => None,
                };
                text.filter(|text| put(target, text))
            }
        };
        put.ok_or_else(|| self.expected())
    }

    /// Returns what a value must be.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Size(_) => r#"a size, as "64MiB""#.to_owned(),
            Self::Duration(_) => r#"a time, as "10s" or "250ms""#.to_owned(),
            Self::Count(range, _) if *range.end() == u32::MAX => {
                format!("a number, at least {}", range.start())
            }
            Self::Count(range, _) => {
                format!("a number from {} to {}", range.start(), range.end())
            }
            Self::Mode(mask, _) => {
                format!(r#"permission bits in octal, of {mask:04o}, as "0660""#)
            }
            Self::Path(_) => "a path".to_owned(),
            Self::Address(_) => r#"an IP address and a port, as "127.0.0.1:7070""#.to_owned(),
            Self::Choice(choices) => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Text(expected, _) => (*expected).to_owned(),
        }
    }

    /// Returns what a value may look like, as TOML has it.
    pub(crate) fn example(&self) -> String {
        match self {
            Self::Size(_) => r#""64MiB""#.to_owned(),
            Self::Duration(_) => r#""10s""#.to_owned(),
            Self::Count(range, _) => range.start().to_string(),
            Self::Mode(..) => r#""0660""#.to_owned(),
            Self::Path(_) => r#""/path""#.to_owned(),
            Self::Address(_) => r#""127.0.0.1:7070""#.to_owned(),
            Self::Choice(choices) => format!("{:?}", choices.first().map_or("", |(word, _)| word)),
            // The one that is expected, if its words have one.
            Self::Text(expected, _) => {
                let quoted = expected.split('"').nth(1).unwrap_or("0");
                format!("{quoted:?}")
            }
        }
    }

    /// Returns a value as TOML writes it.
    pub(crate) fn in_toml(&self, shown: &str) -> String {
        match self {
            Self::Count(..) => shown.to_owned(),
            _ => format!("{shown:?}"),
        }
    }

    /// Returns what stands for a value on a command line.
    pub(crate) fn placeholder(&self) -> &'static str {
        match self {
            Self::Size(_) => "SIZE",
            Self::Duration(_) => "DURATION",
            Self::Count(..) => "N",
            Self::Mode(..) => "MODE",
            Self::Path(_) => "PATH",
            Self::Address(_) => "ADDRESS:PORT",
            Self::Choice(_) => "WORD",
            Self::Text(..) => "TEXT",
        }
    }
}

fn text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Text(text) => Some(text),
        Raw::Number(_) | Raw::Other(_) => None,
    }
}

fn size(raw: &Raw) -> Option<u64> {
    match raw {
        Raw::Text(text) => text.parse().ok().map(|size: ByteSize| size.as_u64()),
        Raw::Number(bytes) => u64::try_from(*bytes).ok(),
        Raw::Other(_) => None,
    }
}

fn count(raw: &Raw) -> Option<u32> {
    match raw {
        Raw::Text(text) => text.parse().ok(),
        Raw::Number(number) => u32::try_from(*number).ok(),
        Raw::Other(_) => None,
    }
}

/// Returns a size exactly, in the largest unit that allows it.
pub(crate) fn shown_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [
        ("PiB", 50),
        ("TiB", 40),
        ("GiB", 30),
        ("MiB", 20),
        ("KiB", 10),
    ];
    let fits = |&&(_, bits): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= bits;
    match UNITS.iter().find(fits) {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}
