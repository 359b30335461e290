//! The operations on an arena pool. One line each for what there is before and what is stopped;
//! `ArenaWorld` checks what comes of it.

use goumem_proto::model::{ArenaAlloc, ArenaFree, ResetArena};

use super::arenas::ArenaWorld;
use super::blocks::Who;
use super::*;

type Of = Operation<ArenaWorld>;

use Who::{Alice, Bob};

const ID: RequestId = RequestId::NONE;

/// Alice dies in these.
pub(super) const OF_CLIENTS: &[Of] = &[
    Of {
        name: "get",
        before: ArenaWorld::populate,
        operation: |w| w.hold(Alice),
    },
    Of {
        name: "alloc in an arena held alone",
        before: hold,
        operation: |w| w.alloc(Alice, 40),
    },
    Of {
        name: "get, allocs, trim and reset of a holder that bumps privately",
        before: ArenaWorld::populate,
        operation: |w| {
            let mut arena = w.get_privately(Alice);
            for size_bytes in [40, 500] {
                arena.alloc(size_bytes, 16).unwrap();
                arena.trim();
            }
            arena.reset().unwrap();
            arena.alloc(1000, 16).unwrap();
            arena.give_back().unwrap();
        },
    },
    Of {
        name: "alloc in a shared arena",
        before: |w| {
            hold(w);
            w.share(Alice);
            w.attach(Bob, Access::ReadWrite);
            w.alloc(Bob, 16);
        },
        operation: |w| w.alloc(Alice, 40),
    },
    Of {
        name: "alloc that does not fit",
        before: hold,
        operation: |w| {
            let (memory, session) = (w.memory(Alice), w.session(Alice));
            assert!(memory.alloc(w.arena(), session, 4096, 16).is_err());
            memory.alloc(w.arena(), session, 992, 16).unwrap();
            assert!(memory.alloc(w.arena(), session, 16, 16).is_err());
        },
    },
    Of {
        name: "free of the newest",
        before: hold_two,
        operation: |w| free(w, 1),
    },
    Of {
        name: "free of an older one",
        before: hold_two,
        operation: |w| free(w, 0),
    },
    Of {
        name: "free of the last",
        before: |w| {
            hold_two(w);
            free(w, 0);
        },
        operation: |w| free(w, 1),
    },
    Of {
        name: "reset",
        before: hold_two,
        operation: |w| {
            let _ = w.memory(Alice).reset(w.arena(), w.session(Alice)).unwrap();
        },
    },
    Of {
        name: "give back",
        before: hold_two,
        operation: |w| {
            w.memory(Alice)
                .give_back(w.arena(), w.session(Alice))
                .unwrap()
        },
    },
    Of {
        name: "give back while another waits",
        before: |w| {
            hold_two(w);
            w.get(Alice);
            w.get(Alice);
            w.wait(Bob);
        },
        operation: |w| {
            w.memory(Alice)
                .give_back(w.arena(), w.session(Alice))
                .unwrap()
        },
    },
];

/// The daemon dies in these.
pub(super) const OF_THE_DAEMON: &[Of] = &[
    Of {
        name: "get by RPC",
        before: ArenaWorld::populate,
        operation: |w| {
            let request = GetArena {
                pool_id: w.pool,
                request_id: ID,
                wait: Duration::ZERO,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            let got = daemon.core.get_arena(caller, request, daemon.now).unwrap();
            assert!(matches!(got, Waited::Now(_)));
        },
    },
    Of {
        name: "wait for an arena",
        before: |w| {
            hold(w);
            w.get(Alice);
            w.get(Alice);
        },
        operation: |w| w.wait(Bob),
    },
    Of {
        name: "return by RPC, to one who waits",
        before: |w| {
            hold_two(w);
            w.get(Alice);
            w.get(Alice);
            w.wait(Bob);
        },
        operation: |w| {
            let arena = w.arena();
            let request = ReturnArena {
                arena,
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .return_arena(caller, request, daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "alloc by RPC",
        before: hold,
        operation: |w| {
            let request = ArenaAlloc {
                arena: w.arena(),
                size_bytes: 40,
                align_bytes: 16,
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .arena_alloc(caller, request, daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "free by RPC",
        before: hold_two,
        operation: |w| {
            let request = ArenaFree {
                handle: w.allocations[1],
                size_bytes: 40,
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon.core.arena_free(caller, request, daemon.now).unwrap();
        },
    },
    Of {
        name: "reset by RPC",
        before: hold_two,
        operation: |w| {
            let request = ResetArena {
                arena: w.arena(),
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .reset_arena(caller, request, daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "share",
        before: hold_two,
        operation: |w| w.share(Alice),
    },
    Of {
        name: "attach",
        before: hold_and_share,
        operation: |w| w.attach(Bob, Access::ReadWrite),
    },
    Of {
        name: "attach for more than before",
        before: |w| {
            hold_and_share(w);
            w.attach(Bob, Access::ReadOnly);
        },
        operation: |w| w.attach(Bob, Access::ReadWrite),
    },
    Of {
        name: "detach",
        before: |w| {
            hold_and_share(w);
            w.attach(Bob, Access::ReadOnly);
        },
        operation: |w| assert!(!detach(w)),
    },
    Of {
        name: "detach of the last",
        before: hold_and_share,
        operation: |w| assert!(detach(w)),
    },
    Of {
        name: "sweep",
        before: |w| {
            hold_and_share(w);
            w.get(Alice);
            w.get(Alice);
            w.wait(Bob);
        },
        operation: |w| w.daemon().die(w.caller(Alice)),
    },
    Of {
        name: "sweep of an arena whose word is overwritten meanwhile",
        before: |w| {
            hold(w);
            w.map_once_more();
        },
        operation: |w| {
            let hostile = w.third_view();
            // The sweep has read the word, and emptied the cursor: its next write is the word.
            crash::interrupt(2, move || spoil(&hostile, 1));
            w.daemon().die(w.caller(Alice));
        },
    },
    Of {
        name: "create",
        before: ArenaWorld::populate,
        operation: |w| {
            let request = CreateArenaPool {
                name: PoolName::try_from("new").unwrap(),
                arenas: 2,
                arena_bytes: 1000,
                backing: Some(Backing::File),
                gid: None,
                mode: 0o600,
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .create_arena_pool(caller, request, daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "destroy",
        before: |w| {
            hold_and_share(w);
            w.get(Alice);
            w.get(Alice);
            w.wait(Bob);
        },
        operation: |w| {
            let request = DestroyPool {
                name: PoolName::try_from("a").unwrap(),
                request_id: ID,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .destroy_arena_pool(caller, request, daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "recovery",
        before: |w| {
            hold_and_share(w);
            w.attach(Bob, Access::ReadOnly);
            w.alloc(Alice, 40);
            w.get(Alice);
            w.bury_clients();
            w.bury_daemon();
        },
        operation: ArenaWorld::start_daemon,
    },
];

fn hold(w: &mut ArenaWorld) {
    w.populate();
    w.hold(Alice);
}

fn hold_two(w: &mut ArenaWorld) {
    hold(w);
    w.alloc(Alice, 16);
    w.alloc(Alice, 40);
}

fn hold_and_share(w: &mut ArenaWorld) {
    hold(w);
    w.share(Alice);
}

fn free(w: &mut ArenaWorld, which: usize) {
    let size_bytes = [16, 40][which];
    let (memory, session) = (w.memory(Alice), w.session(Alice));
    memory
        .free(w.allocations[which], session, size_bytes)
        .unwrap();
}

/// Writes an arena word as only a writer outside of the library does: the holder stays, and so
/// does the life, but a bit is set that nobody sets.
fn spoil(memory: &ArenaMemory, index: u32) {
    let offset = memory.geometry().arena_slot_offset(index);
    let word = memory.data().atomic_u64(offset).unwrap();
    word.fetch_or(1, Ordering::Relaxed);
}

fn detach(w: &mut ArenaWorld) -> bool {
    let arena = w.arena();
    let request = DetachArena {
        arena,
        request_id: ID,
    };
    let (daemon, caller) = (w.daemon(), w.caller(Alice));
    let detached = daemon.core.detach_arena(caller, request, daemon.now);
    detached.unwrap().returned
}
