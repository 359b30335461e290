//! Bytes to and from the daemon, in pieces, as fast as both ends take them: a reader holds two
//! pieces at the most besides what is in HTTP/2's window, and a writer sends no more than that.

use std::time::Duration;

use goumem_alloc::Handle;
use goumem_proto::model::{ProtocolError, Written};
use goumem_proto::v1;
use tokio::sync::mpsc;
use tonic::codegen::Bytes;

use super::session::RemoteSession;
use super::wire::{Attempts, Wire};
use crate::error::Error;

/// Bytes in one message: as the daemon sends them, and one frame.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that a reader keeps for its caller.
const MAX_PIECES: usize = 2;
/// What a transfer gets beyond a call's deadline: a second for each of so many bytes.
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// Bytes that come piece by piece.
///
/// The next piece is asked for when there is room for it: a slow reader holds up itself alone. A
/// connection that breaks is made again, and the reading goes on where it was.
#[derive(Debug)]
pub struct RemoteReader {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
}

impl RemoteReader {
    /// Begins to read so many bytes from an offset on.
    pub(super) async fn start(
        session: &std::sync::Arc<RemoteSession>,
        handle: Handle,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Self, Error> {
        session
            .run(move |session| async move {
                let (sender, pieces) = mpsc::channel(MAX_PIECES);
                tokio::spawn(async move {
                    // The session lives as long as somebody reads.
                    let wire = &session.wire;
                    let reading = read(wire, handle, offset_bytes, length_bytes, &sender);
                    let outcome = tokio::select! {
                        outcome = reading => outcome,
                        // Nobody wants the rest.
                        () = sender.closed() => Ok(()),
                    };
                    if let Err(error) = outcome {
                        let _ = sender.send(Err(error)).await;
                    }
                });
                Ok(Self { pieces })
            })
            .await
    }

    /// Returns the next piece, of 1 byte to 64 KiB; none at the end. After an error there is none.
    ///
    /// # Errors
    /// `STALE_HANDLE` when the block is freed or taken meanwhile: what came before was read while
    /// it was good. `OUT_OF_RANGE`. [`Error::Transport`], [`Error::NoAnswer`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.pieces
            .recv()
            .await
            .transpose()
            .map(|piece| piece.map(Vec::from))
    }

    /// Returns all that is left.
    pub(super) async fn collect(mut self, length_bytes: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(usize::try_from(length_bytes).unwrap_or(0));
        while let Some(piece) = self.pieces.recv().await {
            bytes.extend_from_slice(&piece?);
        }
        if bytes.len() as u64 == length_bytes {
            Ok(bytes)
        } else {
            // The I/O thread ended in the middle.
            Err(Error::Closed)
        }
    }
}

async fn read(
    wire: &Wire,
    handle: Handle,
    mut offset_bytes: u64,
    mut left_bytes: u64,
    to: &mpsc::Sender<Result<Bytes, Error>>,
) -> Result<(), Error> {
    while left_bytes > 0 {
        let request = v1::ReadRequest {
            handle: Some(handle.into()),
            offset_bytes,
            length_bytes: left_bytes,
        };
        let call = |rpc: crate::connect::Rpc| async move { rpc.bytes().read(request).await };
        let mut pieces = wire.ask(call).await.map_err(|error| error.about(handle))?;
        // Each piece has the time that a call has; the pauses begin anew with each.
        let mut attempts = Attempts::new(wire.deadline);
        loop {
            let piece = match attempts.make(pieces.message()).await {
                Ok(Some(v1::ReadReply { data })) => data,
                Ok(None) => break,
                Err(error) => {
                    attempts.pause(error.about(handle)).await?;
                    break;
                }
            };
            let len = piece.len() as u64;
            left_bytes = left_bytes.checked_sub(len).ok_or_else(|| {
                ProtocolError::invalid("data", len, format!("only {left_bytes} bytes are left"))
            })?;
            offset_bytes += len;
            if to.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
            attempts = Attempts::new(wire.deadline);
        }
    }
    Ok(())
}

/// Writes bytes from an offset on. The same again is the same, so it may be sent again.
pub(super) async fn write(
    wire: &Wire,
    handle: Handle,
    offset_bytes: u64,
    bytes: Bytes,
) -> Result<(), Error> {
    let len = bytes.len() as u64;
    if len == 0 {
        return Ok(());
    }
    let more = Duration::from_secs(len / SLOWEST_BYTES_PER_SECOND);
    let send = |rpc: crate::connect::Rpc| {
        let pieces = Pieces {
            first: Some((handle, offset_bytes)),
            left: bytes.clone(),
        };
        async move { rpc.bytes().write(tokio_stream::iter(pieces)).await }
    };
    let reply = wire
        .ask_within(wire.deadline + more, send)
        .await
        .map_err(|error| error.about(handle))?;
    let written = Written::try_from(reply)?.written_bytes;
    if written != len {
        let why = format!("{len} bytes were sent");
        return Err(ProtocolError::invalid("written_bytes", written, why).into());
    }
    Ok(())
}

/// What is left to send.
struct Pieces {
    /// What goes with the first piece.
    first: Option<(Handle, u64)>,
    left: Bytes,
}

impl Iterator for Pieces {
    type Item = v1::WriteRequest;

    fn next(&mut self) -> Option<v1::WriteRequest> {
        if self.left.is_empty() {
            return None;
        }
        let data = self.left.split_to(self.left.len().min(PIECE_BYTES));
        let (handle, offset_bytes) = self.first.take().unzip();
        Some(v1::WriteRequest {
            handle: handle.map(Into::into),
            offset_bytes: offset_bytes.unwrap_or(0),
            data,
        })
    }
}
