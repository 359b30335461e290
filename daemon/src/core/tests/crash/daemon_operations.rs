//! What the daemon does to a pool of blocks: what there is before, and what is stopped. `BlockWorld`
//! checks what comes of it.

use super::blocks::{BlockWorld, OTHER_SIZE, SIZE, Who, attach, class_of};
use super::*;

type Of = Operation<BlockWorld>;

use Who::{Alice, Bob};

/// The daemon dies in these.
pub(super) const OPERATIONS: &[Of] = &[
    Of {
        name: "lease",
        before: BlockWorld::populate,
        operation: |w| {
            let _ = lease(w, SIZE);
        },
    },
    Of {
        name: "lease of pages that had another class",
        before: |w| {
            w.populate();
            let span = lease(w, OTHER_SIZE);
            let span = attach(w.client(Alice), &span);
            w.alice().spans.push(span);
            let block = w.alice().private_block();
            let alice = w.alice();
            let handle = alice.export(block, alice.session());
            let _ = w.alice().memory.free(handle).unwrap();
            let lease = w.alice().spans.pop().unwrap().detach().unwrap();
            return_span(w, lease);
        },
        operation: |w| {
            let _ = lease(w, SIZE);
        },
    },
    Of {
        name: "lease of an abandoned span",
        before: |w| {
            w.populate();
            w.abandon_a_span_with_a_block_of(Bob);
        },
        operation: |w| assert!(lease(w, SIZE).survivors),
    },
    Of {
        name: "return",
        before: |w| {
            w.populate();
            let handle = w.share(Alice);
            let _ = w.client(Bob).memory.free(handle).unwrap();
        },
        operation: |w| {
            let lease = w.alice().spans.pop().unwrap().detach().unwrap();
            return_span(w, lease);
        },
    },
    Of {
        name: "alloc by RPC, in a new span",
        before: |_| {},
        operation: |w| {
            let _ = w.alloc(Alice, SIZE);
        },
    },
    Of {
        name: "alloc by RPC, in a span at hand",
        before: BlockWorld::populate,
        operation: |w| {
            let _ = w.alloc(Alice, SIZE);
        },
    },
    Of {
        name: "alloc by RPC of a large block",
        before: BlockWorld::populate,
        operation: |w| {
            // Larger than any class would be larger than the pool: one span of one slot.
            let _ = w.alloc(Alice, 5 * OTHER_SIZE);
        },
    },
    Of {
        name: "free by RPC",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
        },
        operation: free_by_rpc,
    },
    Of {
        name: "free by RPC of a span's last block",
        before: |w| {
            w.populate();
            let [_, handle] = [(); 2].map(|()| w.alloc(Alice, 5 * OTHER_SIZE));
            w.handles.push(handle);
        },
        operation: free_by_rpc,
    },
    Of {
        name: "free by RPC of a pinned, kept block",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.keep(Alice, handle);
            w.pin(Bob, handle);
            w.handles.push(handle);
        },
        operation: free_by_rpc,
    },
    Of {
        name: "free of a batch",
        before: |w| {
            w.populate();
            w.handles = [(); 2].map(|()| w.alloc(Alice, SIZE)).into();
        },
        operation: |w| {
            let request = FreeBatch {
                handles: w.handles.clone(),
                request_id: RequestId::NONE,
            };
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            let freed = daemon.core.free_batch(caller, request, daemon.now);
            assert_eq!(freed.unwrap().freed, 2);
        },
    },
    Of {
        name: "realloc in place",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.keep(Alice, handle);
            w.handles.push(handle);
        },
        operation: |w| realloc(w, SIZE - 1),
    },
    Of {
        name: "realloc into another class",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.keep(Alice, handle);
            w.handles.push(handle);
        },
        operation: |w| realloc(w, OTHER_SIZE),
    },
    Of {
        name: "keep",
        before: |w| {
            w.populate();
            // A slot of the record table that had another record.
            let earlier = w.share(Alice);
            w.pin(Alice, earlier);
            w.unpin(Alice, earlier);
            let handle = w.share(Alice);
            w.handles.push(handle);
        },
        operation: |w| w.keep(Alice, w.handles[0]),
    },
    Of {
        name: "keep of a pinned block",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.pin(Bob, handle);
            w.handles.push(handle);
        },
        operation: |w| w.keep(Alice, w.handles[0]),
    },
    Of {
        name: "publish",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
        },
        operation: publish,
    },
    Of {
        name: "publish in place of another block",
        before: |w| {
            w.populate();
            let before = w.alloc(Alice, SIZE);
            w.publish(Alice, before, "n");
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
            w.must_be_named("n");
        },
        operation: publish,
    },
    Of {
        name: "withdraw",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
            publish(w);
            w.bystander(handle, true);
        },
        operation: |w| withdraw(w, false),
    },
    Of {
        name: "withdraw and free",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
            publish(w);
        },
        operation: |w| withdraw(w, true),
    },
    Of {
        name: "adopt by RPC",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.keep(Bob, handle);
            w.handles.push(handle);
        },
        operation: |w| {
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .adopt(caller, about(w.handles[0]), daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "take by RPC",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.keep(Bob, handle);
            w.handles.push(handle);
        },
        operation: |w| {
            let (daemon, caller) = (w.daemon(), w.caller(Alice));
            daemon
                .core
                .take(caller, about(w.handles[0]), daemon.now)
                .unwrap();
        },
    },
    Of {
        name: "pin",
        before: |w| {
            w.populate();
            let handle = w.alloc(Bob, SIZE);
            w.keep(Bob, handle);
            w.handles.push(handle);
            w.bystander(handle, true);
        },
        operation: |w| w.pin(Alice, w.handles[0]),
    },
    Of {
        name: "unpin",
        before: |w| {
            w.populate();
            let handle = w.alloc(Bob, SIZE);
            w.keep(Bob, handle);
            w.pin(Alice, handle);
            w.handles.push(handle);
            w.bystander(handle, true);
        },
        operation: |w| w.unpin(Alice, w.handles[0]),
    },
    Of {
        name: "unpin of a condemned block",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.pin(Alice, handle);
            let _ = w.client(Bob).memory.free(handle).unwrap();
            w.handles.push(handle);
        },
        operation: |w| w.unpin(Alice, w.handles[0]),
    },
    Of {
        name: "sweep of spans that are empty then",
        before: |w| {
            w.populate();
            let [_, pinned] = [(); 2].map(|()| w.share(Alice));
            w.pin(Alice, pinned);
            let handle = w.share(Bob);
            w.client(Alice)
                .memory
                .adopt(handle, w.client(Alice).session())
                .unwrap();
        },
        operation: |w| w.daemon().die(w.caller(Alice)),
    },
    Of {
        name: "sweep of a span with survivors",
        before: |w| {
            w.populate();
            let [_, kept, adopted] = [(); 3].map(|()| w.share(Alice));
            w.keep(Alice, kept);
            w.bystander(kept, true);
            let bob = w.client(Bob).session();
            w.client(Bob).memory.adopt(adopted, bob).unwrap();
        },
        operation: |w| w.daemon().die(w.caller(Alice)),
    },
    Of {
        name: "purge",
        before: |w| {
            w.populate();
            let handle = w.alloc(Alice, SIZE);
            w.handles.push(handle);
            free_by_rpc(w);
            w.abandon_a_span_with_a_block_of(Bob);
            let survivor = *w.handles.last().unwrap();
            let _ = w.client(Bob).memory.free(survivor).unwrap();
        },
        operation: |w| w.daemon().purge(w.caller(Alice), "p"),
    },
    Of {
        name: "a new capacity",
        before: BlockWorld::populate,
        operation: |w| {
            let request = SetCapacity {
                name: PoolName::try_from("p").unwrap(),
                capacity_bytes: MIB,
            };
            let (caller, now) = (w.caller(Alice), w.daemon().now);
            w.daemon().core.set_capacity(caller, request, now).unwrap();
        },
    },
    Of {
        name: "create",
        before: BlockWorld::populate,
        operation: |w| {
            let request = CreatePool {
                backing: Some(Backing::File),
                ..create("new", MIB)
            };
            let (caller, now) = (w.caller(Alice), w.daemon().now);
            w.daemon().core.create_pool(caller, request, now).unwrap();
        },
    },
    Of {
        name: "destroy",
        before: BlockWorld::populate,
        operation: |w| w.daemon().destroy(w.caller(Alice), "p").unwrap(),
    },
    Of {
        name: "recovery",
        before: |w| {
            w.populate();
            let [_, kept] = [(); 2].map(|()| w.share(Alice));
            w.keep(Alice, kept);
            w.pin(Bob, kept);
            w.bystander(kept, true);
            w.alloc(Alice, SIZE);
            lease(w, OTHER_SIZE);
            crash::bury((w.alice.take(), w.bob.take()));
            w.bury_daemon();
        },
        operation: BlockWorld::start_daemon,
    },
];

fn lease(w: &mut BlockWorld, size_bytes: u64) -> SpanInfo {
    let spans = w
        .daemon()
        .lease(w.caller(Alice), w.pool, class_of(size_bytes));
    spans.unwrap()[0]
}

fn return_span(w: &mut BlockWorld, lease: SpanLease) {
    let span = SpanInfo {
        first_page: lease.first_page,
        pages: lease.pages,
        size_class: lease.class,
        epoch: lease.epoch.get(),
        survivors: false,
    };
    let returned = w.daemon().return_span(w.caller(Alice), w.pool, span);
    assert_eq!(returned.unwrap(), 1);
}

fn free_by_rpc(w: &mut BlockWorld) {
    let handle = w.handles[0];
    w.daemon().free(w.caller(Alice), handle).unwrap();
}

fn realloc(w: &mut BlockWorld, size_bytes: u64) {
    let request = Realloc {
        handle: w.handles[0],
        size_bytes,
        request_id: RequestId::NONE,
    };
    let (caller, now) = (w.caller(Alice), w.daemon().now);
    w.daemon().core.realloc(caller, request, now).unwrap();
}

fn publish(w: &mut BlockWorld) {
    w.publish(Alice, w.handles[0], "n");
}

fn withdraw(w: &mut BlockWorld, free: bool) {
    let request = Withdraw {
        pool_id: w.pool,
        name: BlockName::try_from("n").unwrap(),
        free,
        request_id: RequestId::NONE,
    };
    let (caller, now) = (w.caller(Alice), w.daemon().now);
    w.daemon().core.withdraw(caller, request, now).unwrap();
}
