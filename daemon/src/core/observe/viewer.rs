//! Who looks, and what they may see: pools that they may read, and sessions of their own user. A
//! pool's owner sees all of its holders. Root and the daemon's user see everything.

use goumem_alloc::SessionNumber;
use goumem_proto::model::{Access, Permissions};

use super::People;
use crate::error::Error;
use crate::permission;
use crate::pool::Sees;
use crate::session::Caller;

/// Who looks at the daemon.
#[derive(Debug, Clone, Copy)]
pub enum Viewer<'a> {
    /// Somebody to whom everything is shown: whoever reaches a listener of which the configuration
    /// says so.
    Everything,
    /// A caller, who sees what it may.
    Caller(&'a Caller),
}

impl Viewer<'_> {
    /// Returns whether everything is shown.
    pub fn sees_everything(self) -> bool {
        match self {
            Self::Everything => true,
            Self::Caller(caller) => {
                let own_uid = goumem_shm::os::process::own_uid();
                caller.local && (caller.uid == 0 || caller.uid == own_uid)
            }
        }
    }

    /// Returns whether a pool's name and sizes are shown.
    pub fn sees_pool(self, permissions: &Permissions) -> bool {
        self.require(permissions, "").is_ok()
    }

    /// Returns whether all sessions that hold something of a pool are shown.
    pub fn sees_holders(self, permissions: &Permissions) -> bool {
        match self {
            Self::Everything => true,
            Self::Caller(caller) => self.sees_everything() || permission::owns(caller, permissions),
        }
    }

    /// Returns whether sessions of a user are shown.
    pub fn sees_user(self, uid: u32) -> bool {
        match self {
            Self::Everything => true,
            Self::Caller(caller) => self.sees_everything() || (caller.local && caller.uid == uid),
        }
    }

    /// Refuses a viewer who may not see a pool.
    pub(super) fn require(self, permissions: &Permissions, pool: &str) -> Result<(), Error> {
        match self {
            Self::Caller(caller) if !self.sees_everything() => {
                permission::require(caller, permissions, Access::ReadOnly, pool)
            }
            _ => Ok(()),
        }
    }
}

/// What a viewer may know of the sessions that use one pool.
pub(super) struct Known<'a> {
    pub(super) viewer: Viewer<'a>,
    pub(super) sees_holders: bool,
    pub(super) people: &'a People,
}

impl Known<'_> {
    /// Returns the user and process of a session that the viewer may know of.
    pub(super) fn person(&self, session: SessionNumber) -> Option<(u32, u32)> {
        let &(uid, pid) = self.people.get(&session)?;
        (self.sees_holders || self.viewer.sees_user(uid)).then_some((uid, pid))
    }
}

impl Sees for Known<'_> {
    fn user_of(&self, session: SessionNumber) -> Option<u32> {
        self.person(session).map(|(uid, _)| uid)
    }
}
