//! Sessions: who calls, what they may do, and that a retried call happens once.
//!
//! A session is found by its token and belongs to one process, told by its pidfd. It is *live*
//! until somebody marks it dead; after that no effect of its calls can begin, since every effect
//! checks the mark under the lock of the pool that it changes, and the sweep of a pool takes that
//! lock after the mark.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goumem_alloc::SessionNumber;
use goumem_proto::model::{Event, RequestId, SessionToken};
use goumem_proto::name::Label;
use goumem_shm::os::peer::PidFd;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Table};

mod requests;

pub use requests::Outcome;
use requests::{Remembered, Request, Requests};

/// Events that may queue for a session that does not read its stream. More are dropped: each is
/// advice that the client also learns from its next call.
pub const EVENT_QUEUE: usize = 64;

/// Who makes a call, as the socket tells.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, as the daemon sees it; 0 when it lives in another pid namespace.
    pub pid: u32,
    /// Whether it called over a Unix socket.
    pub local: bool,
    /// Tells its death; none for remote callers and foreign pid namespaces.
    pub pidfd: Option<Arc<PidFd>>,
    /// Its session, if the call carried a token.
    pub session: Option<Arc<Session>>,
}

impl Caller {
    /// Returns the session of the call, which must be alive.
    ///
    /// # Errors
    /// `SessionRequired`, `SessionExpired`.
    pub fn session(&self) -> Result<&Arc<Session>, Error> {
        let session = self.session.as_ref().ok_or(Error::SessionRequired)?;
        session.require_live()?;
        Ok(session)
    }

    /// Returns whether the caller is in `gid`, by its own or a supplementary group.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid
            || (self.local
                && self.pid != 0
                && goumem_shm::os::process::groups_of(self.pid)
                    .is_ok_and(|groups| groups.contains(&gid)))
    }
}

/// One client as the daemon knows it.
#[derive(Debug)]
pub struct Session {
    /// Its number, which slot words carry. Free again only after its sweep.
    pub number: SessionNumber,
    /// Never repeats.
    pub serial: u64,
    /// Its user.
    pub uid: u32,
    /// Its group, when it was opened.
    pub gid: u32,
    /// Its process, for people.
    pub pid: u32,
    /// For people.
    pub label: Label,
    /// When it was opened.
    pub opened_at: Instant,
    /// Whether it may be handed memory.
    pub may_map: bool,
    /// Tells its death; none for a remote session.
    pub pidfd: Option<Arc<PidFd>>,
    /// The same, to be watched. A pidfd is watched once, and that of a connection may have several
    /// sessions.
    pub watched: Option<PidFd>,
    /// Remote sessions end so long after their last call.
    pub ttl: Option<Duration>,
    token: SessionToken,
    dead: AtomicBool,
    state: Mutex<SessionState>,
}

#[derive(Debug)]
struct SessionState {
    requests: Requests,
    events: Option<mpsc::Sender<Event>>,
    /// Dropped to end the stream of its control calls.
    control: Option<oneshot::Sender<()>>,
    last_call: Instant,
}

impl Session {
    /// Returns whether nobody has marked it dead.
    pub fn is_live(&self) -> bool {
        !self.dead.load(Ordering::Acquire)
    }

    /// Refuses what a dead session asks for. Called under the lock of whatever it changes.
    ///
    /// # Errors
    /// `SessionExpired`.
    pub fn require_live(&self) -> Result<(), Error> {
        if self.is_live() {
            Ok(())
        } else {
            Err(Error::SessionExpired)
        }
    }

    /// Marks it dead; returns whether this call did.
    pub fn mark_dead(&self) -> bool {
        !self.dead.swap(true, Ordering::AcqRel)
    }

    /// Returns the token.
    pub fn token(&self) -> &SessionToken {
        &self.token
    }

    /// Notes that it made a call.
    pub fn touch(&self, now: Instant) {
        self.lock().last_call = now;
    }

    /// Returns when a remote session ends unless it calls again.
    pub fn expires_at(&self) -> Option<Instant> {
        Some(self.lock().last_call + self.ttl?)
    }

    /// Returns whether it listens to events.
    pub fn is_connected(&self) -> bool {
        self.lock()
            .events
            .as_ref()
            .is_some_and(|events| !events.is_closed())
    }

    /// Begins to send it events; an earlier stream ends.
    pub fn subscribe(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        // A fresh queue has room for its first message.
        let _ = sender.try_send(Event::Welcome);
        self.lock().events = Some(sender);
        receiver
    }

    /// Begins to take control calls of it from a stream, which ends when the receiver says so; an
    /// earlier stream ends.
    pub fn take_control(&self) -> oneshot::Receiver<()> {
        let (sender, ended) = oneshot::channel();
        self.lock().control = Some(sender);
        ended
    }

    /// Ends its event stream and that of its control calls.
    pub fn end_streams(&self) {
        let mut state = self.lock();
        state.events = None;
        state.control = None;
    }

    /// Sends it an event, if it listens and reads.
    pub fn send(&self, event: Event) {
        if let Some(events) = &self.lock().events {
            let _ = events.try_send(event);
        }
    }

    /// Returns the highest request id it has used.
    pub fn highest_request(&self) -> RequestId {
        RequestId::new(self.lock().requests.highest)
    }

    /// Runs a call once: the same id again gets the outcome of the first time.
    ///
    /// # Errors
    /// The call's own; `RequestExpired` for an id whose outcome is not known (any more), which
    /// includes one that was refused; `RequestInFlight`.
    pub fn once<T: Outcome>(
        &self,
        id: RequestId,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !id.is_some() {
            return call();
        }
        let known = self.lock().requests.begin(id.get())?;
        if let Some(known) = known {
            let highest = self.highest_request().get();
            return known
                .outcome
                .downcast_ref::<T>()
                .cloned()
                .ok_or(Error::RequestExpired {
                    request_id: id.get(),
                    highest,
                });
        }
        let outcome = call();
        self.lock()
            .requests
            .finish(id.get(), outcome.as_ref().ok().map(Remembered::new));
        outcome
    }

    /// Returns the outcome of a request that came to its end later than its call: see
    /// [`remember`](Self::remember).
    ///
    /// # Errors
    /// As `once`, for an id that is known otherwise.
    pub fn recall<T: Clone + 'static>(&self, id: RequestId) -> Result<Option<T>, Error> {
        if !id.is_some() {
            return Ok(None);
        }
        let state = self.lock();
        match state.requests.get(id.get()) {
            Some(Request::Done(known)) => known
                .outcome
                .downcast_ref::<T>()
                .cloned()
                .map(Some)
                .ok_or_else(|| state.requests.expired(id.get())),
            Some(Request::InFlight | Request::Refused) => Err(state.requests.expired(id.get())),
            None => Ok(None),
        }
    }

    /// Remembers the outcome of a request that had to wait, so that its retry gets the same.
    pub fn remember<T: Outcome>(&self, id: RequestId, outcome: &T) {
        if !id.is_some() {
            return;
        }
        let mut state = self.lock();
        if let Ok(None) = state.requests.begin(id.get()) {
            state
                .requests
                .finish(id.get(), Some(Remembered::new(outcome)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, SessionState> {
        // A panic of another call leaves the log usable: every update of it is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    limit: usize,
    state: Mutex<SessionTable>,
}

#[derive(Debug, Default)]
struct SessionTable {
    next_serial: u64,
    /// Where the search for a free number begins, so that numbers are reused late.
    next_number: u16,
    by_number: HashMap<SessionNumber, Arc<Session>>,
    by_token: HashMap<SessionToken, Arc<Session>>,
}

impl Sessions {
    /// Returns an empty table for at most `limit` sessions (65 534 at the most).
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(usize::from(u16::MAX) - 1);
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// Opens a session for the caller.
    ///
    /// # Errors
    /// `TooMany`, and `Os` when the system has no randomness for its token.
    pub fn open(
        &self,
        caller: &Caller,
        label: Label,
        ttl: Duration,
        now: Instant,
    ) -> Result<Arc<Session>, Error> {
        let mut token = [0u8; 16];
        getrandom::fill(&mut token)
            .map_err(|e| Error::os("make a session token", e.to_string()))?;
        let token = SessionToken::new(token);
        let watched = caller.pidfd.as_deref().map(duplicate).transpose();
        let watched = watched.map_err(|e| Error::os("hold a session's process", e))?;
        let mut table = self.lock();
        if table.by_number.len() >= self.limit {
            return Err(Error::TooMany {
                table: Table::Sessions,
                limit: self.limit as u64,
            });
        }
        let number = table.free_number();
        table.next_serial += 1;
        let session = Arc::new(Session {
            number,
            serial: table.next_serial,
            uid: caller.uid,
            gid: caller.gid,
            pid: caller.pid,
            label,
            opened_at: now,
            may_map: caller.pidfd.is_some(),
            pidfd: caller.pidfd.clone(),
            watched,
            ttl: caller.pidfd.is_none().then_some(ttl),
            token,
            dead: AtomicBool::new(false),
            state: Mutex::new(SessionState {
                requests: Requests::default(),
                events: None,
                control: None,
                last_call: now,
            }),
        });
        table.by_number.insert(number, Arc::clone(&session));
        table.by_token.insert(token, Arc::clone(&session));
        Ok(session)
    }

    /// Returns the session with that token.
    pub fn by_token(&self, token: &SessionToken) -> Option<Arc<Session>> {
        self.lock().by_token.get(token).cloned()
    }

    /// Returns the session with that number.
    pub fn by_number(&self, number: SessionNumber) -> Option<Arc<Session>> {
        self.lock().by_number.get(&number).cloned()
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
        let mut table = self.lock();
        table.by_token.remove(&session.token);
        table.by_number.remove(&session.number);
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn duplicate(pidfd: &PidFd) -> io::Result<PidFd> {
    Ok(PidFd::from_fd(
        pidfd.as_fd().try_clone_to_owned()?,
        pidfd.pid(),
    ))
}

impl SessionTable {
    /// Returns a number no session has. There is one: the table is below its limit.
    fn free_number(&mut self) -> SessionNumber {
        loop {
            self.next_number = self.next_number % (u16::MAX - 1) + 1;
            let number = SessionNumber::new(self.next_number);
            if !self.by_number.contains_key(&number) {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests;
