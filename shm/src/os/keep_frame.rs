//! The frames between a daemon and the keeper of its fds. Both are of one user, and each checks
//! what the other sends all the same. Little-endian; one request is answered before the next.
//!
//! ```text
//! request, 48 bytes                        reply, 16 bytes
//!  0  magic u32 "GMKP"                      0  magic u32 "GMKP"
//!  4  version u16 = 1                       4  version u16 = 1
//!  6  op u8: 1 store (with one fd),         6  status u16: 0 done, 1 bad frame, 2 full
//!     2 remove, 3 list, 4 end               8  count u32: fds that follow (list)
//!  7  length of the name u8                12  reserved u32 = 0
//!  8  name, 40 bytes, zero-padded
//! ```
//!
//! After the reply to *list* follow `count` entries in batches of up to 64: their names as request
//! frames with the op *store*, and with the first byte of each batch its fds.

use std::fmt;

/// Length of a request, and of an entry of a list.
pub const KEEP_REQUEST_BYTES: usize = 48;
/// Length of a reply.
pub const KEEP_REPLY_BYTES: usize = 16;
/// Entries of a list that come with one message.
pub const KEEP_BATCH: usize = 64;
/// The longest name.
pub const MAX_FD_NAME_BYTES: usize = 40;

const MAGIC: u32 = u32::from_le_bytes(*b"GMKP");
const VERSION: u16 = 1;

/// Under what an fd is kept: letters, digits, dots and dashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdName(String);

impl FdName {
    /// Returns the name, unless it is none.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
        let fits = !name.is_empty() && name.len() <= MAX_FD_NAME_BYTES;
        (fits && name.bytes().all(plain)).then_some(Self(name))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a daemon asks of its keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepRequest {
    /// Keep the fd that comes with this, in place of one of the same name.
    Store(FdName),
    /// Close the fd of that name, if there is one.
    Remove(FdName),
    /// Hand out a duplicate of everything.
    List,
    /// Close everything and end.
    End,
}

/// What a keeper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepReply {
    /// Whether it was done.
    pub status: KeepStatus,
    /// How many entries follow.
    pub count: u32,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum KeepStatus {
    /// It was done.
    Done = 0,
    /// It was no request, or came with the wrong number of fds. The connection ends.
    BadFrame = 1,
    /// The keeper may hold no more.
    Full = 2,
}

/// Why bytes are no frame of a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("keeper's frame field {field} cannot be {found}")]
pub struct KeepFrameError {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub found: u32,
}

impl KeepRequest {
    /// Writes the frame.
    pub fn encode(&self) -> [u8; KEEP_REQUEST_BYTES] {
        let (op, name) = match self {
            Self::Store(name) => (1, name.as_str()),
            Self::Remove(name) => (2, name.as_str()),
            Self::List => (3, ""),
            Self::End => (4, ""),
        };
        let mut frame = [0; KEEP_REQUEST_BYTES];
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6] = op;
        frame[7] = u8::try_from(name.len()).expect("names have 40 bytes at most");
        frame[8..8 + name.len()].copy_from_slice(name.as_bytes());
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`KeepFrameError`].
    pub fn decode(frame: &[u8; KEEP_REQUEST_BYTES]) -> Result<Self, KeepFrameError> {
        check_start(
            [frame[0], frame[1], frame[2], frame[3]],
            [frame[4], frame[5]],
        )?;
        let wrong = |field, found: u8| KeepFrameError {
            field,
            found: found.into(),
        };
        let name = || {
            let bytes = frame[8..].get(..usize::from(frame[7]));
            bytes
                .and_then(|bytes| FdName::new(std::str::from_utf8(bytes).ok()?))
                .ok_or_else(|| wrong("name", frame[7]))
        };
        match frame[6] {
            1 => name().map(Self::Store),
            2 => name().map(Self::Remove),
            3 if frame[7] == 0 => Ok(Self::List),
            4 if frame[7] == 0 => Ok(Self::End),
            op => Err(wrong("op", op)),
        }
    }
}

impl KeepReply {
    /// Writes the frame.
    pub fn encode(&self) -> [u8; KEEP_REPLY_BYTES] {
        let mut frame = [0; KEEP_REPLY_BYTES];
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        frame[8..12].copy_from_slice(&self.count.to_le_bytes());
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`KeepFrameError`].
    pub fn decode(frame: &[u8; KEEP_REPLY_BYTES]) -> Result<Self, KeepFrameError> {
        check_start(
            [frame[0], frame[1], frame[2], frame[3]],
            [frame[4], frame[5]],
        )?;
        let status = match u16::from_le_bytes([frame[6], frame[7]]) {
            0 => KeepStatus::Done,
            1 => KeepStatus::BadFrame,
            2 => KeepStatus::Full,
            found => {
                return Err(KeepFrameError {
                    field: "status",
                    found: found.into(),
                });
            }
        };
        let count = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]);
        Ok(Self { status, count })
    }
}

fn check_start(magic: [u8; 4], version: [u8; 2]) -> Result<(), KeepFrameError> {
    let found = u32::from_le_bytes(magic);
    if found != MAGIC {
        let field = "magic";
        return Err(KeepFrameError { field, found });
    }
    let found = u16::from_le_bytes(version);
    if found != VERSION {
        return Err(KeepFrameError {
            field: "version",
            found: found.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_read_back() {
        let name = FdName::new("p0000002a.control").unwrap();
        for request in [
            KeepRequest::Store(name.clone()),
            KeepRequest::Remove(FdName::new("x".repeat(40)).unwrap()),
            KeepRequest::List,
            KeepRequest::End,
        ] {
            assert_eq!(KeepRequest::decode(&request.encode()), Ok(request));
        }
        for status in [KeepStatus::Done, KeepStatus::BadFrame, KeepStatus::Full] {
            let reply = KeepReply { status, count: 7 };
            assert_eq!(KeepReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn every_wrong_field_is_refused_by_name() {
        let good = KeepRequest::Store(FdName::new("root").unwrap()).encode();
        for (at, byte, field) in [
            (0, b'X', "magic"),
            (4, 2, "version"),
            (6, 0, "op"),
            (6, 3, "op"),
            (7, 41, "name"),
            (7, 0, "name"),
            (8, b'/', "name"),
            (9, 0xff, "name"),
        ] {
            let mut frame = good;
            frame[at] = byte;
            let refused = KeepRequest::decode(&frame).unwrap_err();
            assert_eq!(refused.field, field, "byte {at}");
        }
        let mut reply = KeepReply {
            status: KeepStatus::Done,
            count: 0,
        }
        .encode();
        reply[6] = 3;
        assert_eq!(KeepReply::decode(&reply).unwrap_err().field, "status");
        for name in ["", "a b", "ä", "a/b", &"x".repeat(41)] {
            assert_eq!(FdName::new(name), None, "{name}");
        }
    }
}
