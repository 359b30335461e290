//! What is checked while everybody is at work: that the daemon's own counts add up, and that every
//! living worker still has its sessions.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use goumem::PoolStat;
use goumem::blocking::{Client, Pool};

use crate::report::Report;
use crate::wire::Wrong;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A session: number and serial.
pub(crate) type SessionId = (u16, u64);

/// The sessions of the workers that live. A worker is taken out before it is killed.
#[derive(Debug, Default)]
pub(crate) struct Living(Mutex<BTreeMap<u16, Vec<SessionId>>>);

impl Living {
    pub(crate) fn born(&self, worker: u16, sessions: Vec<SessionId>) {
        self.lock().insert(worker, sessions);
    }

    pub(crate) fn condemned(&self, worker: u16) {
        self.lock().remove(&worker);
    }

    /// Returns the sessions, each with its worker.
    pub(crate) fn sessions(&self) -> BTreeMap<SessionId, u16> {
        self.lock()
            .iter()
            .flat_map(|(&worker, sessions)| sessions.iter().map(move |&id| (id, worker)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Vec<SessionId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks again and again until told to stop.
pub(crate) fn run(
    client: &Client,
    pools: &[Pool],
    living: &Living,
    report: &Report,
    over: &dyn Fn() -> bool,
) {
    while !over() {
        for pool in pools {
            match pool.stat() {
                Ok(stat) => {
                    if let Err(what) = adds_up(&stat) {
                        report.wrong(Wrong::Conservation, what);
                    }
                }
                Err(error) => report.wrong(Wrong::Error, format!("stat: {error:?}")),
            }
        }
        if let Err(what) = everybody_has_a_session(client, living) {
            report.wrong(Wrong::FalseDeath, what);
        }
        thread::sleep(PAUSE);
    }
}

/// Checks the pool's conservation laws.
pub(crate) fn adds_up(stat: &PoolStat) -> Result<(), String> {
    let granted = stat.leased_bytes + stat.abandoned_bytes;
    let laws = [
        (
            "leased + abandoned + free committed = committed",
            granted + stat.free_committed_bytes == stat.committed_bytes,
        ),
        ("requested <= used", stat.requested_bytes <= stat.used_bytes),
        ("used <= leased + abandoned", stat.used_bytes <= granted),
        (
            "leased + abandoned <= capacity",
            granted <= stat.pool.capacity_bytes,
        ),
    ];
    match laws.iter().find(|(_, holds)| !holds) {
        Some((law, _)) => Err(format!("{law} does not hold: {stat:?}")),
        None => Ok(()),
    }
}

/// Checks that whoever has lived before the daemon was asked, and still lives, is in its list.
fn everybody_has_a_session(client: &Client, living: &Living) -> Result<(), String> {
    let before = living.sessions();
    let listed: Vec<SessionId> = match client.sessions() {
        Ok(sessions) => sessions
            .iter()
            .map(|info| (info.session.get(), info.serial))
            .collect(),
        Err(error) => return Err(format!("sessions: {error:?}")),
    };
    let after = living.sessions();
    for (session, worker) in before {
        if after.contains_key(&session) && !listed.contains(&session) {
            return Err(format!(
                "worker {worker} lives without its session {session:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_do_not_add_up_are_told_with_the_law_they_break() {
        let client = Client::embedded().unwrap();
        let pool = client
            .create_pool("p", goumem::PoolOptions::new(1 << 20))
            .unwrap();
        let _block = pool.alloc_value(1_u64).unwrap().share().unwrap();
        let stat = pool.stat().unwrap();
        assert_eq!(adds_up(&stat), Ok(()));
        let mut broken = stat.clone();
        broken.free_committed_bytes += 1;
        assert!(
            adds_up(&broken)
                .unwrap_err()
                .starts_with("leased + abandoned + free")
        );
        broken = stat.clone();
        broken.requested_bytes = stat.used_bytes + 1;
        assert!(adds_up(&broken).unwrap_err().starts_with("requested"));
    }

    #[test]
    fn session_of_a_living_worker_that_is_not_listed_is_a_false_death() {
        let client = Client::embedded().unwrap();
        let living = Living::default();
        let own = (client.session().get(), client.session_serial());
        living.born(1, vec![own]);
        assert_eq!(everybody_has_a_session(&client, &living), Ok(()));
        living.born(2, vec![(own.0, own.1 + 1)]);
        let what = everybody_has_a_session(&client, &living).unwrap_err();
        assert!(what.contains("worker 2"), "{what}");
        living.condemned(2);
        assert_eq!(everybody_has_a_session(&client, &living), Ok(()));
    }
}
