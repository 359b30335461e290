//! What an earlier daemon left behind, with anything in it: ROOT, the segments of a pool and those
//! of an arena pool. A daemon starts on it, and what it serves holds together; what it does not
//! serve it has not touched; the next daemon finds the same; and when all sessions have died and
//! all pools are destroyed, nothing is left.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use goumem_alloc::{ArenaGeometry, Handle, HandleKind};
use goumem_proto::model::{
    Alloc, BlockSpec, DestroyPool, Free, HandleRequest, ListHolders, ListKept, OpenSession,
    RequestId, StatPool,
};
use goumem_proto::name::{Label, PoolName};
use goumem_shm::os::reaper::DeathWatch;
use goumem_shm::os::{BackingKind, Segment};
use goumem_shm::pool_geometry;
use goumem_shm::root::ROOT_BYTES;
use goumemd::Config;
use goumemd::core::{Core, Wires};
use goumemd::fd_store::{FdName, FdStore as _, MemoryStore};
use goumemd::session::Caller;
use tokio::sync::Notify;

use super::image::{Words, words_of};
use super::{Image, Input};

/// Pages of the pool that the image is of. Its header may say another number.
pub(super) const PAGES: u32 = 32;
pub(super) const ARENAS: u32 = 4;
pub(super) const ARENA_BYTES: u64 = 1000;
/// Of the two pools: their files have them, and recovery asks for the same in the headers.
pub(super) const NAMES: [&str; 2] = ["p", "arenas"];

/// Where each segment is in the image.
pub(super) const ROOT: usize = 0;
pub(super) const CONTROLS: [usize; 2] = [1, 3];
pub(super) const DATA: [usize; 2] = [2, 4];

/// How long the segments are that the image is of.
pub(super) fn lengths() -> [u64; 5] {
    let (blocks, arenas) = (
        pool_geometry(PAGES).unwrap(),
        ArenaGeometry::new(ARENAS, ARENA_BYTES).unwrap(),
    );
    [
        ROOT_BYTES,
        blocks.control_bytes(),
        blocks.data_bytes(),
        arenas.control_bytes(),
        arenas.data_bytes(),
    ]
}

/// Starts daemons on what the bytes describe: first whether the pools are files (bit 0), then an
/// image of five segments.
///
/// # Panics
/// When a daemon serves what does not hold together, touches what it does not serve, or keeps
/// something of the dead.
pub fn restart(bytes: &[u8]) {
    let left = Left::read(bytes);
    let now = Instant::now();
    let before = left.words();

    let Some(core) = left.start(now) else {
        assert_eq!(left.words(), before, "refused, and touched");
        return;
    };
    core.check();
    let (first, held) = (left.words(), holdings(&core, now));
    for pool in [0, 1] {
        // Of a pool that is on its way out, or was never finished, nothing was promised.
        let is_whole = before[pool][0].contains(&(3, 1)) && !serves(&core, pool);
        assert!(
            !is_whole || first[pool] == before[pool],
            "pool {pool} is not served, and touched"
        );
    }
    drop(core); // as a SIGKILL does

    let core = left
        .start(now)
        .expect("ROOT was good enough for the last daemon");
    core.check();
    assert_eq!(holdings(&core, now), held, "after a second restart");
    for (pool, (was, is)) in first.iter().zip(left.words()).enumerate() {
        let (old, new) = (without_epochs(&was[0]), without_epochs(&is[0]));
        let changed: Words = new
            .iter()
            .filter(|word| !old.contains(word))
            .copied()
            .collect();
        let gone: Words = old
            .iter()
            .filter(|word| !new.contains(word))
            .copied()
            .collect();
        let same = changed.is_empty() && gone.is_empty();
        assert!(
            same,
            "CONTROL of pool {pool}: {gone:x?} became {changed:x?}"
        );
        // What was free already and still there is punched, and nothing is written.
        let written = is[1].iter().find(|word| !was[1].contains(word));
        assert_eq!(written, None, "DATA of pool {pool}");
    }
    use_pools(&core, now);
    core.check();
    for session in core.sessions().all() {
        core.session_died(session.serial, now);
    }
    core.check();
    assert_eq!(core.sessions().count(), 0);
    destroy_pools(&core, now);
    core.check();
    let info = core.info(&root(), now).unwrap();
    assert_eq!(
        (info.pools, info.arena_pools, info.committed_bytes),
        (0, 0, 0)
    );
}

/// Starts a daemon on what the bytes describe. Returns how many pools it serves, and how much it
/// could not believe: for a test that seeds are what they are meant to be.
pub fn taken_over(bytes: &[u8]) -> (u32, u32) {
    let now = Instant::now();
    let core = Left::read(bytes).start(now);
    core.map_or((0, 0), |core| {
        let info = core.info(&root(), now).unwrap();
        (info.pools + info.arena_pools, info.quarantined)
    })
}

/// The words of CONTROL and DATA of each pool.
type PoolWords = [[Words; 2]; 2];

/// What the earlier daemon left.
struct Left {
    dir: Option<tempfile::TempDir>,
    store: MemoryStore,
    segments: [[Segment; 2]; 2],
}

impl Left {
    fn read(bytes: &[u8]) -> Self {
        let mut input = Input::new(bytes);
        let in_files = input.u8() & 1 != 0;
        let image = Image::read(&mut input, lengths());
        if in_files {
            Self::files(&image)
        } else {
            Self::memfds(&image)
        }
    }

    /// Memory that was kept, and the root table with the sessions.
    fn memfds(image: &Image<5>) -> Self {
        let segments =
            [0, 1].map(|pool: usize| [image.memfd(CONTROLS[pool]), image.memfd(DATA[pool])]);
        let store = MemoryStore::default();
        let keep = |name: String, segment: &Segment| {
            let fd = segment.as_fd().try_clone_to_owned().unwrap();
            store
                .store(FdName::new(name).unwrap(), Arc::new(fd))
                .unwrap();
        };
        keep("root".to_owned(), &image.memfd(ROOT));
        for (pool, [control, data]) in segments.iter().enumerate() {
            let id = image.word(CONTROLS[pool], 2) & 0xffff_ffff;
            keep(format!("control-memfd-{id:08x}"), control);
            keep(format!("data-memfd-{id:08x}"), data);
        }
        Self {
            dir: None,
            store,
            segments,
        }
    }

    /// Files, whose sessions are gone.
    fn files(image: &Image<5>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let make = |segment: usize, name: &str, half: &str| {
            let path = data_dir.join(format!("{name}.{half}.goumem"));
            let file = File::create_new(path).unwrap();
            file.set_len(image.lengths[segment]).unwrap();
            image.fill(segment, &file);
            Segment::from_fd(file.into(), BackingKind::File, 0).unwrap()
        };
        let segments = [0, 1].map(|pool| {
            [
                make(CONTROLS[pool], NAMES[pool], "control"),
                make(DATA[pool], NAMES[pool], "data"),
            ]
        });
        Self {
            dir: Some(dir),
            store: MemoryStore::default(),
            segments,
        }
    }

    fn start(&self, now: Instant) -> Option<Core> {
        let nowhere = Path::new("/nonexistent");
        let mut limits =
            Config::private(self.dir.as_ref().map_or(nowhere, |dir| dir.path())).limits;
        // What the machine has left is not this test's business.
        limits.reserve_bytes = 0;
        let wires = Wires {
            watch: Arc::new(DeathWatch::new().unwrap()),
            earlier: Arc::new(Notify::new()),
        };
        let kept = if self.dir.is_some() {
            MemoryStore::default().kept().unwrap()
        } else {
            self.store.kept().unwrap()
        };
        Core::start(limits, None, wires, kept, now).ok()
    }

    fn words(&self) -> PoolWords {
        let words = |segment: &Segment| words_of(segment.as_fd().try_clone_to_owned().unwrap());
        self.segments
            .each_ref()
            .map(|halves| halves.each_ref().map(words))
    }
}

/// Leaves out of CONTROL which daemon wrote last, and how often an entry was written.
fn without_epochs(control: &Words) -> Words {
    const EPOCH: u64 = 0xfff << 24;
    let entries = pool_geometry(PAGES).unwrap().entries_range();
    let entries = entries.start / 8..entries.end / 8;
    let told = control.iter().filter(|(index, _)| ![4, 13].contains(index));
    let without = told.map(|&(index, word)| match entries.contains(&index) {
        true => (index, word & !EPOCH),
        false => (index, word),
    });
    without.filter(|&(_, word)| word != 0).collect()
}

/// Returns what is held in every pool, as a client may ask for it.
fn holdings(core: &Core, now: Instant) -> Vec<String> {
    let caller = root();
    let mut held = Vec::new();
    for pool in core.list_pools(&caller).unwrap() {
        let (pool_id, name) = (pool.pool_id, pool.name);
        let stat = core.stat_pool(&caller, StatPool { name }, now).unwrap();
        let counts = (
            stat.blocks,
            stat.kept_blocks,
            stat.named_blocks,
            stat.sessions,
        );
        held.push(format!("{counts:?}, {} bytes leased", stat.leased_bytes));
        let kept = core.list_kept(&caller, ListKept { pool_id }, now).unwrap();
        held.extend(kept.iter().map(|kept| format!("{kept:?}")));
    }
    for pool in core.list_arena_pools(&caller).unwrap() {
        let pool_id = pool.pool_id;
        let holders = core
            .list_holders(&caller, ListHolders { pool_id }, now)
            .unwrap();
        held.extend(holders.iter().map(|holders| format!("{holders:?}")));
    }
    held
}

fn root() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        pid: 0,
        local: true,
        pidfd: None,
        session: None,
    }
}

fn serves(core: &Core, pool: usize) -> bool {
    let served = if pool == 0 {
        core.list_pools(&root()).unwrap().len()
    } else {
        core.list_arena_pools(&root()).unwrap().len()
    };
    served > 0
}

/// Does what a client may do in every pool that is served.
fn use_pools(core: &Core, now: Instant) {
    let open = OpenSession {
        label: Label::default(),
        nonce: None,
        ttl: Duration::from_secs(30),
    };
    // Refused when the table is full.
    let Ok(opened) = core.open_session(&root(), open, now) else {
        return;
    };
    let session = core.sessions().by_token(&opened.token);
    let caller = Caller { session, ..root() };
    let request_id = RequestId::NONE;
    for pool in core.list_pools(&caller).unwrap() {
        let pool_id = pool.pool_id;
        let name = pool.name;
        core.stat_pool(&caller, StatPool { name }, now).unwrap();
        let kept = core.list_kept(&caller, ListKept { pool_id }, now).unwrap();
        let mut handles: Vec<Handle> = kept.iter().map(|kept| kept.block.handle).collect();
        for size_bytes in [1, 300, 5000, 20_000, 70_000] {
            let spec = BlockSpec::new(size_bytes);
            let request = Alloc {
                pool_id,
                spec,
                request_id,
            };
            if let Ok(allocated) = core.alloc(&caller, request, now) {
                handles.push(allocated.block.handle);
            }
        }
        let mut ranges: Vec<(u64, u64)> = handles
            .iter()
            .filter_map(|&handle| {
                let request = HandleRequest { handle, request_id };
                let info = core.resolve(&caller, request, now).ok()?;
                assert_eq!(handle.kind(), HandleKind::Block);
                let start = handle.offset().get();
                let mut into = vec![0; usize::try_from(info.size_bytes.min(64)).unwrap()];
                core.read_bytes(&caller, handle, 0, &mut into).unwrap();
                Some((start, start + info.size_bytes))
            })
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(
                pair[0].1 <= pair[1].0,
                "blocks lie over each other: {pair:?}"
            );
        }
        for handle in handles {
            let _ = core.free(&caller, Free { handle, request_id }, now);
        }
    }
}

fn destroy_pools(core: &Core, now: Instant) {
    let caller = root();
    let destroy = |name: PoolName| DestroyPool {
        name,
        request_id: RequestId::NONE,
    };
    for pool in core.list_pools(&caller).unwrap() {
        core.destroy_pool(&caller, destroy(pool.name), now).unwrap();
    }
    for pool in core.list_arena_pools(&caller).unwrap() {
        core.destroy_arena_pool(&caller, destroy(pool.name), now)
            .unwrap();
    }
}
