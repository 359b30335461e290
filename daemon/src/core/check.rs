//! Whether everything holds together, for tests and the fuzzer; and whether the core still answers,
//! for the watchdog.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::registry::AnyPool;

impl Core {
    /// Takes every lock of the core and lets go of it again: comes back only from a core that can
    /// still answer. Takes so long as the longest step of a call under way.
    pub(crate) fn pass_all_locks(&self) {
        for pool in self.registry().all() {
            let _ = pool.is_destroying();
        }
        for session in self.sessions.all() {
            let _ = session.is_connected();
        }
        let _ = self.next_deadline();
        let _ = (self.shared.budget.report(), self.shared.quotas.by_user());
    }

    /// Stands in the way of everything until it is dropped, for a test.
    #[cfg(test)]
    pub(crate) fn hold_up(&self) -> impl Drop {
        self.registry()
    }

    /// Asserts that every pool holds together, that budget and quotas are exactly what the pools
    /// have taken, and that no two sessions are taken for one.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn check(&self) {
        let (mut committed, mut charged) = (0, BTreeMap::<u32, u64>::new());
        for pool in self.registry().all() {
            let (bytes, users) = match &pool {
                AnyPool::Blocks(pool) => {
                    pool.check();
                    pool.accounts()
                }
                AnyPool::Arenas(pool) => {
                    let (bytes, payload_bytes) = pool.accounts();
                    (
                        bytes,
                        BTreeMap::from([(pool.permissions.uid, payload_bytes)]),
                    )
                }
            };
            committed += bytes;
            for (uid, bytes) in users {
                *charged.entry(uid).or_default() += bytes;
            }
        }
        charged.retain(|_, bytes| *bytes > 0);
        let budget_bytes = self.shared.budget.report().0;
        assert_eq!(budget_bytes, committed, "the budget is what pools have");
        assert_eq!(self.shared.quotas.by_user(), charged, "so are the quotas");
        let sessions = self.sessions.all();
        let serials: BTreeSet<u64> = sessions.iter().map(|session| session.serial).collect();
        assert_eq!(serials.len(), sessions.len(), "serials do not repeat");
    }
}
