//! A pool against a model of it, over random calls.

use super::*;

const WHO: usize = 3;
/// Two users, of whom the first has the pool.
const UIDS: [u32; WHO] = [1000, 1000, 1001];
const QUOTA_BYTES: u64 = 4 * MIB;

/// A client that maps the pool, and the spans that it works on.
struct Mapped {
    memory: Arc<PoolMemory>,
    spans: Vec<(SpanInfo, LeasedSpan)>,
}

/// What the shadow model knows of a block.
#[derive(Debug, Clone, Copy)]
struct Known {
    owner: usize,
    kept: bool,
    size: u64,
    pins: [u32; WHO],
}

#[derive(Debug, Clone)]
enum Op {
    Alloc { who: usize, size: u64 },
    Free { who: usize, which: usize },
    Keep { which: usize },
    Take { who: usize, which: usize },
    Adopt { who: usize, which: usize },
    Pin { who: usize, which: usize },
    Unpin { who: usize, which: usize },
    Name { which: usize, name: usize },
    Withdraw { name: usize, free: bool },
    MappedFree { who: usize, which: usize },
    MappedAlloc { who: usize, which: usize },
    Lease { who: usize, class: u8 },
    Return { who: usize, which: usize },
    Die { who: usize },
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..WHO;
    let name = 0..3usize;
    let which = 0..1000usize;
    let size = prop_oneof![1..300u64, 300..70_000u64, 70_000..1_500_000u64];
    prop_oneof![
        8 => (who.clone(), size).prop_map(|(who, size)| Op::Alloc { who, size }),
        6 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Free { who, which }),
        1 => which.clone().prop_map(|which| Op::Keep { which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Take { who, which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Adopt { who, which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Pin { who, which }),
        1 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::Unpin { who, which }),
        1 => (which.clone(), name.clone()).prop_map(|(which, name)| Op::Name { which, name }),
        1 => (name, any::<bool>()).prop_map(|(name, free)| Op::Withdraw { name, free }),
        3 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::MappedFree { who, which }),
        5 => (who.clone(), which.clone()).prop_map(|(who, which)| Op::MappedAlloc { who, which }),
        2 => (who.clone(), 0..85u8).prop_map(|(who, class)| Op::Lease { who, class }),
        2 => (who.clone(), which).prop_map(|(who, which)| Op::Return { who, which }),
        1 => who.prop_map(|who| Op::Die { who }),
        1 => Just(Op::Purge),
    ]
}

/// The daemon and what it should know.
struct World {
    daemon: Daemon,
    pool: PoolId,
    watcher: Caller,
    who: Vec<Caller>,
    mapped: Vec<Mapped>,
    live: BTreeMap<Handle, Known>,
    /// Freed while pinned, and who pins them still.
    condemned: BTreeMap<Handle, [u32; WHO]>,
    gone: Vec<Handle>,
    names: [Option<Handle>; 3],
}

impl World {
    fn new() -> Self {
        let daemon = Daemon::start_with(|limits| limits.quota_per_user_bytes = Some(QUOTA_BYTES));
        let watcher = daemon.caller(1000);
        let request = CreatePool {
            mode: 0o666,
            ..create("p", 6 * MIB)
        };
        let pool = daemon
            .core
            .create_pool(&watcher, request, daemon.now)
            .unwrap()
            .pool
            .pool_id;
        let who: Vec<Caller> = UIDS.iter().map(|&uid| daemon.caller(uid)).collect();
        let map = |caller| Mapped {
            memory: daemon.map(caller, pool),
            spans: Vec::new(),
        };
        let mapped = who.iter().map(map).collect();
        let (live, condemned) = (BTreeMap::new(), BTreeMap::new());
        let (gone, names) = (Vec::new(), [None; 3]);
        Self {
            daemon,
            pool,
            watcher,
            who,
            mapped,
            live,
            condemned,
            gone,
            names,
        }
    }

    fn pick(&self, which: usize) -> Option<Handle> {
        let n = self.live.len();
        (n > 0).then(|| *self.live.keys().nth(which % n).unwrap())
    }

    fn comes_to_life(&mut self, handle: Handle, owner: usize, size: u64) {
        let known = Known {
            owner,
            kept: false,
            size,
            pins: [0; WHO],
        };
        assert!(!self.gone.contains(&handle) && !self.condemned.contains_key(&handle));
        assert!(
            self.live.insert(handle, known).is_none(),
            "{handle} is given out twice"
        );
    }

    fn is_freed(&mut self, handle: Handle) {
        let known = self.live.remove(&handle).unwrap();
        self.names
            .iter_mut()
            .filter(|name| **name == Some(handle))
            .for_each(|name| *name = None);
        if known.pins == [0; WHO] {
            self.gone.push(handle);
        } else {
            self.condemned.insert(handle, known.pins);
        }
    }

    fn is_unpinned(&mut self, handle: Handle, who: usize, all: bool) {
        let condemned = self.condemned.get_mut(&handle);
        let pins = match condemned {
            Some(pins) => pins,
            None => &mut self.live.get_mut(&handle).unwrap().pins,
        };
        pins[who] = if all { 0 } else { pins[who] - 1 };
        if self.condemned.get(&handle) == Some(&[0; WHO]) {
            self.condemned.remove(&handle);
            self.gone.push(handle);
        }
    }

    fn pinned_by(&self, who: usize) -> Vec<Handle> {
        let live = self
            .live
            .iter()
            .filter(|(_, known)| known.pins[who] > 0)
            .map(|(h, _)| *h);
        let condemned = self
            .condemned
            .iter()
            .filter(|(_, pins)| pins[who] > 0)
            .map(|(h, _)| *h);
        live.chain(condemned).collect()
    }

    fn make(&mut self, op: Op) {
        let (core, now) = (&self.daemon.core, self.daemon.now);
        match op {
            Op::Alloc { who, size } => {
                if let Some(handle) = affordable(self.daemon.alloc(&self.who[who], self.pool, size))
                {
                    self.comes_to_life(handle, who, size);
                }
            }
            Op::Free { who, which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                self.daemon.free(&self.who[who], handle).unwrap();
                self.is_freed(handle);
            }
            Op::Keep { which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                let owner = self.live[&handle].owner;
                if affordable(core.keep(&self.who[owner], about(handle), now)).is_some() {
                    self.live.get_mut(&handle).unwrap().kept = true;
                }
            }
            Op::Take { who, which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                let known = self.live[&handle];
                let outcome = core.take(&self.who[who], about(handle), now);
                if known.pins == [0; WHO] {
                    let Some(taken) = affordable(outcome) else {
                        return;
                    };
                    self.is_freed(handle);
                    self.comes_to_life(taken.handle, who, known.size);
                } else {
                    let refusal = reason(outcome);
                    assert!([Reason::BlockPinned, Reason::QuotaExceeded].contains(&refusal));
                }
            }
            Op::Adopt { who, which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                if affordable(core.adopt(&self.who[who], about(handle), now)).is_some() {
                    let known = self.live.get_mut(&handle).unwrap();
                    (known.owner, known.kept) = (who, false);
                    let names = self.names.iter_mut().filter(|name| **name == Some(handle));
                    names.for_each(|name| *name = None);
                }
            }
            Op::Pin { who, which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                core.pin(&self.who[who], about(handle), now).unwrap();
                self.live.get_mut(&handle).unwrap().pins[who] += 1;
            }
            Op::Unpin { who, which } => {
                let pinned = self.pinned_by(who);
                if !pinned.is_empty() {
                    let handle = pinned[which % pinned.len()];
                    core.unpin(&self.who[who], about(handle), now).unwrap();
                    self.is_unpinned(handle, who, false);
                }
            }
            Op::Name { which, name } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                let owner = &self.who[self.live[&handle].owner];
                if affordable(self.daemon.publish(owner, handle, NAMES[name])).is_none() {
                    return;
                }
                self.live.get_mut(&handle).unwrap().kept = true;
                self.names
                    .iter_mut()
                    .filter(|n| **n == Some(handle))
                    .for_each(|n| *n = None);
                if let Some(before) = self.names[name].replace(handle) {
                    self.is_freed(before);
                }
            }
            Op::Withdraw { name, free } => self.withdraw(name, free),
            Op::MappedFree { who, which } => {
                let Some(handle) = self.pick(which) else {
                    return;
                };
                let _ = self.mapped[who].memory.free(handle).unwrap();
                self.is_freed(handle);
            }
            Op::MappedAlloc { who, which } => self.alloc_mapped(who, which),
            Op::Lease { who, class } => {
                let class = SizeClass::from_index(class).unwrap();
                let leased = self.daemon.lease(&self.who[who], self.pool, class);
                for span in affordable(leased).unwrap_or_default() {
                    let (mapped, number) = (&mut self.mapped[who], number(&self.who[who]));
                    let lease = lease_of(&span);
                    let work = LeasedSpan::attach(&mapped.memory, lease, number, span.survivors);
                    mapped.spans.push((span, work.unwrap()));
                }
            }
            Op::Return { who, which } => {
                let spans = &mut self.mapped[who].spans;
                if spans.is_empty() {
                    return;
                }
                let (span, work) = spans.swap_remove(which % spans.len());
                match work.detach() {
                    Ok(_) => drop(
                        self.daemon
                            .return_span(&self.who[who], self.pool, span)
                            .unwrap(),
                    ),
                    Err(work) => {
                        let refusal = self.daemon.return_span(&self.who[who], self.pool, span);
                        assert_eq!(reason(refusal), Reason::SpanInUse);
                        self.mapped[who].spans.push((span, work));
                    }
                }
            }
            Op::Die { who } => self.die(who),
            Op::Purge => self.daemon.purge(&self.watcher, "p"),
        }
    }

    fn alloc_mapped(&mut self, who: usize, which: usize) {
        let spans = &mut self.mapped[who].spans;
        if spans.is_empty() {
            return;
        }
        let n = spans.len();
        let (span, work) = &mut spans[which % n];
        work.collect(which.is_multiple_of(2));
        let Some(block) = work.alloc() else { return };
        let size = span.size_class.usable_bytes().min(which as u64 + 1);
        let shape = goumem_shm::shape::Shape {
            type_tag: TypeTag::UNTYPED,
            length_bytes: size,
        };
        let handle = block.export(number(&self.who[who]), shape).unwrap();
        self.comes_to_life(handle, who, size);
    }

    fn withdraw(&mut self, name: usize, free: bool) {
        let request = Withdraw {
            pool_id: self.pool,
            name: BlockName::try_from(NAMES[name]).unwrap(),
            free,
            request_id: RequestId::NONE,
        };
        let outcome = self
            .daemon
            .core
            .withdraw(&self.watcher, request, self.daemon.now);
        match self.names[name].take() {
            None => assert_eq!(reason(outcome), Reason::NameNotFound),
            Some(handle) => {
                assert_eq!(outcome.unwrap().handle, handle);
                if free {
                    self.is_freed(handle);
                }
            }
        }
    }

    fn die(&mut self, who: usize) {
        self.daemon.die(&self.who[who]);
        for handle in self.pinned_by(who) {
            self.is_unpinned(handle, who, true);
        }
        let dead = self
            .live
            .iter()
            .filter(|(_, known)| known.owner == who && !known.kept);
        let dead: Vec<Handle> = dead.map(|(&handle, _)| handle).collect();
        dead.into_iter().for_each(|handle| self.is_freed(handle));
        self.who[who] = self.daemon.caller(UIDS[who]);
        let memory = self.daemon.map(&self.who[who], self.pool);
        self.mapped[who] = Mapped {
            memory,
            spans: Vec::new(),
        };
    }

    fn check(&self) {
        let (daemon, watcher) = (&self.daemon, &self.watcher);
        let stat = daemon.stat(watcher, "p");
        daemon.check();
        let pins = self
            .live
            .values()
            .map(|known| &known.pins)
            .chain(self.condemned.values());
        assert_eq!(stat.pins, u64::from(pins.flatten().sum::<u32>()));
        assert_eq!(stat.blocks, self.live.len() as u64);
        assert_eq!(stat.condemned_blocks, self.condemned.len() as u64);
        let kept = self.live.values().filter(|known| known.kept).count();
        assert_eq!(stat.kept_blocks, kept as u64);
        assert_eq!(
            stat.named_blocks,
            self.names.iter().flatten().count() as u64
        );
        assert_eq!(
            stat.requested_bytes,
            self.live.values().map(|known| known.size).sum::<u64>()
        );
        assert!(stat.requested_bytes <= stat.used_bytes);
        assert!(stat.used_bytes <= stat.leased_bytes + stat.abandoned_bytes);
        assert_eq!(
            stat.leased_bytes + stat.abandoned_bytes + stat.free_committed_bytes,
            stat.committed_bytes
        );
        assert!(stat.leased_bytes + stat.abandoned_bytes <= stat.pool.capacity_bytes);
        assert!(daemon.core.shared.quotas.used_bytes(1001) <= QUOTA_BYTES);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (&handle, known) in &self.live {
            let info = daemon
                .core
                .resolve(watcher, about(handle), daemon.now)
                .unwrap();
            assert_eq!(info.size_bytes, known.size);
            ranges.push((handle.offset().get(), handle.offset().get() + known.size));
        }
        ranges.sort_unstable();
        assert!(
            ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "no overlap"
        );
        for &handle in self.gone.iter().chain(self.condemned.keys()) {
            let outcome = daemon.core.resolve(watcher, about(handle), daemon.now);
            assert_eq!(reason(outcome), Reason::StaleHandle);
        }
        for (&name, &handle) in NAMES.iter().zip(&self.names) {
            assert_eq!(daemon.lookup(watcher, self.pool, name).ok(), handle);
        }
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn number(caller: &Caller) -> goumem_alloc::SessionNumber {
    caller.session.as_ref().unwrap().number
}

/// Returns what a call came to, unless the pool or the caller's quota has no room for it.
fn affordable<T>(outcome: Result<T, Error>) -> Option<T> {
    match outcome {
        Ok(done) => Some(done),
        Err(Error::PoolExhausted { .. } | Error::QuotaExceeded { .. }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// At every step: no two blocks overlap, budget and quotas are exactly what the pools have,
    /// stale handles are refused, and what the model says is alive, kept, named or pinned is so.
    #[test]
    fn a_pool_agrees_with_its_model_and_conserves_every_byte(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        let mut world = World::new();
        for op in ops {
            world.make(op);
            world.check();
        }
        for who in 0..WHO {
            world.die(who);
        }
        world.check();
        world.daemon.destroy(&world.watcher, "p").unwrap();
        for caller in world.who.iter().chain([&world.watcher]) {
            world.daemon.die(caller);
        }
        world.daemon.check();
        prop_assert_eq!(world.daemon.core.shared.budget.report().0, 0);
    }
}
