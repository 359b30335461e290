//! The calls of a client without a mapping. A call that changes something has a request id; if its
//! answer is lost it is sent again under that, and some are sent again though it was not.

use std::future::Future;
use std::pin::Pin;
use std::thread;
use std::time::Duration;

use goumem::Handle;
use goumem_proto::reason::{ErrorDetail, Reason};
use goumem_proto::v1;
use harness::{Rpc, rpc};
use tonic::{Response, Status};

use super::Thin;
use crate::wire::{Token, Wrong};
use crate::worker::bug;

/// Between two tries of a call that the daemon could not answer yet.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) type Call<R> = Pin<Box<dyn Future<Output = Result<Response<R>, Status>> + Send>>;

impl Thin {
    /// Makes a call that changes something, once.
    pub(super) fn effect<R: PartialEq + std::fmt::Debug>(
        &mut self,
        doing: &str,
        call: impl Fn(Rpc, u64) -> Call<R>,
    ) -> Result<R, ErrorDetail> {
        let id = self.next_request;
        self.next_request += 1;
        let outcome = self.insist(|rpc| call(rpc, id));
        if self.random.below(8) == 0 {
            let again = self.insist(|rpc| call(rpc, id));
            if let Ok(first) = &outcome {
                // A daemon that died in between may not know any more, but does it no second time.
                let forgotten =
                    matches!(&again, Err(detail) if detail.reason == Reason::RequestExpired);
                if !forgotten && again.as_ref().ok() != Some(first) {
                    let text = format!("{doing}, request {id}: {first:?}, then {again:?}");
                    bug(Wrong::Once, text);
                }
            } else if again.is_ok() {
                // Nothing had happened the first time: a wait that was over may go well now.
                return again;
            }
        }
        outcome
    }

    /// Makes a call as often as it takes until the daemon answers.
    pub(super) fn insist<R>(&self, call: impl Fn(Rpc) -> Call<R>) -> Result<R, ErrorDetail> {
        loop {
            let detail = match rpc::wait(call(self.rpc.clone())) {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => ErrorDetail::from_status(&status),
            };
            match detail {
                Some(detail) if is_passing(&detail) => {}
                Some(detail) => return Err(detail),
                // The connection broke; the next call makes another one.
                None => self.resume(),
            }
            thread::sleep(PAUSE);
        }
    }

    /// Continues the session on a new connection, as soon as there is a daemon.
    pub(super) fn resume(&self) {
        while !self.rpc.token.is_empty() {
            let request = self.rpc.with(v1::ResumeSessionRequest {});
            let resumed = rpc::wait(async { self.rpc.sessions().resume(request).await });
            match resumed.map_err(|status| ErrorDetail::from_status(&status)) {
                Ok(_) => return,
                Err(Some(detail)) if !is_passing(&detail) => {
                    return bug(Wrong::FalseDeath, format!("resume a session: {detail:?}"));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// Reports what should not have failed.
    pub(super) fn expect<T>(&self, outcome: Result<T, ErrorDetail>, doing: &str) -> Option<T> {
        outcome.map_err(|detail| self.report(&detail, doing)).ok()
    }

    pub(super) fn report(&self, detail: &ErrorDetail, doing: &str) {
        let wrong = match detail.reason {
            Reason::SessionExpired | Reason::SessionRequired => Wrong::FalseDeath,
            _ => Wrong::Error,
        };
        bug(wrong, format!("by gRPC, {doing}: {detail:?}"));
    }

    pub(super) fn write(&self, token: &Token) {
        let mut words = vec![0; token.words];
        token.stamp.write(&mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let handle = v1::Handle::from(token.handle);
        let write = |rpc: Rpc| -> Call<v1::WriteReply> {
            let pieces: Vec<_> = bytes
                .chunks(64 << 10)
                .enumerate()
                .map(|(i, piece)| v1::WriteRequest {
                    handle: (i == 0).then_some(handle),
                    offset_bytes: 0,
                    data: piece.to_vec().into(),
                })
                .collect();
            Box::pin(async move {
                let request = rpc.with(tokio_stream::iter(pieces));
                rpc.bytes().write(request).await
            })
        };
        self.expect(self.insist(write), "write");
    }

    /// Reads a block, as often as the stream breaks.
    pub(super) fn read(&self, handle: Handle) -> Result<Vec<u64>, ErrorDetail> {
        loop {
            let read = |rpc: Rpc| -> Call<tonic::Streaming<v1::ReadReply>> {
                let request = v1::ReadRequest {
                    handle: Some(handle.into()),
                    offset_bytes: 0,
                    length_bytes: 0,
                };
                Box::pin(async move { rpc.bytes().read(rpc.with(request)).await })
            };
            let mut pieces = self.insist(read)?;
            let mut bytes = Vec::new();
            let broken = rpc::wait(async {
                loop {
                    match pieces.message().await {
                        Ok(Some(piece)) => bytes.extend_from_slice(&piece.data),
                        Ok(None) => return None,
                        Err(status) => return Some(status),
                    }
                }
            });
            match broken.map(|status| ErrorDetail::from_status(&status)) {
                None => {
                    let word =
                        |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
                    return Ok(bytes.chunks_exact(8).map(word).collect());
                }
                Some(Some(detail)) => return Err(detail),
                Some(None) => self.resume(),
            }
        }
    }
}

/// Whether the daemon may answer the next time.
fn is_passing(detail: &ErrorDetail) -> bool {
    matches!(
        detail.reason,
        Reason::RequestInFlight | Reason::Recovering | Reason::ShuttingDown
    )
}

/// A call that takes a handle and returns one.
pub(super) fn on_handle(
    handle: Handle,
    call: impl Fn(Rpc, v1::HandleRequest) -> Call<v1::HandleReply>,
) -> impl Fn(Rpc, u64) -> Call<v1::HandleReply> {
    move |rpc, request_id| {
        let handle = Some(handle.into());
        call(rpc, v1::HandleRequest { handle, request_id })
    }
}
