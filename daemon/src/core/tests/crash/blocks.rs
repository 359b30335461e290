//! A world around one pool of blocks: Alice, who dies, Bob, who lives on, and what must be true
//! whoever died where.

use goumem_alloc::SessionNumber;
use goumem_shm::slot::SlotState;
use goumem_shm::{RawBlock, TakenBlocks};

use super::*;
use crate::session::Session;

mod checks;

/// The size of blocks in these worlds, and its class: a span of it is two pages, eight slots.
pub(super) const SIZE: u64 = 16 << 10;
/// Another class, whose spans are three pages.
pub(super) const OTHER_SIZE: u64 = 48 << 10;
const CAPACITY_BYTES: u64 = MIB;

pub(super) fn class_of(size_bytes: u64) -> SizeClass {
    match SizeClass::for_layout(size_bytes, 1).unwrap() {
        goumem_alloc::Placement::Class(class) => class,
        goumem_alloc::Placement::Large { class, .. } => class,
    }
}

/// A client, with everything it has in private memory.
pub(super) struct Client {
    pub(super) caller: Caller,
    pub(super) memory: Arc<PoolMemory>,
    // Before their spans: what the dead drop is not counted, so a span would not know of them.
    pub(super) blocks: Vec<RawBlock>,
    pub(super) taken: TakenBlocks,
    pub(super) spans: Vec<LeasedSpan>,
}

impl Client {
    fn new(daemon: &Daemon, pool: PoolId) -> Self {
        let caller = daemon.caller(1000);
        let memory = daemon.map(&caller, pool);
        let session = caller.session.as_ref().unwrap().number;
        Self {
            taken: TakenBlocks::new(&memory, session).unwrap(),
            caller,
            memory,
            spans: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(super) fn session(&self) -> SessionNumber {
        self.caller.session.as_ref().unwrap().number
    }

    /// Takes a private block of the spans at hand.
    pub(super) fn private_block(&mut self) -> RawBlock {
        let block = self.spans.iter_mut().find_map(LeasedSpan::alloc);
        block.expect("a span with a free block")
    }

    pub(super) fn export(&self, block: RawBlock, owner: SessionNumber) -> Handle {
        block.export(owner, shape()).map_err(|(_, e)| e).unwrap()
    }
}

pub(super) fn shape() -> goumem_shm::shape::Shape {
    goumem_shm::shape::Shape {
        type_tag: TypeTag::UNTYPED,
        length_bytes: SIZE,
    }
}

pub(super) struct BlockWorld {
    dies: Dies,
    daemon: Option<Daemon>,
    /// Where a daemon that has ended had its files.
    dir: Option<tempfile::TempDir>,
    pub(super) pool: PoolId,
    pub(super) alice: Option<Client>,
    pub(super) bob: Option<Client>,
    /// Blocks that the operation is not about, with what is in them, and whether they are kept.
    bystanders: BTreeMap<Handle, (u64, bool)>,
    /// What the operation is about, as its `before` leaves it.
    pub(super) handles: Vec<Handle>,
    named: Option<&'static str>,
    pub(super) spans: Vec<SpanInfo>,
    /// Those, and what `before` has had kept: no other block is kept after a death.
    keepable: Vec<Handle>,
    /// Every handle that was ever given out.
    issued: Vec<Handle>,
    contents: u64,
}

/// A client of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Alice,
    Bob,
}

impl World for BlockWorld {
    fn new(dies: Dies) -> Self {
        let daemon = Daemon::start();
        let owner = daemon.caller(1000);
        let request = CreatePool {
            backing: Some(match dies {
                Dies::Client => Backing::Memfd,
                Dies::Daemon => Backing::File,
            }),
            ..create("p", CAPACITY_BYTES)
        };
        let created = daemon.core.create_pool(&owner, request, daemon.now);
        let pool = created.unwrap().pool.pool_id;
        let [alice, bob] = [(); 2].map(|()| Some(Client::new(&daemon, pool)));
        Self {
            dies,
            daemon: Some(daemon),
            dir: None,
            pool,
            alice,
            bob,
            bystanders: BTreeMap::new(),
            handles: Vec::new(),
            named: None,
            keepable: Vec::new(),
            spans: Vec::new(),
            issued: Vec::new(),
            contents: 0,
        }
    }

    fn bury_repair_and_check(mut self) {
        match self.dies {
            Dies::Client => {
                let alice = self.alice.take().expect("she dies once");
                let dead = Arc::clone(alice.caller.session.as_ref().unwrap());
                let expected = self.expected(|state, owner| match state {
                    SlotState::Shared | SlotState::Taken => owner != dead.number,
                    _ => true,
                });
                crash::bury(alice);
                self.daemon()
                    .core
                    .session_died(dead.serial, self.daemon().now);
                self.check_sweep(&dead, &expected);
            }
            Dies::Daemon => {
                let expected = self.expected_after_restart();
                crash::bury((self.alice.take(), self.bob.take()));
                self.restart();
                let Ok(_) = self.daemon().core.registry().by_name("p") else {
                    assert!(
                        expected.is_none(),
                        "the pool is gone with {} blocks in it",
                        expected.map_or(0, |e| e.alive.len())
                    );
                    self.daemon().check();
                    return;
                };
                let expected = expected.unwrap_or_default();
                self.check(&expected);
                let before = self.daemon().block_pool(self.pool).image(false);
                self.bury_daemon();
                self.restart();
                let after = self.daemon().block_pool(self.pool).image(false);
                assert_eq!(after, before, "a second restart changes nothing");
                self.check(&expected);
                self.bob = Some(Client::new(self.daemon(), self.pool));
                self.fill_and_empty();
            }
        }
    }
}

impl BlockWorld {
    pub(super) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    pub(super) fn client(&self, who: Who) -> &Client {
        match who {
            Who::Alice => self.alice.as_ref().expect("alice lives"),
            Who::Bob => self.bob.as_ref().expect("bob lives"),
        }
    }

    fn client_mut(&mut self, who: Who) -> &mut Client {
        match who {
            Who::Alice => self.alice.as_mut().expect("alice lives"),
            Who::Bob => self.bob.as_mut().expect("bob lives"),
        }
    }

    pub(super) fn alice(&mut self) -> &mut Client {
        self.client_mut(Who::Alice)
    }

    pub(super) fn caller(&self, who: Who) -> &Caller {
        &self.client(who).caller
    }

    /// Leases a span of `SIZE` blocks and begins to work on it.
    pub(super) fn lease(&mut self, who: Who) {
        let spans = self
            .daemon()
            .lease(self.caller(who), self.pool, class_of(SIZE));
        for span in spans.unwrap() {
            self.spans.push(span);
            let span = attach(self.client(who), &span);
            self.client_mut(who).spans.push(span);
        }
    }

    /// Takes a private block for a client, to hold.
    pub(super) fn hold(&mut self, who: Who) {
        if self
            .client(who)
            .spans
            .iter()
            .all(|span| span.free_count() == 0)
        {
            self.lease(who);
        }
        let client = self.client_mut(who);
        let block = client.private_block();
        client.blocks.push(block);
    }

    /// Has a client export a block, with something in it that is checked as long as it lives.
    pub(super) fn share(&mut self, who: Who) -> Handle {
        self.hold(who);
        let client = self.client_mut(who);
        let block = client.blocks.pop().expect("just taken");
        let handle = client.export(block, client.session());
        self.note_contents(handle);
        handle
    }

    /// Allocates a block by RPC, likewise.
    pub(super) fn alloc(&mut self, who: Who, size_bytes: u64) -> Handle {
        let handle = self
            .daemon()
            .alloc(self.caller(who), self.pool, size_bytes)
            .unwrap();
        self.note_contents(handle);
        handle
    }

    /// Has a client's block kept.
    pub(super) fn keep(&mut self, who: Who, handle: Handle) {
        self.keepable.push(handle);
        let (daemon, caller) = (self.daemon(), self.caller(who));
        daemon.core.keep(caller, about(handle), daemon.now).unwrap();
    }

    /// Has a client pin a block.
    pub(super) fn pin(&self, who: Who, handle: Handle) {
        let (daemon, caller) = (self.daemon(), self.caller(who));
        daemon.core.pin(caller, about(handle), daemon.now).unwrap();
    }

    /// Drops that pin.
    pub(super) fn unpin(&self, who: Who, handle: Handle) {
        let (daemon, caller) = (self.daemon(), self.caller(who));
        daemon
            .core
            .unpin(caller, about(handle), daemon.now)
            .unwrap();
    }

    /// Has a client name a block, which is kept then.
    pub(super) fn publish(&mut self, who: Who, handle: Handle, name: &str) {
        self.keepable.push(handle);
        self.daemon()
            .publish(self.caller(who), handle, name)
            .unwrap();
    }

    /// Has a client take a block over, to hold.
    pub(super) fn take_over(&mut self, who: Who, handle: Handle) {
        let client = self.client_mut(who);
        let (block, ..) = client.taken.take_over(handle).unwrap();
        client.blocks.push(block);
    }

    /// What there is in every world: of Bob's a shared block, a kept one, a private one, and one
    /// of the daemon's heap with a name; and a handle of a block that is gone.
    pub(super) fn populate(&mut self) {
        let [shared, kept, gone] = [(); 3].map(|()| self.share(Who::Bob));
        self.keep(Who::Bob, kept);
        let named = self.alloc(Who::Bob, SIZE);
        self.publish(Who::Bob, named, "bystander");
        self.hold(Who::Bob);
        let _ = self.client(Who::Bob).memory.free(gone).unwrap();
        self.bystander(shared, false);
        self.bystander(kept, true);
        self.bystander(named, true);
    }

    /// Leaves a span without a lessee, with a block of a client's in it, the last of `handles`.
    pub(super) fn abandon_a_span_with_a_block_of(&mut self, who: Who) {
        let mut carol = Client::new(self.daemon(), self.pool);
        let spans = self
            .daemon()
            .lease(&carol.caller, self.pool, class_of(SIZE));
        carol.spans.push(attach(&carol, &spans.unwrap()[0]));
        let block = carol.private_block();
        let handle = carol.export(block, carol.session());
        self.note_contents(handle);
        let client = self.client(who);
        client.memory.adopt(handle, client.session()).unwrap();
        self.daemon().die(&carol.caller);
        self.handles.push(handle);
    }

    /// Whoever dies, there is to be a block of that name.
    pub(super) fn must_be_named(&mut self, name: &'static str) {
        self.named = Some(name);
    }

    /// A bystander from now on: the operation is not about this block.
    pub(super) fn bystander(&mut self, handle: Handle, kept: bool) {
        let contents = self.read(handle);
        self.bystanders.insert(handle, (contents, kept));
    }

    /// Ends the daemon, in good order as far as SIGKILL is.
    pub(super) fn bury_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.dir = Some(bury_daemon(daemon));
        }
    }

    /// Starts another where one has ended; it may end while it starts.
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

    fn note_contents(&mut self, handle: Handle) {
        self.contents += 1;
        let bytes = self.contents.to_le_bytes();
        let memory = self.memory();
        memory.write(handle, 0, &bytes).unwrap();
        self.issued.push(handle);
    }

    fn read(&self, handle: Handle) -> u64 {
        let mut bytes = [0; 8];
        let read = self.memory().read(handle, 0, &mut bytes);
        read.unwrap_or_else(|error| panic!("{handle}: {error}"));
        u64::from_le_bytes(bytes)
    }

    /// The daemon's own view, or one of its files while there is no daemon.
    fn memory(&self) -> Arc<PoolMemory> {
        match (&self.daemon, &self.dir) {
            (Some(daemon), _) => Arc::clone(daemon.block_pool(self.pool).memory()),
            (None, Some(dir)) => view_of_files(dir.path()),
            (None, None) => panic!("neither daemon nor files"),
        }
    }
}

/// Maps the files of a pool that no daemon serves.
fn view_of_files(dir: &std::path::Path) -> Arc<PoolMemory> {
    use goumem_shm::os::Backing as _;
    let open = |half: &str| {
        let path = dir.join("data").join(format!("p.{half}.goumem"));
        os::FileBacking.open_existing(&path).unwrap()
    };
    let (control, data) = (open("control"), open("data"));
    let whole = |segment: &Segment| MapPlan::whole(segment.len_bytes());
    let map = |segment| Mapping::map(segment, os::Access::ReadOnly, whole(segment)).unwrap();
    Arc::new(PoolMemory::open(map(&control), map(&data)).unwrap().0)
}

/// Begins to work on a span.
pub(super) fn attach(client: &Client, span: &SpanInfo) -> LeasedSpan {
    let lease = lease_of(span);
    LeasedSpan::attach(&client.memory, lease, client.session(), span.survivors).unwrap()
}
