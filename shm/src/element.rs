//! Which types may lie in shared memory, and how readers tell them apart.
//!
//! A type is named by a 24-bit tag in the block's shape word: fixed numbers for the primitive
//! types (docs/layout.md lists them), a hash of a name of your choice for your own. Validity is
//! zerocopy's business: a reference is only made to types for which every bit pattern is valid.

use goumem_alloc::TypeTag;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::sync;

/// A type that may lie in a block: no padding, no pointers, a known tag.
///
/// Implemented for the integers of fixed width, `f32`, `f64`, `bool`, `char` and arrays of them.
/// For a type of your own derive zerocopy's traits and name it with
/// [`shm_type!`](crate::shm_type).
pub trait ShmType:
    TryFromBytes + IntoBytes + Immutable + KnownLayout + Send + Sync + 'static
{
    /// The tag in the shape word of blocks of this type (or of slices of it).
    const TYPE_TAG: TypeTag;
}

/// A [`ShmType`] for which every bit pattern is a value, so that references to it can be given.
pub trait Plain: ShmType + FromBytes {}

impl<T: ShmType + FromBytes> Plain for T {}

macro_rules! primitive_tags {
    ($($type:ty = $tag:literal),* $(,)?) => {
        $(impl ShmType for $type {
            const TYPE_TAG: TypeTag = TypeTag::from_low_bits($tag);
        })*
    };
}

primitive_tags! {
    u8 = 1, u16 = 2, u32 = 3, u64 = 4, u128 = 5,
    i8 = 6, i16 = 7, i32 = 8, i64 = 9, i128 = 10,
    f32 = 11, f64 = 12, bool = 13, char = 14,
}

/// An array has its element's tag: a block of `[f64; 4]` resolves as a slice of `f64`.
impl<T: ShmType, const N: usize> ShmType for [T; N] {
    const TYPE_TAG: TypeTag = T::TYPE_TAG;
}

/// Returns the tag of a user type: FNV-1a of its name, folded to 23 bits, top bit set so that it
/// never meets a primitive's.
pub const fn type_tag_of_name(name: &str) -> TypeTag {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    TypeTag::from_low_bits((hash >> 23 ^ hash) & 0x7f_ffff | 0x80_0000)
}

/// Names a type of your own, so that a block of it is told from blocks of other types in every
/// process and language: change the name when the layout changes.
///
/// ```
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Sample {
///     time_ns: u64,
///     value: f64,
/// }
/// goumem_shm::shm_type!(Sample, "telemetry/Sample/1");
/// ```
#[macro_export]
macro_rules! shm_type {
    ($type:ty, $name:literal) => {
        impl $crate::ShmType for $type {
            const TYPE_TAG: $crate::TypeTag = $crate::type_tag_of_name($name);
        }
    };
}

mod sealed {
    #[expect(unnameable_types, reason = "nobody outside is to name it")]
    pub trait Sealed {}
}

/// Atomics of fixed width and arrays of them: the only types that references to a shared block
/// are given for, since others may write it at the same time.
///
/// # Safety
/// Every bit pattern is valid, and the type has interior mutability in all of its bytes.
pub unsafe trait AtomicElement: sealed::Sealed + Send + Sync + 'static {
    /// The tag of blocks that may be seen as this: that of the plain integer.
    const TYPE_TAG: TypeTag;
}

macro_rules! atomics {
    ($($atomic:ident = $plain:ty),* $(,)?) => {
        $(
            #[expect(clippy::disallowed_types, reason = "the caller's payload, not a word of ours")]
            impl sealed::Sealed for core::sync::atomic::$atomic {}
            #[expect(clippy::disallowed_types, reason = "the caller's payload, not a word of ours")]
            // SAFETY: an atomic integer: every bit pattern is valid, all of it is an UnsafeCell.
            unsafe impl AtomicElement for core::sync::atomic::$atomic {
                const TYPE_TAG: TypeTag = <$plain as ShmType>::TYPE_TAG;
            }
        )*
    };
}

macro_rules! small_atomics {
    ($($atomic:ident = $plain:ty),* $(,)?) => {
        $(
            impl sealed::Sealed for core::sync::atomic::$atomic {}
            // SAFETY: an atomic integer: every bit pattern is valid, all of it is an UnsafeCell.
            unsafe impl AtomicElement for core::sync::atomic::$atomic {
                const TYPE_TAG: TypeTag = <$plain as ShmType>::TYPE_TAG;
            }
        )*
    };
}

atomics! { AtomicU64 = u64 }
small_atomics! {
    AtomicU8 = u8, AtomicU16 = u16, AtomicU32 = u32,
    AtomicI8 = i8, AtomicI16 = i16, AtomicI32 = i32, AtomicI64 = i64,
}

impl<T: AtomicElement, const N: usize> sealed::Sealed for [T; N] {}
// SAFETY: an array of such elements has no other bytes.
unsafe impl<T: AtomicElement, const N: usize> AtomicElement for [T; N] {
    const TYPE_TAG: TypeTag = T::TYPE_TAG;
}

// The facade's atomics are the same types, but where every write counts.
const _: () = assert!(size_of::<sync::AtomicU64>() == 8);

#[cfg(crash)]
macro_rules! counted_atomics {
    ($($atomic:ident = $plain:ty),* $(,)?) => {
        $(
            impl sealed::Sealed for sync::$atomic {}
            // SAFETY: an atomic integer: every bit pattern is valid, all of it is an UnsafeCell.
            unsafe impl AtomicElement for sync::$atomic {
                const TYPE_TAG: TypeTag = <$plain as ShmType>::TYPE_TAG;
            }
        )*
    };
}

#[cfg(crash)]
counted_atomics! { AtomicU64 = u64, AtomicU32 = u32 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_names_never_meet_those_of_primitives_and_differ() {
        let a = type_tag_of_name("telemetry/Sample/1");
        let b = type_tag_of_name("telemetry/Sample/2");
        assert_ne!(a, b);
        assert!(a.get() >= 0x80_0000 && b.get() >= 0x80_0000);
        assert!(<char as ShmType>::TYPE_TAG.get() < 0x80_0000);
    }
}
