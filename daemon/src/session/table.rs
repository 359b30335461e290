//! All sessions: by number and by token here, and in ROOT for the next daemon. A session is
//! written down, and its pidfd stored, before anybody is told of it; it is forgotten in the
//! reverse order.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goumem_alloc::SessionNumber;
use goumem_proto::model::{OpenNonce, OpenSession, SessionToken};
use goumem_proto::name::Label;
use goumem_shm::os::peer::PidFd;
use goumem_shm::os::process::start_time_of;
use goumem_shm::root::{SessionRecord, SessionRowState};
use sha2::{Digest as _, Sha256};

use super::requests::Requests;
use super::{Caller, Session, SessionState};
use crate::error::{Error, Table};
use crate::fd_room::{self, Purpose};
use crate::fd_store::{FdStore, StoredFd};
use crate::root::Root;

/// SHA-256 of a token: whoever reads ROOT, or times a look-up, learns no token from it.
type TokenHash = [u8; 32];

/// Numbers that can be given away: the others mean nobody, and the daemon.
const MAX_SESSIONS: u32 = u16::MAX as u32 - 1;

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    limit: AtomicU32,
    root: Arc<Root>,
    store: Arc<dyn FdStore>,
    state: Mutex<SessionTable>,
}

#[derive(Debug, Default)]
struct SessionTable {
    /// Where the search for a free number begins, so that numbers are reused late.
    next_number: u16,
    /// Numbers of sessions that are being opened, and of rows that could not be believed.
    taken: HashSet<SessionNumber>,
    by_number: HashMap<SessionNumber, Arc<Session>>,
    by_serial: HashMap<u64, SessionNumber>,
    by_token: HashMap<TokenHash, Arc<Session>>,
    proofs: HashMap<SessionNumber, Proof>,
    by_nonce: HashMap<OpenNonce, SessionNumber>,
}

/// How a session is found by those who are it.
#[derive(Debug, Clone, Copy)]
struct Proof {
    token_hash: TokenHash,
    nonce: Option<OpenNonce>,
}

impl Sessions {
    /// Returns an empty table for at most `limit` sessions (65 534 at the most).
    pub(crate) fn new(limit: u32, root: Arc<Root>, store: Arc<dyn FdStore>) -> Self {
        Self {
            limit: AtomicU32::new(limit.min(MAX_SESSIONS)),
            root,
            store,
            state: Mutex::default(),
        }
    }

    /// Returns how many there may be.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes how many there may be. Those that are above a lower limit stay.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit.min(MAX_SESSIONS), Ordering::Relaxed);
    }

    /// Opens a session for the caller: pidfd stored → row committed. The same nonce from the same
    /// process gets the same session, with a new token, since nobody was told the first.
    ///
    /// # Errors
    /// `TooMany`, `NoSpace`; `Os` when the system has no randomness for its token, or the store
    /// fails.
    pub fn open(
        &self,
        caller: &Caller,
        request: &OpenSession,
        now: Instant,
    ) -> Result<(Arc<Session>, SessionToken), Error> {
        let mut token = [0u8; 16];
        getrandom::fill(&mut token)
            .map_err(|e| Error::os("make a session token", e.to_string()))?;
        let proof = Proof {
            token_hash: Sha256::digest(token).into(),
            nonce: request.nonce,
        };
        let token = SessionToken::new(token);
        if let Some(session) = self.opened_before(caller, proof) {
            return Ok((session, token));
        }
        let watched = caller.pidfd.as_deref().map(duplicate).transpose();
        let watched = watched.and_then(|pidfd| {
            pidfd
                .iter()
                .try_for_each(|fd| fd_room::check(fd, Purpose::Session))?;
            Ok(pidfd)
        });
        let rows = (Table::Sessions, self.count());
        let watched = watched.map_err(|e| Error::no_fd("hold a session's process", rows, e))?;
        let number = self.take_number()?;
        let opened = self.write_down(caller, request, proof, watched, number, now);
        let mut table = self.lock();
        table.taken.remove(&number);
        let session = opened?;
        table.insert(&session, proof);
        Ok((session, token))
    }

    /// The retry of an Open whose reply was lost.
    fn opened_before(&self, caller: &Caller, proof: Proof) -> Option<Arc<Session>> {
        let mut table = self.lock();
        let number = *table.by_nonce.get(&proof.nonce?)?;
        let session = Arc::clone(table.by_number.get(&number)?);
        if !session.is_live() || !session.is_of(caller) {
            return None;
        }
        let old = table.proofs.insert(number, proof)?;
        table.by_token.remove(&old.token_hash);
        table
            .by_token
            .insert(proof.token_hash, Arc::clone(&session));
        let row = self.root.row(number).session();
        row.set_token_hash(&proof.token_hash);
        Some(session)
    }

    fn write_down(
        &self,
        caller: &Caller,
        request: &OpenSession,
        proof: Proof,
        watched: Option<PidFd>,
        number: SessionNumber,
        now: Instant,
    ) -> Result<Arc<Session>, Error> {
        let record = SessionRecord {
            state: SessionRowState::Live,
            number,
            serial: self.root.next_serial(),
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            // Only for a process of which no pidfd is to be had at the next start.
            start_time: start_time_of(caller.pid).unwrap_or(0),
            pidfd_inode: caller.pidfd.as_deref().and_then(PidFd::inode),
            local: caller.local,
            may_map: caller.pidfd.is_some(),
            ttl_ms: caller
                .pidfd
                .is_none()
                .then(|| u64::try_from(request.ttl.as_millis()).unwrap_or(u64::MAX)),
            token_hash: proof.token_hash,
            nonce: proof.nonce,
            label: request.label.to_string(),
        };
        self.root
            .back_row(number)
            .map_err(|source| Error::NoSpace {
                requested_bytes: goumem_shm::root::ROW_BYTES,
                source,
            })?;
        let watched = watched.map(Arc::new);
        if let Some(pidfd) = &watched {
            let name = StoredFd::Process(number, record.serial).name();
            if let Err(error) = self.store.store(name.clone(), Arc::clone(pidfd) as _) {
                self.store.remove(&name);
                self.root.purge_row(number);
                let rows = (Table::Sessions, self.count());
                return Err(Error::no_fd(
                    "hold a session's process for a restart",
                    rows,
                    error,
                ));
            }
        }
        self.root.row(number).session().commit(&record);
        let pidfd = caller.pidfd.clone();
        let label = request.label.clone();
        Ok(Arc::new(self.session(&record, label, pidfd, watched, now)))
    }

    fn session(
        &self,
        record: &SessionRecord,
        label: Label,
        pidfd: Option<Arc<PidFd>>,
        watched: Option<Arc<PidFd>>,
        now: Instant,
    ) -> Session {
        Session {
            number: record.number,
            serial: record.serial,
            uid: record.uid,
            gid: record.gid,
            pid: record.pid,
            label,
            opened_at: now,
            local: record.local,
            may_map: record.may_map,
            pidfd,
            watched,
            ttl: record.ttl_ms.map(Duration::from_millis),
            root: Arc::clone(&self.root),
            dead: AtomicBool::new(record.state == SessionRowState::Dead),
            state: Mutex::new(SessionState {
                requests: Requests::default(),
                events: None,
                control: None,
                last_call: now,
                remote: None,
            }),
        }
    }

    /// Takes over a session that an earlier daemon wrote down, with a pidfd that is no other's. It is
    /// dead if its row says so.
    pub(crate) fn take_over(
        &self,
        record: &SessionRecord,
        pidfd: Option<Arc<PidFd>>,
        now: Instant,
    ) -> Arc<Session> {
        // No connection has it, so it is watched itself.
        let watched = pidfd.clone();
        // Checked at the edge when it was written; one that is none any more is only for people.
        let label = Label::try_from(record.label.as_str()).unwrap_or_default();
        let session = Arc::new(self.session(record, label, pidfd, watched, now));
        let proof = Proof {
            token_hash: record.token_hash,
            nonce: record.nonce,
        };
        self.lock().insert(&session, proof);
        session
    }

    /// Withholds the number of a row that could not be believed: words may name it.
    pub(crate) fn withhold(&self, number: SessionNumber) {
        self.lock().taken.insert(number);
    }

    /// Has the search for a free number begin at this one, for a test.
    #[cfg(all(test, crash))]
    pub(crate) fn search_from(&self, number: SessionNumber) {
        self.lock().next_number = number.get() - 1;
    }

    /// Returns the session with that token.
    pub fn by_token(&self, token: &SessionToken) -> Option<Arc<Session>> {
        let hash: TokenHash = Sha256::digest(token.as_bytes()).into();
        self.lock().by_token.get(&hash).cloned()
    }

    /// Returns the session with that number.
    pub fn by_number(&self, number: SessionNumber) -> Option<Arc<Session>> {
        self.lock().by_number.get(&number).cloned()
    }

    /// Returns the session with that serial.
    pub fn by_serial(&self, serial: u64) -> Option<Arc<Session>> {
        let table = self.lock();
        let number = table.by_serial.get(&serial)?;
        table.by_number.get(number).cloned()
    }

    /// Returns every session.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.lock().by_number.values().cloned().collect()
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.lock().by_number.len()
    }

    /// Forgets a session after its sweep, so that its number may be used again.
    pub fn forget(&self, session: &Session) {
        self.store
            .remove(&StoredFd::Process(session.number, session.serial).name());
        self.root.row(session.number).session().clear();
        self.root.purge_row(session.number);
        let mut table = self.lock();
        if let Some(proof) = table.proofs.remove(&session.number) {
            table.by_token.remove(&proof.token_hash);
            if let Some(nonce) = proof.nonce {
                table.by_nonce.remove(&nonce);
            }
        }
        table.by_number.remove(&session.number);
        table.by_serial.remove(&session.serial);
    }

    fn take_number(&self) -> Result<SessionNumber, Error> {
        let mut table = self.lock();
        let limit = self.limit();
        if table.by_number.len() + table.taken.len() >= limit as usize {
            return Err(Error::TooMany {
                table: Table::Sessions,
                limit: u64::from(limit),
            });
        }
        let number = table.free_number();
        table.taken.insert(number);
        Ok(number)
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionTable {
    fn insert(&mut self, session: &Arc<Session>, proof: Proof) {
        self.by_number.insert(session.number, Arc::clone(session));
        self.by_serial.insert(session.serial, session.number);
        self.by_token.insert(proof.token_hash, Arc::clone(session));
        if let Some(nonce) = proof.nonce {
            self.by_nonce.insert(nonce, session.number);
        }
        self.proofs.insert(session.number, proof);
    }

    /// Returns a number no session has. There is one: the table is below its limit.
    fn free_number(&mut self) -> SessionNumber {
        loop {
            self.next_number = self.next_number % (u16::MAX - 1) + 1;
            let number = SessionNumber::new(self.next_number);
            if !self.by_number.contains_key(&number) && !self.taken.contains(&number) {
                return number;
            }
        }
    }
}

fn duplicate(pidfd: &PidFd) -> io::Result<PidFd> {
    Ok(PidFd::from_fd(
        pidfd.as_fd().try_clone_to_owned()?,
        pidfd.pid(),
    ))
}
