//! DaemonService.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use goumem_proto::v1;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Request, Response, Status};

use super::{Edge, Nothing, service};
use crate::events::Watcher;

#[derive(Debug)]
pub(super) struct Daemon(pub(super) Edge);

service! {
    daemon_service_server::DaemonService for Daemon {
        aside info(InfoRequest) -> InfoReply = |core, caller, Nothing, now| core.info(caller, now);
    }
    and {
        async fn ping(
            &self,
            _: Request<v1::PingRequest>,
        ) -> Result<Response<v1::PingReply>, Status> {
            Ok(Response::new(v1::PingReply {}))
        }

        type WatchStream = Watch;

        async fn watch(
            &self,
            request: Request<v1::WatchRequest>,
        ) -> Result<Response<Watch>, Status> {
            let now = Instant::now();
            let (caller, request) = self.0.receive(request, now)?;
            let watcher = self.0.core.hub().watch(caller, request, now);
            Ok(Response::new(Watch {
                watcher,
                draining: Box::pin(self.0.draining.clone().cancelled_owned()),
            }))
        }
    }
}

/// What happens, until the daemon ends.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Watcher,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Watch {
    type Item = Result<v1::WatchEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.draining.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let event = ready!(Pin::new(&mut self.watcher).poll_next(context));
        Poll::Ready(event.map(|event| Ok(event.into())))
    }
}
