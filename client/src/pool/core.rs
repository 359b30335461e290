//! What all users of a mapped pool share: its memory, its heaps, and how spans come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use goumem_alloc::{Handle, Placement, PoolId, SizeClass};
use goumem_proto::model::{Lease, PoolInfo, ProtocolError, ReturnSpans, SpanInfo, SpanSpec};
use goumem_proto::reason::Reason;
use goumem_proto::v1::control_request::Call;
use goumem_proto::{model, v1};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::os::{Access, fork};
use goumem_shm::page_map::SpanEpoch;
use goumem_shm::shape::Shape;
use goumem_shm::{AccessError, LeasedSpan, PoolMemory, RawBlock, TakenBlocks};
use tokio::time::sleep;

use crate::error::{AllocError, Error};
use crate::housekeeper::Chore;
use crate::in_use::{CountsUsers, InUse};
use crate::local_heap::{HeapAgent, Trim};
use crate::pool::alloc::Want;
use crate::pool::heaps::Heaps;
use crate::session::Session;

/// How often a lease is repeated that brought only full spans: abandoned ones come with whatever
/// lives in them.
const MAX_LEASES: u32 = 64;

/// How long others get to give back what they do not use. Who runs does so within a millisecond;
/// who does not has no thread to do it with, and need not be waited for.
const PAUSES_FOR_OTHERS: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

/// A mapped pool.
pub(crate) struct PoolCore {
    pub(crate) session: Arc<Session>,
    pub(crate) info: PoolInfo,
    pub(crate) memory: Arc<PoolMemory>,
    heaps: Heaps,
    /// One lease at a time for each class: who waited finds what the other leased.
    leases: Box<[tokio::sync::Mutex<()>]>,
    taken: Option<TakenBlocks>,
    /// Adopted blocks that are alive: they lie in spans of others.
    adopted: AtomicUsize,
    users: AtomicUsize,
}

impl PoolCore {
    pub(crate) fn new(
        session: Arc<Session>,
        info: PoolInfo,
        memory: PoolMemory,
    ) -> Result<Arc<Self>, Error> {
        let memory = Arc::new(memory);
        let (taken, refuses) = if memory.is_writable() {
            (Some(TakenBlocks::new(&memory, session.number)?), None)
        } else {
            (None, Some(AllocError::ReadOnly))
        };
        let core = Arc::new(Self {
            session,
            info,
            heaps: Heaps::new(refuses),
            leases: SizeClass::all()
                .map(|_| tokio::sync::Mutex::new(()))
                .collect(),
            taken,
            adopted: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            memory,
        });
        let companion = Arc::downgrade(&core);
        let first = core.memory.set_companion(companion);
        debug_assert!(first, "the memory was mapped for this core alone");
        Ok(core)
    }

    /// Returns the pool of a block, as a user.
    pub(crate) fn of(block: &RawBlock) -> Result<InUse<Self>, Error> {
        let companion = block.memory().companion().ok_or(Error::Closed)?;
        companion
            .downcast()
            .map(InUse::new)
            .map_err(|_| Error::Closed)
    }

    /// Returns what the session's table has it under.
    pub(crate) fn key(&self) -> (PoolId, Access) {
        let writable = self.memory.is_writable();
        (
            self.info.pool_id,
            if writable {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            },
        )
    }

    pub(crate) fn has_users(&self) -> bool {
        // ORDERING: Acquire; pairs with the AcqRel of the last user's drop.
        self.users.load(Ordering::Acquire) != 0
    }

    /// Takes a block that is at hand.
    #[inline]
    pub(crate) fn try_raw(&self, want: &Want) -> Result<RawBlock, AllocError> {
        if let Placement::Class(class) = want.placement
            && let Some(block) = self.heaps.alloc(class)
        {
            return Ok(block);
        }
        self.try_elsewhere(want)
    }

    #[cold]
    fn try_elsewhere(&self, want: &Want) -> Result<RawBlock, AllocError> {
        if fork::in_child_of_init() {
            return Err(AllocError::Forked);
        }
        self.heaps.alloc_elsewhere(want)
    }

    /// Takes a block, after leasing spans if it must.
    pub(crate) async fn raw(pool: &InUse<Self>, want: Want) -> Result<RawBlock, Error> {
        match pool.try_raw(&want) {
            Err(AllocError::NeedsSpan) => {}
            outcome => return Ok(outcome?),
        }
        // The spans are for this thread; it is another that leases them.
        let home = pool.heaps.home()?;
        // A user while it runs, so that the pool is not unmapped when its caller loses interest.
        let user = pool.clone();
        pool.session
            .run(|_| async move { user.lease_for(want, home).await })
            .await
    }

    async fn lease_for(&self, want: Want, home: &'static HeapAgent) -> Result<RawBlock, Error> {
        let Placement::Class(class) = want.placement else {
            let spec = SpanSpec::Large {
                size_bytes: want.size_bytes,
                align_bytes: want.align_bytes,
            };
            let block = self.lease(&want, spec, 1, home).await?;
            return block.ok_or_else(|| AllocError::NeedsSpan.into());
        };
        let _turn = self.leases[usize::from(class.index())].lock().await;
        for _ in 0..MAX_LEASES {
            if let Some(block) = self.heaps.alloc_in(home, class) {
                return Ok(block);
            }
            let count = self.heaps.wanted(home, class);
            let spec = SpanSpec::Class(class);
            if let Some(block) = self.lease(&want, spec, count, home).await? {
                return Ok(block);
            }
        }
        Err(AllocError::NeedsSpan.into())
    }

    /// Leases spans into a heap, and takes the first block of them before anybody else can.
    async fn lease(
        &self,
        want: &Want,
        spec: SpanSpec,
        count: u32,
        home: &'static HeapAgent,
    ) -> Result<Option<RawBlock>, Error> {
        let spans = self.insist_on_lease(spec, count).await?;
        let mut block = None;
        let mut leased = Vec::with_capacity(spans.len());
        for span in spans {
            let mut span = self.attach(want, span)?;
            if block.is_none() {
                block = span.alloc();
            }
            leased.push(span);
        }
        // If it is refused the session ends: the block must not outlive it.
        self.heaps.add(home, leased)?;
        self.session.queue(Chore::Watch);
        Ok(block)
    }

    fn attach(&self, want: &Want, span: SpanInfo) -> Result<LeasedSpan, Error> {
        if !want.fits(&span) {
            let class = span.size_class.index();
            let why = "blocks of this span are not as asked for";
            return Err(ProtocolError::invalid("size_class", class, why).into());
        }
        let bad_epoch = || ProtocolError::invalid("epoch", span.epoch, "epochs have 12 bits");
        let lease = SpanLease {
            first_page: span.first_page,
            pages: span.pages,
            class: span.size_class,
            epoch: SpanEpoch::new(span.epoch.into()).ok_or_else(bad_epoch)?,
        };
        // One call maps the whole span, at a fifth of what its first touches would cost one by
        // one. Best effort: a page that is not mapped now is mapped by its touch.
        let start = self.memory.geometry().page_offset(lease.first_page).get();
        let _ = self
            .memory
            .data()
            .prefault_write(start..start + lease.pages.bytes());
        let number = self.session.number;
        Ok(LeasedSpan::attach(
            &self.memory,
            lease,
            number,
            span.survivors,
        )?)
    }

    /// Asks for spans, also when none are free at first: this client's own idle spans, of other
    /// classes, may be what is missing, or those of others, whom the daemon has asked to give
    /// them back.
    async fn insist_on_lease(&self, spec: SpanSpec, count: u32) -> Result<Vec<SpanInfo>, Error> {
        for pause in PAUSES_FOR_OTHERS {
            let error = match self.call_lease(spec, count).await {
                Err(error @ Error::Exhausted { .. }) => error,
                outcome => return outcome,
            };
            if self.return_idle().await? > 0 {
                continue;
            }
            match error {
                Error::Exhausted {
                    reason: Reason::QuotaExceeded,
                    ..
                } => return Err(error),
                Error::Exhausted {
                    requested_bytes: Some(bytes),
                    ..
                } if bytes > self.info.max_capacity_bytes => {
                    return Err(error);
                }
                _ => sleep(pause).await,
            }
        }
        self.call_lease(spec, count).await
    }

    async fn call_lease(&self, spec: SpanSpec, count: u32) -> Result<Vec<SpanInfo>, Error> {
        let pool_id = self.info.pool_id;
        let call = |request_id| {
            let lease = Lease {
                pool_id,
                spec,
                count,
                request_id: model::RequestId::new(request_id),
            };
            Call::Lease(lease.into())
        };
        let reply: v1::LeaseReply = self
            .session
            .control(call)
            .await
            .map_err(|error| self.name_loss(error))?;
        Ok(Vec::try_from(reply)?)
    }

    /// Says what an error means for this pool.
    pub(crate) fn name_loss(&self, error: Error) -> Error {
        error.in_pool(self.info.name.as_str())
    }

    /// Walks through the heaps for spans to give back.
    pub(crate) fn trim(&self, trim: Trim) -> Trim {
        self.heaps.trim(trim)
    }

    /// Returns every idle span to the daemon; returns how many there were.
    pub(crate) async fn return_idle(&self) -> Result<usize, Error> {
        let leases = self.trim(Trim::everything()).leases;
        let n = leases.len();
        self.return_spans(leases).await?;
        Ok(n)
    }

    /// Returns spans that are in no heap any more.
    pub(crate) async fn return_spans(&self, leases: Vec<SpanLease>) -> Result<(), Error> {
        for leases in leases.chunks(model::MAX_CALL_SPANS) {
            let spans: Vec<_> = leases
                .iter()
                .map(|lease| SpanInfo {
                    first_page: lease.first_page,
                    pages: lease.pages,
                    size_class: lease.class,
                    epoch: lease.epoch.get(),
                    survivors: false,
                })
                .collect();
            let pool_id = self.info.pool_id;
            let call = |request_id| {
                let returned = ReturnSpans {
                    pool_id,
                    spans: spans.clone(),
                    request_id: model::RequestId::new(request_id),
                };
                Call::ReturnSpans(returned.into())
            };
            let _: v1::ReturnSpansReply = self.session.control(call).await?;
        }
        Ok(())
    }

    /// Takes the block that a handle names, for this session alone.
    #[inline]
    pub(crate) fn take(
        &self,
        handle: Handle,
        check: impl FnOnce(Shape) -> Result<(), AccessError>,
    ) -> Result<(RawBlock, Shape), Error> {
        let Some(taken) = &self.taken else {
            return Err(AccessError::ReadOnly {
                pool: self.info.pool_id,
            }
            .into());
        };
        // The session must not end between the look and the take.
        let take = || taken.take_over_if(handle, check);
        let (block, shape, _was_kept) = self.heaps.while_open(take)??;
        Ok((block, shape))
    }

    /// Makes this session the owner of a block; the handle stays good.
    pub(crate) fn adopt(&self, handle: Handle) -> Result<(), Error> {
        // If the block was kept, the daemon drops its record when it next looks.
        self.heaps.while_open(|| {
            self.memory.adopt(handle, self.session.number)?;
            self.adopted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })?
    }

    /// Counts an adopted block as gone, or as no longer this handle's to free.
    pub(crate) fn forget_adopted(&self) {
        self.adopted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Refuses allocations from now on, or allows them again.
    pub(crate) fn fence(&self, closed: bool) {
        self.heaps.set_refuses(match closed {
            true => Some(AllocError::Closed),
            false if self.memory.is_writable() => None,
            false => Some(AllocError::ReadOnly),
        });
    }

    /// Returns how many blocks of this session are alive.
    pub(crate) fn owned_count(&self) -> u64 {
        let elsewhere = self.n_taken() + self.adopted.load(Ordering::Relaxed);
        let owner = self.session.number;
        self.heaps.owned_count(&self.memory, owner) + elsewhere as u64
    }

    /// Returns whether no span is left. Blocks of others may lie in spans of this session; they
    /// go back when the session ends.
    pub(crate) fn has_no_spans(&self) -> bool {
        self.heaps.is_empty()
    }

    fn n_taken(&self) -> usize {
        self.taken.as_ref().map_or(0, TakenBlocks::live_count)
    }
}

impl CountsUsers for PoolCore {
    fn users(&self) -> &AtomicUsize {
        &self.users
    }

    fn last_user_gone(&self) {
        self.session.look();
    }
}

impl std::fmt::Debug for PoolCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolCore")
            .field("name", &self.info.name)
            .field("pool_id", &self.info.pool_id)
            .finish_non_exhaustive()
    }
}
