//! ByteService.

use goumem_alloc::Handle;
use prost::bytes::Bytes;

use super::message::message;
use super::{ProtocolError, parse};
use crate::v1;

message! {
    /// Reads what a handle names.
    #[derive(Copy)]
    Read <=> ReadRequest {
        /// Names it.
        handle: Handle,
        /// Where to begin, from its start.
        offset_bytes: u64 = parse::extent,
        /// How much; none: to the end.
        length_bytes: Option<u64> = parse::optional_size,
    }
}

message! {
    /// The first message of a write: what to write to, where, and the first bytes.
    WriteStart <=> WriteRequest {
        /// Names it.
        handle: Handle,
        /// Where to begin, from its start.
        offset_bytes: u64 = parse::extent,
        /// The bytes; may be empty.
        data: Bytes,
    }
}

/// Each further message of a write: bytes that follow the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritePiece {
    /// The bytes.
    pub data: Bytes,
}

impl From<WritePiece> for v1::WriteRequest {
    fn from(piece: WritePiece) -> Self {
        Self {
            handle: None,
            offset_bytes: 0,
            data: piece.data,
        }
    }
}

impl TryFrom<v1::WriteRequest> for WritePiece {
    type Error = ProtocolError;

    fn try_from(wire: v1::WriteRequest) -> Result<Self, ProtocolError> {
        const WHY: &str = "goes in the first message only";
        if wire.handle.is_some() {
            return Err(ProtocolError::invalid("handle", "set", WHY));
        }
        if wire.offset_bytes != 0 {
            return Err(ProtocolError::invalid(
                "offset_bytes",
                wire.offset_bytes,
                WHY,
            ));
        }
        Ok(Self { data: wire.data })
    }
}

message! {
    /// What has been written.
    #[derive(Copy)]
    Written <=> WriteReply {
        /// How much.
        written_bytes: u64,
    }
}
