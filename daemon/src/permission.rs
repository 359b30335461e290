//! Who may do what to a pool: as for a file, by owner, group and mode bits.

use goumem_proto::model::{Access, Permissions};

use crate::error::Error;
use crate::session::Caller;

const READ: u32 = 4;
const WRITE: u32 = 2;

/// Refuses a caller who may not read (or write) a pool.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn require(
    caller: &Caller,
    permissions: &Permissions,
    access: Access,
    pool: &str,
) -> Result<(), Error> {
    let (wanted, verb) = match access {
        Access::ReadOnly => (READ, "read"),
        Access::ReadWrite => (READ | WRITE, "write"),
    };
    if is_root(caller) || granted(caller, permissions) & wanted == wanted {
        return Ok(());
    }
    Err(denied(caller, format!("{verb} pool {pool}")))
}

/// Refuses everybody but the pool's owner and root.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn require_owner(
    caller: &Caller,
    permissions: &Permissions,
    what: impl FnOnce() -> String,
) -> Result<(), Error> {
    if owns(caller, permissions) {
        Ok(())
    } else {
        Err(denied(caller, what()))
    }
}

/// Returns whether the caller is the pool's owner or root, who may see every holder.
pub(crate) fn owns(caller: &Caller, permissions: &Permissions) -> bool {
    is_root(caller) || caller.uid == permissions.uid
}

/// Returns whether the caller is root on this machine.
pub(crate) fn is_root(caller: &Caller) -> bool {
    caller.local && caller.uid == 0
}

/// Returns the error for a caller who may not do `what`.
pub(crate) fn denied(caller: &Caller, what: String) -> Error {
    Error::PermissionDenied {
        uid: caller.uid,
        what,
    }
}

/// Settles the permissions of a new pool.
///
/// # Errors
/// `PermissionDenied` for a group that the creator is not in.
pub(crate) fn chosen(caller: &Caller, gid: Option<u32>, mode: u32) -> Result<Permissions, Error> {
    let gid = gid.unwrap_or(caller.gid);
    if !is_root(caller) && !caller.is_in_group(gid) {
        return Err(denied(caller, format!("give a pool to group {gid}")));
    }
    Ok(Permissions {
        uid: caller.uid,
        gid,
        mode,
    })
}

/// The digit of the mode that is about the caller, as the kernel picks it: the first that fits.
fn granted(caller: &Caller, permissions: &Permissions) -> u32 {
    // Remote callers are one user, whose number no process has.
    let digit = if caller.uid == permissions.uid {
        permissions.mode >> 6
    } else if caller.local && caller.is_in_group(permissions.gid) {
        permissions.mode >> 3
    } else {
        permissions.mode
    };
    digit & 0o7
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32, local: bool) -> Caller {
        Caller {
            uid,
            gid,
            pid: 0,
            local,
            pidfd: None,
            session: None,
        }
    }

    fn may(caller: &Caller, mode: u32, access: Access) -> bool {
        let permissions = Permissions {
            uid: 1000,
            gid: 100,
            mode,
        };
        require(caller, &permissions, access, "p").is_ok()
    }

    #[test]
    fn the_first_digit_that_fits_decides() {
        let (owner, group, other) = (
            caller(1000, 1, true),
            caller(7, 100, true),
            caller(7, 7, true),
        );
        assert!(may(&owner, 0o600, Access::ReadWrite));
        assert!(
            !may(&owner, 0o066, Access::ReadOnly),
            "owner's digit is 0, others' is not asked"
        );
        assert!(may(&group, 0o640, Access::ReadOnly));
        assert!(!may(&group, 0o640, Access::ReadWrite));
        assert!(!may(&other, 0o660, Access::ReadOnly));
        assert!(may(&other, 0o664, Access::ReadOnly));
    }

    #[test]
    fn root_may_everything_but_only_on_this_machine() {
        assert!(may(&caller(0, 0, true), 0o000, Access::ReadWrite));
        assert!(!may(&caller(0, 0, false), 0o600, Access::ReadOnly));
    }

    #[test]
    fn a_foreign_group_cannot_be_chosen() {
        assert!(chosen(&caller(1000, 100, true), Some(100), 0o660).is_ok());
        assert!(matches!(
            chosen(&caller(1000, 100, true), Some(0), 0o660),
            Err(Error::PermissionDenied { uid: 1000, .. })
        ));
    }
}
