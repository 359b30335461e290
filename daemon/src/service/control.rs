//! SessionService.Control: the calls of a client that maps pools, as messages of one stream. Each
//! ends in the method of the core that the call of the same name ends in.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use goumem_proto::model::{MAX_CONTROL_CALLS, ProtocolError};
use goumem_proto::v1;
use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};
use tracing::{Span, debug_span, field};

use super::done;
use crate::core::Core;
use crate::error::Error;
use crate::metrics::MethodIndex;
use crate::session::Caller;
use crate::{status, traces};

/// The calls of a stream, and their replies.
///
/// It works only while it is polled for a reply, and takes a call only when it has a reply's place
/// for it: so a client that does not read is not listened to, and the messages that wait are in
/// its own sockets.
#[derive(Debug)]
pub(super) struct Control {
    core: Arc<Core>,
    caller: Caller,
    /// None when there are no more.
    calls: Option<Streaming<v1::ControlRequest>>,
    /// Calls on threads that may work long. Those that have not begun end with the stream, and
    /// are sent again; the others come to their end, and their retries hear of it.
    aside: JoinSet<v1::ControlReply>,
    /// Tells that the session, or the daemon, has ended, or that the session has another stream.
    ended: oneshot::Receiver<()>,
}

impl Control {
    pub(super) fn new(
        core: Arc<Core>,
        caller: Caller,
        calls: Streaming<v1::ControlRequest>,
        ended: oneshot::Receiver<()>,
    ) -> Self {
        Self {
            core,
            caller,
            calls: Some(calls),
            aside: JoinSet::new(),
            ended,
        }
    }

    /// Begins with a call; returns the reply if there is one already.
    fn begin(&mut self, request: v1::ControlRequest) -> Option<v1::ControlReply> {
        let now = Instant::now();
        let (sequence, traceparent) = (request.sequence, request.traceparent);
        let Some(call) = request.call else {
            let missing = ProtocolError::missing("call").into();
            return Some(reply(sequence, Err(missing)));
        };
        if let Some(session) = &self.caller.session {
            session.touch(now);
        }
        if is_small(&call) {
            let span = span(&self.caller, &call, &traceparent);
            return Some(span.in_scope(|| answer(&self.core, &self.caller, sequence, call, now)));
        }
        let (core, caller) = (Arc::clone(&self.core), self.caller.clone());
        self.aside.spawn_blocking(move || {
            let span = span(&caller, &call, &traceparent);
            span.in_scope(|| answer(&core, &caller, sequence, call, now))
        });
        None
    }
}

impl Stream for Control {
    type Item = Result<v1::ControlReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A client that never stops calling leaves the thread to others now and then.
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        if self.calls.is_some() && Pin::new(&mut self.ended).poll(context).is_ready() {
            self.calls = None;
        }
        loop {
            match self.aside.poll_join_next(context) {
                Poll::Ready(Some(joined)) => {
                    budget.made_progress();
                    let panicked = |_| {
                        Status::from(Error::Invariant {
                            what: "a call came to its end",
                        })
                    };
                    return Poll::Ready(Some(joined.map_err(panicked)));
                }
                Poll::Ready(None) if self.calls.is_none() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.aside.len() >= MAX_CONTROL_CALLS {
                return Poll::Pending;
            }
            let Some(calls) = &mut self.calls else {
                return Poll::Pending;
            };
            match ready!(Pin::new(calls).poll_next(context)) {
                Some(Ok(request)) => {
                    if let Some(reply) = self.begin(request) {
                        budget.made_progress();
                        return Poll::Ready(Some(Ok(reply)));
                    }
                }
                // The client sends no more, or has gone.
                Some(Err(_)) | None => self.calls = None,
            }
        }
    }
}

/// Returns whether a call touches a page or two, and is done before another thread would have been
/// woken for it.
fn is_small(call: &Call) -> bool {
    match call {
        Call::Lease(_) | Call::ReturnSpans(_) => false,
        Call::Keep(_)
        | Call::Pin(_)
        | Call::Unpin(_)
        | Call::Share(_)
        | Call::Attach(_)
        | Call::Detach(_)
        | Call::Wake(_) => true,
    }
}

/// Returns a call's span, as every call has one.
fn span(caller: &Caller, call: &Call, traceparent: &str) -> Span {
    let span = debug_span!(
        "control",
        call = name(call),
        session = caller.session.as_ref().map(|session| session.number.get()),
        request = field::Empty,
        otel.kind = field::Empty,
        otel.name = field::Empty,
    );
    let traceparent = Some(traceparent).filter(|text| !text.is_empty());
    traces::continue_trace(&span, name(call), traceparent);
    span
}

/// Performs a call and makes its reply.
fn answer(
    core: &Core,
    caller: &Caller,
    sequence: u64,
    call: Call,
    now: Instant,
) -> v1::ControlReply {
    let method = MethodIndex::of(method(&call));
    let outcome = perform(core, caller, call, now);
    let code = outcome
        .as_ref()
        .map_or_else(|error| error.reason().code(), |_| Code::Ok);
    core.metrics().called(method, code, now.elapsed());
    reply(sequence, outcome)
}

/// Returns the full name of the method that does the same.
fn method(call: &Call) -> &'static str {
    match call {
        Call::Lease(_) => "goumem.v1.PoolService/Lease",
        Call::ReturnSpans(_) => "goumem.v1.PoolService/ReturnSpans",
        Call::Keep(_) => "goumem.v1.PoolService/Keep",
        Call::Pin(_) => "goumem.v1.PoolService/Pin",
        Call::Unpin(_) => "goumem.v1.PoolService/Unpin",
        Call::Share(_) => "goumem.v1.ArenaPoolService/Share",
        Call::Attach(_) => "goumem.v1.ArenaPoolService/Attach",
        Call::Detach(_) => "goumem.v1.ArenaPoolService/Detach",
        Call::Wake(_) => "goumem.v1.ArenaPoolService/Wake",
    }
}

/// Returns the name of the call alone.
fn name(call: &Call) -> &'static str {
    let method = method(call);
    method.rsplit('/').next().unwrap_or(method)
}

/// Parses a call and has the core do it.
fn perform(core: &Core, caller: &Caller, call: Call, now: Instant) -> Result<Outcome, Error> {
    let to = To { core, caller, now };
    match call {
        Call::Lease(lease) => to.call(lease, Core::lease).map(Outcome::Lease),
        Call::ReturnSpans(spans) => to.call(spans, Core::return_spans).map(Outcome::ReturnSpans),
        Call::Keep(block) => to.call(block, Core::keep).map(Outcome::Block),
        Call::Pin(block) => to.call(block, Core::pin).map(Outcome::Block),
        Call::Unpin(block) => to.call(block, Core::unpin).map(Outcome::Block),
        Call::Share(arena) => to.call(arena, Core::share_arena).map(Outcome::Arena),
        Call::Attach(arena) => to.call(arena, Core::attach_arena).map(Outcome::Arena),
        Call::Detach(arena) => to.call(arena, Core::detach_arena).map(Outcome::Detach),
        Call::Wake(pool) => {
            let wake = |core: &Core, caller: &Caller, request, now| {
                core.wake(caller, request, now).map(done)
            };
            to.call(pool, wake).map(Outcome::Wake)
        }
    }
}

/// Whom to ask, and for whom.
#[derive(Clone, Copy)]
struct To<'a> {
    core: &'a Core,
    caller: &'a Caller,
    now: Instant,
}

impl To<'_> {
    fn call<W, D, R, O>(
        self,
        wire: W,
        work: impl FnOnce(&Core, &Caller, D, Instant) -> Result<R, Error>,
    ) -> Result<O, Error>
    where
        D: TryFrom<W, Error = ProtocolError>,
        R: Into<O>,
    {
        work(self.core, self.caller, wire.try_into()?, self.now).map(R::into)
    }
}

fn reply(sequence: u64, outcome: Result<Outcome, Error>) -> v1::ControlReply {
    let outcome = outcome.unwrap_or_else(|error| Outcome::Failure(status::tell(error).into()));
    v1::ControlReply {
        sequence,
        outcome: Some(outcome),
    }
}
