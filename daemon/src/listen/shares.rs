//! How many of the places for connections one client may have. Without shares, a single process
//! that opens connections and forgets them would keep everybody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goumem_proto::name::Label;
use goumem_shm::os::peer::PeerIdentity;
use goumem_shm::os::process::own_uid;
use tracing::warn;

use crate::events::Hub;

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A process of this machine.
    Process(u32),
    /// A user of this machine who is neither root nor the daemon's, or whose process is in another
    /// pid namespace.
    User(u32),
    /// Everybody who comes by TCP.
    Remote,
    /// Who comes by TCP from that address.
    Address(IpAddr),
    /// Who comes by TCP and has that name.
    Name(Label),
}

impl Holder {
    /// Returns what a local peer's connection counts for. A process of another pid namespace has
    /// no number here, so there the user alone decides, whoever that is.
    pub(crate) fn of(peer: PeerIdentity) -> Vec<Self> {
        let process = (peer.pid != 0).then_some(Self::Process(peer.pid));
        let user = process.is_none() || ![0, own_uid()].contains(&peer.uid);
        process
            .into_iter()
            .chain(user.then_some(Self::User(peer.uid)))
            .collect()
    }
}

impl Holder {
    /// Returns what a connection by TCP counts for. Its name, when only its calls tell it, comes
    /// too late to count.
    pub(crate) fn of_remote(address: IpAddr, name: Option<&Label>) -> Vec<Self> {
        let name = name.map(|name| Self::Name(name.clone()));
        [Self::Remote, Self::Address(address)]
            .into_iter()
            .chain(name)
            .collect()
    }

    /// The part of all places that it may have at the most.
    const fn divisor(&self) -> usize {
        match self {
            Self::Process(_) | Self::User(_) | Self::Remote => 2,
            // Half of what there is for TCP.
            Self::Address(_) | Self::Name(_) => 4,
        }
    }
}

/// Counts the places that each holder has: at most half of all, or a quarter.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    name: &'static str,
    places: usize,
    hub: Option<Arc<Hub>>,
    taken: Arc<Mutex<HashMap<Holder, Taken>>>,
}

#[derive(Debug, Default)]
struct Taken {
    n: usize,
    /// It was said that there are no more for it.
    told: bool,
}

/// A place that counts; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    holders: Vec<Holder>,
    shares: Shares,
}

impl Shares {
    /// `places` of all together; `name` is for the log.
    pub(crate) fn new(name: &'static str, places: usize) -> Self {
        Self {
            name,
            places,
            hub: None,
            taken: Arc::default(),
        }
    }

    /// Tells of each place that was refused, as a connection.
    pub(crate) fn telling(self, hub: Arc<Hub>) -> Self {
        Self {
            hub: Some(hub),
            ..self
        }
    }

    /// Takes a place for somebody, unless one of what they are has its share already.
    pub(crate) fn take(&self, holders: Vec<Holder>) -> Option<Share> {
        let mut taken = self.lock();
        for holder in &holders {
            let most = self.places.div_ceil(holder.divisor());
            if let Some(full) = taken.get_mut(holder).filter(|taken| taken.n >= most) {
                // Said once, not for each of a flood.
                if !std::mem::replace(&mut full.told, true) {
                    warn!(
                        socket = self.name,
                        ?holder,
                        places = full.n,
                        "has its share: refusing more"
                    );
                }
                if let Some(hub) = &self.hub {
                    hub.tell_of_connection(self.name);
                }
                return None;
            }
        }
        for holder in &holders {
            taken.entry(holder.clone()).or_default().n += 1;
        }
        drop(taken);
        Some(Share {
            holders,
            shares: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        for holder in &self.holders {
            let Some(of_holder) = taken.get_mut(holder) else {
                continue;
            };
            of_holder.n -= 1;
            if of_holder.n == 0 {
                taken.remove(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_and_user_have_at_most_half_and_places_come_back() {
        let shares = Shares::new("test", 5);
        let process = |pid| vec![Holder::Process(pid), Holder::User(1000)];
        let mut one: Vec<_> = (0..2).filter_map(|_| shares.take(process(1))).collect();
        let other = shares.take(process(2)).unwrap();
        assert!(shares.take(process(3)).is_none(), "the user has its half");
        let root: Vec<_> = (0..9)
            .filter_map(|_| shares.take(vec![Holder::Process(9)]))
            .collect();
        assert_eq!(root.len(), 3, "of 5, rounded up");
        one.pop();
        let _again = shares.take(process(3)).unwrap();
        drop((one, other, root));
        assert_eq!(
            shares.lock().len(),
            2,
            "those without a place are forgotten"
        );
    }

    #[test]
    fn remote_address_and_name_have_at_most_half_of_the_half_of_tcp() {
        let shares = Shares::new("test", 8);
        let of = |address: &str, name: Option<&str>| {
            let name: Option<Label> = name.map(|name| name.parse().unwrap());
            shares.take(Holder::of_remote(address.parse().unwrap(), name.as_ref()))
        };
        let alice = [
            of("192.0.2.1", Some("alice")),
            of("192.0.2.2", Some("alice")),
        ];
        assert!(alice.iter().all(Option::is_some));
        assert!(of("192.0.2.3", Some("alice")).is_none(), "a name");
        let one = of("192.0.2.1", None);
        assert!(
            one.is_some() && of("192.0.2.1", None).is_none(),
            "an address"
        );
        let last = of("192.0.2.4", None);
        assert!(
            last.is_some() && of("192.0.2.5", None).is_none(),
            "all of TCP"
        );
        let local = shares.take(vec![Holder::Process(1)]);
        assert!(local.is_some());
    }

    #[test]
    fn one_place_is_one_place() {
        let shares = Shares::new("test", 1);
        let place = shares.take(vec![Holder::Remote]);
        assert!(place.is_some() && shares.take(vec![Holder::Remote]).is_none());
    }
}
