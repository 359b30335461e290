//! Address space of our own: reserved without access, filled with windows, unmapped when dropped.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::Access;
use crate::os::to_usize;

/// Which page tables to fill.
#[derive(Debug, Clone, Copy)]
pub(super) enum Populate {
    Read,
    Write,
}

/// A run of address space.
///
/// # Invariants
///
/// `len` bytes from `base` on were mapped by us, and nothing else unmaps any of them.
#[derive(Debug)]
pub(super) struct Reservation {
    base: NonNull<u8>,
    len: usize,
}

impl Reservation {
    /// Reserves `len_bytes` that fault, at a multiple of `align_bytes` (a power of two, at least
    /// an OS page).
    pub(super) fn new(len_bytes: u64, align_bytes: u64) -> io::Result<Self> {
        let (len, align) = (to_usize(len_bytes), to_usize(align_bytes));
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let reserve = |len| Self::map(len, ProtFlags::empty(), flags);
        // Since 6.7 the kernel aligns by itself what could be huge pages, so that there is nothing
        // to cut off.
        let whole = len.checked_next_multiple_of(align);
        let reservation = reserve(whole.ok_or(io::ErrorKind::OutOfMemory)?)?;
        if reservation.base.addr().get().is_multiple_of(align) {
            return Ok(reservation);
        }
        drop(reservation);
        let slack = align - to_usize(super::OS_PAGE_BYTES);
        let total = len.checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut reservation = reserve(total)?;
        let head = reservation.base.align_offset(align);
        reservation.cut_front(head)?;
        reservation.cut_back(len)?;
        Ok(reservation)
    }

    /// Makes zeroed memory that forks would share.
    pub(super) fn anonymous(len_bytes: u64) -> io::Result<Self> {
        Self::map(
            to_usize(len_bytes),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Puts the bytes `window` of `file` at the same place in the reservation. The caller has
    /// checked the window: whole pages, within the reservation and the file.
    pub(super) fn map_window(
        &self,
        file: &File,
        access: Access,
        window: Range<u64>,
    ) -> io::Result<()> {
        let (start, end) = (to_usize(window.start), to_usize(window.end));
        assert!(
            start < end && end <= self.len,
            "window {window:?} leaves {} bytes",
            self.len
        );
        let prot = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: `start` is less than `len`, so this stays inside the reservation.
        let at = unsafe { self.base.add(start) }.as_ptr().cast::<c_void>();
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY:
        // - `MAP_FIXED` replaces `end - start` bytes at `at`, all of them ours, by the invariant.
        // - No pointer into them has been given out: the mapping is not built yet.
        unsafe { rustix::mm::mmap(at, end - start, prot, flags, file, window.start) }?;
        Ok(())
    }

    /// Keeps it, with the windows that are in it by now, out of forked children and core dumps.
    pub(super) fn keep_from_others(&self) -> io::Result<()> {
        for advice in [Advice::LinuxDontFork, Advice::LinuxDontDump] {
            // SAFETY: all of it is mapped, by the invariant; these two change what a fork and a
            // core dump see, and no byte of ours.
            unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.len, advice) }?;
        }
        Ok(())
    }

    fn map(len: usize, prot: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: without `MAP_FIXED` the kernel chooses addresses that nobody uses.
        let base = unsafe { rustix::mm::mmap_anonymous(null_mut(), len, prot, flags) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // INVARIANT: just mapped, and known to nobody else.
        Ok(Self { base, len })
    }

    /// Gives back the first `n` bytes.
    fn cut_front(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Ok(());
        }
        // SAFETY: the first `n` bytes are ours, by the invariant, and nobody points into them.
        unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), n) }?;
        // SAFETY: `n` is less than `len`, so the sum stays inside the reservation.
        self.base = unsafe { self.base.add(n) };
        // INVARIANT: what is left was part of the same mapping.
        self.len -= n;
        Ok(())
    }

    /// Gives back all but the first `len` bytes.
    fn cut_back(&mut self, len: usize) -> io::Result<()> {
        let extra = self.len - len;
        if extra == 0 {
            return Ok(());
        }
        // SAFETY: `len` is less than `self.len`, so this stays inside the reservation.
        let tail = unsafe { self.base.add(len) };
        // SAFETY: the last `extra` bytes are ours, by the invariant, and nobody points into them.
        unsafe { rustix::mm::munmap(tail.as_ptr().cast(), extra) }?;
        // INVARIANT: what is left was part of the same mapping.
        self.len = len;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY:
        // - The whole run is ours, by the invariant.
        // - Whoever got pointers into it borrowed the mapping that is being dropped.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Fills the page tables of the pages around `len_bytes` from `start` on, which are mapped.
pub(super) fn populate(start: NonNull<u8>, len_bytes: u64, how: Populate) -> io::Result<()> {
    let page = to_usize(super::OS_PAGE_BYTES);
    let before = start.addr().get() % page;
    let advice = match how {
        Populate::Read => Advice::LinuxPopulateRead,
        Populate::Write => Advice::LinuxPopulateWrite,
    };
    // SAFETY: mappings begin at a page, so the start of the page that `start` lies in is mapped.
    let first = unsafe { start.sub(before) };
    let len = to_usize(len_bytes).saturating_add(before);
    // SAFETY: populating faults pages in as an access would, and changes no byte; the kernel
    // answers for ranges that cannot be, without a signal.
    unsafe { rustix::mm::madvise(first.as_ptr().cast(), len, advice) }?;
    Ok(())
}
