//! What goumem is measured beside. The system's allocator is always there; the others are crates,
//! some of them in C and C++, and come with the feature `peers`.

mod allocator;
#[cfg(feature = "peers")]
mod iceoryx;

use crate::heaps::Measure;
use crate::timing::Run;
use allocator::PeerHeap;

#[cfg(feature = "peers")]
pub(crate) use iceoryx::{Leftovers, Publisher, Subscriber};

/// Whether the peers are all here.
pub(crate) const ALL: bool = cfg!(feature = "peers");

/// A peer's name, and what to time of it.
pub(crate) type Peer<'a> = (&'static str, Run<'a>);

/// Returns what to time of each allocator.
///
/// # Errors
/// Those of preparing it.
pub(crate) fn allocators(measure: &impl Measure) -> anyhow::Result<Vec<Peer<'static>>> {
    Ok(vec![
        of::<std::alloc::System>(measure)?,
        #[cfg(feature = "peers")]
        of::<mimalloc::MiMalloc>(measure)?,
        #[cfg(feature = "peers")]
        of::<snmalloc_rs::SnMalloc>(measure)?,
        #[cfg(feature = "peers")]
        of::<tikv_jemallocator::Jemalloc>(measure)?,
    ])
}

fn of<P: allocator::Peer>(measure: &impl Measure) -> anyhow::Result<Peer<'static>> {
    Ok((P::NAME, measure.with(PeerHeap::<P>::new())?))
}
