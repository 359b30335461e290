//! Known ways to get an arena pool wrong, to show that the walks and checks catch them.
//! docs/testing.md lists them.

use super::*;

impl ArenaPool {
    /// Frees what a dead session held, and leaves those who wait to wait.
    pub(crate) fn sweep_without_waking(&self, dead: &Session) {
        let mut state = self.lock();
        for index in 0..self.memory.geometry().arenas() {
            self.memory.words(index).unwrap().sweep(dead.number);
        }
        for arena in state.holders.held_by(dead.number) {
            self.drop_holder(&mut state, arena, dead.number);
        }
        state.mapped_by.remove_all(dead.number);
    }

    /// Clears the record of a holder, who is one in private memory alone then.
    pub(crate) fn forget_holder_record(&self, session: &Session) {
        let is_theirs = |index: &u32| {
            let record = self.memory.record(*index).unwrap().load().unwrap();
            record.is_some_and(|record| record.session == session.number)
        };
        let index = (0..64).find(is_theirs).expect("a record of a holder");
        self.memory.record(index).unwrap().clear();
    }
}
