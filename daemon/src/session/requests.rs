//! The recent requests of a session and what they came to, so that a retry happens once.

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::model::{
    ArenaInfo, BlockInfo, FreedBatch, OpenedArenaPool, OpenedPool, SpanInfo,
};

use super::gets::Gets;
use crate::error::Error;

/// How many outcomes a session remembers. A client of ours has at most 64 calls in flight, so a
/// retry is never further behind than this.
const REMEMBERED_REQUESTS: u64 = 1024;
/// How many bytes of outcomes a session remembers. Those of large batches are: the largest has
/// 65 536 handles.
const REMEMBERED_BYTES: usize = 4 << 20;

/// What a call may come to that is remembered for its retry.
pub trait Outcome: Clone + Send + Sync + 'static {
    /// Returns how many bytes it has on the heap, about.
    fn heap_bytes(&self) -> usize {
        0
    }

    /// Returns what the next daemon needs to know to give the same answer.
    fn to_words(&self) -> [u64; 2] {
        [0; 2]
    }
}

impl Outcome for () {}

impl Outcome for bool {
    fn to_words(&self) -> [u64; 2] {
        [u64::from(*self), 0]
    }
}

impl Outcome for u32 {
    fn to_words(&self) -> [u64; 2] {
        [u64::from(*self), 0]
    }
}

impl Outcome for u64 {
    fn to_words(&self) -> [u64; 2] {
        [*self, 0]
    }
}

impl Outcome for Handle {
    fn to_words(&self) -> [u64; 2] {
        let (high, low) = Self::to_words(*self);
        [high, low]
    }
}

impl Outcome for BlockInfo {
    fn to_words(&self) -> [u64; 2] {
        Outcome::to_words(&self.handle)
    }
}

impl Outcome for ArenaInfo {
    fn to_words(&self) -> [u64; 2] {
        Outcome::to_words(&self.arena)
    }
}

impl Outcome for OpenedPool {}
impl Outcome for OpenedArenaPool {}

impl Outcome for Vec<Handle> {
    fn heap_bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl Outcome for Vec<SpanInfo> {
    fn heap_bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl Outcome for FreedBatch {
    fn heap_bytes(&self) -> usize {
        size_of_val(self.failures.as_slice())
    }

    fn to_words(&self) -> [u64; 2] {
        [u64::from(self.freed), self.failures.len() as u64]
    }
}

/// What an outcome came to, for its retry.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    pub(super) outcome: Arc<dyn Any + Send + Sync>,
    heap_bytes: usize,
}

impl Remembered {
    pub(crate) fn new<T: Outcome>(outcome: &T) -> Self {
        Self {
            outcome: Arc::new(outcome.clone()),
            heap_bytes: outcome.heap_bytes(),
        }
    }
}

#[derive(Debug)]
pub(super) enum Request {
    InFlight,
    Done(Remembered),
    Refused,
}

impl Request {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Done(remembered) => remembered.heap_bytes,
            Self::InFlight | Self::Refused => 0,
        }
    }
}

/// What the daemon knows of a request that an earlier one began.
#[derive(Debug)]
pub(crate) enum Recalled {
    /// It came to this.
    Done(Remembered),
    /// It was a get, and was granted this arena.
    Granted(Handle),
    /// Its effect may be there in part: a retry does what is left.
    CutOff,
    /// It began, and nothing tells how it ended. A retry is refused.
    Unknown,
}

/// The recent requests of a session.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) highest: u64,
    pub(super) gets: Gets,
    /// Ids below this are an earlier daemon's, and not known any more.
    known_from: u64,
    /// Requests that an earlier daemon was in the middle of, and that were not retried yet.
    cut_off: BTreeSet<u64>,
    /// Of all that is remembered.
    heap_bytes: usize,
    /// By id, ascending. Ids mostly come so, and every call comes past here.
    recent: VecDeque<(u64, Request)>,
}

impl Requests {
    /// Returns what is remembered of `id`, or `None` after noting that it begins.
    pub(super) fn begin(&mut self, id: u64) -> Result<Option<Remembered>, Error> {
        match self.get(id) {
            Some(Request::Done(outcome)) => return Ok(Some(outcome.clone())),
            Some(Request::InFlight) => return Err(Error::RequestInFlight { request_id: id }),
            Some(Request::Refused) => return Err(self.expired(id)),
            None if self.gets.is_known(id)
                || id < self.known_from
                || id.saturating_add(REMEMBERED_REQUESTS) <= self.highest =>
            {
                return Err(self.expired(id));
            }
            None => {}
        }
        if let Err(place) = self.find(id) {
            self.recent.insert(place, (id, Request::InFlight));
        }
        self.highest = self.highest.max(id);
        self.forget_old();
        Ok(None)
    }

    fn forget_old(&mut self) {
        let oldest = self.oldest();
        while self.recent.front().is_some_and(|&(id, _)| id < oldest)
            && let Some((_, request)) = self.recent.pop_front()
        {
            self.heap_bytes -= request.heap_bytes();
        }
    }

    /// The first id that is not too old to be remembered.
    fn oldest(&self) -> u64 {
        self.highest.saturating_sub(REMEMBERED_REQUESTS) + 1
    }

    /// Takes over a request of an earlier daemon.
    pub(super) fn recall(&mut self, id: u64, recalled: Recalled) {
        self.highest = self.highest.max(id);
        if let Recalled::Granted(arena) = recalled {
            return self.gets.recall(id, arena);
        }
        self.known_from = self
            .known_from
            .max((self.highest + 1).saturating_sub(goumem_shm::root::REQUESTS));
        let request = match recalled {
            Recalled::Done(outcome) => Request::Done(outcome),
            Recalled::Unknown | Recalled::Granted(_) => Request::Refused,
            Recalled::CutOff => {
                self.cut_off.insert(id);
                return;
            }
        };
        // A session that has leased for long has left far more effects than it may ask for again.
        if id >= self.oldest()
            && let Err(place) = self.find(id)
        {
            self.heap_bytes += request.heap_bytes();
            self.recent.insert(place, (id, request));
            self.forget_old();
        }
    }

    pub(super) fn was_cut_off(&self, id: u64) -> bool {
        self.cut_off.contains(&id)
    }

    pub(super) fn finish(&mut self, id: u64, outcome: Option<Remembered>) {
        self.cut_off.remove(&id);
        if let Ok(known) = self.find(id)
            && let Some((_, request)) = self.recent.get_mut(known)
        {
            *request = outcome.map_or(Request::Refused, Request::Done);
            self.heap_bytes += request.heap_bytes();
        }
        // Rarely more than none: only batches have anything on the heap.
        let mut others = self
            .recent
            .iter_mut()
            .filter(|&&mut (other, _)| other != id);
        while self.heap_bytes > REMEMBERED_BYTES
            && let Some((_, request)) = others.next()
        {
            let heap_bytes = request.heap_bytes();
            if heap_bytes > 0 {
                // Its retry is refused, as that of a call which is too old.
                *request = Request::Refused;
                self.heap_bytes -= heap_bytes;
            }
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&Request> {
        let known = self.find(id).ok()?;
        self.recent.get(known).map(|(_, request)| request)
    }

    /// Returns where `id` stands, or else where it belongs.
    fn find(&self, id: u64) -> Result<usize, usize> {
        let n = self.recent.len();
        match self.recent.back() {
            Some(&(last, _)) if last > id => self.recent.binary_search_by_key(&id, |&(id, _)| id),
            // As usual: the one that began last, and the next.
            Some(&(last, _)) if last == id => Ok(n - 1),
            _ => Err(n),
        }
    }

    pub(super) fn expired(&self, id: u64) -> Error {
        Error::RequestExpired {
            request_id: id,
            highest: self.highest,
        }
    }
}
