//! What the daemon tells a session unasked.

use std::sync::Arc;

use goumem_proto::model::Event;
use goumem_proto::v1;

use crate::housekeeper::Chore;
use crate::session::Session;

/// Passes on what the daemon tells unasked.
pub(crate) async fn listen(session: Arc<Session>) {
    let stream = session.rpc.sessions().events(v1::EventsRequest {}).await;
    match stream.map(tonic::Response::into_inner) {
        Ok(mut events) => {
            while let Ok(Some(event)) = events.message().await {
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
            }
        }
        Err(status) => tracing::debug!(%status, "no events"),
    }
    session.queue(Chore::Lost);
}
