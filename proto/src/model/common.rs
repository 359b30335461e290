//! What requests and replies of all services have in common.

use goumem_alloc::{Handle, LayoutError, Placement, SizeClass, TypeTag};

use super::message::{Field, message};
use super::{ProtocolError, parse};
use crate::v1;

/// The largest size of anything: the payload of the largest pool, 2^40 bytes.
pub const MAX_SIZE_BYTES: u64 = 1 << 40;
/// The alignment of a request that asks for none, in bytes.
pub const DEFAULT_ALIGN_BYTES: u64 = 16;
/// The mode of a pool whose creator asks for none: its owner alone reads and writes.
pub const DEFAULT_MODE: u32 = 0o600;

/// What a holder may do with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Look at it.
    ReadOnly,
    /// Look and change.
    ReadWrite,
}

impl Access {
    /// Returns the access of that number on the wire; the default is read-write.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        match v1::Access::try_from(number).ok()? {
            v1::Access::ReadOnly => Some(Self::ReadOnly),
            v1::Access::ReadWrite | v1::Access::Unspecified => Some(Self::ReadWrite),
        }
    }
}

impl From<Access> for v1::Access {
    fn from(access: Access) -> Self {
        match access {
            Access::ReadOnly => Self::ReadOnly,
            Access::ReadWrite => Self::ReadWrite,
        }
    }
}

/// What backs a pool's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Anonymous memory, sealed against resizing, handed over by file descriptor.
    Memfd,
    /// An OS shared-memory name.
    Named,
    /// A file in the daemon's data directory.
    File,
}

impl Backing {
    /// Returns the backing of that number on the wire; `Some(None)` leaves it to the daemon.
    pub(super) fn from_number(number: i32) -> Option<Option<Self>> {
        Some(match v1::Backing::try_from(number).ok()? {
            v1::Backing::Unspecified => None,
            v1::Backing::Memfd => Some(Self::Memfd),
            v1::Backing::Named => Some(Self::Named),
            v1::Backing::File => Some(Self::File),
        })
    }
}

impl From<Backing> for v1::Backing {
    fn from(backing: Backing) -> Self {
        match backing {
            Backing::Memfd => Self::Memfd,
            Backing::Named => Self::Named,
            Backing::File => Self::File,
        }
    }
}

/// Who may open a pool, as for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// The owner: the creator's user.
    pub uid: u32,
    /// The group that the middle digit of the mode is about.
    pub gid: u32,
    /// Read (4) and write (2) for owner, group and others; at most `0o666`.
    pub mode: u32,
}

impl From<Permissions> for v1::Permissions {
    fn from(permissions: Permissions) -> Self {
        let Permissions { uid, gid, mode } = permissions;
        Self {
            uid,
            gid: Some(gid),
            mode,
        }
    }
}

impl TryFrom<v1::Permissions> for Permissions {
    type Error = ProtocolError;

    fn try_from(wire: v1::Permissions) -> Result<Self, ProtocolError> {
        let gid = wire.gid.ok_or_else(|| ProtocolError::missing("gid"))?;
        Ok(Self {
            uid: wire.uid,
            gid,
            mode: parse::mode("mode", wire.mode)?,
        })
    }
}

/// Parses what a creator may choose of the permissions: group and mode.
pub(super) fn chosen_permissions(
    wire: Option<v1::Permissions>,
) -> Result<(Option<u32>, u32), ProtocolError> {
    let wire = wire.unwrap_or_default();
    let mode = parse::mode("permissions.mode", wire.mode)?;
    Ok((wire.gid, if mode == 0 { DEFAULT_MODE } else { mode }))
}

/// Makes a retried call happen once: the client counts its calls, and the daemon answers a number
/// that it knows with the reply it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RequestId(u64);

impl RequestId {
    /// The call is not to be remembered.
    pub const NONE: Self = Self(0);

    /// Makes the id of that number; 0 is [`Self::NONE`].
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number, 0 for none.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns whether the call is to be remembered.
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// What to allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSpec {
    /// Bytes wanted, 1 or more.
    pub size_bytes: u64,
    /// A power of two up to 2 MiB.
    pub align_bytes: u64,
    /// The element type.
    pub type_tag: TypeTag,
}

impl BlockSpec {
    /// Returns the spec of an untyped block with the default alignment.
    pub const fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            align_bytes: DEFAULT_ALIGN_BYTES,
            type_tag: TypeTag::UNTYPED,
        }
    }

    /// Returns where a block like this goes.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] if no block can be like this, which is not so of a spec that was parsed.
    pub const fn placement(&self) -> Result<Placement, LayoutError> {
        SizeClass::for_layout(self.size_bytes, self.align_bytes)
    }
}

impl From<BlockSpec> for v1::BlockSpec {
    fn from(spec: BlockSpec) -> Self {
        CountedSpec { spec, count: 1 }.into()
    }
}

impl TryFrom<v1::BlockSpec> for BlockSpec {
    type Error = ProtocolError;

    fn try_from(wire: v1::BlockSpec) -> Result<Self, ProtocolError> {
        let CountedSpec { spec, count } = wire.try_into()?;
        if count != 1 {
            return Err(ProtocolError::invalid(
                "count",
                count,
                "this call makes one block",
            ));
        }
        Ok(spec)
    }
}

/// So many blocks of one spec, in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CountedSpec {
    /// What each block is like.
    pub spec: BlockSpec,
    /// How many, 1 or more.
    pub count: u32,
}

impl From<CountedSpec> for v1::BlockSpec {
    fn from(counted: CountedSpec) -> Self {
        let CountedSpec { spec, count } = counted;
        Self {
            size_bytes: spec.size_bytes,
            align_bytes: spec.align_bytes,
            type_tag: spec.type_tag.get(),
            count,
        }
    }
}

impl TryFrom<v1::BlockSpec> for CountedSpec {
    type Error = ProtocolError;

    fn try_from(wire: v1::BlockSpec) -> Result<Self, ProtocolError> {
        let spec = BlockSpec {
            size_bytes: parse::size("size_bytes", wire.size_bytes)?,
            align_bytes: parse::align("align_bytes", wire.align_bytes)?,
            type_tag: Field::from_wire("type_tag", wire.type_tag)?,
        };
        spec.placement().map_err(|error| {
            ProtocolError::invalid("size_bytes", wire.size_bytes, error.to_string())
        })?;
        Ok(Self {
            spec,
            count: wire.count.max(1),
        })
    }
}

message! {
    /// A block that is alive.
    #[derive(Copy)]
    BlockInfo <=> Block {
        /// Names it.
        handle: Handle,
        /// Bytes asked for.
        size_bytes: u64 = parse::size,
        /// Bytes it takes from the pool, with the rounding to its size class.
        used_bytes: u64,
        /// The element type.
        type_tag: TypeTag,
    }
    check = takes_its_size;
}

fn takes_its_size(block: &BlockInfo) -> Result<(), ProtocolError> {
    if block.used_bytes < block.size_bytes {
        let why = "a block takes at least its size";
        return Err(ProtocolError::invalid("used_bytes", block.used_bytes, why));
    }
    Ok(())
}
