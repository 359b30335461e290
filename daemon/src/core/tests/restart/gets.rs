//! Gets of arenas over a restart. A campaign found an arena that nobody knew of after its daemon had
//! been killed between the grant and the reply: a get that waits is known by its id for as long as its
//! caller may ask what came of it, however many calls have come after it.

use super::*;
use crate::arena_pool::GrantedArena;

const PATIENCE: Duration = Duration::from_secs(9);
/// More calls than a session's row has room for.
const MANY: u64 = goumem_shm::root::REQUESTS + goumem_shm::root::GRANTS + 1;

/// A place in line.
type Line = tokio::sync::oneshot::Receiver<GrantedArena>;

impl Daemon {
    fn wait_for_arena(&self, caller: &Caller, pool_id: PoolId, id: u64) -> Result<Waited, Error> {
        let request = GetArena {
            pool_id,
            wait: PATIENCE,
            request_id: RequestId::new(id),
        };
        self.core.get_arena(caller, request, self.now)
    }

    fn arenas_held(&self, caller: &Caller) -> u32 {
        let name = PoolName::try_from("arenas").unwrap();
        let stat = self
            .core
            .stat_arena_pool(caller, StatPool { name }, self.now);
        stat.unwrap().exclusive
    }

    fn return_arena(&self, caller: &Caller, arena: Handle) {
        let outcome = self.core.return_arena(caller, give_back(arena), self.now);
        outcome.unwrap();
    }

    /// Makes calls with all ids up to this one that come after `after`.
    fn call_much(&self, caller: &Caller, pool: PoolId, after: u64, up_to: u64) {
        for id in after + 1..=up_to {
            let alloc = Alloc {
                pool_id: pool,
                spec: spec(16),
                request_id: RequestId::new(id),
            };
            self.core.alloc(caller, alloc, self.now).unwrap();
        }
    }
}

fn queued(waited: Result<Waited, Error>) -> Line {
    match waited.unwrap() {
        Waited::Queued(_, line) => line,
        Waited::Now(arena) => panic!("{arena:?} was free"),
    }
}

#[test]
fn an_arena_granted_to_an_old_id_is_known_by_it_after_a_restart() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 1);
    let taken = got(daemon.get(&alice, arenas, RequestId::NONE));
    let mut line = queued(daemon.wait_for_arena(&bob, arenas, 1));
    daemon.call_much(&bob, pool, 1, MANY);
    daemon.return_arena(&alice, taken);
    // The reply is written, and lost.
    let granted = line.try_recv().unwrap().accept();

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    for _ in 0..2 {
        let again = got(daemon.wait_for_arena(&bob, arenas, 1));
        assert_eq!(again, granted.arena);
        // One who does not wait any more hears the same.
        assert_eq!(got(daemon.get(&bob, arenas, RequestId::new(1))), again);
    }
    assert_eq!(daemon.arenas_held(&alice), 1);
    daemon.return_arena(&bob, granted.arena);
    daemon.check();
}

#[test]
fn an_arena_that_was_on_its_way_to_a_waiter_is_known_after_a_restart() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 1);
    let taken = got(daemon.get(&alice, arenas, RequestId::NONE));
    let line = queued(daemon.wait_for_arena(&bob, arenas, 1));
    daemon.call_much(&bob, pool, 1, MANY);
    daemon.return_arena(&alice, taken);
    // A kill gives nothing back.
    std::mem::forget(line);

    let (daemon, [alice, bob]) = daemon.kill_and_restart([&alice, &bob]);
    let granted = got(daemon.wait_for_arena(&bob, arenas, 1));
    assert_eq!(daemon.arenas_held(&alice), 1);
    daemon.return_arena(&bob, granted);
    assert_eq!(daemon.arenas_held(&alice), 0);
    daemon.check();
}

#[test]
fn as_many_grants_as_a_row_holds_are_known_after_a_restart_whatever_their_ids() {
    let (daemon, alice, bob, _) = scene();
    let n = u32::try_from(goumem_shm::root::GRANTS).unwrap();
    let arenas = daemon.arena_pool(&alice, "arenas", n);
    // All of one remainder: those of other requests would lie in one place.
    let ids: Vec<u64> = (1..=u64::from(n))
        .map(|i| i * goumem_shm::root::REQUESTS)
        .collect();
    let granted: Vec<Handle> = ids
        .iter()
        .map(|&id| got(daemon.wait_for_arena(&bob, arenas, id)))
        .collect();
    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    for (&id, &arena) in ids.iter().zip(&granted) {
        assert_eq!(got(daemon.wait_for_arena(&bob, arenas, id)), arena);
    }
    // The next ones take the places of the oldest.
    for &arena in &granted[..2] {
        daemon.return_arena(&bob, arena);
    }
    let late = got(daemon.wait_for_arena(&bob, arenas, 7));
    let (daemon, [bob]) = daemon.kill_and_restart([&bob]);
    assert_eq!(got(daemon.wait_for_arena(&bob, arenas, 7)), late);
    for (&id, &arena) in ids.iter().zip(&granted).skip(1) {
        assert_eq!(got(daemon.wait_for_arena(&bob, arenas, id)), arena);
    }
    daemon.check();
}

/// The second try got an arena of its own, and the first one's was accepted on behalf of nobody.
#[test]
fn a_second_try_gets_no_second_arena_while_the_first_one_is_on_its_way() {
    let (daemon, alice, bob, _) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 2);
    let [one, other] = [(); 2].map(|()| got(daemon.get(&alice, arenas, RequestId::NONE)));
    let mut line = queued(daemon.wait_for_arena(&bob, arenas, 1));
    let no_wait = |daemon: &Daemon| daemon.get(&bob, arenas, RequestId::new(1));
    assert_eq!(reason(no_wait(&daemon)), Reason::RequestInFlight);
    daemon.return_arena(&alice, one);
    daemon.return_arena(&alice, other);
    assert_eq!(daemon.arenas_held(&alice), 1);
    assert_eq!(reason(no_wait(&daemon)), Reason::RequestInFlight);
    let wait = daemon.wait_for_arena(&bob, arenas, 1);
    assert_eq!(reason(wait), Reason::RequestInFlight);
    // The first caller went away before its arena came: it has never asked.
    drop(line.try_recv().unwrap());
    assert_eq!(daemon.arenas_held(&alice), 0);
    let granted = got(no_wait(&daemon));
    assert_eq!(got(no_wait(&daemon)), granted);
    assert_eq!(daemon.arenas_held(&alice), 1);
    daemon.check();
}

#[test]
fn a_get_that_came_to_nothing_is_made_anew_by_its_retry() {
    let (daemon, alice, bob, pool) = scene();
    let arenas = daemon.arena_pool(&alice, "arenas", 1);
    let taken = got(daemon.get(&alice, arenas, RequestId::NONE));
    let refused = daemon.get(&bob, arenas, RequestId::new(1));
    assert_eq!(reason(refused), Reason::NoFreeArena);
    daemon.return_arena(&alice, taken);
    let arena = got(daemon.get(&bob, arenas, RequestId::new(1)));
    // An id belongs to one call.
    let alloc = Alloc {
        pool_id: pool,
        spec: spec(16),
        request_id: RequestId::new(1),
    };
    let core = &daemon.core;
    assert_eq!(
        reason(core.alloc(&bob, alloc, daemon.now)),
        Reason::RequestExpired
    );
    let alloc = Alloc {
        request_id: RequestId::new(2),
        ..alloc
    };
    core.alloc(&bob, alloc, daemon.now).unwrap();
    let refused = daemon.get(&bob, arenas, RequestId::new(2));
    assert_eq!(reason(refused), Reason::RequestExpired);
    daemon.return_arena(&bob, arena);
}
