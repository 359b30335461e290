//! Sessions: who calls, what they may do, and that a retried call happens once.
//!
//! A session is found by its token and belongs to one process, told by its pidfd. It is *live*
//! until somebody marks it dead; after that no effect of its calls can begin, since every effect
//! checks the mark under the lock of the pool that it changes, and the sweep of a pool takes that
//! lock after the mark.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use goumem_alloc::SessionNumber;
use goumem_proto::model::{Event, RequestId};
use goumem_proto::name::Label;
use goumem_shm::os::peer::PidFd;
use goumem_shm::root::{RequestOp, RequestRecord};
use tokio::sync::{mpsc, oneshot};
use tracing::level_filters::LevelFilter;

use crate::error::Error;
use crate::root::Root;
use crate::tls::RemoteIdentity;

mod gets;
mod intent;
mod requests;
mod table;

pub(crate) use gets::{Begun, Get};
pub use intent::Intent;
pub use requests::Outcome;
use requests::Requests;
pub(crate) use requests::{Recalled, Remembered};
pub use table::Sessions;

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
    /// Process, as the daemon sees it; 0 when it lives in a pid namespace that cannot be seen.
    pub pid: u32,
    /// Whether it called over a Unix socket.
    pub local: bool,
    /// Tells its death; none for remote callers, and for pid 0 before Linux 6.9.
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
    /// Whether it was opened over a Unix socket.
    pub local: bool,
    /// Whether it may be handed memory.
    pub may_map: bool,
    /// Tells its death; none for a remote session.
    pub pidfd: Option<Arc<PidFd>>,
    /// The same, to be watched and stored. A pidfd is watched once, and that of a connection may
    /// have several sessions.
    pub watched: Option<Arc<PidFd>>,
    /// Remote sessions end so long after their last call.
    pub ttl: Option<Duration>,
    /// Where it is written down for the next daemon.
    root: Arc<Root>,
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
    /// Who made it, and from where, if the session is remote.
    remote: Option<RemoteIdentity>,
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

    /// Marks it dead, for the next daemon too; returns whether this call did. From here on its
    /// sweep is owed.
    pub fn mark_dead(&self) -> bool {
        let first = !self.dead.swap(true, Ordering::AcqRel);
        if first {
            self.root.row(self.number).session().mark_dead();
        }
        first
    }

    /// Returns whether it is of the process that calls.
    pub fn is_of(&self, caller: &Caller) -> bool {
        let same_process = match (&self.pidfd, &caller.pidfd) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs) || same_process(ours, theirs),
            // Remote, or of another pid namespace on an old kernel: nothing better than the token is
            // to be had.
            (None, None) => true,
            _ => false,
        };
        self.uid == caller.uid && self.local == caller.local && same_process
    }

    /// Notes who made its last call, and from where.
    pub(crate) fn called_from(&self, remote: &RemoteIdentity) {
        let mut state = self.lock();
        if state.remote.as_ref() != Some(remote) {
            state.remote = Some(remote.clone());
        }
    }

    /// Returns who made its last call, and from where: as `alice@10.0.0.5:4711`. None if it is
    /// local, or has made no call yet.
    pub fn remote(&self) -> Option<String> {
        self.lock().remote.as_ref().map(ToString::to_string)
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
        // There is no span else, and to look for one takes as long as a call's work.
        if LevelFilter::current() >= LevelFilter::DEBUG {
            tracing::Span::current().record("request", id.get());
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
        let unfinished = Unfinished { session: self, id };
        let outcome = call();
        std::mem::forget(unfinished);
        self.end_request(id, outcome.as_ref().ok());
        outcome
    }

    /// Writes down what a request is about to do, just before the first store that others can see:
    /// after a restart a retry is answered by it and not done again. Effects that carry the
    /// request's id in records of their own need no such note.
    pub fn intend(&self, id: RequestId, intent: Intent) {
        if !id.is_some() {
            return;
        }
        let _turn = self.lock();
        let slot = self.root.row(self.number).request(id.get());
        // One that came so late that its place is a newer request's is known to this daemon only.
        if slot.id() <= id.get() {
            slot.begin(&intent.record(id));
        }
    }

    /// Adds to what `intend` wrote down what is going to come of it.
    pub fn expect(&self, id: RequestId, outcome: &impl Outcome) {
        let _turn = self.lock();
        let slot = self.root.row(self.number).request(id.get());
        if id.is_some() && slot.id() == id.get() {
            slot.expect(outcome.to_words());
        }
    }

    /// Returns whether an earlier daemon was cut off in the middle of the request, so that a part
    /// of its effect may be there.
    pub fn was_cut_off(&self, id: RequestId) -> bool {
        id.is_some() && self.lock().requests.was_cut_off(id.get())
    }

    /// Takes over what an earlier daemon knew of its requests.
    pub(crate) fn recall_requests(&self, known: impl IntoIterator<Item = (u64, Recalled)>) {
        let mut state = self.lock();
        for (id, recalled) in known {
            state.requests.recall(id, recalled);
        }
    }

    /// Takes over the requests that an earlier daemon wrote down, of which `recall` says what they
    /// came to. Returns how many could not be believed.
    pub(crate) fn take_over_requests(
        &self,
        recall: impl Fn(&RequestRecord) -> Option<Recalled>,
    ) -> u32 {
        let mut odd = 0;
        for slot in self.root.row(self.number).requests() {
            let (id, recalled) = match slot.load() {
                Ok(None) => continue,
                Ok(Some(request)) => {
                    if request.op == RequestOp::GetArena {
                        self.lock().requests.gets.skip(request.extra);
                    }
                    (request.id, recall(&request))
                }
                Err(id) => {
                    odd += 1;
                    (id, Some(Recalled::Unknown))
                }
            };
            match recalled {
                Some(recalled) => self.recall_requests([(id, recalled)]),
                // What it was about may become another's, and must not be taken for its effect by
                // the daemon after this one.
                None => slot.clear(),
            }
        }
        odd
    }

    fn end_request<T: Outcome>(&self, id: RequestId, outcome: Option<&T>) {
        let mut state = self.lock();
        let slot = self.root.row(self.number).request(id.get());
        if slot.id() == id.get()
            && let Ok(Some(record)) = slot.load()
        {
            match outcome {
                Some(outcome) => slot.finish(record.op, outcome.to_words()),
                None => slot.clear(),
            }
        }
        state
            .requests
            .finish(id.get(), outcome.map(Remembered::new));
    }

    fn lock(&self) -> MutexGuard<'_, SessionState> {
        // A panic of another call leaves the log usable: every update of it is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that has begun. If its call panics, nobody knows what it has done: a retry is refused,
/// and what is written down of it stays for the next daemon, which can tell.
struct Unfinished<'a> {
    session: &'a Session,
    id: RequestId,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.session.lock().requests.finish(self.id.get(), None);
    }
}

/// Returns whether two pidfds are of one process. Where the kernel gives them no inodes of their
/// own, the pid decides, which is not 0 then: it is not used again while the first process lives.
fn same_process(one: &PidFd, other: &PidFd) -> bool {
    match (one.inode(), other.inode()) {
        (Some(one), Some(other)) => one == other,
        _ => one.pid() == other.pid() && !one.is_dead(),
    }
}

#[cfg(test)]
mod tests;
