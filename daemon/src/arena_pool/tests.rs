//! Whether what an arena pool has in shared memory holds together: for tests that compare.

#[cfg(crash)]
use super::*;

#[cfg(crash)]
mod mutants;
#[cfg(crash)]
mod words;
