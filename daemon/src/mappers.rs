//! Which sessions use a pool: who maps it, and how often each was handed its memory (read-only and
//! read-write are two mappings), and who may hold something in it.

use std::collections::{HashMap, HashSet};

use goumem_alloc::SessionNumber;
use goumem_shm::member::Member;

use crate::session::Session;

/// The sessions that use a pool.
#[derive(Debug, Default)]
pub(crate) struct Mappers {
    mappings: HashMap<SessionNumber, u32>,
    /// Until they end. Words in DATA may name any session: those that never came here hold
    /// nothing, whatever the words say.
    users: HashSet<SessionNumber>,
}

impl Mappers {
    /// Notes that the memory is handed to a session.
    pub(crate) fn add(&mut self, session: SessionNumber) {
        *self.mappings.entry(session).or_default() += 1;
        self.note_use(session);
    }

    /// Takes over what an earlier daemon wrote into a session's member word.
    pub(crate) fn restore(&mut self, session: SessionNumber, member: Member) {
        if member.mappings > 0 {
            self.mappings.insert(session, member.mappings);
        }
        self.users.insert(session);
    }

    /// Returns what to write into a session's member word.
    pub(crate) fn member(&self, session: &Session) -> Option<Member> {
        self.may_hold(session.number).then(|| Member {
            serial_low: serial_low(session.serial),
            mappings: self.mappings.get(&session.number).copied().unwrap_or(0),
        })
    }

    /// Notes that a session is about to hold something.
    pub(crate) fn note_use(&mut self, session: SessionNumber) {
        self.users.insert(session);
    }

    /// Returns whether a session may hold something.
    pub(crate) fn may_hold(&self, session: SessionNumber) -> bool {
        self.users.contains(&session)
    }

    /// Notes that a session has unmapped it once. It may still hold something.
    pub(crate) fn remove_one(&mut self, session: SessionNumber) {
        if let Some(count) = self.mappings.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.mappings.remove(&session);
            }
        }
    }

    /// Notes that a session has ended.
    pub(crate) fn remove_all(&mut self, session: SessionNumber) {
        self.mappings.remove(&session);
        self.users.remove(&session);
    }

    /// Returns whether a session maps it.
    pub(crate) fn contains(&self, session: SessionNumber) -> bool {
        self.mappings.contains_key(&session)
    }

    /// Returns the sessions that map it.
    pub(crate) fn sessions(&self) -> Vec<SessionNumber> {
        self.mappings.keys().copied().collect()
    }

    /// Returns how many sessions map it.
    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Returns whether nobody maps it.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }
}

/// Returns the half of a serial that a member word has.
pub(crate) fn serial_low(serial: u64) -> u32 {
    u32::try_from(serial & 0xffff_ffff).unwrap_or_default()
}
