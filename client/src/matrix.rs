//! A matrix in a block: rows and columns over one slice, row by row.

use std::fmt;
use std::ops::{Index, IndexMut};

use goumem_shm::{AccessError, Plain};

use crate::block::Block;
use crate::error::Error;
use crate::shared::Shared;

/// A matrix of numbers (or of any [`Plain`] elements) in a block that this process alone uses.
/// Its elements lie row by row without gaps.
///
/// With the feature `ndarray` it can be looked at as an `ArrayView2`.
///
/// ```
/// # use goumem::{PoolOptions, blocking};
/// # let client = blocking::Client::embedded()?;
/// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
/// let mut matrix = pool.alloc_matrix::<f64>(2, 3)?;
/// matrix.as_mut_slice().fill(0.0);
/// matrix.set(1, 2, 4.5)?;
/// matrix[(0, 0)] = 1.0;
/// assert_eq!(matrix.get(1, 2), Some(&4.5));
/// assert_eq!(matrix.row(0), Some(&[1.0, 0.0, 0.0][..]));
/// # Ok::<(), goumem::Error>(())
/// ```
pub struct Matrix<T: Plain> {
    block: Block<[T]>,
    rows: usize,
    columns: usize,
}

impl<T: Plain> Matrix<T> {
    /// The caller sees to it that the block has `rows` × `columns` elements.
    pub(crate) fn new(block: Block<[T]>, rows: usize, columns: usize) -> Self {
        debug_assert_eq!(block.len(), rows * columns);
        Self {
            block,
            rows,
            columns,
        }
    }

    /// Makes a matrix of a block, for example of one that was
    /// [taken](crate::Pool::take_slice) from another process.
    ///
    /// # Errors
    /// [`Error::Access`] with `WrongLength` unless the block has `rows` × `columns` elements.
    pub fn from_block(block: Block<[T]>, rows: usize, columns: usize) -> Result<Self, Error> {
        if rows.checked_mul(columns) != Some(block.len()) {
            return Err(AccessError::WrongLength {
                expected_bytes: (rows as u64).saturating_mul(columns as u64),
                found_bytes: block.len() as u64,
            }
            .into());
        }
        Ok(Self::new(block, rows, columns))
    }

    /// Returns the block, row by row.
    pub fn into_block(self) -> Block<[T]> {
        self.block
    }

    /// Makes the elements visible to every process that has the pool; rows and columns are for
    /// the caller to pass on.
    ///
    /// # Errors
    /// As [`Block::share`].
    pub fn share(self) -> Result<Shared<[T]>, Error> {
        self.block.share()
    }

    /// Overwrites an element.
    ///
    /// # Errors
    /// [`Error::Access`] with `OutOfRange`.
    pub fn set(&mut self, row: usize, column: usize, value: T) -> Result<(), Error> {
        let (rows, columns) = (self.rows, self.columns);
        let element = self
            .get_mut(row, column)
            .ok_or_else(|| AccessError::OutOfRange {
                offset_bytes: (row as u64)
                    .saturating_mul(columns as u64)
                    .saturating_add(column as u64),
                length_bytes: 1,
                limit_bytes: rows as u64 * columns as u64,
            })?;
        *element = value;
        Ok(())
    }

    /// Returns an element to be changed, or `None` outside.
    #[inline]
    pub fn get_mut(&mut self, row: usize, column: usize) -> Option<&mut T> {
        self.row_mut(row)?.get_mut(column)
    }

    /// Returns a row to be changed, or `None` outside.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        let start = row.checked_mul(self.columns)?;
        self.block.get_mut(start..)?.get_mut(..self.columns)
    }

    /// Returns the elements to be changed, row by row.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.block
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns an element, or `None` outside.
    #[inline]
    pub fn get(&self, row: usize, column: usize) -> Option<&T> {
        self.row(row)?.get(column)
    }

    /// Returns a row, or `None` outside.
    #[inline]
    pub fn row(&self, row: usize) -> Option<&[T]> {
        let start = row.checked_mul(self.columns)?;
        self.block.get(start..)?.get(..self.columns)
    }

    /// Returns the elements, row by row.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        &self.block
    }
}

#[cfg(feature = "ndarray")]
impl<T: Plain> Matrix<T> {
    /// Returns the matrix as an `ndarray` view.
    ///
    /// ```
    /// # use goumem::{PoolOptions, blocking};
    /// # let client = blocking::Client::embedded()?;
    /// # let pool = client.create_pool("p", PoolOptions::new(1 << 20))?;
    /// let mut matrix = pool.alloc_matrix::<f64>(2, 2)?;
    /// matrix.view_mut().fill(2.0);
    /// assert_eq!(matrix.view().sum(), 8.0);
    /// # Ok::<(), goumem::Error>(())
    /// ```
    pub fn view(&self) -> ndarray::ArrayView2<'_, T> {
        ndarray::ArrayView2::from_shape((self.rows, self.columns), self.as_slice())
            .expect("as many elements as rows times columns")
    }

    /// Returns the matrix as an `ndarray` view that can be written.
    pub fn view_mut(&mut self) -> ndarray::ArrayViewMut2<'_, T> {
        let shape = (self.rows, self.columns);
        ndarray::ArrayViewMut2::from_shape(shape, self.as_mut_slice())
            .expect("as many elements as rows times columns")
    }
}

/// By row and column.
///
/// # Panics
/// Outside of the matrix, as a slice does.
impl<T: Plain> Index<(usize, usize)> for Matrix<T> {
    type Output = T;

    #[inline]
    fn index(&self, (row, column): (usize, usize)) -> &T {
        self.get(row, column)
            .expect("row and column inside of the matrix")
    }
}

impl<T: Plain> IndexMut<(usize, usize)> for Matrix<T> {
    #[inline]
    fn index_mut(&mut self, (row, column): (usize, usize)) -> &mut T {
        self.get_mut(row, column)
            .expect("row and column inside of the matrix")
    }
}

impl<T: Plain> fmt::Debug for Matrix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matrix")
            .field("rows", &self.rows)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}
