//! One process's view of a segment: a base, a length, and the checks between an offset and an
//! address. Everything else in this crate reaches shared bytes through here.
//!
//! ```text
//! base (2 MiB aligned if asked)                                  base + len
//! ├──────── window ────────┼──── guard ────┼──────── window ────────┤
//!        MAP_SHARED            PROT_NONE           MAP_SHARED
//! ```
//!
//! A mapping with a guard is reserved whole with `PROT_NONE`, and its windows are mapped over the
//! reservation, so that the guard is never a gap that a later `mmap` of somebody else could fill.
//!
//! # The payload rule
//!
//! Other processes write these bytes while we read them. Rust's memory model says nothing about
//! them (rust-lang/unsafe-code-guidelines #152, #607), so this crate keeps to what those threads
//! agree on:
//!
//! - Control words are atomics of one fixed size each, and the only references made to bytes that
//!   others may reach are to atomics. (A block that is held alone is another matter: the crate's
//!   first page, "Exclusivity".)
//! - Payload goes in and out through raw pointers, by `ptr::copy_nonoverlapping` of bytes into or
//!   out of memory that this process alone has. There is never a `&[u8]` or `&mut [u8]` of bytes
//!   that others may reach, so the compiler may not assume that two reads agree; and a copy does not look at what
//!   it copies, so a racing writer can spoil the values that arrive and nothing else. Whoever
//!   needs whole values checks the block's slot word after the copy, or holds the block alone.
//! - A plain copy and not a loop over atomic bytes, because it is ten times as fast for 80 KB,
//!   and the bulk-atomic copy that would be both (rust-lang/rfcs #3301) is not there yet.
//!
//! # Read-only mappings
//!
//! A store or read-modify-write through an atomic of a read-only mapping is `SIGSEGV`, and so may
//! be a load stronger than `Relaxed` ([`core::sync::atomic`], "Atomic accesses to read-only
//! memory"). Load `Relaxed` and put a `fence(Acquire)` behind it; ask [`Mapping::is_writable`]
//! before a write.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::process::Pid;

use super::error::MapError;
use super::fork::Born;
use super::segment::Segment;
use super::{HUGE_PAGE_BYTES, OS_PAGE_BYTES, to_u64, to_usize};
use crate::sync::{AtomicU32, AtomicU64};

mod reservation;
#[cfg(test)]
mod tests;

use reservation::{Populate, Reservation};

/// What a mapping, or an fd that was handed out, allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    /// Returns whether it allows writing.
    pub const fn is_writable(self) -> bool {
        matches!(self, Self::ReadWrite)
    }
}

/// How to map a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPlan {
    /// How much of the segment, from its start. A positive multiple of 4096.
    pub len_bytes: u64,
    /// Bytes that shall fault, in whole OS pages strictly inside the mapping.
    pub guard: Option<Range<u64>>,
    /// Whether the base is a multiple of 2 MiB, so that processes can share huge pages.
    pub align_2mib: bool,
}

impl MapPlan {
    /// Plans to map `len_bytes` in one piece.
    pub const fn whole(len_bytes: u64) -> Self {
        Self {
            len_bytes,
            guard: None,
            align_2mib: false,
        }
    }

    fn check(&self, segment_bytes: u64) -> io::Result<()> {
        let in_pages = |n: u64| n.is_multiple_of(OS_PAGE_BYTES);
        let len_ok = self.len_bytes > 0
            && self.len_bytes <= segment_bytes
            && in_pages(self.len_bytes)
            && isize::try_from(self.len_bytes).is_ok();
        let guard_ok = self.guard.as_ref().is_none_or(|guard| {
            0 < guard.start
                && guard.start < guard.end
                && guard.end < self.len_bytes
                && in_pages(guard.start)
                && in_pages(guard.end)
        });
        if len_ok && guard_ok {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "cannot map {} of {segment_bytes} bytes with guard {:?}",
                self.len_bytes, self.guard
            ),
        ))
    }
}

/// A mapped segment.
///
/// It is not inherited by a forked child, where touching it faults, and not part of a core dump.
///
/// # Invariants
///
/// - `base` points to `len_bytes` bytes of address space that belong to `memory`, and stay mapped
///   until it is dropped: shared and readable (writable if `access` says so) outside of `guard`.
/// - `len_bytes` is at most `isize::MAX`; `guard` lies within it, empty if there is none.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len_bytes: u64,
    guard: Range<u64>,
    access: Access,
    /// Always there, until `drop`.
    memory: Option<Memory>,
    process: Pid,
    born: Born,
}

/// Whose address space a mapping lies in.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their drops")]
enum Memory {
    Windows(Reservation),
    Whole(MmapRaw),
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let memory = self.memory.take();
        if rustix::process::getpid() != self.process {
            // A forked child did not inherit the mapping, so what lies at its addresses now, if
            // anything, is somebody else's.
            std::mem::forget(memory);
        }
    }
}

// SAFETY:
// - `base` is owned through `memory`, which any thread may unmap.
// - `&Mapping` gives out raw pointers, atomics, and copies by the payload rule above, which is
//   made for writers that share nothing with us but the bytes; a second thread is one of them.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Returns whether this process is a forked child of the one that mapped it, so that nothing
    /// of it is here.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.born.is_elsewhere()
    }

    /// Maps the start of a segment.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a plan that does not fit the segment; `EACCES` when the segment's fd is
    /// read-only and the access is not; `ENOMEM` when address space or mappings run out.
    pub fn map(segment: &Segment, access: Access, plan: MapPlan) -> io::Result<Self> {
        plan.check(segment.len_bytes())?;
        if plan.guard.is_none() && !plan.align_2mib {
            return Self::map_whole(segment, access, plan.len_bytes);
        }
        let align_bytes = if plan.align_2mib {
            HUGE_PAGE_BYTES
        } else {
            OS_PAGE_BYTES
        };
        let reservation = Reservation::new(plan.len_bytes, align_bytes)?;
        let guard = plan.guard.unwrap_or(plan.len_bytes..plan.len_bytes);
        for window in [0..guard.start, guard.end..plan.len_bytes] {
            if !window.is_empty() {
                reservation.map_window(segment.file(), access, window)?;
            }
        }
        reservation.keep_from_others()?;
        // INVARIANT: the windows cover everything but the guard, and the plan was checked.
        let base = reservation.base();
        Ok(Self::new(
            base,
            plan.len_bytes,
            guard,
            access,
            Memory::Windows(reservation),
        ))
    }

    /// Makes shared memory without a segment, for tests.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a length that is not a positive multiple of 4096; `ENOMEM`.
    pub fn anonymous(len_bytes: u64) -> io::Result<Self> {
        MapPlan::whole(len_bytes).check(len_bytes)?;
        let reservation = Reservation::anonymous(len_bytes)?;
        // INVARIANT: an anonymous reservation is readable and writable throughout.
        let (base, no_guard) = (reservation.base(), len_bytes..len_bytes);
        Ok(Self::new(
            base,
            len_bytes,
            no_guard,
            Access::ReadWrite,
            Memory::Windows(reservation),
        ))
    }

    fn map_whole(segment: &Segment, access: Access, len_bytes: u64) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(to_usize(len_bytes));
        let map = match access {
            Access::ReadOnly => options.map_raw_read_only(segment.file())?,
            Access::ReadWrite => options.map_raw(segment.file())?,
        };
        map.advise(Advice::DontFork)?;
        map.advise(Advice::DontDump)?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        // INVARIANT: memmap2 mapped `len_bytes` shared with this access; there is no guard.
        Ok(Self::new(
            base,
            len_bytes,
            len_bytes..len_bytes,
            access,
            Memory::Whole(map),
        ))
    }

    /// The caller sees to the invariants.
    fn new(
        base: NonNull<u8>,
        len_bytes: u64,
        guard: Range<u64>,
        access: Access,
        memory: Memory,
    ) -> Self {
        let process = rustix::process::getpid();
        Self {
            base,
            len_bytes,
            guard,
            access,
            memory: Some(memory),
            process,
            born: Born::here(),
        }
    }

    /// Returns the length, guard included.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Returns whether stores are allowed.
    pub fn is_writable(&self) -> bool {
        self.access.is_writable()
    }

    /// Returns the word at `offset`, a multiple of 8.
    ///
    /// In a read-only mapping it may only be loaded, `Relaxed` (module docs).
    ///
    /// # Errors
    ///
    /// Any [`MapError`] but `ReadOnly`.
    #[inline(always)]
    pub fn atomic_u64(&self, offset: u64) -> Result<&AtomicU64, MapError> {
        let word = self.aligned::<AtomicU64>(offset, 1)?;
        // SAFETY:
        // - `aligned` checked that the 8 bytes are mapped outside the guard, and 8-aligned.
        // - They stay mapped for as long as `self` is borrowed.
        // - Every bit pattern is a valid `AtomicU64`, and shared words are accessed as such only.
        Ok(unsafe { word.as_ref() })
    }

    /// Returns the word at `offset`, if that is a multiple of 8 before the guard: where all control
    /// words are. Otherwise as [`Mapping::atomic_u64`], with two checks instead of five.
    #[inline(always)]
    pub(crate) fn control_word(&self, offset: u64) -> Option<&AtomicU64> {
        if offset >= self.guard.start || offset & 7 != 0 {
            return None;
        }
        // SAFETY: `offset` is below the guard, so inside the one mapping that `base` points to.
        let word = unsafe { self.base.add(to_usize(offset)) }.cast::<AtomicU64>();
        // SAFETY:
        // - The guard starts at a multiple of 4096, or where the mapping ends, which is one too: 8
        //   bytes from a multiple of 8 before it are mapped, and 8-aligned since the base is.
        // - For lifetime and validity as in `atomic_u64`.
        Some(unsafe { word.as_ref() })
    }

    /// Returns the half word at `offset`, a multiple of 4. Otherwise as [`Mapping::atomic_u64`].
    ///
    /// # Errors
    ///
    /// Any [`MapError`] but `ReadOnly`.
    #[inline]
    pub fn atomic_u32(&self, offset: u64) -> Result<&AtomicU32, MapError> {
        let word = self.aligned::<AtomicU32>(offset, 1)?;
        // SAFETY: as in `atomic_u64`, with 4 bytes.
        Ok(unsafe { word.as_ref() })
    }

    /// Returns `n_words` words from `offset` on. Otherwise as [`Mapping::atomic_u64`].
    ///
    /// # Errors
    ///
    /// Any [`MapError`] but `ReadOnly`.
    #[inline]
    pub fn atomic_slice_u64(&self, offset: u64, n_words: usize) -> Result<&[AtomicU64], MapError> {
        let words = self.aligned::<AtomicU64>(offset, n_words)?;
        // SAFETY:
        // - `aligned` checked that all the words are mapped outside the guard, and 8-aligned;
        //   together they are no longer than the mapping, which is at most `isize::MAX`.
        // - For lifetime and validity as in `atomic_u64`.
        Ok(unsafe { std::slice::from_raw_parts(words.as_ptr(), n_words) })
    }

    /// Copies the bytes from `offset` on. What others write meanwhile may or may not be in the
    /// copy, in any mixture (module docs).
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfRange`], [`MapError::Guard`].
    #[inline]
    pub fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<(), MapError> {
        let from = self.pointer(offset, to_u64(into.len()))?;
        // SAFETY:
        // - `from` is readable for `into.len()` bytes, checked by `pointer`; `into` is writable.
        // - They do not overlap: `into` is a `&mut`, so nobody reaches it but us; a block that is held
        //   alone is not copied out through here.
        // - Bytes have no alignment and no invalid values; racing writers: the payload rule.
        unsafe {
            from.as_ptr()
                .copy_to_nonoverlapping(into.as_mut_ptr(), into.len())
        };
        Ok(())
    }

    /// Copies `bytes` to `offset` and on.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfRange`], [`MapError::Guard`], [`MapError::ReadOnly`].
    #[inline]
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> Result<(), MapError> {
        let to = self.pointer_mut(offset, to_u64(bytes.len()))?;
        // SAFETY:
        // - `to` is writable for `bytes.len()` bytes, checked by `pointer_mut`.
        // - For overlap and racing readers as in `copy_out`.
        unsafe {
            to.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Ok(())
    }

    /// Writes zeroes. Pages of the range that are not committed become so.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfRange`], [`MapError::Guard`], [`MapError::ReadOnly`].
    pub fn fill_zero(&self, range: Range<u64>) -> Result<(), MapError> {
        let len_bytes = self.range_len(&range)?;
        let to = self.pointer_mut(range.start, len_bytes)?;
        // SAFETY: `to` is writable for `len_bytes`, checked by `pointer_mut`; racing readers: the
        // payload rule.
        unsafe { to.as_ptr().write_bytes(0, to_usize(len_bytes)) };
        Ok(())
    }

    /// Maps the pages of the range for writing at once, so that the first writes do not fault one
    /// by one. Best effort: on an error the pages are as before and still work.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a range outside; `EFAULT` or `ENOMEM` when there is no memory; `EINVAL`
    /// before Linux 5.14.
    pub fn prefault_write(&self, range: Range<u64>) -> io::Result<()> {
        let len_bytes = self.range_len(&range).map_err(invalid_input)?;
        let start = self
            .pointer_mut(range.start, len_bytes)
            .map_err(invalid_input)?;
        reservation::populate(start, len_bytes, Populate::Write)
    }

    /// Maps the pages of the range for reading at once. It commits the holes in it.
    ///
    /// # Errors
    ///
    /// As [`Mapping::prefault_write`].
    pub fn prefault_read(&self, range: Range<u64>) -> io::Result<()> {
        let len_bytes = self.range_len(&range).map_err(invalid_input)?;
        let start = self
            .pointer(range.start, len_bytes)
            .map_err(invalid_input)?;
        reservation::populate(start, len_bytes, Populate::Read)
    }

    /// Returns the address of `len` bytes at `offset`: the one place that computes an address.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfRange`], [`MapError::Guard`].
    #[inline(always)]
    pub(crate) fn pointer(&self, offset: u64, len: u64) -> Result<NonNull<u8>, MapError> {
        let end = match offset.checked_add(len) {
            Some(end) if end <= self.len_bytes => end,
            _ => return Err(self.out_of_range(offset, len)),
        };
        if offset < self.guard.end && end > self.guard.start {
            return Err(MapError::Guard {
                offset_bytes: offset,
                len_bytes: len,
            });
        }
        // SAFETY: `offset` is at most `len_bytes`, which is at most `isize::MAX`, so the sum stays
        // inside (or one past) the one mapping that `base` points to.
        Ok(unsafe { self.base.add(to_usize(offset)) })
    }

    /// As `pointer`, for writing.
    #[inline]
    pub(crate) fn pointer_mut(&self, offset: u64, len: u64) -> Result<NonNull<u8>, MapError> {
        if !self.access.is_writable() {
            return Err(MapError::ReadOnly {
                offset_bytes: offset,
                len_bytes: len,
            });
        }
        self.pointer(offset, len)
    }

    /// Returns the address of `n` values of `T` at `offset`, aligned for `T`.
    #[inline]
    fn aligned<T>(&self, offset: u64, n: usize) -> Result<NonNull<T>, MapError> {
        let len = to_u64(n).checked_mul(to_u64(size_of::<T>()));
        let len = len.ok_or_else(|| self.out_of_range(offset, u64::MAX))?;
        let start = self.pointer(offset, len)?.cast::<T>();
        // The base is aligned to a page, so this is the alignment of the offset.
        if !start.is_aligned() {
            let align_bytes = to_u64(align_of::<T>());
            return Err(MapError::Misaligned {
                offset_bytes: offset,
                align_bytes,
            });
        }
        Ok(start)
    }

    fn range_len(&self, range: &Range<u64>) -> Result<u64, MapError> {
        let len = range.end.checked_sub(range.start);
        len.ok_or_else(|| self.out_of_range(range.start, 0))
    }

    #[cold]
    fn out_of_range(&self, offset_bytes: u64, len_bytes: u64) -> MapError {
        MapError::OutOfRange {
            offset_bytes,
            len_bytes,
            mapping_bytes: self.len_bytes,
        }
    }
}

fn invalid_input(error: MapError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
