//! How spans come to a mapped pool and go back: asking for them, also when others have to give some
//! back first, asking ahead of use, and returning them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use goumem_alloc::{Placement, SizeClass};
use goumem_proto::model::{Lease, ProtocolError, ReturnSpans, SpanInfo, SpanSpec};
use goumem_proto::reason::Reason;
use goumem_proto::v1::control_request::Call;
use goumem_proto::{model, v1};
use goumem_shm::leased_span::SpanLease;
use goumem_shm::page_map::SpanEpoch;
use goumem_shm::{LeasedSpan, RawBlock};
use tokio::time::{sleep, timeout};

use crate::connect::Rpc;
use crate::error::{AllocError, Error};
use crate::housekeeper::Chore;
use crate::link::random_part;
use crate::local_heap::{HeapAgent, Trim};
use crate::pool::PoolCore;
use crate::pool::alloc::Want;

/// How often a lease is repeated that brought only full spans: abandoned ones come with whatever
/// lives in them.
const MAX_LEASES: u32 = 64;

/// How often a lease is tried while others are asked to give back what they do not use: about a
/// second in all. A number and not a time, because on a busy machine, where others take longer to
/// answer, so does each try. The pauses double, half of each at random, since a full pool may have
/// a thousand clients.
const MAX_TRIES: u32 = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl PoolCore {
    /// Leases spans for a heap until it has a block.
    pub(super) async fn lease_for(
        self: &Arc<Self>,
        want: Want,
        home: &'static HeapAgent,
    ) -> Result<RawBlock, Error> {
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
            if let Some((block, _)) = self.heaps.alloc_in(home, class) {
                return Ok(block);
            }
            let count = self.wanted(home, class).max(1);
            let spec = SpanSpec::Class(class);
            if let Some(block) = self.lease(&want, spec, count, home).await? {
                return Ok(block);
            }
        }
        Err(AllocError::NeedsSpan.into())
    }

    /// Leases spans into a heap, and takes the first block of them before anybody else can.
    async fn lease(
        self: &Arc<Self>,
        want: &Want,
        spec: SpanSpec,
        count: u32,
        home: &'static HeapAgent,
    ) -> Result<Option<RawBlock>, Error> {
        let spans = self.insist_on_lease(spec, count).await?;
        let mut leased = self.attach_all(want, spans)?;
        let block = leased.iter_mut().find_map(LeasedSpan::alloc);
        // If it is refused the session ends: the block must not outlive it.
        self.heaps.add(home, leased)?;
        self.session.queue(Chore::Watch);
        Ok(block)
    }

    /// Leases the next spans of a class before a heap has run out of it, unless somebody does so
    /// already. Nobody gives anything back for them.
    pub(crate) async fn prefetch(
        self: &Arc<Self>,
        class: SizeClass,
        home: &'static HeapAgent,
    ) -> Result<(), Error> {
        let Ok(_turn) = self.leases[usize::from(class.index())].try_lock() else {
            return Ok(());
        };
        let count = self.wanted(home, class);
        if count == 0 || self.is_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let spans = self.call_lease(SpanSpec::Class(class), count).await?;
        let leased = self.attach_all(&Want::class(class), spans)?;
        self.heaps.add(home, leased)?;
        self.session.queue(Chore::Watch);
        Ok(())
    }

    /// Returns how many spans of a class to lease for a heap: so many that the client could keep
    /// them without a block in them.
    fn wanted(&self, home: &HeapAgent, class: SizeClass) -> u32 {
        let most = self.session.max_idle_bytes / class.span_pages().bytes();
        let wanted = self.heaps.wanted(home, class);
        u32::try_from(most).map_or(wanted, |most| wanted.min(most))
    }

    fn attach_all(&self, want: &Want, spans: Vec<SpanInfo>) -> Result<Vec<LeasedSpan>, Error> {
        let attach = |span| self.attach(want, span);
        spans.into_iter().map(attach).collect()
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
    async fn insist_on_lease(
        self: &Arc<Self>,
        spec: SpanSpec,
        count: u32,
    ) -> Result<Vec<SpanInfo>, Error> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let (reason, requested_bytes, error) = match self.call_lease(spec, count).await {
                Err(
                    error @ Error::Exhausted {
                        reason,
                        requested_bytes,
                        ..
                    },
                ) => (reason, requested_bytes, error),
                outcome => {
                    self.is_full.store(false, Ordering::Relaxed);
                    return outcome;
                }
            };
            let returned = self.return_idle().await?;
            let is_hopeless = reason == Reason::QuotaExceeded
                || requested_bytes.is_some_and(|bytes| bytes > self.info.max_capacity_bytes)
                || tries >= MAX_TRIES;
            if returned > 0 && !is_hopeless {
                continue;
            }
            if is_hopeless || !self.has_others().await {
                return Err(error);
            }
            sleep(pause / 2 + random_part(pause / 2)).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Returns whether another session maps the pool, and may have something to give back.
    async fn has_others(&self) -> bool {
        let request = v1::StatPoolRequest {
            name: self.info.name.clone().into(),
        };
        let stat = |rpc: Rpc| {
            let request = request.clone();
            async move { rpc.pools().stat(request).await }
        };
        let stat = self.session.ask(stat).await;
        stat.is_ok_and(|stat| stat.sessions > 1)
    }

    async fn call_lease(
        self: &Arc<Self>,
        spec: SpanSpec,
        count: u32,
    ) -> Result<Vec<SpanInfo>, Error> {
        let pool_id = self.info.pool_id;
        let call = move |request_id| {
            let lease = Lease {
                pool_id,
                spec,
                count,
                request_id: model::RequestId::new(request_id),
            };
            Call::Lease(lease.into())
        };
        let core = Arc::clone(self);
        let undo = |reply: v1::LeaseReply| async move {
            if let Ok(spans) = Vec::try_from(reply) {
                core.return_as_they_came(spans).await;
            }
        };
        let reply = self.session.control_or_undo(call, undo).await;
        if let Err(Error::Exhausted { .. }) = &reply {
            self.is_full.store(true, Ordering::Relaxed);
        }
        let reply = reply.map_err(|error| self.name_loss(error))?;
        Ok(Vec::try_from(reply)?)
    }

    /// Returns every idle span to the daemon; returns how many there were.
    pub(crate) async fn return_idle(self: &Arc<Self>) -> Result<usize, Error> {
        let leases = self.trim(Trim::everything()).leases;
        let n = leases.len();
        if n > 0 {
            let core = Arc::clone(self);
            let returning = tokio::spawn(async move { core.return_spans(leases).await });
            // It goes on if the daemon is away for longer: the spans are in no heap any more.
            let waited = self.session.deadline;
            let returned = timeout(waited, returning).await;
            returned
                .map_err(|_| Error::NoAnswer { waited })?
                .unwrap_or(Err(Error::Closed))?;
        }
        Ok(n)
    }

    /// Returns spans that are in no heap any more, however long the daemon is away.
    pub(crate) async fn return_spans(&self, leases: Vec<SpanLease>) -> Result<(), Error> {
        for leases in leases.chunks(model::MAX_CALL_SPANS) {
            let spans = leases.iter().map(|lease| SpanInfo {
                first_page: lease.first_page,
                pages: lease.pages,
                size_class: lease.class,
                epoch: lease.epoch.get(),
                survivors: false,
            });
            self.call_return(spans.collect()).await?;
        }
        Ok(())
    }

    /// Returns spans that came when nobody waited for them any more.
    async fn return_as_they_came(&self, spans: Vec<SpanInfo>) {
        if let Err(error) = self.call_return(spans).await {
            tracing::debug!(%error, "spans were not returned");
        }
    }

    async fn call_return(&self, spans: Vec<SpanInfo>) -> Result<(), Error> {
        let pool_id = self.info.pool_id;
        let call = |request_id| {
            let returned = ReturnSpans {
                pool_id,
                spans: spans.clone(),
                request_id: model::RequestId::new(request_id),
            };
            Call::ReturnSpans(returned.into())
        };
        let returned = self.session.control_patiently(call).await;
        returned.map(|_: v1::ReturnSpansReply| ())
    }
}
