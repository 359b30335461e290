//! A world around one arena pool: Alice, who dies, Bob, who lives on, and what must be true whoever
//! died where.

use goumem_shm::HeldArena;
use goumem_shm::arena::ArenaState;

use super::blocks::Who;
use super::*;

/// As many arenas as these worlds have, of 1000 bytes.
const ARENAS: u32 = 4;
const NAME: &str = "batch/17";

/// A client, and what it maps.
struct Client {
    caller: Caller,
    memory: Arc<ArenaMemory>,
}

impl Client {
    fn new(daemon: &Daemon, pool: PoolId) -> Self {
        let caller = daemon.caller(1000);
        let memory = Arc::new(daemon.map_arenas(&caller, pool, ARENAS));
        Self { caller, memory }
    }
}

pub(super) struct ArenaWorld {
    dies: Dies,
    daemon: Option<Daemon>,
    dir: Option<tempfile::TempDir>,
    pub(super) pool: PoolId,
    alice: Option<Client>,
    bob: Option<Client>,
    /// What the operation is about, as its `before` leaves it.
    pub(super) arena: Option<Handle>,
    pub(super) allocations: Vec<Handle>,
    third_view: Option<ArenaMemory>,
    /// An arena that Bob holds alone and the operation is not about, with something in it.
    bystander: Option<Handle>,
    /// Arenas that were given back: their handles are no good.
    gone: Vec<Handle>,
    waiter: Option<tokio::sync::oneshot::Receiver<crate::arena_pool::GrantedArena>>,
}

impl World for ArenaWorld {
    fn new(dies: Dies) -> Self {
        let daemon = Daemon::start();
        let owner = daemon.caller(1000);
        let request = CreateArenaPool {
            name: PoolName::try_from("a").unwrap(),
            arenas: ARENAS,
            arena_bytes: 1000,
            backing: Some(match dies {
                Dies::Client => Backing::Memfd,
                Dies::Daemon => Backing::File,
            }),
            gid: None,
            mode: 0o600,
            request_id: RequestId::NONE,
        };
        let created = daemon.core.create_arena_pool(&owner, request, daemon.now);
        let pool = created.unwrap().pool.pool_id;
        let [alice, bob] = [(); 2].map(|()| Some(Client::new(&daemon, pool)));
        Self {
            dies,
            daemon: Some(daemon),
            dir: None,
            pool,
            alice,
            bob,
            arena: None,
            allocations: Vec::new(),
            third_view: None,
            bystander: None,
            gone: Vec::new(),
            waiter: None,
        }
    }

    fn bury_repair_and_check(mut self) {
        self.gone.extend(self.held_by_the_dead());
        match self.dies {
            Dies::Client => {
                let alice = self.alice.take().expect("she dies once");
                let dead = Arc::clone(alice.caller.session.as_ref().unwrap());
                crash::bury(alice);
                let daemon = self.daemon();
                daemon.core.session_died(dead.serial, daemon.now);
                self.check();
                let pool = daemon.arenas(self.pool);
                let before = pool.image();
                pool.sweep_again(&dead);
                assert_eq!(pool.image(), before, "a second sweep changes nothing");
                self.get_and_fill_all();
            }
            Dies::Daemon => {
                self.bystander = None;
                crash::bury((self.alice.take(), self.bob.take()));
                self.restart();
                if self.daemon().core.registry().by_name("a").is_err() {
                    self.daemon().check();
                    return;
                }
                self.check();
                let before = self.daemon().arenas(self.pool).image();
                self.bury_daemon();
                self.restart();
                let after = self.daemon().arenas(self.pool).image();
                assert_eq!(after, before, "a second restart changes nothing");
                self.bob = Some(Client::new(self.daemon(), self.pool));
                self.get_and_fill_all();
            }
        }
    }
}

impl ArenaWorld {
    pub(super) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    fn client(&self, who: Who) -> &Client {
        match who {
            Who::Alice => self.alice.as_ref().expect("alice lives"),
            Who::Bob => self.bob.as_ref().expect("bob lives"),
        }
    }

    pub(super) fn caller(&self, who: Who) -> &Caller {
        &self.client(who).caller
    }

    pub(super) fn memory(&self, who: Who) -> &ArenaMemory {
        &self.client(who).memory
    }

    pub(super) fn session(&self, who: Who) -> goumem_alloc::SessionNumber {
        self.caller(who).session.as_ref().unwrap().number
    }

    /// Gets an arena for a client, by its mapping.
    pub(super) fn get(&self, who: Who) -> Handle {
        let arena = self.memory(who).try_get(self.session(who), 0);
        arena.expect("an arena is free")
    }

    /// Gets an arena for a client that bumps it privately.
    pub(super) fn get_privately(&self, who: Who) -> HeldArena<ArenaMemory> {
        let arena = HeldArena::get(&self.client(who).memory, self.session(who), 0);
        arena.expect("an arena is free")
    }

    /// What there is in every world: an arena that Bob holds alone, with bytes in it, and one that
    /// had a life before.
    pub(super) fn populate(&mut self) {
        let [held, returned] = [(); 2].map(|()| self.get(Who::Bob));
        let (bob, memory) = (self.session(Who::Bob), self.memory(Who::Bob));
        for arena in [held, returned] {
            let allocation = memory.alloc(arena, bob, 16, 16).unwrap();
            memory.write(allocation, 0, b"bystander").unwrap();
        }
        memory.give_back(returned, bob).unwrap();
        self.bystander = Some(held);
        self.gone.push(returned);
    }

    /// Gets an arena for a client, for the operation to be about.
    pub(super) fn hold(&mut self, who: Who) {
        self.arena = Some(self.get(who));
    }

    pub(super) fn arena(&self) -> Handle {
        self.arena.expect("`before` got one")
    }

    /// Allocates in the arena that the operation is about.
    pub(super) fn alloc(&mut self, who: Who, size_bytes: u64) {
        let (memory, session) = (self.memory(who), self.session(who));
        let allocation = memory.alloc(self.arena(), session, size_bytes, 16);
        self.allocations.push(allocation.unwrap());
    }

    /// Names the arena that the operation is about.
    pub(super) fn share(&self, who: Who) {
        let request = ShareArena {
            arena: self.arena(),
            name: ArenaName::try_from(NAME).unwrap(),
            request_id: RequestId::NONE,
        };
        let (daemon, caller) = (self.daemon(), self.caller(who));
        daemon
            .core
            .share_arena(caller, request, daemon.now)
            .unwrap();
    }

    /// Makes a client a holder of the named arena.
    pub(super) fn attach(&self, who: Who, access: Access) {
        let request = AttachArena {
            pool_id: self.pool,
            name: ArenaName::try_from(NAME).unwrap(),
            access,
            request_id: RequestId::NONE,
        };
        let (daemon, caller) = (self.daemon(), self.caller(who));
        daemon
            .core
            .attach_arena(caller, request, daemon.now)
            .unwrap();
    }

    /// Has a client wait for an arena, of which none is free any more.
    pub(super) fn wait(&mut self, who: Who) {
        let request = GetArena {
            pool_id: self.pool,
            request_id: RequestId::NONE,
            wait: Duration::from_secs(60),
        };
        let (daemon, caller) = (self.daemon(), self.caller(who));
        match daemon.core.get_arena(caller, request, daemon.now).unwrap() {
            Waited::Queued(_, receiver) => self.waiter = Some(receiver),
            Waited::Now(arena) => panic!("{arena:?} was free"),
        }
    }

    /// Maps the pool for one who comes in between.
    pub(super) fn map_once_more(&mut self) {
        let view = self
            .daemon()
            .map_arenas(self.caller(Who::Bob), self.pool, ARENAS);
        self.third_view = Some(view);
    }

    /// Returns that mapping.
    pub(super) fn third_view(&mut self) -> ArenaMemory {
        self.third_view.take().expect("`before` made one")
    }

    pub(super) fn bury_daemon(&mut self) {
        // A queue that the daemon had; what it granted on it goes back to no pool.
        crash::bury(self.waiter.take());
        if let Some(daemon) = self.daemon.take() {
            self.dir = Some(bury_daemon(daemon));
        }
    }

    pub(super) fn bury_clients(&mut self) {
        crash::bury((self.alice.take(), self.bob.take()));
    }

    /// Starts a daemon where one has ended; it may end while it starts.
    pub(super) fn start_daemon(&mut self) {
        let now = Instant::now();
        let core = core_on(self.dir.as_ref().expect("one has ended"), now);
        let dir = self.dir.take().expect("checked");
        let store = MemoryStore::default();
        self.daemon = Some(Daemon {
            core,
            now,
            dir,
            store,
        });
    }

    fn restart(&mut self) {
        self.bury_daemon();
        self.start_daemon();
    }

    /// The handles that are no good once the dead are buried.
    fn held_by_the_dead(&self) -> Vec<Handle> {
        let Some(client) = self.bob.as_ref() else {
            return Vec::new();
        };
        let dead = |word: goumem_shm::arena::ArenaSnapshot| match self.dies {
            Dies::Client => word.owner() == self.session(Who::Alice),
            Dies::Daemon => word.state() != Some(ArenaState::Free),
        };
        let arenas = 0..ARENAS;
        let held = arenas.filter_map(|index| {
            let word = client.memory.words(index)?.load();
            dead(word).then(|| client.memory.handle(index, word.generation()))
        });
        held.collect()
    }

    /// Asserts everything that can be asserted of an arena pool at rest.
    fn check(&self) {
        let daemon = self.daemon();
        daemon.check();
        let pool = daemon.arenas(self.pool);
        pool.check_words();
        for &handle in &self.gone {
            let read = pool.read(handle, 0, &mut [0]);
            assert!(read.is_err(), "{handle} was given back and is read");
        }
        if let Some(bystander) = self.bystander {
            let mut bytes = [0; 9];
            pool.read(bystander, 0, &mut bytes).unwrap();
            assert_eq!(&bytes, b"bystander");
        }
    }

    /// Bob gets every arena that is free, and fills it: each is empty, and none has a life that
    /// was before. Then they go back.
    fn get_and_fill_all(mut self) {
        let bob = self.bob.take().expect("bob lives");
        let session = bob.caller.session.as_ref().unwrap().number;
        drop(self.waiter.take());
        let state = |index| bob.memory.words(index).unwrap().load().state();
        let n_free = (0..ARENAS)
            .filter(|&i| state(i) == Some(ArenaState::Free))
            .count();
        let held = std::iter::from_fn(|| bob.memory.try_get(session, 0));
        let held: Vec<Handle> = held.collect();
        assert_eq!(held.len(), n_free, "every free arena is to be had");
        for &arena in &held {
            assert!(!self.gone.contains(&arena), "{arena} was given out before");
            let allocate = || bob.memory.alloc(arena, session, 16, 16);
            let allocations: Vec<Handle> = std::iter::from_fn(|| allocate().ok()).collect();
            assert_eq!(allocations.len(), 1000 / 16, "{arena} was empty");
            assert_eq!(allocations[0].offset(), arena.offset());
            bob.memory.give_back(arena, session).unwrap();
        }
        self.gone.extend(held);
        self.check();
        let daemon = self.daemon.take().expect("a daemon runs");
        daemon
            .core
            .session_died(bob.caller.session.as_ref().unwrap().serial, daemon.now);
        let stat = daemon.arenas(self.pool).stat();
        assert_eq!((stat.free, stat.waiting), (ARENAS, 0));
        daemon.check();
    }
}
