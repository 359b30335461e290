//! One connection to the daemon, with the two streams that every connection of a session has: what
//! the daemon tells unasked, and the control calls. It is over when either stream ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use goumem_proto::model::{Event, MAX_CONTROL_CALLS};
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::calls::Failure;
use crate::connect::Rpc;
use crate::error::Error;
use crate::housekeeper::Chore;
use crate::session::{Session, lock};
use crate::trace;

/// A daemon that takes a connection at all opens its streams at once; one that is stopped does
/// not.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) rpc: Rpc,
    calls: mpsc::Sender<v1::ControlRequest>,
    waiting: Mutex<Waiting>,
}

/// The control calls whose replies have not come.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// By sequence number; none when the connection is over.
    replies: Option<HashMap<u64, oneshot::Sender<Outcome>>>,
}

/// What comes from the daemon.
#[derive(Debug)]
pub(crate) struct Incoming {
    events: Streaming<v1::Event>,
    replies: Streaming<v1::ControlReply>,
}

impl Connection {
    /// Opens the streams of a session.
    pub(crate) async fn open(rpc: Rpc) -> Result<(Arc<Self>, Incoming), Error> {
        // As many calls are under way at most, so none waits for its place.
        let (calls, queue) = mpsc::channel(MAX_CONTROL_CALLS);
        let mut sessions = rpc.sessions();
        let mut events = sessions.clone();
        let streams = async {
            tokio::try_join!(
                events.events(v1::EventsRequest {}),
                sessions.control(ReceiverStream::new(queue)),
            )
        };
        let (events, replies) = timeout(OPEN_DEADLINE, streams)
            .await
            .map_err(|_| Error::NoAnswer {
                waited: OPEN_DEADLINE,
            })?
            .map_err(|status| Error::from_status(&status))?;
        let connection = Self {
            rpc,
            calls,
            waiting: Mutex::new(Waiting {
                last: 0,
                replies: Some(HashMap::new()),
            }),
        };
        let incoming = Incoming {
            events: events.into_inner(),
            replies: replies.into_inner(),
        };
        Ok((Arc::new(connection), incoming))
    }

    /// Makes a control call.
    pub(crate) async fn control(&self, call: Call) -> Result<Outcome, Failure> {
        let (sequence, reply) = self.expect_reply().ok_or(Failure::Broken)?;
        let _forget = Forget {
            connection: self,
            sequence,
        };
        let request = v1::ControlRequest {
            sequence,
            traceparent: trace::send_control(&call),
            call: Some(call),
        };
        self.calls
            .send(request)
            .await
            .map_err(|_| Failure::Broken)?;
        match reply.await.map_err(|_| Failure::Broken)? {
            Outcome::Failure(failure) => Err(Failure::Error(read_failure(failure))),
            outcome => Ok(outcome),
        }
    }

    fn expect_reply(&self) -> Option<(u64, oneshot::Receiver<Outcome>)> {
        let (sender, reply) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        let sequence = waiting.last + 1;
        waiting.replies.as_mut()?.insert(sequence, sender);
        waiting.last = sequence;
        Some((sequence, reply))
    }

    /// Passes on what comes until the connection is over.
    pub(crate) async fn listen(&self, session: &Session, incoming: Incoming) {
        let Incoming {
            mut events,
            mut replies,
        } = incoming;
        let events = async { while pass_event_on(session, events.message().await) {} };
        let replies = async { while self.pass_reply_on(replies.message().await) {} };
        tokio::select! {
            () = events => {}
            () = replies => {}
        }
    }

    fn pass_reply_on(&self, reply: Result<Option<v1::ControlReply>, Status>) -> bool {
        match reply {
            Ok(Some(v1::ControlReply { sequence, outcome })) => {
                let waiter = lock(&self.waiting)
                    .replies
                    .as_mut()
                    .and_then(|replies| replies.remove(&sequence));
                if let (Some(waiter), Some(outcome)) = (waiter, outcome) {
                    // Who has lost interest does not hear it.
                    let _ = waiter.send(outcome);
                }
                true
            }
            Ok(None) => false,
            Err(status) => {
                tracing::debug!(%status, "control calls ended");
                false
            }
        }
    }

    /// Lets go of every call whose reply has not come: whoever waits makes it again elsewhere.
    pub(crate) fn end(&self) {
        lock(&self.waiting).replies = None;
    }
}

/// Takes a call out of the table when nobody waits for its reply any more.
struct Forget<'a> {
    connection: &'a Connection,
    sequence: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(replies) = &mut lock(&self.connection.waiting).replies {
            replies.remove(&self.sequence);
        }
    }
}

/// Passes on what the daemon tells unasked; returns whether there may be more.
fn pass_event_on(session: &Session, event: Result<Option<v1::Event>, Status>) -> bool {
    let event = match event {
        Ok(Some(event)) => event,
        Ok(None) => return false,
        Err(status) => {
            tracing::debug!(%status, "events ended");
            return false;
        }
    };
    match Event::try_from(event) {
        Ok(Event::Welcome) => {}
        Ok(Event::Pressure { pool_id } | Event::PoolDestroyed { pool_id }) => {
            session.queue(Chore::Pressure(pool_id));
        }
        Ok(Event::ShuttingDown { deadline }) => {
            tracing::info!(?deadline, "goumemd is shutting down");
        }
        Err(error) => tracing::debug!(%error, "unknown event"),
    }
    true
}

/// Reads what a failed control call says.
fn read_failure(failure: v1::Failure) -> Error {
    let (code, message) = (failure.code, failure.message.clone());
    match ErrorDetail::from_failure(failure) {
        Some(detail) => Error::from_detail(detail),
        None => Error::Transport {
            code: tonic::Code::from_i32(code),
            message,
        },
    }
}
