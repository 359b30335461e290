//! A world whose fds outlive the daemon, and so its sessions do: Alice makes a call, the daemon dies
//! in it, and the next one goes on with the same fds. Then everything stands that was not Alice's
//! call, and her retry under the same request id comes to what one call comes to.

use goumem_shm::RawBlock;

use super::*;
use crate::arena_pool::GrantedArena;

/// What Alice's call is known by.
pub(super) const ID: RequestId = RequestId::new(7);
/// Blocks of this size lie in spans of two pages, in eight slots.
pub(super) const SIZE: u64 = 16 << 10;
const CONTENT: &[u8] = b"bystander";

/// What is known of a call that was cut off, after the restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knows {
    /// Enough for its retry to come to the same.
    Outcome,
    /// Not how far it got, or what came of it: its retry may be refused.
    Little,
}

/// One call, with a request id where it can have one.
pub(super) struct Call {
    pub(super) name: &'static str,
    /// Makes what it needs.
    pub(super) before: fn(&mut KeptWorld),
    /// The call. Whoever makes it again is told the same.
    pub(super) call: fn(&mut KeptWorld) -> Result<String, Error>,
    pub(super) knows: Knows,
}

/// A daemon whose fds are kept, and its clients.
pub(super) struct KeptWorld {
    daemon: Option<Daemon>,
    /// Of a daemon that has ended.
    left: Option<(tempfile::TempDir, MemoryStore)>,
    pub(super) alice: Option<Caller>,
    pub(super) bob: Option<Caller>,
    pub(super) pool: PoolId,
    pub(super) arenas: PoolId,
    /// What the call is about, as its `before` leaves it.
    pub(super) handles: Vec<Handle>,
    pub(super) spans: Vec<SpanInfo>,
    pub(super) line: Option<tokio::sync::oneshot::Receiver<GrantedArena>>,
    /// Of Bob's.
    bystanders: Vec<Handle>,
    arena: Handle,
    span: SpanInfo,
    block: Option<RawBlock>,
    leased: LeasedSpan,
}

/// What is there, as far as a call may change it.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    pools: Vec<String>,
    blocks: [u64; 5],
    requested_bytes: u64,
    arenas: [u64; 4],
    /// By number: leased bytes, arenas, pins.
    sessions: Vec<(u16, u64, u32, u32)>,
}

impl KeptWorld {
    fn new() -> Self {
        let daemon = Daemon::start();
        let [alice, bob] = [(); 2].map(|()| daemon.caller(1000));
        let pool = daemon.pool(&bob, "p", MIB);
        let arenas = daemon.arena_pool(&bob, "a", 6);
        let number = bob.session.as_ref().unwrap().number;
        let memory = daemon.map(&bob, pool);
        let view = daemon.map_arenas(&bob, arenas, 6);
        // Bob's: a span with a private block and a shared one in it, a kept one with a pin, one
        // with a name, an arena alone and one that Alice holds as well.
        let span = daemon.lease(&bob, pool, blocks::class_of(SIZE)).unwrap()[0];
        let mut leased = LeasedSpan::attach(&memory, lease_of(&span), number, false).unwrap();
        let block = leased.alloc();
        let shared = leased.alloc().unwrap();
        let shared = shared
            .export(number, blocks::shape())
            .map_err(|(_, error)| error)
            .unwrap();
        let [kept, named] = [(); 2].map(|()| daemon.alloc(&bob, pool, SIZE).unwrap());
        daemon.core.keep(&bob, about(kept), daemon.now).unwrap();
        daemon.core.pin(&bob, about(kept), daemon.now).unwrap();
        daemon.publish(&bob, named, "bystander").unwrap();
        let bystanders = vec![shared, kept, named];
        for &handle in &bystanders {
            daemon.core.write_bytes(&bob, handle, 0, CONTENT).unwrap();
        }
        let arena = view.try_get(number, 0).unwrap();
        let both = view.try_get(number, 0).unwrap();
        let name = ArenaName::try_from("both").unwrap();
        let share = ShareArena {
            arena: both,
            name: name.clone(),
            request_id: RequestId::NONE,
        };
        daemon.core.share_arena(&bob, share, daemon.now).unwrap();
        let attach = AttachArena {
            pool_id: arenas,
            name,
            access: Access::ReadWrite,
            request_id: RequestId::NONE,
        };
        daemon
            .core
            .attach_arena(&alice, attach, daemon.now)
            .unwrap();
        Self {
            daemon: Some(daemon),
            left: None,
            alice: Some(alice),
            bob: Some(bob),
            pool,
            arenas,
            handles: Vec::new(),
            spans: Vec::new(),
            line: None,
            bystanders,
            arena,
            span,
            block,
            leased,
        }
    }

    pub(super) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    pub(super) fn has_daemon(&self) -> bool {
        self.daemon.is_some()
    }

    /// Returns the core, Alice if her session lives, and the time.
    pub(super) fn by_alice(&self) -> (&Core, &Caller, Instant) {
        let daemon = self.daemon();
        let alice = self.alice.as_ref().expect("her session lives");
        (&daemon.core, alice, daemon.now)
    }

    pub(super) fn by_bob(&self) -> (&Core, &Caller, Instant) {
        let daemon = self.daemon();
        let bob = self.bob.as_ref().expect("his session lives");
        (&daemon.core, bob, daemon.now)
    }

    /// Allocates a block of Alice's for the call to be about.
    pub(super) fn alloc(&mut self) -> Handle {
        let (_, alice, _) = self.by_alice();
        let handle = self.daemon().alloc(alice, self.pool, SIZE).unwrap();
        self.handles.push(handle);
        handle
    }

    /// Gets an arena for a session, without an id.
    pub(super) fn get(&mut self, who: fn(&Self) -> (&Core, &Caller, Instant)) -> Handle {
        let request = GetArena {
            pool_id: self.arenas,
            request_id: RequestId::NONE,
            wait: Duration::ZERO,
        };
        let (core, caller, now) = who(self);
        let Waited::Now(arena) = core.get_arena(caller, request, now).unwrap() else {
            panic!("an arena is free");
        };
        self.handles.push(arena.arena);
        arena.arena
    }

    /// Ends the daemon, as SIGKILL does.
    pub(super) fn bury_daemon(&mut self) {
        // What it granted on it goes back to no pool.
        crash::bury(self.line.take());
        if let Some(daemon) = self.daemon.take() {
            let Daemon {
                core, dir, store, ..
            } = daemon;
            crash::bury(core);
            self.left = Some((dir, store));
        }
    }

    /// Starts the next on the fds that were kept; it may end while it starts.
    pub(super) fn start_daemon(&mut self) {
        let now = Instant::now();
        let (dir, store) = self.left.as_ref().expect("one has ended");
        let core = core_with(dir, store.kept().unwrap(), now);
        let (dir, store) = self.left.take().expect("checked");
        let daemon = Daemon {
            core,
            now,
            dir,
            store,
        };
        let resume = |caller: Option<Caller>| daemon.resumed(&caller?);
        (self.alice, self.bob) = (resume(self.alice.take()), resume(self.bob.take()));
        self.daemon = Some(daemon);
    }

    fn restart(&mut self) {
        self.bury_daemon();
        self.start_daemon();
    }

    fn summary(&self) -> Summary {
        let (core, bob, now) = self.by_bob();
        let named = core.registry().named();
        let pools = named.iter().map(|pool| pool.name().to_string()).collect();
        let stat = self.daemon().block_pool(self.pool).stat(bob, now);
        let arenas = self.daemon().arenas(self.arenas).stat();
        let sessions = core.list_sessions(bob, now).unwrap();
        Summary {
            pools,
            blocks: [
                stat.blocks,
                stat.kept_blocks,
                stat.named_blocks,
                stat.pins,
                stat.condemned_blocks,
            ],
            requested_bytes: stat.requested_bytes,
            arenas: [
                arenas.free.into(),
                arenas.exclusive.into(),
                arenas.named.into(),
                arenas.used_bytes,
            ],
            sessions: sessions
                .iter()
                .map(|s| (s.session.get(), s.leased_bytes, s.arenas_held, s.pins))
                .collect(),
        }
    }

    fn image(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        (
            self.daemon().block_pool(self.pool).image(false),
            self.daemon().arenas(self.arenas).image(),
        )
    }

    /// Asserts that Bob has what he had, and that everything holds together.
    fn check(&self) {
        self.daemon().check();
        let (core, bob, now) = self.by_bob();
        let session = bob.session.as_ref().unwrap();
        for &handle in &self.bystanders {
            let mut bytes = [0; CONTENT.len()];
            core.read_bytes(bob, handle, 0, &mut bytes).unwrap();
            assert_eq!(bytes, CONTENT, "{handle}");
        }
        let named = self.daemon().lookup(bob, self.pool, "bystander");
        assert_eq!(named.unwrap(), self.bystanders[2]);
        let holdings = self.daemon().block_pool(self.pool).holdings(session);
        assert_eq!(holdings.pins, 1, "{holdings:?}");
        let arenas = self.daemon().arenas(self.arenas);
        let words = arenas.stat();
        assert!(words.named >= 1, "{words:?}");
        let list = core.list_holders(
            bob,
            ListHolders {
                pool_id: self.arenas,
            },
            now,
        );
        let list = list.unwrap();
        let alone = list.iter().find(|arena| arena.arena == self.arena).unwrap();
        assert_eq!(alone.holders[0].session, session.number);
        assert_eq!(alone.name, None);
        let both = list.iter().find(|arena| {
            arena
                .name
                .as_ref()
                .is_some_and(|name| name.as_str() == "both")
        });
        let holders = &both.unwrap().holders;
        assert!(
            holders
                .iter()
                .any(|holder| holder.session == session.number)
        );
        let alice_holds = holders.iter().any(|holder| {
            let alice = self.alice.as_ref().and_then(|alice| alice.session.as_ref());
            alice.is_some_and(|alice| alice.number == holder.session)
        });
        assert_eq!(alice_holds, self.alice.is_some());
        self.check_store();
    }

    /// Asserts that the store has the fds of what is there, and no more.
    fn check_store(&self) {
        let names = self.daemon().store.names();
        let of = |what: &str| {
            names
                .iter()
                .filter(|name| name.as_str().starts_with(what))
                .count()
        };
        let pools = self.daemon().core.registry().all().len();
        let sessions = self.daemon().core.sessions().count();
        let found = [of("root"), of("control-"), of("data-"), of("process-")];
        assert_eq!(found, [1, pools, pools, sessions], "{names:?}");
        assert_eq!(names.len(), 1 + 2 * pools + sessions, "{names:?}");
    }

    /// Bob goes on as if nothing had happened; then both sessions end, and nothing of them is left.
    fn go_on_and_end(mut self) {
        let free = self.leased.free_count();
        let block = self.leased.alloc().expect("his span is his");
        drop((block, self.block.take()));
        self.leased.collect(true);
        assert_eq!(self.leased.free_count(), free + 1);
        let (core, bob, now) = self.by_bob();
        let spans = vec![self.span];
        let request = ReturnSpans {
            pool_id: self.pool,
            spans,
            request_id: RequestId::NONE,
        };
        // His block is still in it.
        let refused = core.return_spans(bob, request, now);
        assert_eq!(reason(refused), Reason::SpanInUse);
        let serials: Vec<u64> = core.sessions().all().iter().map(|s| s.serial).collect();
        for serial in serials {
            core.session_died(serial, now);
        }
        assert_eq!(core.sessions().count(), 0);
        let daemon = self.daemon();
        daemon.check();
        self.check_store();
        if let Ok(AnyPool::Blocks(pool)) = daemon.core.registry().by_id(self.pool) {
            let stat = pool.stat(bob, now);
            assert_eq!(stat.blocks, stat.kept_blocks, "{stat:?}");
            assert_eq!((stat.pins, stat.condemned_blocks), (0, 0), "{stat:?}");
        }
        let stat = daemon.arenas(self.arenas).stat();
        assert_eq!(stat.free, 6, "{stat:?}");
    }
}

impl Call {
    fn world(&self) -> KeptWorld {
        let mut world = KeptWorld::new();
        (self.before)(&mut world);
        world
    }

    /// Makes the call to its end; returns what it writes, and what there is then.
    fn writes(&self) -> (Writes, Summary) {
        let mut world = self.world();
        let (outcome, writes) = crash::count(|| (self.call)(&mut world));
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert!(writes.count > 0, "{} writes nothing", self.name);
        world.check();
        let summary = world.summary();
        // Its answer may be lost with the daemon all the same.
        let again = self.bury_repair_and_check(world, &summary);
        assert!(
            again.is_none_or(|again| again == outcome),
            "{}: the answer was {outcome}",
            self.name
        );
        (writes, summary)
    }

    /// Starts the next daemon, makes the call again, and asserts that it happened once. Returns
    /// its outcome.
    fn bury_repair_and_check(&self, mut world: KeptWorld, once: &Summary) -> Option<String> {
        world.restart();
        world.check();
        let image = world.image();
        world.restart();
        assert_eq!(world.image(), image, "a second restart changes nothing");
        let outcome = match (self.call)(&mut world) {
            Ok(outcome) => Some(outcome),
            Err(Error::RequestExpired { .. }) if self.knows == Knows::Little => None,
            Err(error) => panic!("the retry: {error}"),
        };
        if let Some(outcome) = &outcome {
            world.restart();
            match (self.call)(&mut world) {
                Ok(again) => assert_eq!(again, *outcome),
                Err(Error::RequestExpired { .. }) if self.knows == Knows::Little => {}
                Err(error) => panic!("the retry after it: {error}"),
            }
            if self.knows == Knows::Outcome {
                assert_eq!(world.summary(), *once, "it happened once");
            }
        }
        world.check();
        world.go_on_and_end();
        outcome
    }

    fn walk(&self, walked: &mut Walked) {
        let (writes, once) = self.writes();
        for stop in Stop::all(writes.count) {
            let mut world = self.world();
            let ended = crash::stop_at(stop, || (self.call)(&mut world));
            assert!(
                ended.is_none(),
                "{} makes as many writes each time",
                self.name
            );
            let whole = std::panic::AssertUnwindSafe(|| self.bury_repair_and_check(world, &once));
            if let Err(panic) = std::panic::catch_unwind(whole) {
                eprintln!("... in {}, {stop:?} of {}", self.name, writes.count);
                std::panic::resume_unwind(panic);
            }
            walked.deaths += 1;
        }
        walked.operations += 1;
        walked.writes += writes.count;
    }

    /// Returns from where it writes.
    pub(super) fn sites(&self) -> std::collections::BTreeSet<crash::Site> {
        self.writes().0.sites
    }
}

#[test]
fn the_daemon_may_die_in_any_call_of_a_session_that_lives_on() {
    let mut walked = Walked::default();
    for call in calls::CALLS {
        call.walk(&mut walked);
    }
    walked.say("daemon, kept fds");
}
