//! Death at every write: each operation of docs/design.md is stopped on both sides of each of its
//! writes, whoever repairs it repairs it, and then everything has to hold. `goumem_shm::crash` has
//! the countdown; ci/crash.sh runs this.
//!
//! An operation is a line in a table: what has to be there before, and the operation itself. The
//! worlds do the rest. When a *client* dies, the daemon sweeps its session. When the *daemon* dies,
//! another starts on what is left: on the files of its pools, which outlive every session; or, in
//! `kept`, on all its fds, when the sessions live on and repeat their calls.
//!
//! What is checked knows nothing of the operation. The death itself says what must come of it: a
//! block whose word names a living session lives, one that names the dead is free, one with a keep
//! record is kept, and everything that the operation was not about is as it was.

use goumem_shm::crash::{self, Stop, Writes};

use super::*;
use crate::fd_store::Kept;

mod arena_operations;
mod arenas;
mod blocks;
mod calls;
mod client_operations;
mod coverage;
mod daemon_operations;
mod kept;
mod mutants;
mod roots;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    /// Alice, a client: her session is swept.
    Client,
    /// The daemon: another takes over.
    Daemon,
}

/// A daemon, its clients, and what there is between them.
trait World: Sized {
    /// Starts a daemon with a pool of its own kind, in which nothing is.
    fn new(dies: Dies) -> Self;

    /// Has the dead buried and what they left repaired, and asserts that everything holds.
    fn bury_repair_and_check(self);
}

/// One operation.
struct Operation<W> {
    /// As the tables call it.
    name: &'static str,
    /// Makes what it needs.
    before: fn(&mut W),
    /// What is stopped.
    operation: fn(&mut W),
}

/// How far a walk went.
#[derive(Debug, Default)]
struct Walked {
    operations: u64,
    writes: u64,
    deaths: u64,
}

impl<W: World> Operation<W> {
    fn world(&self, dies: Dies) -> W {
        let mut world = W::new(dies);
        (self.before)(&mut world);
        world
    }

    /// Runs it to its end; returns what it writes.
    fn writes(&self, dies: Dies) -> Writes {
        let mut world = self.world(dies);
        let ((), writes) = crash::count(|| (self.operation)(&mut world));
        assert!(writes.count > 0, "{} writes nothing", self.name);
        world.bury_repair_and_check();
        writes
    }

    /// Ends it at every place, one after the other; the last death is after its last write.
    fn walk(&self, dies: Dies, walked: &mut Walked) {
        let writes = self.writes(dies).count;
        for stop in Stop::all(writes) {
            let mut world = self.world(dies);
            let ended = crash::stop_at(stop, || (self.operation)(&mut world));
            assert_eq!(ended, None, "{} makes {writes} writes each time", self.name);
            let whole = std::panic::AssertUnwindSafe(|| world.bury_repair_and_check());
            if let Err(panic) = std::panic::catch_unwind(whole) {
                eprintln!("... in {}, {stop:?} of {writes}, {dies:?}", self.name);
                std::panic::resume_unwind(panic);
            }
            walked.deaths += 1;
        }
        walked.operations += 1;
        walked.writes += writes;
    }
}

fn walk<W: World>(what: &str, dies: Dies, operations: &[Operation<W>]) {
    let mut walked = Walked::default();
    for operation in operations {
        operation.walk(dies, &mut walked);
    }
    walked.say(what);
}

impl Walked {
    fn say(&self, what: &str) {
        let Self {
            operations,
            writes,
            deaths,
        } = self;
        println!("crash: {what}: {operations} operations, {writes} writes, {deaths} deaths");
    }
}

#[test]
fn a_client_may_die_at_any_write_to_a_pool() {
    walk(
        "client, blocks",
        Dies::Client,
        client_operations::OPERATIONS,
    );
}

#[test]
fn a_client_may_die_at_any_write_to_an_arena() {
    walk("client, arenas", Dies::Client, arena_operations::OF_CLIENTS);
}

#[test]
fn the_daemon_may_die_at_any_write_to_a_pool() {
    walk(
        "daemon, blocks",
        Dies::Daemon,
        daemon_operations::OPERATIONS,
    );
}

#[test]
fn the_daemon_may_die_at_any_write_to_an_arena_pool() {
    walk(
        "daemon, arenas",
        Dies::Daemon,
        arena_operations::OF_THE_DAEMON,
    );
}

impl Daemon {
    fn arenas(&self, id: PoolId) -> Arc<crate::arena_pool::ArenaPool> {
        match self.core.registry().by_id(id).unwrap() {
            AnyPool::Arenas(pool) => pool,
            AnyPool::Blocks(_) => panic!("{id} is a pool of blocks"),
        }
    }
}

#[test]
fn the_daemon_may_die_at_any_write_to_root() {
    walk("daemon, ROOT", Dies::Daemon, roots::OPERATIONS);
}

/// Ends a daemon as SIGKILL does, and returns its directory.
fn bury_daemon(daemon: Daemon) -> tempfile::TempDir {
    let Daemon { core, dir, .. } = daemon;
    crash::bury(core);
    dir
}

/// Starts what a daemon is on a directory.
fn core_on(dir: &tempfile::TempDir, now: Instant) -> Core {
    core_with(dir, Kept::nothing(), now)
}

/// Starts it with what was kept.
fn core_with(dir: &tempfile::TempDir, kept: Kept, now: Instant) -> Core {
    let limits = Config::private(dir.path()).limits;
    let wires = Wires {
        watch: Arc::new(DeathWatch::new().unwrap()),
        earlier: Arc::new(Notify::new()),
    };
    Core::start(limits, None, wires, kept, now).unwrap()
}
