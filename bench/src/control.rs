//! Leasing a span and returning it: over the stream of control calls, as the client library does,
//! beside calls of their own and beside empty calls, on the same connection.

use anyhow::{Context as _, bail};
use goumem_proto::v1;
use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::daemon::Daemon;
use crate::report::Line;
use crate::rpc::{Caller, runtime};
use crate::suite::Bench;
use crate::timing::{Effort, alternate, median_us};

/// Blocks of 64 bytes, in spans of one page.
const SIZE_CLASS: u32 = 3;
/// How many calls are under way at a time, where many are.
const AT_ONCE: usize = 32;

/// One at a time: microseconds for a lease and its return.
pub(crate) fn one(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    measure(bench, effort, 1)
}

/// Many at a time: microseconds for each lease and its return.
pub(crate) fn pipelined(bench: &Bench, effort: Effort) -> anyhow::Result<Line> {
    measure(bench, effort, AT_ONCE)
}

fn measure(bench: &Bench, effort: Effort, at_once: usize) -> anyhow::Result<Line> {
    const CYCLES: usize = 10;
    let daemon = Daemon::start()?;
    let runtime = runtime()?;
    let caller = runtime.block_on(Caller::connect(&daemon.socket()))?;
    let mut pinger = caller.clone();
    let mut unary = Unary(caller.clone());
    let mut stream = runtime.block_on(Stream::open(caller))?;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let each = |us: f64| us / at_once as f64;
    let medians = alternate(
        effort,
        500,
        Box::new(|| {
            let cycles = median_us(CYCLES, async || stream.cycle(at_once).await);
            runtime.block_on(cycles).map(each)
        }),
        vec![
            (
                "unary",
                Box::new(|| {
                    let cycles = median_us(CYCLES, async || unary.cycle(at_once).await);
                    runtime.block_on(cycles).map(each)
                }),
            ),
            (
                "two_pings",
                Box::new(|| runtime.block_on(median_us(CYCLES, async || pinger.two_pings().await))),
            ),
        ],
    )?;
    Ok(Line::new(bench, "us", medians))
}

fn lease(caller: &Caller) -> v1::LeaseRequest {
    v1::LeaseRequest {
        pool_id: caller.pool_id,
        size_class: SIZE_CLASS,
        count: 1,
        request_id: caller.next_request_id(),
        ..v1::LeaseRequest::default()
    }
}

fn give_back(caller: &Caller, spans: Vec<v1::Span>) -> v1::ReturnSpansRequest {
    v1::ReturnSpansRequest {
        pool_id: caller.pool_id,
        spans,
        request_id: caller.next_request_id(),
    }
}

/// By calls of their own.
pub(crate) struct Unary(pub(crate) Caller);

impl Unary {
    pub(crate) async fn cycle(&mut self, at_once: usize) -> anyhow::Result<()> {
        let mut calls = JoinSet::new();
        for _ in 0..at_once {
            let mut caller = self.0.clone();
            let cycle = async move {
                let lease = caller.with_token(lease(&caller));
                let spans = caller.pools.lease(lease).await?.into_inner().spans;
                let request = caller.with_token(give_back(&caller, spans));
                caller.pools.return_spans(request).await?;
                anyhow::Ok(())
            };
            if at_once == 1 {
                // A task of its own would cost something too.
                return cycle.await;
            }
            calls.spawn(cycle);
        }
        while let Some(joined) = calls.join_next().await {
            joined??;
        }
        Ok(())
    }
}

/// Over the stream.
struct Stream {
    caller: Caller,
    calls: mpsc::Sender<v1::ControlRequest>,
    replies: Streaming<v1::ControlReply>,
}

impl Stream {
    async fn open(mut caller: Caller) -> anyhow::Result<Self> {
        let (calls, queue) = mpsc::channel(2 * AT_ONCE);
        let request = caller.with_token(ReceiverStream::new(queue));
        let replies = caller.sessions.control(request).await?.into_inner();
        Ok(Self {
            caller,
            calls,
            replies,
        })
    }

    async fn cycle(&mut self, at_once: usize) -> anyhow::Result<()> {
        for _ in 0..at_once {
            let lease = lease(&self.caller);
            self.send(Call::Lease(lease)).await?;
        }
        let mut returned = 0;
        while returned < at_once {
            let reply = self.replies.message().await?;
            match reply.and_then(|reply| reply.outcome) {
                Some(Outcome::Lease(reply)) => {
                    let request = give_back(&self.caller, reply.spans);
                    self.send(Call::ReturnSpans(request)).await?;
                }
                Some(Outcome::ReturnSpans(_)) => returned += 1,
                outcome => bail!("no such reply was asked for: {outcome:?}"),
            }
        }
        Ok(())
    }

    async fn send(&mut self, call: Call) -> anyhow::Result<()> {
        let request = v1::ControlRequest {
            // The outcome tells which call it is of.
            sequence: 0,
            call: Some(call),
            traceparent: String::new(),
        };
        self.calls
            .send(request)
            .await
            .context("the stream has ended")
    }
}
