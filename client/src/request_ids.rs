//! Request ids: which call gets which, and that none is handed out too far above one that is
//! still under way. The daemon remembers the outcomes of a window of ids, a small one over a
//! restart; a call that must be sent again has to be in it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use goumem_proto::model::MAX_CONTROL_CALLS;
use tokio::sync::Notify;

use crate::session::lock;

/// The furthest that an id may be above the lowest one under way. It also bounds how many are
/// under way; the daemon works on no more from one stream.
const WINDOW: u64 = MAX_CONTROL_CALLS as u64;

/// The request ids of a session.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    under_way: BTreeSet<u64>,
}

/// An id that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestId<'a> {
    ids: &'a RequestIds,
    id: u64,
    holds: bool,
}

impl RequestIds {
    /// Waits for the next id. Unless it `holds` the others back, it may be forgotten by the
    /// daemon before its call is over.
    pub(crate) async fn next(&self, holds: bool) -> RequestId<'_> {
        loop {
            let moved = self.moved.notified();
            if let Some(id) = self.try_next(holds) {
                let ids = self;
                return RequestId { ids, id, holds };
            }
            moved.await;
        }
    }

    /// Returns an id once more, for a call that holds nobody back.
    pub(crate) fn again(&self, id: u64) -> RequestId<'_> {
        RequestId {
            ids: self,
            id,
            holds: false,
        }
    }

    fn try_next(&self, holds: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        let next = state.last + 1;
        if let Some(lowest) = state.under_way.first()
            && next - lowest >= WINDOW
        {
            return None;
        }
        state.last = next;
        if holds {
            state.under_way.insert(next);
        }
        Some(next)
    }
}

impl RequestId<'_> {
    /// Returns the number.
    pub(crate) fn get(&self) -> u64 {
        self.id
    }
}

impl Drop for RequestId<'_> {
    fn drop(&mut self) {
        if self.holds {
            lock(&self.ids.state).under_way.remove(&self.id);
            self.ids.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::blocking::wait;

    #[test]
    fn no_id_is_far_above_one_that_is_under_way() {
        let ids = RequestIds::default();
        let lowest = wait(ids.next(true));
        // Those that hold nobody back count as well.
        let others: Vec<_> = (1..WINDOW).map(|n| wait(ids.next(n % 2 == 0))).collect();
        let mut waiting = pin!(ids.next(true));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(others);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!(lowest.get(), 1);
        drop(lowest);
        assert_eq!(wait(waiting).get(), WINDOW + 1);
        for _ in 0..10 * WINDOW {
            drop(wait(ids.next(true)));
        }
    }
}
