//! PoolService.

use goumem_proto::model::Alloc;
use goumem_proto::v1;

use super::{Edge, Nothing, done, service};
use crate::core::Core;

/// A block up to this size is zeroed before another thread could have been woken for it.
const SMALL_BLOCK_BYTES: u64 = 64 << 10;

fn is_small(request: &Alloc) -> bool {
    request.spec.size_bytes <= SMALL_BLOCK_BYTES
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
        aside alloc_batch(AllocBatchRequest) -> AllocBatchReply = Core::alloc_batch;
        aside free_batch(FreeBatchRequest) -> FreeBatchReply = Core::free_batch;
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
    }
}
