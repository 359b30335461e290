//! An arena pool whose words somebody scribbles over while it is worked in: an allocation never
//! lies outside of its arena, and without the scribbling no two lie over each other.

use std::sync::Arc;

use goumem_alloc::{ArenaGeometry, Generation, Handle, HandleKind, Offset, PoolId, SessionNumber};
use goumem_shm::header::{Header, MadeBy, PoolKind, PoolState};
use goumem_shm::os::{Access, MapPlan, Mapping};
use goumem_shm::sync::{AtomicU64, Ordering};
use goumem_shm::{ArenaMemory, HeldArena, arena_data_plan};

use super::{Image, Input};

const ARENAS: u32 = 3;
const ARENA_BYTES: u64 = 1000;
const SESSIONS: [SessionNumber; 2] = [SessionNumber::new(7), SessionNumber::new(8)];

/// Does what the bytes say in an arena pool of its own.
///
/// # Panics
/// When an allocation lies where it must not.
pub fn arenas(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut work = Work {
        memory: Arc::new(Keeper(memory())),
        arenas: Vec::new(),
        held: Vec::new(),
        live: Vec::new(),
        scribbled: false,
    };
    while !input.is_empty() {
        work.step(&mut input);
    }
}

/// Returns the header of a pool for fuzzing.
pub(super) fn header(kind: PoolKind, units: u32, unit_bytes: u64) -> Header {
    Header {
        kind,
        pool_id: PoolId::new(77).unwrap(),
        state: PoolState::Live,
        epoch: 1,
        units,
        unit_bytes,
        uid: 0,
        gid: 0,
        mode: 0o600,
        backing: 1,
        data_bytes: 0,
        instance: 0,
        made_by: MadeBy::default(),
        name: "fuzz".to_owned(),
    }
}

fn memory() -> ArenaMemory {
    let geometry = ArenaGeometry::new(ARENAS, ARENA_BYTES).unwrap();
    let lengths = [geometry.control_bytes(), geometry.data_bytes()];
    let empty = Image::read(&mut Input::new(&[]), lengths);
    let plans = [MapPlan::whole(lengths[0]), arena_data_plan(&geometry)];
    let [control, data] = [0, 1].map(|i: usize| {
        Mapping::map(&empty.memfd(i), Access::ReadWrite, plans[i].clone()).unwrap()
    });
    ArenaMemory::create(
        control,
        data,
        &header(PoolKind::Arenas, ARENAS, ARENA_BYTES),
    )
    .unwrap()
}

/// Keeps the memory mapped.
#[derive(Debug)]
struct Keeper(ArenaMemory);

impl AsRef<ArenaMemory> for Keeper {
    fn as_ref(&self) -> &ArenaMemory {
        &self.0
    }
}

/// An allocation that has not been freed.
struct Live {
    handle: Handle,
    /// Who frees it by the shared words.
    session: SessionNumber,
    bytes: u64,
}

struct Work {
    memory: Arc<Keeper>,
    /// Held by session alone, and worked in by the shared words.
    arenas: Vec<Handle>,
    /// Worked in privately.
    held: Vec<HeldArena<Keeper>>,
    live: Vec<Live>,
    scribbled: bool,
}

impl Work {
    fn step(&mut self, input: &mut Input<'_>) {
        let session = input.one_of(&SESSIONS);
        match input.below(12) {
            0 => self
                .arenas
                .extend(self.memory.0.try_get(session, input.u32())),
            1 | 2 => self.alloc(session, input),
            3 => self.free(input),
            4 => {
                let Some(arena) = input.remove(&mut self.arenas) else {
                    return;
                };
                let outcome = self.memory.0.give_back(arena, session);
                self.ended(arena, outcome.is_ok());
            }
            5 => {
                let Some(arena) = input.remove(&mut self.arenas) else {
                    return;
                };
                let outcome = self.memory.0.reset(arena, session);
                self.ended(arena, outcome.is_ok());
                self.arenas.extend(outcome);
            }
            6 => {
                let Some(&arena) = self.arenas.get(input.below(4)) else {
                    return;
                };
                match input.below(3) {
                    0 => drop(self.memory.0.share(arena, session)),
                    1 => drop(self.memory.0.hand_over(arena, session)),
                    _ => {
                        let used = self.memory.0.used_bytes(arena).unwrap_or(0);
                        assert!(used <= ARENA_BYTES);
                    }
                }
            }
            7 => self.sweep(session, input),
            8 => self.reach(input),
            9 => self
                .held
                .extend(HeldArena::get(&self.memory, session, input.u32())),
            10 => self.work_privately(input),
            _ => self.scribble(input),
        }
    }

    fn alloc(&mut self, session: SessionNumber, input: &mut Input<'_>) {
        let Some(&arena) = self.arenas.get(input.below(4)) else {
            return;
        };
        let (bytes, align) = (u64::from(input.u16() % 1100), 1 << input.below(14));
        if let Ok(handle) = self.memory.0.alloc(arena, session, bytes, align) {
            self.allocated(Live {
                handle,
                session,
                bytes,
            });
            assert!(handle.offset().get().is_multiple_of(align), "{handle}");
        }
    }

    /// Notes an allocation after a look where it lies.
    fn allocated(&mut self, new: Live) {
        let handle = new.handle;
        let at = self.memory.0.locate(handle).unwrap();
        let fits = at.inside_bytes + new.bytes <= ARENA_BYTES;
        assert!(fits, "{handle} leaves its arena");
        let range = |live: &Live| {
            let start = live.handle.offset().get();
            (start, start + live.bytes)
        };
        for other in &self.live {
            let ((start, end), (other_start, other_end)) = (range(&new), range(other));
            let apart = other_end <= start || end <= other_start;
            let handles = (handle, other.handle);
            assert!(apart || self.scribbled, "one over the other: {handles:?}");
        }
        let written = vec![0xa5; usize::try_from(new.bytes).unwrap()];
        let _ = self.memory.0.write(handle, 0, &written);
        self.live.push(new);
    }

    /// As the holder that bumps an arena by itself.
    fn work_privately(&mut self, input: &mut Input<'_>) {
        let at = input.below(4);
        let Some(held) = self.held.get_mut(at) else {
            return;
        };
        let arena = held.handle();
        match input.below(8) {
            0..=3 => {
                let (bytes, align) = (u64::from(input.u16() % 1100), 1 << input.below(14));
                let Ok(inside) = held.alloc(bytes, align) else {
                    return;
                };
                assert!(inside.is_multiple_of(align), "{inside} bytes into {arena}");
                let offset = Offset::new(arena.offset().get() + inside);
                let kind = HandleKind::ArenaAllocation;
                let handle = Handle::new(arena.pool(), arena.generation(), offset, kind);
                let session = SessionNumber::NOBODY;
                self.allocated(Live {
                    handle,
                    session,
                    bytes,
                });
            }
            4 => held.trim(),
            5 => {
                let done = held.reset().is_ok();
                self.ended(arena, done);
            }
            6 => {
                let done = held.give_back().is_ok();
                self.held.swap_remove(at);
                self.ended(arena, done);
            }
            _ => {
                let used = held.used_bytes().unwrap_or(0);
                assert!(used <= ARENA_BYTES);
            }
        }
    }

    fn free(&mut self, input: &mut Input<'_>) {
        let Some(live) = input.remove(&mut self.live) else {
            return;
        };
        let bytes = if input.u8() < 250 {
            live.bytes
        } else {
            // Who says another size than it asked for frees what is another's.
            self.scribbled = true;
            input.u64()
        };
        let at = self.memory.0.locate(live.handle).unwrap();
        let arena = self.memory.0.handle(at.index, live.handle.generation());
        let outcome = match self.held.iter().find(|held| held.handle() == arena) {
            Some(held) => held.free(at.inside_bytes, bytes),
            None => self.memory.0.free(live.handle, live.session, bytes),
        };
        assert!(outcome.unwrap_or(0) <= ARENA_BYTES);
    }

    /// Nothing that was allocated in an arena outlives it.
    fn ended(&mut self, arena: Handle, done: bool) {
        if done {
            let memory = &self.memory.0;
            let index = memory.locate(arena).unwrap().index;
            self.live
                .retain(|live| memory.locate(live.handle).unwrap().index != index);
        }
    }

    fn sweep(&mut self, dead: SessionNumber, input: &mut Input<'_>) {
        for index in 0..ARENAS {
            let words = self.memory.0.words(index).unwrap();
            let freed = words.sweep(dead)
                || (input.u8() == 0 && {
                    words.force_free();
                    true
                });
            if freed {
                // Of a process that works on: what it reserved is another's by now.
                let memory = &self.memory.0;
                let is_other = |handle| memory.locate(handle).unwrap().index != index;
                self.held.retain(|held| is_other(held.handle()));
                self.live.retain(|live| is_other(live.handle));
            }
        }
    }

    /// Tries any handle, made up or not.
    fn reach(&mut self, input: &mut Input<'_>) {
        let known = self
            .arenas
            .iter()
            .chain(self.live.iter().map(|live| &live.handle));
        let known: Vec<Handle> = known.copied().collect();
        let handle = match known.get(input.below(8)) {
            Some(&handle) => handle,
            None => {
                let kind = input.one_of(&[HandleKind::Arena, HandleKind::ArenaAllocation]);
                let start = self.memory.0.geometry().payload_range().start;
                let offset = Offset::new(start + u64::from(input.u16()) * 16);
                let generation = Generation::from_low_bits(input.u64());
                Handle::new(self.memory.0.pool(), generation, offset, kind)
            }
        };
        if let Ok(at) = self.memory.0.locate(handle) {
            assert!(at.index < ARENAS && at.inside_bytes < self.memory.0.geometry().stride_bytes());
        }
        let (offset, mut into) = (u64::from(input.u16()), [0; 40]);
        if self.memory.0.read(handle, offset, &mut into).is_ok() {
            let at = self.memory.0.locate(handle).unwrap();
            assert!(
                at.inside_bytes + offset + 40 <= ARENA_BYTES,
                "{handle} was read past its arena"
            );
        }
        let _ = self
            .memory
            .0
            .atomics::<AtomicU64>(handle, offset)
            .map(|word| word.load(Ordering::Relaxed));
    }

    fn scribble(&mut self, input: &mut Input<'_>) {
        self.scribbled = true;
        let index = u32::try_from(input.below(3)).unwrap();
        let at =
            self.memory.0.geometry().arena_slot_offset(index) + 8 * (u64::from(input.u8()) % 3);
        let word = self.memory.0.data().atomic_u64(at).unwrap();
        word.store(input.word(), Ordering::Relaxed);
    }
}
