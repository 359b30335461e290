//! DaemonService.

use goumem_proto::v1;
use tonic::{Request, Response, Status};

use super::{Edge, Nothing, service};

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
    }
}
