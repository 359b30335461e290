//! Gets of arenas, and what they came to. A get may wait for long, and its id be far behind those
//! of later calls when it is granted; and its caller may have gone by then. So grants are remembered
//! apart from other requests, in their own order, and a get that is given up has never been.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use goumem_alloc::Handle;
use goumem_proto::model::RequestId;
use goumem_shm::root::{RequestOp, RequestRecord};

use super::requests::Requests;
use super::{Intent, Session};
use crate::error::Error;

/// How many grants a session remembers: as many as its other requests. Over a restart it is
/// [`goumem_shm::root::GRANTS`].
const REMEMBERED_GRANTS: usize = 1024;

/// The gets of a session that have a request id.
#[derive(Debug, Default)]
pub(super) struct Gets {
    /// By id; no arena yet for those under way, which the waiters of the arena pools bound.
    known: BTreeMap<u64, Option<Handle>>,
    /// The ids of those that have an arena, in the order of their grants.
    granted: VecDeque<u64>,
    /// No id above this is forgotten.
    forgotten: u64,
    /// The number of the next grant.
    next_grant: u64,
}

/// What is known of a get.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It has been granted this arena before.
    Before(Handle),
    /// It is under way from now on.
    Now(Get),
}

/// A get under way. Unless it comes to be `done`, it has never been, and a retry begins anew.
#[derive(Debug)]
pub(crate) struct Get {
    pub(crate) session: Arc<Session>,
    id: RequestId,
    /// What is noted in ROOT, and the number of the grant, which says where.
    noted: Option<(u64, Handle)>,
    done: bool,
}

impl Gets {
    pub(super) fn is_known(&self, id: u64) -> bool {
        !self.known.is_empty() && self.known.contains_key(&id)
    }

    fn finish(&mut self, id: u64, arena: Handle) {
        self.known.insert(id, Some(arena));
        self.granted.push_back(id);
        if self.granted.len() > REMEMBERED_GRANTS
            && let Some(oldest) = self.granted.pop_front()
        {
            self.known.remove(&oldest);
            self.forgotten = self.forgotten.max(oldest);
        }
    }

    /// Takes over a grant of an earlier daemon. They come in any order, so which of them is
    /// forgotten first is up to chance; there are far fewer than are remembered.
    pub(super) fn recall(&mut self, id: u64, arena: Handle) {
        if self.known.insert(id, Some(arena)).is_none() {
            self.granted.push_back(id);
        }
    }

    /// Counts on from a grant of an earlier daemon.
    pub(super) fn skip(&mut self, grant: u64) {
        self.next_grant = self.next_grant.max(grant.saturating_add(1));
    }
}

impl Requests {
    /// Returns what was granted to `id`, or `None` after noting that it begins.
    fn begin_get(&mut self, id: u64) -> Result<Option<Handle>, Error> {
        match self.gets.known.get(&id) {
            Some(Some(arena)) => return Ok(Some(*arena)),
            Some(None) => return Err(Error::RequestInFlight { request_id: id }),
            None if id <= self.gets.forgotten || self.get(id).is_some() => {
                return Err(self.expired(id));
            }
            None => {}
        }
        self.highest = self.highest.max(id);
        self.gets.known.insert(id, None);
        Ok(None)
    }
}

impl Session {
    /// Begins a get, or returns what it came to before.
    ///
    /// # Errors
    /// `RequestInFlight`; `RequestExpired` for an id whose outcome is not known any more, or that
    /// is another call's.
    pub(crate) fn begin_get(self: &Arc<Self>, id: RequestId) -> Result<Begun, Error> {
        if id.is_some()
            && let Some(arena) = self.lock().requests.begin_get(id.get())?
        {
            return Ok(Begun::Before(arena));
        }
        Ok(Begun::Now(Get {
            session: Arc::clone(self),
            id,
            noted: None,
            done: false,
        }))
    }
}

impl Get {
    /// Writes down which arena is about to be the caller's: from there on a restart ends it well.
    pub(crate) fn intend(&mut self, arena: Handle) {
        if !self.id.is_some() {
            return;
        }
        let mut state = self.session.lock();
        let gets = &mut state.requests.gets;
        let grant = gets.next_grant;
        gets.next_grant += 1;
        let intent = Intent::about(RequestOp::GetArena, arena).with(grant);
        let row = self.session.root.row(self.session.number);
        row.grant(grant).begin(&intent.record(self.id));
        self.noted = Some((grant, arena));
    }

    /// Takes back what `intend` wrote: nothing came of it.
    pub(crate) fn forget_intent(&mut self) {
        let Some((grant, arena)) = self.noted.take() else {
            return;
        };
        let _turn = self.session.lock();
        let slot = self.session.root.row(self.session.number).grant(grant);
        // The row may be another session's by now: no other grant is of that life of the arena.
        if let Ok(Some(RequestRecord { id, handle, .. })) = slot.load()
            && (id, handle) == (self.id.get(), arena.to_words())
        {
            slot.clear();
        }
    }

    /// The arena is the caller's, who hears of it now, or by a retry if the reply is lost.
    pub(crate) fn done(mut self, arena: Handle) {
        self.done = true;
        let Some((grant, _)) = self.noted else {
            return;
        };
        let mut state = self.session.lock();
        state.requests.gets.finish(self.id.get(), arena);
        let slot = self.session.root.row(self.session.number).grant(grant);
        if slot.id() == self.id.get() {
            let (high, low) = arena.to_words();
            slot.finish(RequestOp::GetArena, [high, low]);
        }
    }
}

impl Drop for Get {
    fn drop(&mut self) {
        if self.done || !self.id.is_some() {
            return;
        }
        self.forget_intent();
        let mut state = self.session.lock();
        state.requests.gets.known.remove(&self.id.get());
    }
}
