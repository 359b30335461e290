//! Messages of the protocol, as the daemon reads requests and the client replies: what makes sense
//! comes back from the wire unchanged, and an error that quotes the peer is short.

use std::fmt::Debug;

use goumem_proto::model::{self, ProtocolError};
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use prost::Message;

/// What a message becomes, and the message; in the order of the first byte.
macro_rules! messages {
    ($($domain:ty => $wire:ident,)*) => {
        const MESSAGES: &[(&str, fn(&[u8]))] =
            &[$((stringify!($wire), survives::<v1::$wire, $domain>),)*];
    };
}
messages! {
    model::Alloc => AllocRequest,
    model::Allocated => AllocReply,
    model::AllocBatch => AllocBatchRequest,
    model::AllocatedBatch => AllocBatchReply,
    model::ArenaAlloc => ArenaAllocRequest,
    model::ArenaAllocated => ArenaAllocReply,
    model::ArenaFree => ArenaFreeRequest,
    model::ArenaFreed => ArenaFreeReply,
    model::ArenaInfo => ArenaReply,
    model::ArenaPoolStat => ArenaPoolStat,
    model::AttachArena => AttachArenaRequest,
    model::BlockInfo => Block,
    model::CloseSession => CloseSessionRequest,
    model::ClosedSession => CloseSessionReply,
    model::CreateArenaPool => CreateArenaPoolRequest,
    model::CreatePool => CreatePoolRequest,
    model::DaemonInfo => InfoReply,
    model::DestroyPool => DestroyPoolRequest,
    model::DetachArena => DetachArenaRequest,
    model::DetachedArena => DetachArenaReply,
    model::Event => Event,
    model::FlushPool => FlushPoolRequest,
    model::Free => FreeRequest,
    model::FreeBatch => FreeBatchRequest,
    model::FreedBatch => FreeBatchReply,
    model::GetArena => GetArenaRequest,
    model::HandleReply => HandleReply,
    model::HandleRequest => HandleRequest,
    model::KillSession => KillSessionRequest,
    model::Lease => LeaseRequest,
    Vec<model::SpanInfo> => LeaseReply,
    model::ListHolders => ListHoldersRequest,
    Vec<model::ArenaHolders> => ListHoldersReply,
    model::ListKept => ListKeptRequest,
    Vec<model::KeptBlock> => ListKeptReply,
    Vec<model::PoolInfo> => ListPoolsReply,
    Vec<model::ArenaPoolInfo> => ListArenaPoolsReply,
    Vec<model::SessionInfo> => ListSessionsReply,
    model::Lookup => LookupRequest,
    model::OpenArenaPool => OpenArenaPoolRequest,
    model::OpenPool => OpenPoolRequest,
    model::OpenSession => OpenSessionRequest,
    model::OpenedArenaPool => ArenaPoolReply,
    model::OpenedPool => PoolReply,
    model::OpenedSession => OpenSessionReply,
    model::PoolStat => PoolStat,
    model::Publish => PublishRequest,
    model::PurgePool => PurgePoolRequest,
    model::PurgedPool => PurgePoolReply,
    model::Read => ReadRequest,
    model::Realloc => ReallocRequest,
    model::RenewedSession => KeepAliveReply,
    model::ResetArena => ResetArenaRequest,
    model::ResumedSession => ResumeSessionReply,
    model::ReturnArena => ReturnArenaRequest,
    model::ReturnSpans => ReturnSpansRequest,
    model::ReturnedSpans => ReturnSpansReply,
    model::SetCapacity => SetCapacityRequest,
    model::ShareArena => ShareArenaRequest,
    model::StatPool => StatPoolRequest,
    model::Unmap => UnmapRequest,
    model::Wake => WakeRequest,
    model::Withdraw => WithdrawRequest,
    model::WritePiece => WriteRequest,
    model::WriteStart => WriteRequest,
    model::Written => WriteReply,
    model::MapPool => MapPoolRequest,
    model::PoolMap => MapPoolReply,
    model::MapArenaPool => MapArenaPoolRequest,
    model::ArenaPoolMap => MapArenaPoolReply,
    model::WatchRequest => WatchRequest,
    model::WatchEvent => WatchEvent,
}

/// Reads any bytes as a message, which one the first byte says.
///
/// # Panics
/// When one that makes sense does not come back from the wire, or an error is long.
pub fn requests(bytes: &[u8]) {
    let Some((&which, message)) = bytes.split_first() else {
        return;
    };
    match MESSAGES.get(usize::from(which)) {
        Some((_, parse)) => parse(message),
        // Calls of the control stream, and what is said in place of a reply.
        None => {
            let call = v1::ControlRequest::decode(message);
            if let Ok(call) = call {
                assert_eq!(v1::ControlRequest::decode(&*call.encode_to_vec()), Ok(call));
            }
            if let Ok(failure) = v1::Failure::decode(message)
                && let Some(detail) = ErrorDetail::from_failure(failure)
            {
                let again = ErrorDetail::from_failure(detail.clone().into()).unwrap();
                assert_eq!(again.reason, detail.reason);
                // A name is cut to its bound, so two may become one.
                assert!(again.metadata.len() <= detail.metadata.len());
            }
        }
    }
}

/// Returns the first byte of a message of that name.
pub(super) fn number_of(wire: &str) -> u8 {
    let at = MESSAGES.iter().position(|(name, _)| *name == wire);
    u8::try_from(at.unwrap()).unwrap()
}

fn survives<W, D>(bytes: &[u8])
where
    W: Message + Default + From<D>,
    D: TryFrom<W, Error = ProtocolError> + Clone + PartialEq + Debug,
{
    let Ok(wire) = W::decode(bytes) else {
        return;
    };
    match D::try_from(wire) {
        Ok(value) => {
            let again = W::from(value.clone()).encode_to_vec();
            assert_eq!(D::try_from(W::decode(&*again).unwrap()), Ok(value));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 512, "an error of {} bytes: {text}", text.len());
            assert!(!error.field().is_empty());
        }
    }
}
