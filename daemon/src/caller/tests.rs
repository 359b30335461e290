//! A token counts for the process that opened its session, on any connection of it, and for
//! nobody else.

use std::process::{Child, Command};
use std::time::Duration;

use goumem_proto::model::{OpenNonce, OpenSession};
use goumem_proto::name::Label;
use goumem_shm::os::peer::PidFd;
use tonic::metadata::MetadataValue;

use super::*;
use crate::fd_store::NoStore;
use crate::listen::RemotePeer;
use crate::root::Root;
use crate::tls::{Access, TcpOptions};

/// A process that lives until it is dropped.
struct Puppet(Child);

impl Puppet {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn local(uid: u32, pid: u32) -> PeerInfo {
    PeerInfo::Local(Arc::new(LocalPeer {
        uid,
        gid: 100,
        pid,
        pidfd: Some(Arc::new(PidFd::open(pid).unwrap())),
    }))
}

fn own(uid: u32) -> PeerInfo {
    local(uid, std::process::id())
}

fn foreign(uid: u32) -> PeerInfo {
    PeerInfo::Local(Arc::new(LocalPeer {
        uid,
        gid: 100,
        pid: 0,
        pidfd: None,
    }))
}

fn remote() -> PeerInfo {
    let access = Access::load(TcpOptions::default(), Instant::now()).unwrap();
    let address = "127.0.0.1:9".parse().unwrap();
    PeerInfo::Remote(Arc::new(RemotePeer::new(address, None, Arc::new(access))))
}

fn call(peer: &PeerInfo, token: Option<&[u8]>, sessions: &Sessions) -> Result<Caller, Error> {
    let mut request = Request::new(());
    request.extensions_mut().insert(peer.clone());
    if let PeerInfo::Remote(remote) = peer {
        let caller = remote.identify(None, Instant::now()).unwrap();
        request.extensions_mut().insert(caller);
    }
    if let Some(token) = token {
        let value = MetadataValue::from_bytes(token);
        request
            .metadata_mut()
            .insert_bin(SESSION_METADATA_KEY, value);
    }
    identify(&request, sessions, Instant::now())
}

fn table() -> Sessions {
    let store = Arc::new(NoStore);
    let root = Root::create(&*store).unwrap();
    Sessions::new(4, Arc::new(root), store)
}

fn open(peer: &PeerInfo, sessions: &Sessions) -> (Arc<Session>, SessionToken) {
    open_with(peer, sessions, None)
}

fn open_with(
    peer: &PeerInfo,
    sessions: &Sessions,
    nonce: Option<OpenNonce>,
) -> (Arc<Session>, SessionToken) {
    let caller = call(peer, None, sessions).unwrap();
    let request = OpenSession {
        label: Label::default(),
        nonce,
        ttl: Duration::from_secs(30),
    };
    sessions.open(&caller, &request, Instant::now()).unwrap()
}

#[test]
fn caller_is_who_the_socket_says() {
    let sessions = table();
    let caller = call(&own(1000), None, &sessions).unwrap();
    assert_eq!(
        (caller.uid, caller.gid, caller.pid),
        (1000, 100, std::process::id())
    );
    assert!(caller.local && caller.pidfd.is_some());
    assert!(matches!(caller.session(), Err(Error::SessionRequired)));

    let caller = call(&remote(), None, &sessions).unwrap();
    assert_eq!((caller.uid, caller.gid), (REMOTE_ID, REMOTE_ID));
    assert!(!caller.local && caller.pidfd.is_none());

    let nobody = identify(&Request::new(()), &sessions, Instant::now());
    assert!(matches!(nobody, Err(Error::Invariant { .. })));
}

#[test]
fn token_counts_on_every_connection_of_its_process_only() {
    let sessions = table();
    let (session, token) = open(&own(1000), &sessions);
    let token = token.as_bytes();
    // Another connection has another pidfd of the same process.
    let caller = call(&own(1000), Some(token), &sessions).unwrap();
    assert_eq!(caller.session().unwrap().serial, session.serial);

    let puppet = Puppet::start();
    for thief in [
        local(1000, puppet.0.id()),
        own(1001),
        foreign(1000),
        remote(),
    ] {
        let refused = call(&thief, Some(token), &sessions);
        assert!(matches!(refused, Err(Error::SessionExpired)), "{thief:?}");
    }
}

#[test]
fn token_of_an_ended_session_is_refused() {
    let sessions = table();
    let (session, token) = open(&own(1000), &sessions);
    session.mark_dead();
    let refused = call(&own(1000), Some(token.as_bytes()), &sessions);
    assert!(matches!(refused, Err(Error::SessionExpired)));
}

#[test]
fn what_cannot_be_a_token_is_refused_without_quoting_it() {
    let sessions = table();
    for token in [&b""[..], b"0123456789abcde", b"0123456789abcdefg"] {
        let Err(Error::Protocol(error)) = call(&own(1000), Some(token), &sessions) else {
            panic!("{token:?} was taken for a token");
        };
        assert_eq!(error.field(), SESSION_METADATA_KEY);
        assert!(!error.to_string().contains("0123"));
    }
}

#[test]
fn call_of_a_remote_session_prolongs_it() {
    let sessions = table();
    let (session, token) = open(&remote(), &sessions);
    let before = session.expires_at().unwrap();
    call(&remote(), Some(token.as_bytes()), &sessions).unwrap();
    assert!(session.expires_at().unwrap() > before);
}

#[test]
fn open_that_is_retried_with_its_nonce_opens_no_second_session() {
    let sessions = table();
    let nonce = Some([7; 16]);
    let (session, lost) = open_with(&own(1000), &sessions, nonce);
    let (again, token) = open_with(&own(1000), &sessions, nonce);
    assert_eq!((again.serial, sessions.count()), (session.serial, 1));
    // Nobody was told the first token, and it opens nothing any more.
    let refused = call(&own(1000), Some(lost.as_bytes()), &sessions);
    assert!(matches!(refused, Err(Error::SessionExpired)));
    call(&own(1000), Some(token.as_bytes()), &sessions).unwrap();
    // Another process with the nonce gets a session of its own, and so does another nonce.
    let puppet = Puppet::start();
    let (other, _) = open_with(&local(1000, puppet.0.id()), &sessions, nonce);
    assert_ne!(other.serial, session.serial);
    let (another, _) = open_with(&own(1000), &sessions, Some([8; 16]));
    assert_ne!(another.serial, session.serial);
}
