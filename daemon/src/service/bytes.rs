//! ByteService: the bytes of blocks and arenas for clients that do not map them, in pieces, as
//! fast as the client takes or sends them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::Handle;
use goumem_proto::model::{ProtocolError, WritePiece, WriteStart, Written};
use goumem_proto::v1;
use tokio::time::timeout;
use tonic::codegen::Bytes as Piece;
use tonic::{Request, Response, Status, Streaming};

use super::Edge;
use crate::core::Core;
use crate::error::Error;
use crate::session::Caller;

/// Bytes copied at a time, and sent in one message: about ten microseconds of a worker's time.
const PIECE_BYTES: usize = 64 << 10;

/// How long a remote client may be silent in the middle of a write.
const MAX_SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Bytes(pub(super) Edge);

#[tonic::async_trait]
impl v1::byte_service_server::ByteService for Bytes {
    /// An iterator: the next piece is copied when the client has room for it, so a slow one costs
    /// no memory, and one that goes away no work.
    type ReadStream = tokio_stream::Iter<Pieces>;

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (caller, read) = self.0.receive(request, Instant::now())?;
        let length_bytes = self.0.core.readable_bytes(&caller, &read)?;
        Ok(Response::new(tokio_stream::iter(Pieces {
            core: Arc::clone(&self.0.core),
            caller,
            handle: read.handle,
            offset_bytes: read.offset_bytes,
            left_bytes: length_bytes,
        })))
    }

    async fn write(
        &self,
        request: Request<Streaming<v1::WriteRequest>>,
    ) -> Result<Response<v1::WriteReply>, Status> {
        let caller = self.0.identify(&request, Instant::now())?;
        let mut messages = request.into_inner();
        let Some(first) = next(&mut messages, &caller).await? else {
            return Err(Error::from(ProtocolError::missing("handle")).into());
        };
        let WriteStart {
            handle,
            offset_bytes,
            mut data,
        } = first.try_into().map_err(Error::from)?;
        let mut written_bytes = 0;
        loop {
            for piece in data.chunks(PIECE_BYTES) {
                // Below 2^40 at first, and the core refuses what ends past the block.
                let at = offset_bytes + written_bytes;
                self.0.core.write_bytes(&caller, handle, at, piece)?;
                written_bytes += piece.len() as u64;
                tokio::task::consume_budget().await;
            }
            let Some(next) = next(&mut messages, &caller).await? else {
                break;
            };
            WritePiece { data } = next.try_into().map_err(Error::from)?;
        }
        Ok(Response::new(Written { written_bytes }.into()))
    }
}

/// Waits for the next message of a write; for that of a remote client not for ever.
async fn next(
    messages: &mut Streaming<v1::WriteRequest>,
    caller: &Caller,
) -> Result<Option<v1::WriteRequest>, Status> {
    if caller.local {
        return messages.message().await;
    }
    let late = |_| Error::CallTimedOut { after: MAX_SILENCE };
    timeout(MAX_SILENCE, messages.message())
        .await
        .map_err(late)?
}

/// What is left to read.
#[derive(Debug)]
pub(super) struct Pieces {
    core: Arc<Core>,
    caller: Caller,
    handle: Handle,
    offset_bytes: u64,
    left_bytes: u64,
}

impl Iterator for Pieces {
    type Item = Result<v1::ReadReply, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left_bytes == 0 {
            return None;
        }
        let len =
            usize::try_from(self.left_bytes).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = vec![0; len];
        let read = self
            .core
            .read_bytes(&self.caller, self.handle, self.offset_bytes, &mut piece);
        if let Err(error) = read {
            self.left_bytes = 0;
            return Some(Err(error.into()));
        }
        self.offset_bytes += len as u64;
        self.left_bytes -= len as u64;
        Some(Ok(v1::ReadReply {
            data: Piece::from(piece),
        }))
    }
}
