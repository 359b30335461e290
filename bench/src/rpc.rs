//! Allocating by RPC: a raw gRPC client on the Unix socket, one call at a time, beside empty calls
//! to the same server on the same connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use goumem_proto::v1;
use goumem_proto::v1::daemon_service_client::DaemonServiceClient;
use goumem_proto::v1::pool_service_client::PoolServiceClient;
use goumem_proto::v1::session_service_client::SessionServiceClient;
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::daemon::Daemon;
use crate::report::Line;
use crate::suite::Bench;
use crate::timing::{Effort, alternate, median_us};

const BLOCK_BYTES: u64 = 64;
const BATCH_BLOCKS: u32 = 1000;
const POOL_BYTES: u64 = 64 << 20;
/// The pool of a [`Caller`].
pub(crate) const POOL: &str = "bench";

/// Alloc of 64 bytes and Free, in microseconds for the two; beside two empty calls.
pub(crate) fn alloc_free(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    const CYCLES: usize = 10;
    let daemon = Daemon::start()?;
    // The client waits for one call at a time: a second thread of its own would only be woken.
    let runtime = runtime()?;
    let mut caller = runtime.block_on(Caller::connect(&daemon.socket()))?;
    let mut pinger = caller.clone();
    let medians = alternate(
        effort,
        2000,
        Box::new(|| runtime.block_on(median_us(CYCLES, async || caller.alloc_free().await))),
        vec![(
            "two_pings",
            Box::new(|| runtime.block_on(median_us(CYCLES, async || pinger.two_pings().await))),
        )],
    )?;
    Ok(Line::new(bench, "us", medians))
}

/// AllocBatch of 1 000 blocks of 64 bytes and FreeBatch, in nanoseconds for each block; beside two
/// empty calls, their time spread over as many blocks.
pub(crate) fn batch_1000(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    const CYCLES: usize = 10;
    let daemon = Daemon::start()?;
    let runtime = runtime()?;
    let mut caller = runtime.block_on(Caller::connect(&daemon.socket()))?;
    let mut pinger = caller.clone();
    let ns_per_block = |us: f64| us * 1e3 / f64::from(BATCH_BLOCKS);
    let medians = alternate(
        effort,
        2000,
        Box::new(|| {
            let cycles = median_us(CYCLES, async || caller.batch().await);
            runtime.block_on(cycles).map(ns_per_block)
        }),
        vec![(
            "two_pings",
            Box::new(|| {
                let cycles = median_us(CYCLES, async || pinger.two_pings().await);
                runtime.block_on(cycles).map(ns_per_block)
            }),
        )],
    )?;
    Ok(Line::new(bench, "ns/block", medians))
}

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.context("could not start the runtime")
}

/// Connects.
pub(crate) async fn channel(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_str().context("path of the socket is not UTF-8")?;
    let endpoint = Endpoint::from_shared(format!("unix:{path}"))?
        .origin(Uri::from_static("http://localhost"))
        .max_frame_size(80 << 10);
    Ok(endpoint.connect().await?)
}

/// A session with a pool.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    daemon: DaemonServiceClient<Channel>,
    pub(crate) sessions: SessionServiceClient<Channel>,
    pub(crate) pools: PoolServiceClient<Channel>,
    token: BinaryMetadataValue,
    pub(crate) pool_id: u32,
    /// Each call is to happen once, as a careful client's does. The session's, so its clones'.
    last_request_id: Arc<AtomicUsize>,
}

impl Caller {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        Self::connect_to(socket, POOL_BYTES).await
    }

    /// As `connect`, with a pool of that capacity.
    pub(crate) async fn connect_to(socket: &Path, capacity_bytes: u64) -> anyhow::Result<Self> {
        let channel = channel(socket).await?;
        let open = v1::OpenSessionRequest {
            label: "goumem-bench".to_owned(),
            ttl_ms: 0,
            ..Default::default()
        };
        let mut sessions = SessionServiceClient::new(channel.clone());
        let opened = sessions.open(open).await?.into_inner();
        let mut caller = Self {
            daemon: DaemonServiceClient::new(channel.clone()),
            sessions,
            pools: PoolServiceClient::new(channel),
            token: MetadataValue::from_bytes(&opened.token),
            pool_id: 0,
            last_request_id: Arc::default(),
        };
        let create = v1::CreatePoolRequest {
            name: POOL.to_owned(),
            capacity_bytes,
            ..v1::CreatePoolRequest::default()
        };
        let create = caller.with_token(create);
        let created = caller.pools.create(create).await?.into_inner();
        caller.pool_id = created.pool.context("a reply without its pool")?.pool_id;
        Ok(caller)
    }

    pub(crate) async fn two_pings(&mut self) -> anyhow::Result<()> {
        self.daemon.ping(v1::PingRequest {}).await?;
        self.daemon.ping(v1::PingRequest {}).await?;
        Ok(())
    }

    async fn alloc_free(&mut self) -> anyhow::Result<()> {
        let spec = v1::BlockSpec {
            size_bytes: BLOCK_BYTES,
            ..v1::BlockSpec::default()
        };
        let alloc = v1::AllocRequest {
            pool_id: self.pool_id,
            spec: Some(spec),
            request_id: self.next_request_id(),
        };
        let alloc = self.with_token(alloc);
        let block = self.pools.alloc(alloc).await?.into_inner().block;
        let handle = block.and_then(|block| block.handle);
        ensure!(handle.is_some(), "a reply without its handle");
        let free = v1::FreeRequest {
            handle,
            request_id: self.next_request_id(),
        };
        let free = self.with_token(free);
        self.pools.free(free).await?;
        Ok(())
    }

    async fn batch(&mut self) -> anyhow::Result<()> {
        let spec = v1::BlockSpec {
            size_bytes: BLOCK_BYTES,
            count: BATCH_BLOCKS,
            ..v1::BlockSpec::default()
        };
        let alloc = v1::AllocBatchRequest {
            pool_id: self.pool_id,
            specs: vec![spec],
            request_id: self.next_request_id(),
        };
        let alloc = self.with_token(alloc);
        let handles = self.pools.alloc_batch(alloc).await?.into_inner().handles;
        let free = v1::FreeBatchRequest {
            handles,
            request_id: self.next_request_id(),
        };
        let free = self.with_token(free);
        let freed = self.pools.free_batch(free).await?.into_inner().freed;
        ensure!(
            freed == BATCH_BLOCKS,
            "{freed} blocks of {BATCH_BLOCKS} were freed"
        );
        Ok(())
    }

    pub(crate) fn next_request_id(&self) -> u64 {
        // Relaxed: it has to be unique, and carries no data.
        self.last_request_id.fetch_add(1, Ordering::Relaxed) as u64 + 1
    }

    pub(crate) fn with_token<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let key = goumem_proto::model::SESSION_METADATA_KEY;
        request.metadata_mut().insert_bin(key, self.token.clone());
        request
    }
}
