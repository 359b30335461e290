//! How a domain struct mirrors a message: [`message!`] lists its fields once and makes both
//! conversions of that list, and [`Field`] says how each type of field looks on the wire.

use std::num::NonZeroU64;
use std::time::Duration;

use goumem_alloc::{
    Handle, HandleError, PageCount, PageIndex, PoolId, SessionNumber, SizeClass, TypeTag,
};
use prost::bytes::Bytes;

use super::{Access, Backing, MappedSpan, OpenNonce, ProtocolError, RequestId, SessionToken};
use crate::name::{ArenaName, BlockName, Label, NameError, PoolName};
use crate::reason::Reason;
use crate::v1;

/// A type that stands in a message as `W`. `field` is the field's name, for the error.
pub(super) trait Field<W>: Sized {
    fn from_wire(field: &'static str, wire: W) -> Result<Self, ProtocolError>;
    fn into_wire(self) -> W;
}

/// Declares a domain struct and its conversions from and to a message of `v1` with the same
/// fields. `field: type = rule` parses by that function of field name and value in place of the
/// type's [`Field::from_wire`]; `millis` holds the durations, whose wire names end in `_ms`;
/// `check = f` looks at the whole when all fields are parsed.
macro_rules! message {
    (
        $(#[$meta:meta])*
        $name:ident <=> $wire:ident {
            $($(#[$doc:meta])* $field:ident: $type:ty $(= $rule:path)?,)*
        }
        $(millis {
            $($(#[$ms_doc:meta])* $ms_field:ident <=> $ms_wire:ident: $ms_type:ty
                $(= $ms_rule:path)?,)*
        })?
        $(check = $check:path;)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            $($($(#[$ms_doc])* pub $ms_field: $ms_type,)*)?
        }

        impl From<$name> for crate::v1::$wire {
            fn from(value: $name) -> Self {
                Self {
                    $($field: $crate::model::message::Field::into_wire(value.$field),)*
                    $($($ms_wire: $crate::model::message::Field::into_wire(value.$ms_field),)*)?
                }
            }
        }

        impl TryFrom<crate::v1::$wire> for $name {
            type Error = $crate::model::ProtocolError;

            fn try_from(wire: crate::v1::$wire) -> Result<Self, $crate::model::ProtocolError> {
                let value = Self {
                    $($field: message!(@parse $field, wire.$field $(, $rule)?)?,)*
                    $($($ms_field: message!(@parse $ms_wire, wire.$ms_wire $(, $ms_rule)?)?,)*)?
                };
                $($check(&value)?;)?
                Ok(value)
            }
        }
    };
    (@parse $field:ident, $value:expr) => {
        $crate::model::message::Field::from_wire(stringify!($field), $value)
    };
    (@parse $field:ident, $value:expr, $rule:path) => {
        $rule(stringify!($field), $value)
    };
}

/// Makes the conversions between a reply that is a list and a `Vec`.
macro_rules! list {
    ($name:ty => $wire:ident.$field:ident) => {
        impl From<Vec<$name>> for crate::v1::$wire {
            fn from(values: Vec<$name>) -> Self {
                Self {
                    $field: $crate::model::message::Field::into_wire(values),
                }
            }
        }

        impl TryFrom<crate::v1::$wire> for Vec<$name> {
            type Error = $crate::model::ProtocolError;

            fn try_from(wire: crate::v1::$wire) -> Result<Self, $crate::model::ProtocolError> {
                $crate::model::message::Field::from_wire(stringify!($field), wire.$field)
            }
        }
    };
}

pub(super) use {list, message};

// A message that has to be there.
impl<W, D: TryFrom<W, Error = ProtocolError> + Into<W>> Field<Option<W>> for D {
    fn from_wire(field: &'static str, wire: Option<W>) -> Result<Self, ProtocolError> {
        let wire = wire.ok_or_else(|| ProtocolError::missing(field))?;
        Self::try_from(wire).map_err(|error| error.within(field))
    }

    fn into_wire(self) -> Option<W> {
        Some(self.into())
    }
}

impl<W, D: TryFrom<W, Error = ProtocolError> + Into<W>> Field<Vec<W>> for Vec<D> {
    fn from_wire(field: &'static str, wire: Vec<W>) -> Result<Self, ProtocolError> {
        let mut values = Self::with_capacity(wire.len());
        for (i, wire) in wire.into_iter().enumerate() {
            let value = D::try_from(wire);
            values.push(value.map_err(|error| error.within(format_args!("{field}[{i}]")))?);
        }
        Ok(values)
    }

    fn into_wire(self) -> Vec<W> {
        self.into_iter().map(Into::into).collect()
    }
}

macro_rules! plain_fields {
    ($($type:ty),*) => {$(
        impl Field<$type> for $type {
            fn from_wire(_: &'static str, wire: $type) -> Result<Self, ProtocolError> {
                Ok(wire)
            }

            fn into_wire(self) -> $type {
                self
            }
        }
    )*};
}
plain_fields!(bool, u32, u64, String, Bytes);

/// Numbers that need a look: `type as wire, the other way, the way in, what is wrong`.
macro_rules! number_fields {
    ($($type:ty as $wire:ty, $out:expr, $parse:expr, $why:literal;)*) => {$(
        impl Field<$wire> for $type {
            fn from_wire(field: &'static str, wire: $wire) -> Result<Self, ProtocolError> {
                let parse: fn($wire) -> Option<Self> = $parse;
                parse(wire).ok_or_else(|| ProtocolError::invalid(field, wire, $why))
            }

            fn into_wire(self) -> $wire {
                let out: fn(Self) -> $wire = $out;
                out(self)
            }
        }
    )*};
}
number_fields! {
    PoolId as u32, Self::get, Self::new, "no pool has this id";
    PageIndex as u32, Self::get, |n| Some(Self::new(n)), "";
    PageCount as u32, Self::get, |n| Some(Self::new(n)), "";
    TypeTag as u32, Self::get, Self::new, "type tags have 24 bits";
    RequestId as u64, Self::get, |n| Some(Self::new(n)), "";
    SizeClass as u32, |c| c.index().into(), |n| Self::from_index(n.try_into().ok()?),
        "no such size class";
    u16 as u32, Self::into, |n| n.try_into().ok(), "must have 16 bits";
    SessionNumber as u32, |n| n.get().into(), |n| Some(Self::new(n.try_into().ok()?)),
        "session numbers have 16 bits";
    // 0 means that none is given.
    Option<u32> as u32, Self::unwrap_or_default, |n| Some((n != 0).then_some(n)), "";
    Option<PageIndex> as u32, |p| p.map_or(0, PageIndex::get),
        |n| Some((n != 0).then(|| PageIndex::new(n))), "";
    Option<u64> as u64, Self::unwrap_or_default, |n| Some((n != 0).then_some(n)), "";
    Option<NonZeroU64> as u64, |n| n.map_or(0, NonZeroU64::get), |n| Some(NonZeroU64::new(n)), "";
    // Milliseconds, rounded up: a wait below one is still a wait.
    Duration as u64, |d| u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        |ms| Some(Self::from_millis(ms)), "";
    Option<Duration> as u64, |d| d.map_or(0, Field::into_wire),
        |ms| Some((ms != 0).then(|| Duration::from_millis(ms))), "";
    Access as i32, |a| v1::Access::from(a).into(), Self::from_number, "no such access";
    Option<Backing> as i32, |b| b.map_or(v1::Backing::Unspecified, Into::into).into(),
        Backing::from_number, "no such backing";
}

// The backing that a pool has; the daemon always knows it.
impl Field<i32> for Backing {
    fn from_wire(field: &'static str, wire: i32) -> Result<Self, ProtocolError> {
        Option::from_wire(field, wire)?.ok_or_else(|| ProtocolError::missing(field))
    }

    fn into_wire(self) -> i32 {
        Some(self).into_wire()
    }
}

macro_rules! name_fields {
    ($($name:ty),*) => {$(
        impl Field<String> for $name {
            fn from_wire(field: &'static str, wire: String) -> Result<Self, ProtocolError> {
                wire.parse().map_err(|error: NameError| {
                    ProtocolError::invalid(field, format_args!("{wire:?}"), error.to_string())
                })
            }

            fn into_wire(self) -> String {
                self.into()
            }
        }

        // Empty means none.
        impl Field<String> for Option<$name> {
            fn from_wire(field: &'static str, wire: String) -> Result<Self, ProtocolError> {
                if wire.is_empty() { Ok(None) } else { Field::from_wire(field, wire).map(Some) }
            }

            fn into_wire(self) -> String {
                self.map_or_else(String::new, Into::into)
            }
        }
    )*};
}
name_fields!(PoolName, BlockName, ArenaName, Label);

// A message that may be absent.
impl Field<Option<v1::MappedSpan>> for Option<MappedSpan> {
    fn from_wire(field: &'static str, wire: Option<v1::MappedSpan>) -> Result<Self, ProtocolError> {
        wire.map(|wire| Field::from_wire(field, Some(wire)))
            .transpose()
    }

    fn into_wire(self) -> Option<v1::MappedSpan> {
        self.map(Into::into)
    }
}

// Text where empty means none.
impl Field<String> for Option<String> {
    fn from_wire(_: &'static str, wire: String) -> Result<Self, ProtocolError> {
        Ok(Some(wire).filter(|text| !text.is_empty()))
    }

    fn into_wire(self) -> String {
        self.unwrap_or_default()
    }
}

impl Field<String> for Reason {
    fn from_wire(field: &'static str, wire: String) -> Result<Self, ProtocolError> {
        wire.parse()
            .map_err(|_| ProtocolError::invalid(field, &wire, "no such reason"))
    }

    fn into_wire(self) -> String {
        self.as_str().to_owned()
    }
}

impl Field<Vec<u8>> for SessionToken {
    fn from_wire(field: &'static str, wire: Vec<u8>) -> Result<Self, ProtocolError> {
        // The length alone: the value is a secret.
        Self::try_from(&*wire).map_err(|error| {
            let value = format_args!("{} bytes long", error.len_bytes);
            ProtocolError::invalid(field, value, error.to_string())
        })
    }

    fn into_wire(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

// No bytes mean none.
impl Field<Vec<u8>> for Option<OpenNonce> {
    fn from_wire(field: &'static str, wire: Vec<u8>) -> Result<Self, ProtocolError> {
        if wire.is_empty() {
            return Ok(None);
        }
        OpenNonce::try_from(wire.as_slice())
            .map(Some)
            .map_err(|_| ProtocolError::invalid(field, wire.len(), "must have 16 bytes or none"))
    }

    fn into_wire(self) -> Vec<u8> {
        self.map_or_else(Vec::new, |nonce| nonce.to_vec())
    }
}

impl From<Handle> for v1::Handle {
    fn from(handle: Handle) -> Self {
        let (high, low) = handle.to_words();
        Self { high, low }
    }
}

impl TryFrom<v1::Handle> for Handle {
    type Error = ProtocolError;

    fn try_from(v1::Handle { high, low }: v1::Handle) -> Result<Self, ProtocolError> {
        Self::from_words(high, low).map_err(|error| {
            let (field, word) = match error {
                HandleError::UnknownKind { .. } => ("low", low),
                _ => ("high", high),
            };
            ProtocolError::invalid(field, format_args!("{word:#018x}"), error.to_string())
        })
    }
}
