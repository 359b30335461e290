//! Which sessions map a pool, and how often each was handed its memory: read-only and read-write
//! are two mappings.

use std::collections::HashMap;

use goumem_alloc::SessionNumber;

/// The mappings of a pool, by session.
#[derive(Debug, Default)]
pub(crate) struct Mappers(HashMap<SessionNumber, u32>);

impl Mappers {
    /// Notes that the memory was handed to a session.
    pub(crate) fn add(&mut self, session: SessionNumber) {
        *self.0.entry(session).or_default() += 1;
    }

    /// Notes that a session has unmapped it once.
    pub(crate) fn remove_one(&mut self, session: SessionNumber) {
        if let Some(count) = self.0.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&session);
            }
        }
    }

    /// Notes that a session has ended.
    pub(crate) fn remove_all(&mut self, session: SessionNumber) {
        self.0.remove(&session);
    }

    /// Returns whether a session maps it.
    pub(crate) fn contains(&self, session: SessionNumber) -> bool {
        self.0.contains_key(&session)
    }

    /// Returns the sessions.
    pub(crate) fn sessions(&self) -> Vec<SessionNumber> {
        self.0.keys().copied().collect()
    }

    /// Returns how many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether nobody maps it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
