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
use crate::tls::{REMOTE_ID, RemoteIdentity};

#[cfg(test)]
mod tests;

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
    let remote = request.extensions().get::<RemoteIdentity>();
    let mut caller = match request.extensions().get::<PeerInfo>() {
        Some(PeerInfo::Local(peer)) => local_caller(peer),
        // The gate has found out who that is.
        Some(PeerInfo::Remote(_)) => remote_caller(remote.ok_or(Error::Invariant {
            what: "a remote call that is nobody's",
        })?),
        None => {
            return Err(Error::Invariant {
                what: "a request without its connection",
            });
        }
    };
    if let Some(token) = token_of(request.metadata())? {
        let session = session_of(&token, &caller, sessions, now)?;
        if let Some(remote) = remote {
            session.called_from(remote);
        }
        caller.session = Some(session);
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

fn remote_caller(remote: &RemoteIdentity) -> Caller {
    Caller {
        uid: remote.uid,
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
