//! Domain types of the protocol. A request or a reply is parsed into one of these on receipt, on
//! either side, and everything past that works with values that are known to make sense: names
//! that obey the rules, handles that name something, sizes that cannot overflow. Requests keep
//! the name of their message without `Request`; a zero that the wire uses for "not given" is an
//! `Option` or has become the default.
//!
//! Parsing is `TryFrom` and fails with a [`ProtocolError`]; the way out is `From`.

mod arena;
mod arena_pool;
mod block;
mod bytes;
mod common;
mod control;
mod daemon;
mod map;
mod message;
mod parse;
mod pool;
mod session;
mod span;
mod watch;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use arena::*;
pub use arena_pool::*;
pub use block::*;
pub use bytes::*;
pub use common::{
    Access, Backing, BlockInfo, BlockSpec, CountedSpec, DEFAULT_ALIGN_BYTES, DEFAULT_MODE,
    MAX_SIZE_BYTES, Permissions, RequestId,
};
pub use control::MAX_CONTROL_CALLS;
pub use daemon::*;
pub use map::*;
pub use pool::*;
pub use session::*;
pub use span::*;
pub use watch::*;

use crate::reason::clip;

/// A message of the peer that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A field that has to be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Path of the field in the message: `pool.permissions.gid`.
        field: Cow<'static, str>,
    },
    /// A field's value is out of range, or contradicts another field.
    #[error("{field} is {value}: {why}")]
    Invalid {
        /// Path of the field in the message: `specs[3].size_bytes`.
        field: Cow<'static, str>,
        /// The value, at most 64 bytes of it.
        value: String,
        /// The rule it breaks.
        why: Cow<'static, str>,
    },
}

impl ProtocolError {
    /// Returns the error for an absent field.
    pub fn missing(field: impl Into<Cow<'static, str>>) -> Self {
        Self::Missing {
            field: field.into(),
        }
    }

    /// Returns the error for a field whose value breaks a rule.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        value: impl ToString,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        // The value is the peer's and may be megabytes; an error that quotes it must stay small.
        const MAX_QUOTED_BYTES: usize = 64;
        let value = clip(&value.to_string(), MAX_QUOTED_BYTES);
        Self::Invalid {
            field: field.into(),
            value,
            why: why.into(),
        }
    }

    /// Returns the path of the field.
    pub fn field(&self) -> &str {
        match self {
            Self::Missing { field } | Self::Invalid { field, .. } => field,
        }
    }

    /// Puts the path of the message around it before the field's.
    fn within(mut self, outer: impl std::fmt::Display) -> Self {
        match &mut self {
            Self::Missing { field } | Self::Invalid { field, .. } => {
                *field = Cow::Owned(format!("{outer}.{field}"));
            }
        }
        self
    }
}
