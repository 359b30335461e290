//! The calls of a remote session: each is made as often as it takes until the daemon answers or the
//! deadline has passed, and takes effect once, because every attempt has the same request id. The
//! channel connects again by itself, and the token that goes with each call is all that a
//! connection needs to know of the session.

use std::future::Future;
use std::time::Duration;

use goumem_proto::reason::Reason;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Response, Status};

use crate::connect::Rpc;
use crate::error::Error;
use crate::request_ids::{RequestId, RequestIds};

/// Pauses before another attempt, doubling, half of each at random.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The way to the daemon.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) rpc: Rpc,
    /// How long a call waits for the daemon.
    pub(super) deadline: Duration,
    pub(super) request_ids: RequestIds,
}

/// The attempts at one call.
#[derive(Debug)]
pub(super) struct Attempts {
    deadline: Duration,
    until: Instant,
    pause: Duration,
}

impl Attempts {
    /// Begins with a call that may take so long.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            until: Instant::now() + deadline,
            pause: FIRST_PAUSE,
        }
    }

    /// Makes an attempt.
    pub(super) async fn make<R>(
        &self,
        call: impl Future<Output = Result<R, Status>>,
    ) -> Result<R, Error> {
        match timeout_at(self.until, call).await {
            Ok(outcome) => outcome.map_err(|status| Error::from_status(&status)),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Waits until another attempt may fare better.
    ///
    /// # Errors
    /// What the last one said, if none may.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let pause = self.pause / 2 + crate::link::random_part(self.pause / 2);
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        if !is_passing(&error) || Instant::now() + pause >= self.until {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "trying again");
        sleep(pause).await;
        Ok(())
    }

    async fn next_id<'a>(&self, ids: &'a RequestIds, holds: bool) -> Result<RequestId<'a>, Error> {
        let next = timeout_at(self.until, ids.next(holds)).await;
        next.map_err(|_| self.no_answer())
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer {
            waited: self.deadline,
        }
    }
}

impl Wire {
    /// Makes a call that changes nothing, or the same however often it is made.
    pub(super) async fn ask<R, F>(&self, send: impl Fn(Rpc) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.ask_within(self.deadline, send).await
    }

    /// As [`ask`](Self::ask), with another deadline.
    pub(super) async fn ask_within<R, F>(
        &self,
        deadline: Duration,
        send: impl Fn(Rpc) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut attempts = Attempts::new(deadline);
        loop {
            match attempts.make(send(self.rpc.clone())).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Makes a call that changes something, once.
    pub(super) async fn effect<R, F>(&self, send: impl Fn(Rpc, u64) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.effect_within(self.deadline, true, send).await
    }

    /// As [`effect`](Self::effect), for a call that waits for others up to `wait`. Each attempt is
    /// told how much of that is left.
    pub(super) async fn wait<R, F>(
        &self,
        wait: Duration,
        send: impl Fn(Rpc, u64, Duration) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let start = Instant::now();
        let send = |rpc, id| send(rpc, id, wait.saturating_sub(start.elapsed()));
        self.effect_within(wait + self.deadline, false, send).await
    }

    async fn effect_within<R, F>(
        &self,
        deadline: Duration,
        holds: bool,
        send: impl Fn(Rpc, u64) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut attempts = Attempts::new(deadline);
        let mut id = attempts.next_id(&self.request_ids, holds).await?;
        let mut is_first = true;
        loop {
            let error = match attempts.make(send(self.rpc.clone(), id.get())).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(error) => error,
            };
            // The id is not too old, so its call was refused, and the answer was lost: nothing has
            // happened. Asked anew, it is answered anew.
            if !is_first && error.reason() == Some(Reason::RequestExpired) {
                drop(id);
                id = attempts.next_id(&self.request_ids, holds).await?;
                is_first = true;
                continue;
            }
            attempts.pause(error).await?;
            is_first = false;
        }
    }
}

/// Returns whether the daemon, or the network, may fare better in a moment.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Transport { code, .. } => matches!(
            code,
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        ),
        _ => error.reason().is_some_and(Reason::is_retryable),
    }
}
