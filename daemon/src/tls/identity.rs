//! Who a remote caller is: a name, and the user that the name stands for.
//!
//! A name that is mapped to a user of this machine is that user to pools and quotas, though it may
//! map nothing and kill nobody. Every other name is a user of its own: a number that is computed
//! from the name, in the half of the numbers where a machine has no users. So remote clients are
//! "others" to everybody's pools, and what they create is theirs alone, also after a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use goumem_proto::name::Label;
use sha2::{Digest as _, Sha256};

use super::{TlsError, parse_name};

/// The user and group of whoever calls over TCP and has no name. No process has it: to the kernel
/// it means "leave it as it is".
pub(crate) const REMOTE_ID: u32 = u32::MAX;
/// Where the users of remote names begin. systemd's list of uids has nothing from here on
/// (UIDS-GIDS.md: "HIC SVNT LEONES").
const FIRST_REMOTE_UID: u32 = 1 << 31;

/// Who makes a call by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// The name in its certificate, or of its token; none on a loopback address without either.
    pub name: Option<Label>,
    /// Where it calls from.
    pub address: SocketAddr,
    /// The user it is to the daemon.
    pub uid: u32,
}

impl RemoteIdentity {
    /// Returns the identity of a name at an address.
    pub(super) fn new(
        name: Option<Label>,
        address: SocketAddr,
        users: &BTreeMap<String, u32>,
    ) -> Self {
        let uid = match &name {
            None => REMOTE_ID,
            Some(name) => users
                .get(name.as_str())
                .copied()
                .unwrap_or_else(|| uid_of(name)),
        };
        Self { name, address, uid }
    }
}

impl std::fmt::Display for RemoteIdentity {
    /// As `alice@10.0.0.5:4711`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}@")?;
        }
        write!(f, "{}", self.address)
    }
}

/// Why a remote caller is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It shows neither a certificate nor a token.
    NoProof,
    /// Its token is nobody's.
    UnknownToken,
}

/// Returns the user of a name that is mapped to none.
fn uid_of(name: &Label) -> u32 {
    let hash: [u8; 32] = Sha256::digest(name.as_str()).into();
    let [a, b, c, d, ..] = hash;
    let uid = FIRST_REMOTE_UID | u32::from_be_bytes([a, b, c, d]);
    uid.min(REMOTE_ID - 1)
}

/// Refuses a line of the table of users that cannot be meant.
pub(super) fn check_user(name: &str, uid: u32) -> Result<(), TlsError> {
    parse_name(name).map_err(|source| TlsError::Name {
        name: name.to_owned(),
        source,
    })?;
    let why = match uid {
        0 => "root is root on its own machine only",
        FIRST_REMOTE_UID.. => "numbers from 2147483648 on are for names without a user",
        _ => return Ok(()),
    };
    Err(TlsError::User {
        name: name.to_owned(),
        uid,
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_its_mapped_user_or_one_of_its_own_that_no_machine_has() {
        let address = "192.0.2.1:5".parse().unwrap();
        let users = BTreeMap::from([("alice".to_owned(), 1000)]);
        let who = |name: Option<&str>| {
            let name = name.map(|name| name.parse().unwrap());
            RemoteIdentity::new(name, address, &users)
        };
        assert_eq!(who(Some("alice")).uid, 1000);
        assert_eq!(who(None).uid, REMOTE_ID);
        let (bob, carol) = (who(Some("bob")), who(Some("carol")));
        assert_ne!(bob.uid, carol.uid);
        assert!((FIRST_REMOTE_UID..REMOTE_ID).contains(&bob.uid));
        // It owns pools that outlive this program, so the number is a promise.
        assert_eq!(bob.uid, 0x81b6_37d8);
        assert_eq!(bob.to_string(), "bob@192.0.2.1:5");
        assert_eq!(who(None).to_string(), "192.0.2.1:5");
    }
}
