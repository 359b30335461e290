//! A call, from its first attempt to its outcome. Connections come and go under it; what it asks
//! for happens once all the same, because every attempt carries the same request id.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use goumem_alloc::Handle;
use goumem_proto::model::{HandleReply, ProtocolError};
use goumem_proto::reason::Reason;
use goumem_proto::v1;
use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Response, Status};

use crate::connect::Rpc;
use crate::connection::Connection;
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::request_ids::RequestId;
use crate::session::Session;
use crate::trace::{in_current, traced};

/// How long a call waits for its daemon unless the client was set up otherwise. One that is alive
/// answers within milliseconds; one that is stopped does not answer.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Calls that nobody waits for, such as unpinning, outlast every absence of the daemon: what they
/// give back would else be lost until the process ends.
pub(crate) const PATIENT: Duration = Duration::from_secs(365 * 86_400);
/// Pauses before a call that the daemon asks to repeat, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// When a call fails with its connection, everything else on it does at the same time.
const BREAK_TIME: Duration = Duration::from_secs(1);

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection is over; whether the daemon has done anything is not known.
    Broken,
    /// The daemon's answer, or what looks like a broken connection.
    Error(Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Error(Error::from_status(&status))
    }
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing, or the same however often it is made.
    Look,
    /// Something that is remembered by its request id.
    Effect,
    /// As an effect, but it is seen through once it has been sent.
    Settle,
    /// As an effect, but it may take long, and is not in the way of others meanwhile.
    Wait,
    /// Something that is not remembered: it is sent once at the most.
    Once,
}

impl Session {
    /// Makes a call that changes nothing, or the same however often it is made.
    pub(crate) async fn ask<R, F>(&self, send: impl Fn(Rpc) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let attempt = |connection: Arc<Connection>, _| unary(send(connection.rpc.clone()));
        self.repeat(Kind::Look, self.deadline, attempt).await
    }

    /// Makes a call that must not be made twice and is not remembered: when its connection breaks,
    /// it may have come to nothing.
    pub(crate) async fn ask_once<R, F>(
        &self,
        deadline: Duration,
        send: impl Fn(Rpc) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let attempt = |connection: Arc<Connection>, _| unary(send(connection.rpc.clone()));
        self.repeat(Kind::Once, deadline, attempt).await
    }

    /// Makes a call that changes something, once, however often it must be sent.
    pub(crate) async fn effect<R, F>(&self, send: impl Fn(Rpc, u64) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let attempt = |connection: Arc<Connection>, id| unary(send(connection.rpc.clone(), id));
        self.repeat(Kind::Effect, self.deadline, attempt).await
    }

    /// As [`effect`](Self::effect), for a call that waits for others up to `wait`: each attempt
    /// is told how much of that is left. A daemon that is away is waited for as long. When the
    /// call ends without the daemon's word, it goes on in the background, waiting for nobody, until
    /// the daemon tells what came of it; and that goes to `undo`. On the I/O thread.
    pub(crate) async fn wait_or_undo<R, F>(
        self: &Arc<Self>,
        wait: Duration,
        send: impl Fn(Rpc, u64, Duration) -> F + Send + Sync + 'static,
        undo: impl FnOnce(R) + Send + 'static,
    ) -> Result<R, Error>
    where
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send,
    {
        let start = Instant::now();
        let mut sent = None;
        let attempt = |connection: Arc<Connection>, id| {
            sent = Some(id);
            let left = wait.saturating_sub(start.elapsed());
            unary(send(connection.rpc.clone(), id, left))
        };
        let outcome = self.repeat(Kind::Wait, wait + self.deadline, attempt).await;
        if let (Err(error), Some(id)) = (&outcome, sent)
            // Without a reason it is not the daemon's word.
            && error.reason().is_none()
        {
            let session = Arc::clone(self);
            tokio::spawn(async move {
                let attempt = |connection: Arc<Connection>, id| {
                    unary(send(connection.rpc.clone(), id, Duration::ZERO))
                };
                let again = Some(session.request_ids.again(id));
                let outcome = session.repeat_as(Kind::Settle, PATIENT, again, attempt);
                if let Ok(reply) = outcome.await {
                    undo(reply);
                }
            });
        }
        outcome
    }

    /// As [`effect`](Self::effect), over the stream of control calls.
    pub(crate) async fn control<R>(&self, call: impl Fn(u64) -> Call) -> Result<R, Error>
    where
        R: TryFrom<Outcome, Error = ProtocolError>,
    {
        self.control_within(self.deadline, call).await
    }

    /// As [`control`](Self::control), however long the daemon is away.
    pub(crate) async fn control_patiently<R>(&self, call: impl Fn(u64) -> Call) -> Result<R, Error>
    where
        R: TryFrom<Outcome, Error = ProtocolError>,
    {
        self.control_within(PATIENT, call).await
    }

    /// As [`control`](Self::control), for a call whose effect would be lost with its reply: one
    /// that comes when nobody waits for it any more goes to `undo`. On the I/O thread.
    pub(crate) async fn control_or_undo<R, F>(
        self: &Arc<Self>,
        call: impl Fn(u64) -> Call + Send + Sync + 'static,
        undo: impl FnOnce(R) -> F + Send + 'static,
    ) -> Result<R, Error>
    where
        R: TryFrom<Outcome, Error = ProtocolError> + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let session = Arc::clone(self);
        let (sender, mut reply) = oneshot::channel();
        tokio::spawn(in_current(async move {
            let attempt = |connection: Arc<Connection>, id| {
                let call = call(id);
                async move { connection.control(call).await }
            };
            let outcome = session.repeat(Kind::Settle, session.deadline, attempt);
            let outcome = outcome.await.and_then(|outcome| Ok(R::try_from(outcome)?));
            if let Err(Ok(reply)) = sender.send(outcome) {
                undo(reply).await;
            }
        }));
        // A little longer than the deadline, which has an error of its own.
        if let Ok(outcome) = timeout(self.deadline + BREAK_TIME, &mut reply).await {
            return outcome.unwrap_or(Err(Error::Closed));
        }
        reply.close();
        reply.try_recv().unwrap_or(Err(Error::NoAnswer {
            waited: self.deadline,
        }))
    }

    async fn control_within<R>(
        &self,
        deadline: Duration,
        call: impl Fn(u64) -> Call,
    ) -> Result<R, Error>
    where
        R: TryFrom<Outcome, Error = ProtocolError>,
    {
        let attempt = |connection: Arc<Connection>, id| {
            let call = call(id);
            async move { connection.control(call).await }
        };
        let outcome = self.repeat(Kind::Effect, deadline, attempt).await?;
        Ok(R::try_from(outcome)?)
    }

    /// As [`control`](Self::control), on the I/O thread, for the calls that take a handle and
    /// return one.
    pub(crate) async fn control_on_handle(
        self: &Arc<Self>,
        handle: Handle,
        call: impl Fn(v1::HandleRequest) -> Call + Send + Sync + 'static,
    ) -> Result<Handle, Error> {
        self.run(move |session| async move {
            let on_handle = |request_id| {
                let handle = Some(handle.into());
                call(v1::HandleRequest { handle, request_id })
            };
            let reply: v1::HandleReply = session
                .control(on_handle)
                .await
                .map_err(|error| error.about(handle))?;
            Ok(HandleReply::try_from(reply)?.handle)
        })
        .await
    }

    /// Queues a control call whose outcome nobody waits for.
    pub(crate) fn queue_control<R>(
        self: &Arc<Self>,
        what: &'static str,
        call: impl Fn(u64) -> Call + Send + Sync + 'static,
    ) where
        R: TryFrom<Outcome, Error = ProtocolError> + Send + 'static,
    {
        let session = Arc::clone(self);
        self.queue(Chore::Call(Box::pin(async move {
            if let Err(error) = session.control_within::<R>(PATIENT, call).await {
                tracing::debug!(what, %error, "queued call failed");
            }
        })));
    }

    /// Asks for memory on the fd socket, which ends with the daemon as the connection does.
    pub(crate) async fn hand_over<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let attempt = |_, _| {
            let asking = ask();
            async move { asking.await.map_err(Failure::Error) }
        };
        self.repeat(Kind::Look, self.deadline, attempt).await
    }

    /// Makes attempts until one of them has an outcome.
    async fn repeat<R, F>(
        &self,
        kind: Kind,
        deadline: Duration,
        attempt: impl FnMut(Arc<Connection>, u64) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<R, Failure>>,
    {
        self.repeat_as(kind, deadline, None, attempt).await
    }

    /// As [`repeat`](Self::repeat), for a call that may have been sent under this id before.
    async fn repeat_as<R, F>(
        &self,
        kind: Kind,
        deadline: Duration,
        request_id: Option<RequestId<'_>>,
        mut attempt: impl FnMut(Arc<Connection>, u64) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<R, Failure>>,
    {
        let mut made = Made {
            session: self,
            kind,
            deadline,
            until: Instant::now() + deadline,
            request_id,
            attempts: 0,
            pause: FIRST_PAUSE,
        };
        loop {
            let connection = made.next().await?;
            let request_id = made.request_id.as_ref().map_or(0, RequestId::get);
            let outcome = traced(attempt(Arc::clone(&connection), request_id));
            match timeout_at(made.until, outcome).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(failure)) => made.learn(&connection, failure).await?,
                Err(_) => return Err(made.no_answer()),
            }
        }
    }
}

/// The attempts that were made.
#[derive(Debug)]
struct Made<'a> {
    session: &'a Session,
    kind: Kind,
    deadline: Duration,
    until: Instant,
    /// From the first attempt on.
    request_id: Option<RequestId<'a>>,
    attempts: u32,
    pause: Duration,
}

impl Made<'_> {
    /// Waits until the next attempt can be made.
    async fn next(&mut self) -> Result<Arc<Connection>, Error> {
        let session = self.session;
        let mut connection = self.connection().await?;
        let needs_id = matches!(self.kind, Kind::Effect | Kind::Settle | Kind::Wait);
        if needs_id && self.request_id.is_none() {
            // Not before there is a connection: calls that nobody waits for would use up the ids
            // while the daemon is away.
            let next = session.request_ids.next(self.kind != Kind::Wait);
            let next = timeout_at(self.until, next).await;
            self.request_id = Some(next.map_err(|_| self.no_answer())?);
            connection = self.connection().await?;
        }
        self.attempts += 1;
        if self.kind == Kind::Settle {
            self.until = Instant::now() + PATIENT;
        }
        Ok(connection)
    }

    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let session = self.session;
        let until = match self.kind {
            // What is left is for the daemon's answer.
            Kind::Wait => self.until - session.deadline,
            _ => self.until,
        };
        match session.link.up(&session.socket, until).await {
            // It has been sent before.
            Err(Error::NoDaemon { .. }) if self.attempts > 0 => Err(self.no_answer()),
            outcome => outcome,
        }
    }

    fn no_answer(&self) -> Error {
        // A wait that finds no daemon gives up before what it would leave to the daemon's answer.
        let left = self.until.saturating_duration_since(Instant::now());
        let waited = self.deadline.saturating_sub(left);
        Error::NoAnswer { waited }
    }

    /// Returns when another attempt may have a better outcome; else the error.
    async fn learn(&mut self, connection: &Arc<Connection>, failure: Failure) -> Result<(), Error> {
        let link = &self.session.link;
        let left = self.until.saturating_duration_since(Instant::now());
        let error = match failure {
            Failure::Error(error) => error,
            Failure::Broken if self.kind == Kind::Once => {
                return Err(Error::Transport {
                    code: Code::Unavailable,
                    message: "the connection is gone".to_owned(),
                });
            }
            Failure::Broken => return Ok(()),
        };
        let is_mended = match &error {
            Error::Daemon { reason, .. } => match reason {
                Reason::RequestInFlight | Reason::Recovering | Reason::Overloaded => {
                    let at = Instant::now() + self.pause;
                    self.pause = (2 * self.pause).min(LONGEST_PAUSE);
                    sleep_until(at.min(self.until)).await;
                    at < self.until
                }
                // It takes no new calls; the next daemon does.
                Reason::ShuttingDown => link.is_gone(connection, left).await,
                // The id is not too old, so its call was refused, and the answer was lost: nothing
                // has happened. Asked anew, it is answered anew.
                Reason::RequestExpired if self.attempts > 1 => {
                    self.request_id = None;
                    true
                }
                _ => false,
            },
            Error::Transport { code, .. } if self.kind != Kind::Once => {
                let may_be_broken = matches!(
                    code,
                    Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                );
                may_be_broken && link.is_gone(connection, BREAK_TIME.min(left)).await
            }
            // The fd socket, whose own end says no more.
            Error::Os { .. } => link.is_gone(connection, BREAK_TIME.min(left)).await,
            _ => false,
        };
        if is_mended { Ok(()) } else { Err(error) }
    }
}

/// Makes a call once.
pub(crate) async fn call<R>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<R>, Status>>,
) -> Result<R, Error> {
    match timeout(deadline, traced(call)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::NoAnswer { waited: deadline }),
    }
}

async fn unary<R>(call: impl Future<Output = Result<Response<R>, Status>>) -> Result<R, Failure> {
    Ok(call.await?.into_inner())
}
