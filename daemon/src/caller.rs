//! Who makes a call: what the kernel says of the connection, and the session of the token in the
//! call's metadata. Nothing that a message says is believed.

use std::sync::Arc;
use std::time::Instant;

use goumem_proto::model::{ProtocolError, SESSION_METADATA_KEY, SessionToken};
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::error::Error;
use crate::listen::{LocalPeer, PeerInfo};
use crate::session::{Caller, Session, Sessions};

#[cfg(test)]
mod tests;

/// The user and group of whoever calls over TCP. No process has it: to the kernel it means "leave
/// it as it is".
pub(crate) const REMOTE_ID: u32 = u32::MAX;

/// Finds out who makes a call.
///
/// # Errors
///
/// `Protocol` for a token that cannot be one, `SessionExpired` for one that is no living
/// session's, or another process's.
pub(crate) fn identify<T>(
    request: &Request<T>,
    sessions: &Sessions,
    now: Instant,
) -> Result<Caller, Error> {
    let mut caller = match request.extensions().get::<PeerInfo>() {
        Some(PeerInfo::Local(peer)) => local_caller(peer),
        Some(PeerInfo::Remote { .. }) => remote_caller(),
        None => {
            return Err(Error::Invariant {
                what: "a request without its connection",
            });
        }
    };
    if let Some(token) = token_of(request.metadata())? {
        caller.session = Some(session_of(&token, &caller, sessions, now)?);
    }
    Ok(caller)
}

/// Returns the process at the other end of a Unix socket, without a session.
pub(crate) fn local_caller(peer: &LocalPeer) -> Caller {
    Caller {
        uid: peer.uid,
        gid: peer.gid,
        pid: peer.pid,
        local: true,
        pidfd: peer.pidfd.clone(),
        session: None,
    }
}

fn remote_caller() -> Caller {
    Caller {
        uid: REMOTE_ID,
        gid: REMOTE_ID,
        pid: 0,
        local: false,
        pidfd: None,
        session: None,
    }
}

fn token_of(metadata: &MetadataMap) -> Result<Option<SessionToken>, ProtocolError> {
    let Some(value) = metadata.get_bin(SESSION_METADATA_KEY) else {
        return Ok(None);
    };
    // The value itself is a secret, so no error quotes it.
    let wrong = |why: String| ProtocolError::invalid(SESSION_METADATA_KEY, "not shown", why);
    let bytes = value
        .to_bytes()
        .map_err(|_| wrong("is not base64".to_owned()))?;
    SessionToken::try_from(&*bytes)
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

/// A token alone proves nothing: a forked child has it too.
fn session_of(
    token: &SessionToken,
    caller: &Caller,
    sessions: &Sessions,
    now: Instant,
) -> Result<Arc<Session>, Error> {
    let session = sessions
        .by_token(token)
        .filter(|session| session.is_live() && session.is_of(caller))
        .ok_or(Error::SessionExpired)?;
    session.touch(now);
    Ok(session)
}
