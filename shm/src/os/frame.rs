//! The frames on the fd socket. A client asks for one pool with its session's one-time token, and
//! the daemon answers with the pool's CONTROL and DATA fds. Little-endian; many requests follow
//! each other on one connection.
//!
//! ```text
//! request, 32 bytes                              reply, 16 bytes
//!  0  magic u32 "GMFD"                            0  magic u32 "GMFD"
//!  4  version u16 = 1                             4  version u16 = 1
//!  6  access u8 (1 read-only, 2 read-write)       6  status u16
//!  7  reserved u8 = 0                             8  n_fds u32
//!  8  token [u8; 16]                             12  access u32 (as asked for)
//! 24  pool_id u32
//! 28  reserved u32 = 0
//! ```

use std::fmt;

use super::mapping::Access;

/// Length of a request.
pub const REQUEST_BYTES: usize = 32;

/// Length of a reply.
pub const REPLY_BYTES: usize = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"GMFD");
const VERSION: u16 = 1;

/// Asks for the memory of one pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MapRequest {
    /// What the client wants to do with DATA. CONTROL is always read-only.
    pub access: Access,
    /// The session's secret.
    pub token: [u8; 16],
    /// Which pool.
    pub pool_id: u32,
}

/// Answers a [`MapRequest`]. With [`MapStatus::Ok`] come the fds of CONTROL and DATA, in that
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapReply {
    /// Whether the request was granted.
    pub status: MapStatus,
    /// How many fds come with the reply.
    pub n_fds: u32,
    /// What the DATA fd allows.
    pub access: Access,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MapStatus {
    /// The fds are attached.
    Ok = 0,
    /// The request was no valid frame.
    BadFrame = 1,
    /// The token is no living session's, or not of this process.
    BadToken = 2,
    /// There is no such pool.
    NotFound = 3,
    /// The pool's mode does not allow it.
    Denied = 4,
    /// The daemon failed; its log says why.
    Internal = 5,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer speaks something else.
    #[error("frame begins with {found:#010x}, not with {MAGIC:#010x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// The peer speaks another version.
    #[error("frame has version {found}, this is version {VERSION}")]
    Version {
        /// The peer's.
        found: u16,
    },
    /// A field holds what it cannot.
    #[error("frame field {field} cannot be {found}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u32,
    },
}

impl MapRequest {
    /// Writes the frame.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut frame = [0; REQUEST_BYTES];
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6] = access_code(self.access);
        frame[8..24].copy_from_slice(&self.token);
        frame[24..28].copy_from_slice(&self.pool_id.to_le_bytes());
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn decode(frame: &[u8; REQUEST_BYTES]) -> Result<Self, FrameError> {
        check_start(u32_at(frame, 0), u16_at(frame, 4))?;
        let access = access_of(u32::from(frame[6]))?;
        for (field, found) in [
            ("reserved byte", u32::from(frame[7])),
            ("reserved word", u32_at(frame, 28)),
        ] {
            if found != 0 {
                return Err(FrameError::Field { field, found });
            }
        }
        let mut token = [0; 16];
        token.copy_from_slice(&frame[8..24]);
        Ok(Self {
            access,
            token,
            pool_id: u32_at(frame, 24),
        })
    }
}

impl fmt::Debug for MapRequest {
    /// Leaves the token out: logs are read by more people than sockets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapRequest")
            .field("access", &self.access)
            .field("pool_id", &self.pool_id)
            .finish_non_exhaustive()
    }
}

impl MapReply {
    /// Writes the frame.
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut frame = [0; REPLY_BYTES];
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6..8].copy_from_slice(&(self.status as u16).to_le_bytes());
        frame[8..12].copy_from_slice(&self.n_fds.to_le_bytes());
        frame[12] = access_code(self.access);
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// Any [`FrameError`].
    pub fn decode(frame: &[u8; REPLY_BYTES]) -> Result<Self, FrameError> {
        check_start(u32_at(frame, 0), u16_at(frame, 4))?;
        Ok(Self {
            status: MapStatus::from_code(u16_at(frame, 6))?,
            n_fds: u32_at(frame, 8),
            access: access_of(u32_at(frame, 12))?,
        })
    }
}

impl MapStatus {
    fn from_code(code: u16) -> Result<Self, FrameError> {
        Ok(match code {
            0 => Self::Ok,
            1 => Self::BadFrame,
            2 => Self::BadToken,
            3 => Self::NotFound,
            4 => Self::Denied,
            5 => Self::Internal,
            _ => {
                return Err(FrameError::Field {
                    field: "status",
                    found: u32::from(code),
                });
            }
        })
    }
}

fn check_start(magic: u32, version: u16) -> Result<(), FrameError> {
    if magic != MAGIC {
        return Err(FrameError::Magic { found: magic });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    Ok(())
}

const fn access_code(access: Access) -> u8 {
    match access {
        Access::ReadOnly => 1,
        Access::ReadWrite => 2,
    }
}

fn access_of(code: u32) -> Result<Access, FrameError> {
    match code {
        1 => Ok(Access::ReadOnly),
        2 => Ok(Access::ReadWrite),
        found => Err(FrameError::Field {
            field: "access",
            found,
        }),
    }
}

fn u16_at<const N: usize>(frame: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([frame[at], frame[at + 1]])
}

fn u32_at<const N: usize>(frame: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: MapRequest = MapRequest {
        access: Access::ReadWrite,
        token: *b"0123456789abcdef",
        pool_id: 0x0102_0304,
    };

    #[test]
    fn request_has_the_documented_bytes() {
        assert_eq!(
            &REQUEST.encode(),
            b"GMFD\x01\x00\x02\x000123456789abcdef\x04\x03\x02\x01\x00\x00\x00\x00"
        );
        assert_eq!(MapRequest::decode(&REQUEST.encode()), Ok(REQUEST));
    }

    #[test]
    fn reply_has_the_documented_bytes() {
        let reply = MapReply {
            status: MapStatus::Ok,
            n_fds: 2,
            access: Access::ReadOnly,
        };
        assert_eq!(
            &reply.encode(),
            b"GMFD\x01\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00"
        );
        for code in 0..=5 {
            let status = MapStatus::from_code(code).unwrap();
            assert_eq!(status as u16, code);
            let reply = MapReply { status, ..reply };
            assert_eq!(MapReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn every_wrong_field_is_refused_by_name() {
        let with = |at: usize, byte: u8| {
            let mut frame = REQUEST.encode();
            frame[at] = byte;
            MapRequest::decode(&frame)
        };
        assert_eq!(with(0, b'X'), Err(FrameError::Magic { found: 0x4446_4d58 }));
        assert_eq!(with(4, 2), Err(FrameError::Version { found: 2 }));
        assert_eq!(
            with(6, 0),
            Err(FrameError::Field {
                field: "access",
                found: 0
            })
        );
        assert_eq!(
            with(7, 1),
            Err(FrameError::Field {
                field: "reserved byte",
                found: 1
            })
        );
        assert_eq!(
            with(31, 1),
            Err(FrameError::Field {
                field: "reserved word",
                found: 1 << 24
            })
        );
        assert_eq!(
            MapStatus::from_code(6),
            Err(FrameError::Field {
                field: "status",
                found: 6
            })
        );
    }

    #[test]
    fn token_is_not_printed() {
        assert!(
            !format!("{REQUEST:?}").contains("48"),
            "token bytes in {REQUEST:?}"
        );
        assert!(!format!("{REQUEST:?}").contains("0123"));
    }
}
