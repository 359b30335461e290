//! Allocating: each method once without waiting (`try_…`, from what is at hand) and once async,
//! which leases a span from the daemon when nothing is.

use goumem_alloc::{Placement, SizeClass};
use goumem_proto::model::SpanInfo;
use goumem_shm::{OwnedBlock, Plain, RawBlock, ShmType};
use zerocopy::IntoBytes as _;

use super::{Pool, PoolCore};
use crate::block::{Block, StrBlock};
use crate::error::{AllocError, Error};
use crate::local_heap::is_aligned;
use crate::matrix::Matrix;

/// What block is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) placement: Placement,
    pub(crate) size_bytes: u64,
    pub(crate) align_bytes: u64,
}

impl Want {
    #[inline]
    pub(crate) const fn new(size: usize, align: usize) -> Result<Self, goumem_alloc::LayoutError> {
        let (size_bytes, align_bytes) = (size as u64, align as u64);
        match SizeClass::for_layout(size_bytes, align_bytes) {
            Ok(placement) => Ok(Self {
                placement,
                size_bytes,
                align_bytes,
            }),
            Err(error) => Err(error),
        }
    }

    /// What blocks of a class are.
    pub(crate) const fn class(class: SizeClass) -> Self {
        Self {
            placement: Placement::Class(class),
            size_bytes: 0,
            align_bytes: 1,
        }
    }

    /// The class of a sized type is a constant.
    #[inline]
    const fn sized<T>() -> Result<Self, goumem_alloc::LayoutError> {
        const { Self::new(size_of::<T>(), align_of::<T>()) }
    }

    /// Returns whether a span has blocks like that.
    pub(crate) fn fits(&self, span: &SpanInfo) -> bool {
        match self.placement {
            Placement::Class(class) => {
                span.size_class == class && span.pages >= class.min_span_pages()
            }
            Placement::Large {
                class,
                pages,
                align_pages,
            } => {
                span.size_class == class
                    && span.pages >= pages
                    && is_aligned(span.first_page, align_pages)
            }
        }
    }

    #[inline]
    fn slice<E>(len: usize) -> Result<Self, goumem_alloc::LayoutError> {
        // No pool has so many bytes, so the size is refused as it should be.
        let size = len.saturating_mul(size_of::<E>());
        Self::new(size, align_of::<E>())
    }
}

#[inline(always)]
fn sized<T: ShmType>(block: RawBlock) -> Block<T> {
    Block::new(OwnedBlock::new(block).expect("placed by its size and alignment"))
}

#[inline(always)]
fn slice<E: ShmType>(block: RawBlock, len: usize) -> Block<[E]> {
    Block::new(OwnedBlock::new_slice(block, len).expect("placed by its size and alignment"))
}

#[inline(always)]
fn zeroed<T: ShmType>(mut block: RawBlock) -> Block<T> {
    block.fill_zero(size_of::<T>() as u64);
    sized(block)
}

#[inline(always)]
fn with_value<T: ShmType>(block: RawBlock, value: &T) -> Block<T> {
    let mut block = sized::<T>(block);
    block.write(value);
    block
}

fn copied<E: ShmType>(block: RawBlock, elements: &[E]) -> Block<[E]> {
    let bytes = elements.as_bytes();
    let mut as_bytes = OwnedBlock::<[u8]>::new_slice(block, bytes.len())
        .expect("placed by its size and alignment");
    as_bytes.copy_from_slice(bytes);
    slice(as_bytes.into_raw(), elements.len())
}

/// Elements of a matrix; too many are as many as no pool has.
fn area(rows: usize, columns: usize) -> usize {
    rows.saturating_mul(columns)
}

impl Pool {
    /// Allocates a block for a `T` from what is at hand, without waiting. Its bytes are
    /// unspecified: those of whatever was there before, perhaps of another process.
    ///
    /// # Errors
    /// [`AllocError::NeedsSpan`] when a span must be leased first: [`alloc`](Self::alloc) does.
    ///
    /// ```
    /// # use goumem::{AllocError, PoolOptions, blocking};
    /// # let client = blocking::Client::embedded()?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
    /// let block = match pool.try_alloc::<[u32; 4]>() {
    ///     Err(AllocError::NeedsSpan) => pool.alloc::<[u32; 4]>()?,
    ///     other => other?,
    /// };
    /// # Ok::<(), goumem::Error>(())
    /// ```
    #[inline(always)]
    pub fn try_alloc<T: ShmType>(&self) -> Result<Block<T>, AllocError> {
        match self.at_hand_for::<T>() {
            Some(block) => Ok(sized(block)),
            None => self.try_sized(),
        }
    }

    /// As [`try_alloc`](Self::try_alloc), with all bytes zero.
    ///
    /// # Errors
    /// As `try_alloc`.
    #[inline]
    pub fn try_alloc_zeroed<T: ShmType>(&self) -> Result<Block<T>, AllocError> {
        match self.at_hand_for::<T>() {
            Some(block) => Ok(zeroed(block)),
            None => self.core.try_raw(&Want::sized::<T>()?).map(zeroed),
        }
    }

    /// As [`try_alloc`](Self::try_alloc), with the value in it.
    ///
    /// # Errors
    /// As `try_alloc`.
    #[inline]
    pub fn try_alloc_value<T: ShmType>(&self, value: T) -> Result<Block<T>, AllocError> {
        match self.at_hand_for::<T>() {
            Some(block) => Ok(with_value(block, &value)),
            None => {
                let block = self.core.try_raw(&Want::sized::<T>()?)?;
                Ok(with_value(block, &value))
            }
        }
    }

    /// Allocates a block for `len` elements from what is at hand. Its bytes are unspecified.
    ///
    /// # Errors
    /// As `try_alloc`; [`AllocError::ZeroSize`] for no elements.
    #[inline(always)]
    pub fn try_alloc_slice<E: ShmType>(&self, len: usize) -> Result<Block<[E]>, AllocError> {
        match self.at_hand_for_slice::<E>(len) {
            Some(block) => Ok(slice(block, len)),
            None => self.try_slice(len),
        }
    }

    /// As [`try_alloc_slice`](Self::try_alloc_slice), with a copy of the elements in it.
    ///
    /// # Errors
    /// As `try_alloc_slice`.
    #[inline]
    pub fn try_alloc_slice_from<E: ShmType>(
        &self,
        elements: &[E],
    ) -> Result<Block<[E]>, AllocError> {
        match self.at_hand_for_slice::<E>(elements.len()) {
            Some(block) => Ok(copied(block, elements)),
            None => {
                let block = self.core.try_raw(&Want::slice::<E>(elements.len())?)?;
                Ok(copied(block, elements))
            }
        }
    }

    /// Allocates `len_bytes` bytes at a multiple of `align_bytes` (a power of two up to 2 MiB)
    /// from what is at hand. They are unspecified.
    ///
    /// # Errors
    /// As `try_alloc_slice`; [`AllocError::Alignment`].
    #[inline]
    pub fn try_alloc_bytes(
        &self,
        len_bytes: usize,
        align_bytes: usize,
    ) -> Result<Block<[u8]>, AllocError> {
        // An alignment that is none is refused the long way.
        let class = if align_bytes.is_power_of_two() {
            SizeClass::for_simple_layout(len_bytes as u64, align_bytes as u64)
        } else {
            None
        };
        if let Some(block) = self.core.at_hand(class) {
            return Ok(slice(block, len_bytes));
        }
        let want = Want::new(len_bytes, align_bytes)?;
        self.core
            .try_raw(&want)
            .map(|block| slice(block, len_bytes))
    }

    /// Allocates a copy of a text from what is at hand.
    ///
    /// # Errors
    /// As `try_alloc_slice`.
    pub fn try_alloc_str(&self, text: &str) -> Result<StrBlock, AllocError> {
        self.try_alloc_slice_from(text.as_bytes())
            .map(StrBlock::new)
    }

    /// Allocates a matrix from what is at hand. Its elements are unspecified.
    ///
    /// # Errors
    /// As `try_alloc_slice`.
    pub fn try_alloc_matrix<T: Plain>(
        &self,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix<T>, AllocError> {
        let block = self.try_alloc_slice(area(rows, columns))?;
        Ok(Matrix::new(block, rows, columns))
    }

    /// Allocates a block for a `T`. Its bytes are unspecified: those of whatever was there
    /// before, perhaps of another process.
    ///
    /// # Errors
    /// [`Error::Exhausted`]; [`Error::Layout`] for a type without bytes; [`Error::Alloc`] for a
    /// read-only pool; [`Error::Transport`].
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let mut point = pool.alloc::<[f64; 3]>().await?;
    /// *point = [1.0, 2.0, 3.0];
    /// point[2] += 1.0;
    /// assert_eq!(*point, [1.0, 2.0, 4.0]);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn alloc<T: ShmType>(&self) -> Result<Block<T>, Error> {
        PoolCore::raw(&self.core, Want::sized::<T>()?)
            .await
            .map(sized)
    }

    /// As [`alloc`](Self::alloc), with all bytes zero.
    ///
    /// # Errors
    /// As `alloc`.
    pub async fn alloc_zeroed<T: ShmType>(&self) -> Result<Block<T>, Error> {
        PoolCore::raw(&self.core, Want::sized::<T>()?)
            .await
            .map(zeroed)
    }

    /// As [`alloc`](Self::alloc), with the value in it.
    ///
    /// # Errors
    /// As `alloc`.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let flag = pool.alloc_value(true).await?;
    /// assert!(flag.get()?);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn alloc_value<T: ShmType>(&self, value: T) -> Result<Block<T>, Error> {
        let block = PoolCore::raw(&self.core, Want::sized::<T>()?).await?;
        Ok(with_value(block, &value))
    }

    /// Allocates a block for `len` elements. Its bytes are unspecified.
    ///
    /// # Errors
    /// As `alloc`; [`Error::Layout`] for no elements.
    pub async fn alloc_slice<E: ShmType>(&self, len: usize) -> Result<Block<[E]>, Error> {
        let block = PoolCore::raw(&self.core, Want::slice::<E>(len)?).await?;
        Ok(slice(block, len))
    }

    /// As [`alloc_slice`](Self::alloc_slice), with a copy of the elements in it.
    ///
    /// # Errors
    /// As `alloc_slice`.
    ///
    /// ```
    /// # goumem::blocking::wait(async {
    /// # let client = goumem::Client::embedded().await?;
    /// # let pool = client.create_pool("p", goumem::PoolOptions::new(1 << 20)).await?;
    /// let mut block = pool.alloc_slice_from(&[3, 1, 2]).await?;
    /// block.sort_unstable();
    /// assert_eq!(*block, [1, 2, 3]);
    /// # Ok::<(), goumem::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn alloc_slice_from<E: ShmType>(&self, elements: &[E]) -> Result<Block<[E]>, Error> {
        let block = PoolCore::raw(&self.core, Want::slice::<E>(elements.len())?).await?;
        Ok(copied(block, elements))
    }

    /// Allocates `len_bytes` bytes at a multiple of `align_bytes` (a power of two up to 2 MiB).
    /// They are unspecified.
    ///
    /// # Errors
    /// As `alloc_slice`; [`Error::Layout`] for an impossible alignment.
    pub async fn alloc_bytes(
        &self,
        len_bytes: usize,
        align_bytes: usize,
    ) -> Result<Block<[u8]>, Error> {
        let block = PoolCore::raw(&self.core, Want::new(len_bytes, align_bytes)?).await?;
        Ok(slice(block, len_bytes))
    }

    /// Allocates a copy of a text.
    ///
    /// # Errors
    /// As `alloc_slice`.
    pub async fn alloc_str(&self, text: &str) -> Result<StrBlock, Error> {
        self.alloc_slice_from(text.as_bytes())
            .await
            .map(StrBlock::new)
    }

    /// Allocates a matrix. Its elements are unspecified.
    ///
    /// # Errors
    /// As `alloc_slice`.
    pub async fn alloc_matrix<T: Plain>(
        &self,
        rows: usize,
        columns: usize,
    ) -> Result<Matrix<T>, Error> {
        let block = self.alloc_slice(area(rows, columns)).await?;
        Ok(Matrix::new(block, rows, columns))
    }

    /// The short way of every allocation. What it does not find, the long way looks for: it is out
    /// of line, so that neither its size nor its `Result` is in the way.
    #[inline(always)]
    fn at_hand_for<T: ShmType>(&self) -> Option<RawBlock> {
        let class =
            const { SizeClass::for_simple_layout(size_of::<T>() as u64, align_of::<T>() as u64) };
        self.core.at_hand(class)
    }

    #[inline(always)]
    fn at_hand_for_slice<E: ShmType>(&self, len: usize) -> Option<RawBlock> {
        let size = len.saturating_mul(size_of::<E>()) as u64;
        let class = SizeClass::for_simple_layout(size, align_of::<E>() as u64);
        self.core.at_hand(class)
    }

    #[cold]
    fn try_sized<T: ShmType>(&self) -> Result<Block<T>, AllocError> {
        self.core.try_raw(&Want::sized::<T>()?).map(sized)
    }

    #[cold]
    fn try_slice<E: ShmType>(&self, len: usize) -> Result<Block<[E]>, AllocError> {
        let block = self.core.try_raw(&Want::slice::<E>(len)?);
        block.map(|block| slice(block, len))
    }
}
