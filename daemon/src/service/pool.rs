//! PoolService.

use goumem_proto::model::{Alloc, AllocBatch, CountedSpec, FreeBatch};
use goumem_proto::v1;

use super::{Edge, Nothing, done, service};
use crate::core::{Core, Viewer};

/// A block up to this size is zeroed before another thread could have been woken for it.
const SMALL_BLOCK_BYTES: u64 = 64 << 10;

/// A batch up to this length is done in a tenth of a millisecond, which is also what it takes to
/// wake another thread for it and to hear from it again.
const SMALL_BATCH_BLOCKS: u64 = 1024;
const SMALL_BATCH_BYTES: u64 = 256 << 10;

fn is_small(request: &Alloc) -> bool {
    request.spec.size_bytes <= SMALL_BLOCK_BYTES
}

fn is_small_batch(request: &AllocBatch) -> bool {
    // At most 65 536 blocks of at most 2^40 bytes: no sum of them overflows.
    let of_one_spec = |counted: &CountedSpec| u64::from(counted.count) * counted.spec.size_bytes;
    request.n_blocks() <= SMALL_BATCH_BLOCKS
        && request.specs.iter().map(of_one_spec).sum::<u64>() <= SMALL_BATCH_BYTES
}

fn is_few(request: &FreeBatch) -> bool {
    request.handles.len() as u64 <= SMALL_BATCH_BLOCKS
}

#[derive(Debug)]
pub(super) struct Pools(pub(super) Edge);

service! {
    pool_service_server::PoolService for Pools {
        aside create(CreatePoolRequest) -> PoolReply = Core::create_pool;
        aside open(OpenPoolRequest) -> PoolReply = Core::open_pool;
        aside open_or_create(CreatePoolRequest) -> PoolReply = Core::open_or_create_pool;
        aside destroy(DestroyPoolRequest) -> DestroyPoolReply =
            |core, caller, request, now| core.destroy_pool(caller, request, now).map(done);
        aside list(ListPoolsRequest) -> ListPoolsReply =
            |core, caller, Nothing, _| core.list_pools(caller);
        aside stat(StatPoolRequest) -> PoolStat = Core::stat_pool;
        aside set_capacity(SetCapacityRequest) -> PoolStat = Core::set_capacity;

        (is_small) alloc(AllocRequest) -> AllocReply = Core::alloc;
        here free(FreeRequest) -> FreeReply =
            |core, caller, request, now| core.free(caller, request, now).map(done);
        (is_small_batch) alloc_batch(AllocBatchRequest) -> AllocBatchReply = Core::alloc_batch;
        (is_few) free_batch(FreeBatchRequest) -> FreeBatchReply = Core::free_batch;
        aside realloc(ReallocRequest) -> AllocReply = Core::realloc;

        here keep(HandleRequest) -> HandleReply = Core::keep;
        here adopt(HandleRequest) -> HandleReply = Core::adopt;
        here take(HandleRequest) -> HandleReply = Core::take;
        here pin(HandleRequest) -> HandleReply = Core::pin;
        here unpin(HandleRequest) -> HandleReply = Core::unpin;
        here resolve(HandleRequest) -> Block = Core::resolve;

        here publish(PublishRequest) -> HandleReply = Core::publish;
        here lookup(LookupRequest) -> Block = Core::lookup;
        here withdraw(WithdrawRequest) -> HandleReply = Core::withdraw;
        aside list_kept(ListKeptRequest) -> ListKeptReply = Core::list_kept;

        aside lease(LeaseRequest) -> LeaseReply = Core::lease;
        aside return_spans(ReturnSpansRequest) -> ReturnSpansReply = Core::return_spans;
        aside flush(FlushPoolRequest) -> FlushPoolReply =
            |core, caller, request, now| core.flush_pool(caller, request, now).map(done);
        aside purge(PurgePoolRequest) -> PurgePoolReply = Core::purge_pool;
        aside map(MapPoolRequest) -> MapPoolReply =
            |core, caller, request, now| core.map_pool(Viewer::Caller(caller), &request, now);
    }
}
