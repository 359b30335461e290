//! SessionService.Control: the calls of a client that maps pools, as messages of one stream. What
//! they carry are the messages of the calls themselves; here is only how an outcome becomes the
//! reply that the caller waits for.

use super::ProtocolError;
use crate::v1;
use crate::v1::control_reply::Outcome;

/// The most calls of one stream that the daemon works on at a time. A client has no more under
/// way, so that none of its messages waits in a socket.
pub const MAX_CONTROL_CALLS: usize = 64;

/// Makes the reply out of an outcome, or says that it is another call's.
macro_rules! replies {
    ($($field:literal $variant:ident($reply:ident);)*) => {$(
        impl TryFrom<Outcome> for v1::$reply {
            type Error = ProtocolError;

            fn try_from(outcome: Outcome) -> Result<Self, ProtocolError> {
                match outcome {
                    Outcome::$variant(reply) => Ok(reply),
                    _ => Err(ProtocolError::missing($field)),
                }
            }
        }
    )*};
}
replies! {
    "lease" Lease(LeaseReply);
    "return_spans" ReturnSpans(ReturnSpansReply);
    "block" Block(HandleReply);
    "arena" Arena(ArenaReply);
    "detach" Detach(DetachArenaReply);
    "wake" Wake(WakeReply);
}
