//! Allocators of one process, by their [`GlobalAlloc`]: as directly as a program that has one of
//! them as its global allocator calls it, and as safe as a `Box` for who has a block of it.

use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::heaps::{Heap, Touch};

/// An allocator that is the same whichever value of its type is asked.
pub(super) trait Peer: GlobalAlloc + Send + 'static {
    const NAME: &'static str;
    const THE: Self;
}

macro_rules! peers {
    ($($(#[$when:meta])? $allocator:path = $name:literal),* $(,)?) => {
        $($(#[$when])? impl Peer for $allocator {
            const NAME: &'static str = $name;
            const THE: Self = Self;
        })*
    };
}

peers! {
    std::alloc::System = "system",
    #[cfg(feature = "peers")] mimalloc::MiMalloc = "mimalloc",
    #[cfg(feature = "peers")] snmalloc_rs::SnMalloc = "snmalloc",
    #[cfg(feature = "peers")] tikv_jemallocator::Jemalloc = "jemalloc",
}

/// A peer as a heap.
#[derive(Debug)]
pub(super) struct PeerHeap<P>(PhantomData<fn() -> P>);

impl<P> PeerHeap<P> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P> Clone for PeerHeap<P> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<P: Peer> Heap for PeerHeap<P> {
    type Sized<const BYTES: usize> = SizedBlock<P, BYTES>;
    type Bytes = BytesBlock<P>;

    #[inline(always)]
    fn alloc<const BYTES: usize>(&self) -> anyhow::Result<SizedBlock<P, BYTES>> {
        let layout = Layout::new::<[u8; BYTES]>();
        // INVARIANT: BYTES bytes of `P`, from now on this block's.
        Ok(SizedBlock(alloc::<P>(layout), PhantomData))
    }

    #[inline(always)]
    fn alloc_bytes(&self, len_bytes: usize) -> anyhow::Result<BytesBlock<P>> {
        let layout = Layout::array::<u8>(len_bytes)?;
        let pointer = alloc::<P>(layout);
        // INVARIANT: `len_bytes` bytes of `P`, from now on this block's.
        Ok(BytesBlock(
            NonNull::slice_from_raw_parts(pointer, len_bytes),
            PhantomData,
        ))
    }
}

#[inline(always)]
fn alloc<P: Peer>(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "a block of no bytes");
    // SAFETY: the layout has bytes.
    let pointer = unsafe { P::THE.alloc(layout) };
    NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout))
}

/// A block whose size the compiler knows: an address, as a `Box` of an array is.
///
/// # Invariants
/// * The pointer is to `BYTES` bytes that a [`PeerHeap`] of `P` gave out for this block alone.
pub(crate) struct SizedBlock<P: Peer, const BYTES: usize>(NonNull<u8>, PhantomData<fn() -> P>);

/// A block whose size it does not: an address and a length, as a `Box` of a slice is.
///
/// # Invariants
/// * The pointer is to bytes that a [`PeerHeap`] of `P` gave out for this block alone.
pub(crate) struct BytesBlock<P: Peer>(NonNull<[u8]>, PhantomData<fn() -> P>);

// SAFETY: the block is the only way to its bytes, and global allocators take blocks back from any
// thread.
unsafe impl<P: Peer, const BYTES: usize> Send for SizedBlock<P, BYTES> {}
// SAFETY: as for a sized one.
unsafe impl<P: Peer> Send for BytesBlock<P> {}

impl<P: Peer, const BYTES: usize> Touch for SizedBlock<P, BYTES> {
    #[inline(always)]
    fn touch(&mut self) {
        let first = black_box(self.0);
        // SAFETY: the block's first byte, which is ours; blocks have at least one.
        unsafe { first.write(1) };
    }

    #[inline(always)]
    fn fill(&mut self, byte: u8) {
        let first = black_box(self.0);
        // SAFETY: all of the block's bytes, which are ours.
        unsafe { first.write_bytes(byte, BYTES) };
    }
}

impl<P: Peer> Touch for BytesBlock<P> {
    #[inline(always)]
    fn touch(&mut self) {
        let first = black_box(self.0).cast::<u8>();
        // SAFETY: the block's first byte, which is ours; blocks have at least one.
        unsafe { first.write(1) };
    }

    #[inline(always)]
    fn fill(&mut self, byte: u8) {
        let bytes = black_box(self.0);
        // SAFETY: all of the block's bytes, which are ours.
        unsafe { bytes.cast::<u8>().write_bytes(byte, bytes.len()) };
    }
}

impl<P: Peer, const BYTES: usize> Drop for SizedBlock<P, BYTES> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: given out by `P` for this layout (invariant), and given back once.
        unsafe { P::THE.dealloc(self.0.as_ptr(), Layout::new::<[u8; BYTES]>()) };
    }
}

impl<P: Peer> Drop for BytesBlock<P> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the length is that of a layout of bytes.
        let layout = unsafe { Layout::from_size_align_unchecked(self.0.len(), 1) };
        // SAFETY: given out by `P` for this layout (invariant), and given back once.
        unsafe { P::THE.dealloc(self.0.cast::<u8>().as_ptr(), layout) };
    }
}
