//! PoolService: blocks, and the names and records that keep them.

use goumem_alloc::{Handle, PoolId};

use super::message::{Field, list, message};
use super::{BlockInfo, BlockSpec, CountedSpec, ProtocolError, RequestId, parse};
use crate::name::BlockName;
use crate::reason::Reason;

/// The most blocks of one batch. The reply's handles are then 1.3 MB, well below gRPC's usual
/// limit of 4 MiB per message.
pub const MAX_BATCH_BLOCKS: usize = 65_536;

fn batch<W, D>(field: &'static str, wire: Vec<W>) -> Result<Vec<D>, ProtocolError>
where
    Vec<D>: Field<Vec<W>>,
{
    parse::bounded_list(field, wire, MAX_BATCH_BLOCKS)
}

message! {
    /// Allocates a block.
    #[derive(Copy)]
    Alloc <=> AllocRequest {
        /// Where.
        pool_id: PoolId,
        /// What it is like.
        spec: BlockSpec,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// A block that has been allocated, or has another size now.
    #[derive(Copy)]
    Allocated <=> AllocReply {
        /// The block.
        block: BlockInfo,
    }
}

message! {
    /// Frees a block.
    #[derive(Copy)]
    Free <=> FreeRequest {
        /// Names it.
        handle: Handle,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Allocates many blocks, or none.
    AllocBatch <=> AllocBatchRequest {
        /// Where.
        pool_id: PoolId,
        /// What they are like; the counts sum up to [`MAX_BATCH_BLOCKS`] at most.
        specs: Vec<CountedSpec> = batch,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
    check = fits_a_batch;
}

impl AllocBatch {
    /// Returns how many blocks that is.
    pub fn n_blocks(&self) -> u64 {
        self.specs
            .iter()
            .map(|counted| u64::from(counted.count))
            .sum()
    }
}

fn fits_a_batch(batch: &AllocBatch) -> Result<(), ProtocolError> {
    let n_blocks = batch.n_blocks();
    if n_blocks > MAX_BATCH_BLOCKS as u64 {
        let value = format_args!("{n_blocks} blocks");
        let why = format!("at most {MAX_BATCH_BLOCKS} go in one call");
        return Err(ProtocolError::invalid("specs", value, why));
    }
    Ok(())
}

message! {
    /// Many blocks that have been allocated.
    AllocatedBatch <=> AllocBatchReply {
        /// In the order of the specs, each as often as it counts.
        handles: Vec<Handle>,
    }
}

message! {
    /// Frees many blocks, each by itself.
    FreeBatch <=> FreeBatchRequest {
        /// Names them; at most [`MAX_BATCH_BLOCKS`].
        handles: Vec<Handle> = batch,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// What has become of a batch.
    FreedBatch <=> FreeBatchReply {
        /// How many were freed.
        freed: u32,
        /// Those that were not.
        failures: Vec<FreeFailure>,
    }
}

message! {
    /// A block of a batch that could not be freed.
    #[derive(Copy)]
    FreeFailure <=> FreeFailure {
        /// Which handle of the request, from 0.
        index: u32,
        /// Why.
        reason: Reason,
    }
}

message! {
    /// Changes a block's size.
    #[derive(Copy)]
    Realloc <=> ReallocRequest {
        /// Names it.
        handle: Handle,
        /// The new size.
        size_bytes: u64 = parse::size,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// What keep, adopt, take, pin, unpin and resolve are asked with.
    #[derive(Copy)]
    HandleRequest <=> HandleRequest {
        /// Names the block.
        handle: Handle,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// What they answer: the block's handle, as it is now.
    #[derive(Copy)]
    HandleReply <=> HandleReply {
        /// Names the block.
        handle: Handle,
    }
}

message! {
    /// Gives a block a name, and keeps it.
    Publish <=> PublishRequest {
        /// Names the block across processes.
        handle: Handle,
        /// The name it gets in its pool.
        name: BlockName,
        /// Withdraw and free what had the name.
        replace: bool,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Looks a block up by name.
    Lookup <=> LookupRequest {
        /// Where.
        pool_id: PoolId,
        /// Its name.
        name: BlockName,
    }
}

message! {
    /// Takes a block's name away.
    Withdraw <=> WithdrawRequest {
        /// Where.
        pool_id: PoolId,
        /// The name.
        name: BlockName,
        /// Free the block too.
        free: bool,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

message! {
    /// Lists what outlives sessions.
    #[derive(Copy)]
    ListKept <=> ListKeptRequest {
        /// Where.
        pool_id: PoolId,
    }
}

message! {
    /// A block that outlives sessions.
    KeptBlock <=> KeptBlock {
        /// The block.
        block: BlockInfo,
        /// Its name, if it has one.
        name: Option<BlockName>,
        /// The user whose quota it counts against.
        uid: u32,
    }
}
list!(KeptBlock => ListKeptReply.blocks);
