//! The calls of a session that lives on: what there is before, and the call. `kept` has the daemon
//! die in each, and checks what comes of it.

use goumem_proto::model::{AllocBatch, ArenaAlloc, ArenaFree, CountedSpec, OpenNonce, ResetArena};

use super::kept::{Call, ID, KeptWorld, Knows, SIZE};
use super::*;
use crate::session::Caller;

/// Another id than [`ID`].
const NEXT: RequestId = RequestId::new(8);
const NONCE: OpenNonce = [9; 16];

macro_rules! calls {
    ($($name:literal $($knows:ident)?: $before:expr, $call:expr;)*) => {
        /// The daemon dies in each of these.
        pub(super) const CALLS: &[Call] = &[$(Call {
            name: $name,
            before: $before,
            call: $call,
            knows: calls!(@knows $($knows)?),
        },)*];
    };
    (@knows) => { Knows::Outcome };
    (@knows $knows:ident) => { Knows::$knows };
}

calls! {
    "open a session": |_| {}, open;
    "open a session again, for another token": |w| drop(open(w).unwrap()), open;
    "close a session": |w| { w.alloc(); w.get(KeptWorld::by_alice); }, close;
    "create a pool": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        let request = CreatePool { request_id: ID, ..create("new", MIB) };
        told(core.create_pool(alice, request, now), |made| made.pool.pool_id)
    };
    "create an arena pool": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        told(core.create_arena_pool(alice, arena_pool(ID), now), |made| made.pool.pool_id)
    };
    "destroy a pool": |w| {
        let (core, alice, now) = w.by_alice();
        core.create_pool(alice, create("new", MIB), now).unwrap();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        told(core.destroy_pool(alice, destroy(), now), |()| "")
    };
    "destroy an arena pool": |w| {
        let (core, alice, now) = w.by_alice();
        core.create_arena_pool(alice, arena_pool(RequestId::NONE), now).unwrap();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        told(core.destroy_arena_pool(alice, destroy(), now), |()| "")
    };
    "hand memory out": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        let session = alice.session.as_ref().unwrap();
        told(core.map_request(session, w.pool, Access::ReadWrite, now), |_| "")
    };
    "lease": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        let spec = SpanSpec::Class(blocks::class_of(SIZE));
        let request = Lease { pool_id: w.pool, spec, count: 1, request_id: ID };
        told(core.lease(alice, request, now), |spans| {
            let mut pages: Vec<_> = spans.iter().map(|s| (s.first_page, s.epoch)).collect();
            pages.sort_unstable();
            pages
        })
    };
    "return of spans": |w| {
        for _ in 0..2 {
            let (_, alice, _) = w.by_alice();
            let class = blocks::class_of(SIZE);
            let spans = w.daemon().lease(alice, w.pool, class).unwrap();
            w.spans.extend(spans);
        }
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let spans = w.spans.clone();
        let request = ReturnSpans { pool_id: w.pool, spans, request_id: ID };
        told(core.return_spans(alice, request, now), |reply| reply.returned)
    };
    "alloc": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        let spec = BlockSpec::new(SIZE);
        let request = Alloc { pool_id: w.pool, spec, request_id: ID };
        told(core.alloc(alice, request, now), |reply| reply.block.handle)
    };
    "alloc of a batch" Little: |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        let specs = vec![CountedSpec { spec: BlockSpec::new(SIZE), count: 3 }];
        let request = AllocBatch { pool_id: w.pool, specs, request_id: ID };
        told(core.alloc_batch(alice, request, now), |reply| reply.handles)
    };
    "free": |w| { w.alloc(); }, |w| {
        let (core, alice, now) = w.by_alice();
        told(core.free(alice, Free { handle: w.handles[0], request_id: ID }, now), |()| "")
    };
    "free of a batch": |w| { w.alloc(); w.alloc(); }, |w| {
        let (core, alice, now) = w.by_alice();
        let request = FreeBatch { handles: w.handles.clone(), request_id: ID };
        told(core.free_batch(alice, request, now), |reply| (reply.freed, reply.failures.len()))
    };
    "realloc in place": |w| { w.alloc(); }, |w| realloc(w, SIZE - 1);
    "realloc into another class": |w| { w.alloc(); }, |w| realloc(w, 3 * SIZE);
    "keep": |w| { w.alloc(); }, |w| on_handle(w, |core, alice, request, now| {
        core.keep(alice, request, now).map(|_| Vec::new())
    });
    "publish in place of another": |w| {
        let before = w.alloc();
        let (_, alice, _) = w.by_alice();
        w.daemon().publish(alice, before, "n").unwrap();
        w.alloc();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let name = BlockName::try_from("n").unwrap();
        let request = Publish { handle: w.handles[1], name, replace: true, request_id: ID };
        told(core.publish(alice, request, now), |_| "")
    };
    "withdraw and free": |w| {
        let handle = w.alloc();
        let (_, alice, _) = w.by_alice();
        w.daemon().publish(alice, handle, "n").unwrap();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let name = BlockName::try_from("n").unwrap();
        let request = Withdraw { pool_id: w.pool, name, free: true, request_id: ID };
        told(core.withdraw(alice, request, now), |reply| format!("{reply:?}"))
    };
    "adopt": bobs_kept_block, |w| on_handle(w, |core, alice, request, now| {
        Ok(vec![core.adopt(alice, request, now)?.handle])
    });
    "take": bobs_kept_block, |w| on_handle(w, |core, alice, request, now| {
        Ok(vec![core.take(alice, request, now)?.handle])
    });
    "pin": |w| { w.alloc(); }, |w| on_handle(w, |core, alice, request, now| {
        core.pin(alice, request, now).map(|_| Vec::new())
    });
    "unpin of a block that was freed": |w| {
        let handle = w.alloc();
        let (core, alice, now) = w.by_alice();
        core.pin(alice, about(handle), now).unwrap();
        w.daemon().free(alice, handle).unwrap();
    }, |w| on_handle(w, |core, alice, request, now| {
        core.unpin(alice, request, now).map(|_| Vec::new())
    });
    "get": |_| {}, |w| {
        let (core, alice, now) = w.by_alice();
        told_arena(core.get_arena(alice, get(w, Duration::ZERO), now))
    };
    "return that serves a waiter": |w| {
        for _ in 0..4 {
            w.get(KeptWorld::by_bob);
        }
        let (core, alice, now) = w.by_alice();
        let wait = Duration::from_secs(60);
        let Waited::Queued(_, line) = core.get_arena(alice, get(w, wait), now).unwrap() else {
            panic!("an arena was free");
        };
        w.line = Some(line);
    }, |w| {
        let (core, bob, now) = w.by_bob();
        core.return_arena(bob, ReturnArena { arena: w.handles[0], request_id: NEXT }, now)?;
        if let Some(mut line) = w.line.take() {
            return Ok(format!("{:?}", line.try_recv().unwrap().accept().arena));
        }
        let (core, alice, now) = w.by_alice();
        told_arena(core.get_arena(alice, get(w, Duration::from_secs(60)), now))
    };
    "return": |w| { w.get(KeptWorld::by_alice); }, |w| {
        let (core, alice, now) = w.by_alice();
        let request = ReturnArena { arena: w.handles[0], request_id: ID };
        told(core.return_arena(alice, request, now), |()| "")
    };
    "alloc in an arena" Little: |w| { w.get(KeptWorld::by_alice); }, |w| {
        told(alloc_in_arena(w, ID), |handle| handle)
    };
    "free in an arena" Little: |w| {
        w.get(KeptWorld::by_alice);
        let handle = alloc_in_arena(w, RequestId::NONE).unwrap();
        w.handles.push(handle);
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let request = ArenaFree { handle: w.handles[1], size_bytes: 40, request_id: ID };
        told(core.arena_free(alice, request, now), |reply| reply.cursor_bytes)
    };
    "reset": |w| {
        w.get(KeptWorld::by_alice);
        alloc_in_arena(w, RequestId::NONE).unwrap();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let request = ResetArena { arena: w.handles[0], request_id: ID };
        told(core.reset_arena(alice, request, now), |reply| reply.arena)
    };
    "share": |w| { w.get(KeptWorld::by_alice); }, |w| {
        let (core, alice, now) = w.by_alice();
        let name = ArenaName::try_from("mine").unwrap();
        let request = ShareArena { arena: w.handles[0], name, request_id: ID };
        told(core.share_arena(alice, request, now), |reply| reply.arena)
    };
    "attach": share_of_bobs, |w| {
        let (core, alice, now) = w.by_alice();
        let name = ArenaName::try_from("his").unwrap();
        let access = Access::ReadWrite;
        let request = AttachArena { pool_id: w.arenas, name, access, request_id: ID };
        told(core.attach_arena(alice, request, now), |reply| reply.arena)
    };
    "detach of the last holder": |w| {
        w.get(KeptWorld::by_alice);
        let (core, alice, now) = w.by_alice();
        let name = ArenaName::try_from("mine").unwrap();
        let request = ShareArena { arena: w.handles[0], name, request_id: RequestId::NONE };
        core.share_arena(alice, request, now).unwrap();
    }, |w| {
        let (core, alice, now) = w.by_alice();
        let request = DetachArena { arena: w.handles[0], request_id: ID };
        told(core.detach_arena(alice, request, now), |reply| reply.returned)
    };
    // The next daemon's start, which sweeps one who was dying and ends a call of Alice's that was
    // cut off: her arena was claimed.
    "start": |w| {
        let carol = w.daemon().caller(1000);
        let block = w.daemon().alloc(&carol, w.pool, SIZE).unwrap();
        w.daemon().core.pin(&carol, about(block), w.daemon().now).unwrap();
        w.daemon().lease(&carol, w.pool, blocks::class_of(SIZE)).unwrap();
        let (_, alice, _) = w.by_alice();
        let daemon = goumem_alloc::SessionNumber::DAEMON;
        let arena = w.daemon().map_arenas(&carol, w.arenas, 6).try_get(daemon, 0).unwrap();
        let session = alice.session.as_ref().unwrap();
        match session.begin_get(ID).unwrap() {
            crate::session::Begun::Now(mut get) => {
                get.intend(arena);
                std::mem::forget(get);
            }
            crate::session::Begun::Before(_) => unreachable!("it has just begun"),
        }
        carol.session.as_ref().unwrap().mark_dead();
        w.bury_daemon();
    }, |w| {
        if !w.has_daemon() {
            w.start_daemon();
        }
        let (core, alice, now) = w.by_alice();
        told_arena(core.get_arena(alice, get(w, Duration::ZERO), now))
    };
}

/// Says what a call came to, as far as its retry is to say the same.
fn told<T, S: std::fmt::Debug>(
    outcome: Result<T, Error>,
    say: impl FnOnce(T) -> S,
) -> Result<String, Error> {
    Ok(format!("{:?}", say(outcome?)))
}

fn told_arena(waited: Result<Waited, Error>) -> Result<String, Error> {
    match waited? {
        Waited::Now(arena) => Ok(format!("{:?}", arena.arena)),
        Waited::Queued(..) => panic!("she is served at once"),
    }
}

/// Opens a session of the same process, or finds the one that the same nonce has opened.
fn open(w: &mut KeptWorld) -> Result<String, Error> {
    let (core, alice, now) = w.by_alice();
    let anonymous = Caller {
        session: None,
        ..alice.clone()
    };
    let request = OpenSession {
        label: Label::try_from("carol").unwrap(),
        nonce: Some(NONCE),
        ttl: Duration::from_secs(30),
    };
    told(core.open_session(&anonymous, request, now), |opened| {
        opened.session
    })
}

/// Ends Alice's session, if it has not ended.
fn close(w: &mut KeptWorld) -> Result<String, Error> {
    if w.alice.is_some() {
        let (core, alice, now) = w.by_alice();
        match core.close_session(alice, CloseSession { force: true }, now) {
            Ok(_) | Err(Error::SessionExpired) => {}
            Err(error) => return Err(error),
        }
    }
    w.alice = None;
    Ok(String::new())
}

fn arena_pool(request_id: RequestId) -> CreateArenaPool {
    CreateArenaPool {
        name: PoolName::try_from("new").unwrap(),
        arenas: 2,
        arena_bytes: 1000,
        backing: None,
        gid: None,
        mode: 0o600,
        request_id,
    }
}

fn destroy() -> DestroyPool {
    DestroyPool {
        name: PoolName::try_from("new").unwrap(),
        request_id: ID,
    }
}

fn get(w: &KeptWorld, wait: Duration) -> GetArena {
    GetArena {
        pool_id: w.arenas,
        request_id: ID,
        wait,
    }
}

fn realloc(w: &mut KeptWorld, size_bytes: u64) -> Result<String, Error> {
    let (core, alice, now) = w.by_alice();
    let request = Realloc {
        handle: w.handles[0],
        size_bytes,
        request_id: ID,
    };
    told(core.realloc(alice, request, now), |reply| {
        reply.block.handle
    })
}

/// Makes a call about the first handle.
fn on_handle(
    w: &mut KeptWorld,
    call: fn(&Core, &Caller, HandleRequest, Instant) -> Result<Vec<Handle>, Error>,
) -> Result<String, Error> {
    let (core, alice, now) = w.by_alice();
    let request = HandleRequest {
        handle: w.handles[0],
        request_id: ID,
    };
    told(call(core, alice, request, now), |handles| handles)
}

fn alloc_in_arena(w: &KeptWorld, request_id: RequestId) -> Result<Handle, Error> {
    let (core, alice, now) = w.by_alice();
    let request = ArenaAlloc {
        arena: w.handles[0],
        size_bytes: 40,
        align_bytes: 16,
        request_id,
    };
    Ok(core.arena_alloc(alice, request, now)?.handle)
}

fn bobs_kept_block(w: &mut KeptWorld) {
    let (core, bob, now) = w.by_bob();
    let handle = w.daemon().alloc(bob, w.pool, SIZE).unwrap();
    core.keep(bob, about(handle), now).unwrap();
    w.handles.push(handle);
}

fn share_of_bobs(w: &mut KeptWorld) {
    let arena = w.get(KeptWorld::by_bob);
    let (core, bob, now) = w.by_bob();
    let name = ArenaName::try_from("his").unwrap();
    let request = ShareArena {
        arena,
        name,
        request_id: RequestId::NONE,
    };
    core.share_arena(bob, request, now).unwrap();
}
