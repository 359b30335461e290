//! What allocators have in common, so that one loop measures goumem and its peers.

use std::hint::black_box;

use goumem::blocking::Pool;
use goumem::{AllocError, Block};

use crate::timing::Run;

/// An allocator, to be used from one thread at a time. The methods here are always inlined: with
/// several callers they are worth a call to the compiler, which no program's own loop would have.
pub(crate) trait Heap: Clone + Send + 'static {
    /// A block whose size the compiler knows.
    type Sized<const BYTES: usize>: Touch;
    /// One whose size it does not.
    type Bytes: Touch;

    fn alloc<const BYTES: usize>(&self) -> anyhow::Result<Self::Sized<BYTES>>;
    fn alloc_bytes(&self, len_bytes: usize) -> anyhow::Result<Self::Bytes>;
}

/// A block that is freed when it is dropped.
pub(crate) trait Touch {
    /// Writes its first byte.
    fn touch(&mut self);
    /// Writes all of it.
    fn fill(&mut self, byte: u8);
}

/// Something to measure with any allocator.
pub(crate) trait Measure {
    /// Prepares it, and returns what to repeat and time.
    ///
    /// # Errors
    /// The allocator's.
    fn with<H: Heap>(&self, heap: H) -> anyhow::Result<Run<'static>>;
}

/// A pool that is mapped. Blocks come from what is at hand; the first error asks for more.
#[derive(Debug, Clone)]
pub(crate) struct Goumem(pub(crate) Pool);

impl Heap for Goumem {
    type Sized<const BYTES: usize> = Block<[u8; BYTES]>;
    type Bytes = Block<[u8]>;

    #[inline(always)]
    fn alloc<const BYTES: usize>(&self) -> anyhow::Result<Block<[u8; BYTES]>> {
        match self.0.try_alloc() {
            Ok(block) => Ok(block),
            Err(refusal) => after_lease(refusal, || self.0.alloc()),
        }
    }

    #[inline(always)]
    fn alloc_bytes(&self, len_bytes: usize) -> anyhow::Result<Block<[u8]>> {
        match self.0.try_alloc_slice(len_bytes) {
            Ok(block) => Ok(block),
            Err(refusal) => after_lease(refusal, || self.0.alloc_slice(len_bytes)),
        }
    }
}

#[cold]
fn after_lease<T>(
    refusal: AllocError,
    alloc: impl FnOnce() -> Result<T, goumem::Error>,
) -> anyhow::Result<T> {
    match refusal {
        AllocError::NeedsSpan => Ok(alloc()?),
        other => Err(other.into()),
    }
}

impl<const BYTES: usize> Touch for Block<[u8; BYTES]> {
    #[inline(always)]
    fn touch(&mut self) {
        *black_box(&mut self[0]) = 1;
    }

    #[inline(always)]
    fn fill(&mut self, byte: u8) {
        black_box(&mut **self).fill(byte);
    }
}

impl Touch for Block<[u8]> {
    #[inline(always)]
    fn touch(&mut self) {
        *black_box(&mut self[0]) = 1;
    }

    #[inline(always)]
    fn fill(&mut self, byte: u8) {
        black_box(&mut **self).fill(byte);
    }
}
