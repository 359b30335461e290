//! ArenaPoolService.

use std::time::{Duration, Instant};

use goumem_alloc::PoolId;
use goumem_proto::model::ArenaInfo;
use goumem_proto::v1;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Edge, Nothing, done, service};
use crate::arena_pool::{GrantedArena, WaitTicket, Waited};
use crate::core::{Core, Viewer};
use crate::error::Error;
use crate::session::Caller;

#[derive(Debug)]
pub(super) struct ArenaPools(pub(super) Edge);

service! {
    arena_pool_service_server::ArenaPoolService for ArenaPools {
        aside create(CreateArenaPoolRequest) -> ArenaPoolReply = Core::create_arena_pool;
        aside open(OpenArenaPoolRequest) -> ArenaPoolReply = Core::open_arena_pool;
        aside open_or_create(CreateArenaPoolRequest) -> ArenaPoolReply =
            Core::open_or_create_arena_pool;
        aside destroy(DestroyPoolRequest) -> DestroyPoolReply =
            |core, caller, request, now| core.destroy_arena_pool(caller, request, now).map(done);
        aside list(ListArenaPoolsRequest) -> ListArenaPoolsReply =
            |core, caller, Nothing, _| core.list_arena_pools(caller);
        aside stat(StatPoolRequest) -> ArenaPoolStat = Core::stat_arena_pool;

        here r#return(ReturnArenaRequest) -> ReturnArenaReply =
            |core, caller, request, now| core.return_arena(caller, request, now).map(done);
        here alloc(ArenaAllocRequest) -> ArenaAllocReply = Core::arena_alloc;
        here free(ArenaFreeRequest) -> ArenaFreeReply = Core::arena_free;
        here reset(ResetArenaRequest) -> ArenaReply = Core::reset_arena;

        here share(ShareArenaRequest) -> ArenaReply = Core::share_arena;
        here attach(AttachArenaRequest) -> ArenaReply = Core::attach_arena;
        here detach(DetachArenaRequest) -> DetachArenaReply = Core::detach_arena;
        here wake(WakeRequest) -> WakeReply =
            |core, caller, request, now| core.wake(caller, request, now).map(done);
        aside list_holders(ListHoldersRequest) -> ListHoldersReply = Core::list_holders;
        aside map(MapArenaPoolRequest) -> MapArenaPoolReply =
            |core, caller, request, _| core.map_arena_pool(Viewer::Caller(caller), &request);
    }
    and {
        async fn get(
            &self,
            request: Request<v1::GetArenaRequest>,
        ) -> Result<Response<v1::ArenaReply>, Status> {
            let now = Instant::now();
            let (caller, get) = self.0.receive(request, now)?;
            let arena = match self.0.core.get_arena(&caller, get, now)? {
                Waited::Now(arena) => arena,
                Waited::Queued(ticket, granted) => {
                    let line =
                        InLine { core: &self.0.core, caller: &caller, pool_id: get.pool_id, ticket };
                    line.wait(granted, get.wait, &self.0.draining).await?
                }
            };
            Ok(Response::new(arena.into()))
        }
    }
}

/// A place in the line for an arena. It is given up however the wait ends, also when the client
/// goes away and the call with it.
#[derive(Debug)]
struct InLine<'a> {
    core: &'a Core,
    caller: &'a Caller,
    pool_id: PoolId,
    ticket: WaitTicket,
}

impl InLine<'_> {
    async fn wait(
        self,
        granted: oneshot::Receiver<GrantedArena>,
        wait: Duration,
        draining: &CancellationToken,
    ) -> Result<ArenaInfo, Error> {
        tokio::select! {
            // One that has come in time is taken, whatever else has happened.
            biased;
            granted = granted => match granted {
                Ok(granted) => Ok(granted.accept()),
                // The session has ended, or else the pool.
                Err(_closed) => {
                    self.caller.session()?;
                    Err(Error::PoolDestroyed { pool_id: self.pool_id })
                }
            },
            () = draining.cancelled() => Err(Error::ShuttingDown),
            () = tokio::time::sleep(wait) => Err(Error::DeadlineExceeded {
                waited_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.core.cancel_wait(self.pool_id, self.ticket);
    }
}
