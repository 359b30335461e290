//! What a client does to a pool of blocks through its mapping: what there is before, and what is
//! stopped. `BlockWorld` checks what comes of it.

use super::blocks::{BlockWorld, SIZE, Who, attach, class_of};
use super::*;

type Of = Operation<BlockWorld>;

use Who::{Alice, Bob};

/// Alice dies in these.
pub(super) const OPERATIONS: &[Of] = &[
    Of {
        name: "export",
        before: |w| {
            w.populate();
            w.hold(Alice);
        },
        operation: |w| {
            let alice = w.alice();
            let block = alice.blocks.pop().unwrap();
            alice.export(block, alice.session());
        },
    },
    Of {
        name: "export for another session",
        before: |w| {
            w.populate();
            w.hold(Alice);
        },
        operation: |w| {
            let bob = w.client(Bob).session();
            let alice = w.alice();
            let block = alice.blocks.pop().unwrap();
            alice.export(block, bob);
        },
    },
    Of {
        name: "export of a block taken over",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.take_over(Alice, handle);
        },
        operation: |w| {
            let alice = w.alice();
            let block = alice.blocks.pop().unwrap();
            alice.export(block, alice.session());
        },
    },
    Of {
        name: "drop of a private block",
        before: |w| {
            w.populate();
            w.hold(Alice);
        },
        operation: |w| drop(w.alice().blocks.pop()),
    },
    Of {
        name: "drop of a block taken over",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.take_over(Alice, handle);
        },
        operation: |w| drop(w.alice().blocks.pop()),
    },
    Of {
        name: "free of one's own",
        before: |w| {
            w.populate();
            let handle = w.share(Alice);
            w.handles.push(handle);
        },
        operation: free,
    },
    Of {
        name: "free of another's",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.handles.push(handle);
        },
        operation: free,
    },
    Of {
        name: "free of a pinned block",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.pin(Bob, handle);
            w.handles.push(handle);
        },
        operation: free,
    },
    Of {
        name: "free of a block that oneself pins",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.pin(Alice, handle);
            w.handles.push(handle);
        },
        operation: free,
    },
    Of {
        name: "free of a kept block",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.keep(Bob, handle);
            w.handles.push(handle);
        },
        operation: free,
    },
    Of {
        name: "take over",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.handles.push(handle);
        },
        operation: take_over,
    },
    Of {
        name: "take over of a kept block",
        before: |w| {
            w.populate();
            let handle = w.alloc(Bob, SIZE);
            w.keep(Bob, handle);
            w.handles.push(handle);
        },
        operation: take_over,
    },
    Of {
        name: "adopt",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.handles.push(handle);
        },
        operation: adopt,
    },
    Of {
        name: "adopt of a pinned, kept block",
        before: |w| {
            w.populate();
            let handle = w.share(Bob);
            w.keep(Bob, handle);
            w.pin(Bob, handle);
            w.handles.push(handle);
        },
        operation: adopt,
    },
    Of {
        name: "collect",
        before: |w| {
            w.populate();
            let handle = w.share(Alice);
            let _ = w.client(Bob).memory.free(handle).unwrap();
            w.hold(Alice);
            w.alice().blocks.clear();
        },
        operation: |w| w.alice().spans[0].collect(false),
    },
    Of {
        name: "reclaim",
        before: |w| {
            w.populate();
            let handle = w.share(Alice);
            let _ = w.client(Bob).memory.free(handle).unwrap();
            w.handles.push(handle);
        },
        operation: |w| {
            let at = w.client(Alice).memory.locate(w.handles[0]).unwrap();
            assert!(w.alice().spans[0].reclaim(at.slot));
        },
    },
    Of {
        name: "attach to a span with survivors",
        before: |w| {
            w.populate();
            w.abandon_a_span_with_a_block_of(Bob);
            let spans = w
                .daemon()
                .lease(w.caller(Alice), w.pool, class_of(SIZE))
                .unwrap();
            assert!(spans[0].survivors);
            w.spans = spans;
        },
        operation: |w| {
            let span = attach(w.client(Alice), &w.spans[0]);
            w.alice().spans.push(span);
        },
    },
    Of {
        name: "detach",
        before: |w| {
            w.populate();
            let handle = w.share(Alice);
            let _ = w.client(Bob).memory.free(handle).unwrap();
        },
        operation: |w| {
            let span = w.alice().spans.pop().unwrap();
            assert!(span.detach().is_ok());
        },
    },
    Of {
        name: "abandon",
        before: |w| {
            w.populate();
            let [_, freed] = [(); 2].map(|()| w.share(Alice));
            let _ = w.client(Bob).memory.free(freed).unwrap();
        },
        operation: |w| {
            let span = w.alice().spans.pop().unwrap();
            assert!(span.abandon().is_ok());
        },
    },
];

fn free(w: &mut BlockWorld) {
    let handle = w.handles[0];
    let _ = w.alice().memory.free(handle).unwrap();
}

fn take_over(w: &mut BlockWorld) {
    let handle = w.handles[0];
    w.take_over(Alice, handle);
}

fn adopt(w: &mut BlockWorld) {
    let handle = w.handles[0];
    let alice = w.alice();
    alice.memory.adopt(handle, alice.session()).unwrap();
}
