//! Names that people choose: parsed once, at the edge, so that a `PoolName` anywhere else is a
//! name the rules allow. A name begins with a letter or digit, so it is never `.`, `..` or an
//! option of some command, and pool names may serve as file names.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name or label, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text has more than [`MAX_NAME_BYTES`].
    #[error("has {len_bytes} bytes; the longest has {MAX_NAME_BYTES}")]
    TooLong {
        /// Length of the text, in bytes.
        len_bytes: usize,
    },
    /// A character is not allowed where it stands.
    #[error("has {character:?} at byte {at_byte}; it must match {rule}")]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// Where it stands, in bytes from the start.
        at_byte: usize,
        /// What is allowed.
        rule: &'static str,
    },
}

/// Checks length, first character and the rest against one rule.
fn check(text: &str, extra: &[char], rule: &'static str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    check_length(text)?;
    let allowed = |at: usize, c: char| c.is_ascii_alphanumeric() || (at > 0 && extra.contains(&c));
    match text.char_indices().find(|&(at, c)| !allowed(at, c)) {
        None => Ok(()),
        Some((at_byte, character)) => Err(NameError::Character {
            character,
            at_byte,
            rule,
        }),
    }
}

fn check_length(text: &str) -> Result<(), NameError> {
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong {
            len_bytes: text.len(),
        });
    }
    Ok(())
}

fn check_pool(text: &str) -> Result<(), NameError> {
    check(text, &['.', '_', '-'], "[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
}

fn check_arena(text: &str) -> Result<(), NameError> {
    check(
        text,
        &['.', '_', '-', '/'],
        "[A-Za-z0-9][A-Za-z0-9._/-]{0,63}",
    )
}

fn check_label(text: &str) -> Result<(), NameError> {
    check_length(text)?;
    match text.char_indices().find(|&(_, c)| !is_printable(c)) {
        None => Ok(()),
        Some((at_byte, character)) => Err(NameError::Character {
            character,
            at_byte,
            rule: "printable text",
        }),
    }
}

/// `escape_debug` leaves exactly the printable characters alone, besides those it quotes. So no
/// control, format or direction-changing character gets from a label into a terminal.
fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().eq([c])
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                (*name.0).into()
            }
        }

        // Str's hash and order are those of the name, so maps can be asked with a &str.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name_type! {
    /// Names a pool or an arena pool: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    PoolName, check_pool
}
name_type! {
    /// Names a published block in its pool: the rule of [`PoolName`].
    BlockName, check_pool
}
name_type! {
    /// Names a shared arena in its arena pool: as [`PoolName`], and `/` after the first
    /// character. The `/` is for the reader; it makes no directories.
    ArenaName, check_arena
}
name_type! {
    /// A session's label, for people: up to 64 bytes of printable text. May be empty.
    Label, check_label
}

impl Default for Label {
    fn default() -> Self {
        Self("".into())
    }
}

#[cfg(test)]
mod tests;
