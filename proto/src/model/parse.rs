//! Rules for values whose type alone does not say what they may be: sizes, alignments, modes.
//! Each takes the name of the field, for the error.

use goumem_alloc::{HUGE_BYTES, SessionNumber};

use super::message::Field;
use super::{DEFAULT_ALIGN_BYTES, MAX_SIZE_BYTES, ProtocolError};

type Result<T> = std::result::Result<T, ProtocolError>;

/// A size of something, which is never nothing.
pub(super) fn size(field: &'static str, value: u64) -> Result<u64> {
    if value == 0 {
        return Err(ProtocolError::invalid(field, value, "must be 1 or more"));
    }
    extent(field, value)
}

/// A place in a block or arena, or a length that may be 0.
pub(super) fn extent(field: &'static str, value: u64) -> Result<u64> {
    if value > MAX_SIZE_BYTES {
        return Err(ProtocolError::invalid(field, value, "must be 2^40 or less"));
    }
    Ok(value)
}

/// A size where 0 means that none is given.
pub(super) fn optional_size(field: &'static str, value: u64) -> Result<Option<u64>> {
    Ok(Some(extent(field, value)?).filter(|&size| size != 0))
}

/// An alignment, of which 0 is the default.
pub(super) fn align(field: &'static str, value: u64) -> Result<u64> {
    match value {
        0 => Ok(DEFAULT_ALIGN_BYTES),
        1..=HUGE_BYTES if value.is_power_of_two() => Ok(value),
        _ => Err(ProtocolError::invalid(
            field,
            value,
            "must be a power of two up to 2 MiB",
        )),
    }
}

/// A mode of memory, which nobody executes.
pub(super) fn mode(field: &'static str, value: u32) -> Result<u32> {
    if value & !0o666 != 0 {
        let why = "must have read and write bits only, as 0o660";
        return Err(ProtocolError::invalid(
            field,
            format_args!("{value:#o}"),
            why,
        ));
    }
    Ok(value)
}

/// The number of a client's session: not nobody's and not the daemon's.
pub(super) fn client_session(field: &'static str, value: u32) -> Result<SessionNumber> {
    let session = SessionNumber::from_wire(field, value)?;
    if !session.is_client() {
        return Err(ProtocolError::invalid(
            field,
            value,
            "no client has this number",
        ));
    }
    Ok(session)
}

/// A list of at most `max` messages.
pub(super) fn bounded_list<W, D>(field: &'static str, wire: Vec<W>, max: usize) -> Result<Vec<D>>
where
    Vec<D>: Field<Vec<W>>,
{
    if wire.len() > max {
        let why = format!("at most {max} go in one call");
        return Err(ProtocolError::invalid(
            field,
            format_args!("{} long", wire.len()),
            why,
        ));
    }
    Field::from_wire(field, wire)
}
