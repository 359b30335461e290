//! SessionService.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use goumem_proto::model::Event;
use goumem_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::control::Control;
use super::{Edge, Nothing, done, service};
use crate::core::Core;
use crate::error::Error;

#[derive(Debug)]
pub(super) struct Sessions(pub(super) Edge);

service! {
    session_service_server::SessionService for Sessions {
        aside open(OpenSessionRequest) -> OpenSessionReply = Core::open_session;
        here resume(ResumeSessionRequest) -> ResumeSessionReply =
            |core, caller, Nothing, now| core.resume_session(caller, now);
        aside close(CloseSessionRequest) -> CloseSessionReply = Core::close_session;
        aside kill(KillSessionRequest) -> KillSessionReply =
            |core, caller, request, now| core.kill_session(caller, request, now).map(done);
        aside list(ListSessionsRequest) -> ListSessionsReply =
            |core, caller, Nothing, now| core.list_sessions(caller, now);
        here unmap(UnmapRequest) -> UnmapReply =
        |core, caller, request, now| core.unmap(caller, request, now).map(done);
    here keep_alive(KeepAliveRequest) -> KeepAliveReply =
            |core, caller, Nothing, now| core.keep_alive(caller, now);
    }
    and {
        type EventsStream = Events;

        async fn events(
            &self,
            request: Request<v1::EventsRequest>,
        ) -> Result<Response<Events>, Status> {
            let caller = self.0.identify(&request, Instant::now())?;
            let events = Events(caller.session()?.subscribe());
            self.still_serving(events)
        }

        type ControlStream = Control;

        async fn control(
            &self,
            request: Request<Streaming<v1::ControlRequest>>,
        ) -> Result<Response<Control>, Status> {
            let caller = self.0.identify(&request, Instant::now())?;
            let ended = caller.session()?.take_control();
            let core = Arc::clone(&self.0.core);
            self.still_serving(Control::new(core, caller, request.into_inner(), ended))
        }
    }
}

impl Sessions {
    /// Streams are ended after the daemon has begun to drain; one that came too late for that would
    /// outlast every other call.
    fn still_serving<T>(&self, stream: T) -> Result<Response<T>, Status> {
        if self.0.draining.is_cancelled() {
            return Err(Error::ShuttingDown.into());
        }
        Ok(Response::new(stream))
    }
}

/// A session's events. It ends when the session does, when the daemon does, and when the session
/// asks for another stream.
#[derive(Debug)]
pub(super) struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<v1::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|event| event.map(|event| Ok(event.into())))
    }
}
