//! Segments as daemons left them that were killed at work.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::{Handle, PAGE_BYTES, PoolId, SessionNumber, SizeClass, TypeTag};
use goumem_proto::model::{
    Access, Alloc, BlockSpec, CreateArenaPool, CreatePool, DestroyPool, Free, GetArena,
    HandleRequest, Lease, OpenSession, Publish, RequestId, ShareArena, SpanSpec,
};
use goumem_proto::name::{ArenaName, BlockName, Label, PoolName};
use goumem_shm::os::peer::PidFd;
use goumem_shm::os::reaper::DeathWatch;
use goumem_shm::os::{self, BackingKind, MapPlan, Mapping, Segment};
use goumem_shm::page_map::SpanEpoch;
use goumem_shm::root::row_start;
use goumem_shm::shape::Shape;
use goumem_shm::{LeasedSpan, PoolMemory, SpanLease, data_plan, pool_geometry};
use goumemd::Config;
use goumemd::arena_pool::Waited;
use goumemd::core::{Core, Wires};
use goumemd::fd_store::MemoryStore;
use goumemd::session::Caller;
use tokio::sync::Notify;

use super::Named;
use crate::fuzz::image::words_of;
use crate::fuzz::restart::{ARENA_BYTES, ARENAS, CONTROLS, DATA, NAMES, PAGES, ROOT};
use crate::fuzz::{Runs, attach as attached};

/// A pid that no process has.
const NO_PROCESS: u64 = 0x7fff_fff0;

/// What becomes of the sessions before the next daemon starts.
#[derive(Clone, Copy)]
enum Sessions {
    Live,
    Dead,
}

pub(super) fn restart() -> Named {
    let idle = |_: &Scene| {};
    let mut seeds = Named::new();
    for (name, work) in [
        ("idle", idle as fn(&Scene)),
        ("blocks", blocks),
        ("spans", spans),
        ("arenas", arenas),
        ("destroying", destroying),
        ("freed", freed),
    ] {
        let scene = Scene::new(PAGES);
        work(&scene);
        let image = |sessions| {
            let mut runs = Runs::default();
            runs.append(CONST_ROOT, &scene.root(sessions));
            for pool in [0, 1] {
                let [control, data] = scene.halves(pool);
                runs.append(u8::try_from(CONTROLS[pool]).unwrap(), &control);
                runs.append(u8::try_from(DATA[pool]).unwrap(), &data);
            }
            runs
        };
        let live = image(Sessions::Live).0;
        let as_files = [&[1], &live[..]].concat();
        let mut cut = image(Sessions::Live);
        cut.append_length(u8::try_from(DATA[0]).unwrap(), 600);
        cut.append_length(u8::try_from(CONTROLS[1]).unwrap(), 1);
        seeds.push((format!("{name}-live"), [&[0], &live[..]].concat()));
        seeds.push((
            format!("{name}-dead"),
            [&[0], &image(Sessions::Dead).0[..]].concat(),
        ));
        seeds.push((format!("{name}-files"), as_files));
        seeds.push((format!("{name}-cut"), [&[0], &cut.0[..]].concat()));
    }
    seeds
}

const CONST_ROOT: u8 = 0;
const _: () = assert!(ROOT == CONST_ROOT as usize);

pub(super) fn attach() -> Named {
    let mut seeds = Named::new();
    for (name, work) in [
        ("blocks", blocks as fn(&Scene)),
        ("spans", spans),
        ("freed", freed),
    ] {
        let scene = Scene::new(attached::PAGES);
        work(&scene);
        for pool in [0, 1] {
            let mut runs = Runs::default();
            let [control, data] = scene.halves(pool);
            runs.append(0, &control);
            runs.append(1, &data);
            seeds.push((format!("{name}-{}", NAMES[pool]), runs.0.clone()));
            runs.append_length(1, 520);
            seeds.push((format!("{name}-{}-cut", NAMES[pool]), runs.0));
        }
    }
    seeds
}

/// A daemon with two pools and a session.
struct Scene {
    core: Core,
    store: MemoryStore,
    now: Instant,
    alice: Caller,
    pools: [PoolId; 2],
}

fn id(number: u64) -> RequestId {
    RequestId::new(number)
}

fn blocks(scene: &Scene) {
    let (core, alice, now) = (&scene.core, &scene.alice, scene.now);
    let handles = [100, 20_000, 70_000, 300_000].map(|size| scene.alloc(size));
    let about = |handle| HandleRequest {
        handle,
        request_id: id(20),
    };
    core.pin(alice, about(handles[1]), now).unwrap();
    let name = BlockName::try_from("weights").unwrap();
    let publish = Publish {
        handle: handles[2],
        name,
        replace: false,
        request_id: id(21),
    };
    core.publish(alice, publish, now).unwrap();
    let keep = HandleRequest {
        request_id: id(22),
        ..about(handles[0])
    };
    core.keep(alice, keep, now).unwrap();
}

fn spans(scene: &Scene) {
    let (core, alice, now) = (&scene.core, &scene.alice, scene.now);
    let number = scene.number();
    let memory = scene.map();
    for (class, request) in [(3, 30), (32, 31), (60, 32)] {
        let request = Lease {
            pool_id: scene.pools[0],
            spec: SpanSpec::Class(SizeClass::from_index(class).unwrap()),
            count: 1,
            request_id: id(request),
        };
        let span = core.lease(alice, request, now).unwrap()[0];
        let lease = SpanLease {
            first_page: span.first_page,
            pages: span.pages,
            class: span.size_class,
            epoch: SpanEpoch::new(span.epoch.into()).unwrap(),
        };
        let mut leased = LeasedSpan::attach(&memory, lease, number, false).unwrap();
        let shape = Shape {
            type_tag: TypeTag::UNTYPED,
            length_bytes: 10,
        };
        let exported: Vec<Handle> = std::iter::from_fn(|| leased.alloc())
            .take(3)
            .map(|block| block.export(number, shape).unwrap())
            .collect();
        let _ = memory.free(exported[0]).unwrap();
    }
}

fn arenas(scene: &Scene) {
    let (core, alice, now) = (&scene.core, &scene.alice, scene.now);
    for (request, name) in [(40, Some("frame")), (41, None)] {
        let get = GetArena {
            pool_id: scene.pools[1],
            wait: Duration::ZERO,
            request_id: id(request),
        };
        let Waited::Now(arena) = core.get_arena(alice, get, now).unwrap() else {
            panic!("four arenas are free");
        };
        let (arena, request_id) = (arena.arena, id(request + 10));
        if let Some(name) = name {
            let name = ArenaName::try_from(name).unwrap();
            core.share_arena(
                alice,
                ShareArena {
                    arena,
                    name,
                    request_id,
                },
                now,
            )
            .unwrap();
        }
    }
}

fn destroying(scene: &Scene) {
    blocks(scene);
    arenas(scene);
    let _ = scene.map();
    let destroy = |name| DestroyPool {
        name: PoolName::try_from(name).unwrap(),
        request_id: id(60),
    };
    scene
        .core
        .destroy_pool(&scene.alice, destroy(NAMES[0]), scene.now)
        .unwrap();
}

fn freed(scene: &Scene) {
    for (request, size) in [(70, 100), (71, 70_000), (72, 70_000)] {
        let handle = scene.alloc(size);
        let free = Free {
            handle,
            request_id: id(request),
        };
        scene.core.free(&scene.alice, free, scene.now).unwrap();
    }
    scene.alloc(5000);
}

impl Scene {
    fn new(pages: u32) -> Self {
        let mut limits = Config::private(Path::new("/nonexistent")).limits;
        limits.budget_bytes = Some(64 << 20);
        limits.reserve_bytes = 0;
        let wires = Wires {
            watch: Arc::new(DeathWatch::new().unwrap()),
            earlier: Arc::new(Notify::new()),
        };
        let (store, now) = (MemoryStore::default(), Instant::now());
        let core = Core::start(limits, None, wires, store.kept().unwrap(), now).unwrap();
        let pid = std::process::id();
        let anonymous = Caller {
            uid: 1000,
            gid: 1000,
            pid,
            local: true,
            pidfd: Some(Arc::new(PidFd::open(pid).unwrap())),
            session: None,
        };
        let open = OpenSession {
            label: Label::default(),
            nonce: None,
            ttl: Duration::from_secs(30),
        };
        let opened = core.open_session(&anonymous, open, now).unwrap();
        let session = core.sessions().by_token(&opened.token);
        let alice = Caller {
            session,
            ..anonymous
        };
        let blocks = CreatePool {
            name: PoolName::try_from(NAMES[0]).unwrap(),
            capacity_bytes: u64::from(pages) * PAGE_BYTES,
            max_capacity_bytes: Some(u64::from(pages) * PAGE_BYTES),
            backing: None,
            gid: None,
            mode: 0o600,
            request_id: id(1),
        };
        let arenas = CreateArenaPool {
            name: PoolName::try_from(NAMES[1]).unwrap(),
            arenas: ARENAS,
            arena_bytes: ARENA_BYTES,
            backing: None,
            gid: None,
            mode: 0o600,
            request_id: id(2),
        };
        let pools = [
            core.create_pool(&alice, blocks, now).unwrap().pool.pool_id,
            core.create_arena_pool(&alice, arenas, now)
                .unwrap()
                .pool
                .pool_id,
        ];
        Self {
            core,
            store,
            now,
            alice,
            pools,
        }
    }

    fn number(&self) -> SessionNumber {
        self.alice.session.as_ref().unwrap().number
    }

    fn alloc(&self, size_bytes: u64) -> Handle {
        let request = Alloc {
            pool_id: self.pools[0],
            spec: BlockSpec::new(size_bytes),
            request_id: RequestId::NONE,
        };
        self.core
            .alloc(&self.alice, request, self.now)
            .unwrap()
            .block
            .handle
    }

    fn map(&self) -> Arc<PoolMemory> {
        let session = self.alice.session.as_ref().unwrap();
        let fds = self
            .core
            .map_request(session, self.pools[0], Access::ReadWrite, self.now);
        let (control, data) = fds.unwrap();
        let pages = self.core.list_pools(&self.alice).unwrap()[0].max_capacity_bytes / PAGE_BYTES;
        let geometry = pool_geometry(u32::try_from(pages).unwrap()).unwrap();
        let map = |fd: OwnedFd, access, plan: MapPlan| {
            let segment = Segment::from_fd(fd, BackingKind::Memfd, plan.len_bytes).unwrap();
            Mapping::map(&segment, access, plan).unwrap()
        };
        let whole = MapPlan::whole(geometry.control_bytes());
        let control = map(control, os::Access::ReadOnly, whole);
        let data = map(data, os::Access::ReadWrite, data_plan(&geometry));
        Arc::new(PoolMemory::open(control, data).unwrap().0)
    }

    fn fd(&self, name: &str) -> OwnedFd {
        let fds: HashMap<_, _> = self.store.kept().unwrap().fds;
        let found = fds.into_iter().find(|(stored, _)| stored.as_str() == name);
        found.unwrap().1
    }

    /// Returns the words of a pool's CONTROL and DATA.
    fn halves(&self, pool: usize) -> [Vec<(u64, u64)>; 2] {
        let id = self.pools[pool].get();
        ["control", "data"].map(|half| words_of(self.fd(&format!("{half}-memfd-{id:08x}"))))
    }

    /// Returns the words of ROOT, without the process of the session.
    fn root(&self, sessions: Sessions) -> Vec<(u64, u64)> {
        let row = row_start(self.number()) / 8;
        let mut words = words_of(self.fd("root"));
        words.retain(|&(index, _)| index != row + 5);
        words.retain_mut(|(index, word)| {
            if *index == row + 3 {
                *word = NO_PROCESS;
            }
            *index != row + 3 || matches!(sessions, Sessions::Dead)
        });
        words
    }
}
