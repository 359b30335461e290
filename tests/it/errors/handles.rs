//! Handles and leases that name nothing, something else, or somebody else's.

use super::*;

fn handle(pool_id: u32, generation: u64, offset: u64, kind: HandleKind) -> v1::Handle {
    Handle::new(
        PoolId::new(pool_id).unwrap(),
        Generation::new(generation).unwrap(),
        Offset::new(offset),
        kind,
    )
    .into()
}

#[test]
fn handles_of_nothing_are_refused_by_every_call_that_takes_one() {
    let scene = Scene::new();
    let id = scene.pool_id;
    let block = Handle::try_from(scene.block).unwrap();
    let (generation, offset) = (block.generation().get(), block.offset().get());
    let gone = scene.rpc.alloc(id, 1000).unwrap();
    scene.rpc.free(gone).unwrap();
    let unknown_pool = if id == 1 { 2 } else { id - 1 };
    let cases = [
        (
            "no handle at all",
            v1::Handle { high: 0, low: 0 },
            Reason::InvalidField,
        ),
        (
            "all bits set",
            v1::Handle {
                high: u64::MAX,
                low: u64::MAX,
            },
            Reason::InvalidField,
        ),
        ("freed", gone, Reason::DoubleFree),
        (
            "another generation",
            handle(id, generation + 5, offset, HandleKind::Block),
            Reason::StaleHandle,
        ),
        (
            "between two slots",
            handle(id, generation, offset + 16, HandleKind::Block),
            Reason::StaleHandle,
        ),
        (
            "in the tables",
            handle(id, generation, 4096, HandleKind::Block),
            Reason::StaleHandle,
        ),
        (
            "behind the end",
            handle(id, generation, (1 << 48) - 16, HandleKind::Block),
            Reason::StaleHandle,
        ),
        (
            "an unknown pool",
            handle(unknown_pool, generation, offset, HandleKind::Block),
            Reason::PoolNotFound,
        ),
        (
            "an arena's kind",
            handle(id, generation, offset, HandleKind::Arena),
            Reason::WrongKind,
        ),
    ];
    for (what, handle, reason) in cases {
        // Whoever does not free it cannot tell a double free from a stale handle.
        let looking = if reason == Reason::DoubleFree {
            Reason::StaleHandle
        } else {
            reason
        };
        let rpc = &scene.rpc;
        scene.refuses(|refused| {
            refused.is(what, reason, rpc.free(handle));
            refused.is(what, looking, call!(*rpc, pools.resolve(on(handle))));
            refused.is(what, looking, call!(*rpc, pools.keep(on(handle))));
            refused.is(what, looking, call!(*rpc, pools.adopt(on(handle))));
            refused.is(what, looking, call!(*rpc, pools.take(on(handle))));
            refused.is(what, looking, call!(*rpc, pools.pin(on(handle))));
            // A pin is found by its place: nobody has one there.
            let unpin = match reason {
                Reason::WrongKind => Reason::StaleHandle,
                _ => looking,
            };
            refused.is(what, unpin, call!(*rpc, pools.unpin(on(handle))));
        });
    }
}

#[test]
fn arena_handles_of_nothing_are_refused() {
    let scene = Scene::new();
    let arena = Handle::try_from(scene.arena).unwrap();
    let (id, generation, offset) = (
        scene.arenas_id,
        arena.generation().get(),
        arena.offset().get(),
    );
    let give_back = |arena| scene.rpc.return_arena(arena);
    scene.refuses(|refused| {
        refused.is(
            "another life",
            Reason::StaleHandle,
            give_back(handle(id, generation + 1, offset, HandleKind::Arena)),
        );
        refused.is(
            "behind the end",
            Reason::StaleHandle,
            give_back(handle(id, generation, (1 << 48) - 16, HandleKind::Arena)),
        );
        refused.is(
            "a block's kind",
            Reason::WrongKind,
            give_back(handle(id, generation, offset, HandleKind::Block)),
        );
        refused.is(
            "a pool's block",
            Reason::PoolNotFound,
            give_back(scene.block),
        );
        refused.is(
            "a wait of more than a day",
            Reason::InvalidField,
            scene.rpc.get_arena(id, 86_400_001),
        );
        refused.is(
            "arenas of a pool of blocks",
            Reason::PoolNotFound,
            scene.rpc.get_arena(scene.pool_id, 0),
        );
    });
}

#[test]
fn bytes_outside_of_a_block_are_neither_read_nor_written() {
    let scene = Scene::new();
    let rpc = &scene.rpc;
    let read = |offset, length| rpc.read(scene.block, offset, length).map(|_| ());
    let write = |offset, bytes: &[u8]| rpc.write(scene.block, offset, bytes).map(|_| ());
    scene.refuses(|refused| {
        refused.is("read past the end", Reason::OutOfRange, read(0, 1001));
        refused.is("read behind the end", Reason::OutOfRange, read(1001, 0));
        refused.is(
            "read far behind the end",
            Reason::OutOfRange,
            read(1 << 40, 1),
        );
        refused.is(
            "read that overflows",
            Reason::InvalidField,
            read(u64::MAX, 2),
        );
        refused.is(
            "write past the end",
            Reason::OutOfRange,
            write(999, &[1, 2]),
        );
        refused.is(
            "write that overflows",
            Reason::InvalidField,
            write(u64::MAX, &[1, 2]),
        );
    });
}

#[test]
fn blocks_of_another_session_are_not_one_to_keep_or_publish() {
    let scene = Scene::new();
    let other = scene.daemon.rpc();
    let publish = |rpc: &Rpc| {
        let publish = v1::PublishRequest {
            handle: Some(scene.block),
            name: "x".to_owned(),
            ..Default::default()
        };
        call!(*rpc, pools.publish(publish)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is(
            "keep",
            Reason::NotOwner,
            call!(other, pools.keep(on(scene.block))),
        );
        refused.is("publish", Reason::NotOwner, publish(&other));
        refused.is("return", Reason::NotOwner, other.return_arena(scene.arena));
        refused.is(
            "unpin",
            Reason::StaleHandle,
            call!(other, pools.unpin(on(scene.block))),
        );
    });
    // Pinned by one, it is not taken by another.
    call!(other, pools.pin(on(scene.block))).unwrap();
    scene.refuses(|refused| {
        refused.is(
            "take what is pinned",
            Reason::BlockPinned,
            call!(scene.rpc, pools.take(on(scene.block))),
        );
    });
    call!(other, pools.unpin(on(scene.block))).unwrap();
    publish(&scene.rpc).unwrap();
    let second = scene.rpc.alloc(scene.pool_id, 10).unwrap();
    let publish = v1::PublishRequest {
        handle: Some(second),
        name: "x".to_owned(),
        ..Default::default()
    };
    let lookup = v1::LookupRequest {
        pool_id: scene.pool_id,
        name: "y".to_owned(),
    };
    scene.refuses(|refused| {
        refused.is(
            "a name in use",
            Reason::NameExists,
            call!(scene.rpc, pools.publish(publish)),
        );
        refused.is(
            "no such name",
            Reason::NameNotFound,
            call!(scene.rpc, pools.lookup(lookup)),
        );
    });
}

#[test]
fn leases_that_are_not_ones_own_cannot_be_returned() {
    let scene = Scene::new();
    let lease = v1::LeaseRequest {
        pool_id: scene.pool_id,
        size_class: 10,
        count: 1,
        ..Default::default()
    };
    let span = call!(scene.rpc, pools.lease(lease)).unwrap().spans[0];
    let other = scene.daemon.rpc();
    let give_back = |rpc: &Rpc, span: v1::Span| {
        let request = v1::ReturnSpansRequest {
            pool_id: scene.pool_id,
            spans: vec![span],
            request_id: 0,
        };
        call!(*rpc, pools.return_spans(request)).map(drop)
    };
    let lease = |change: fn(&mut v1::LeaseRequest)| {
        let mut lease = v1::LeaseRequest {
            pool_id: scene.pool_id,
            size_class: 10,
            ..Default::default()
        };
        change(&mut lease);
        call!(scene.rpc, pools.lease(lease)).map(drop)
    };
    scene.refuses(|refused| {
        refused.is(
            "another session's lease",
            Reason::StaleLease,
            give_back(&other, span),
        );
        refused.is(
            "a lease of another epoch",
            Reason::StaleLease,
            give_back(
                &scene.rpc,
                v1::Span {
                    epoch: span.epoch + 1,
                    ..span
                },
            ),
        );
        refused.is(
            "the middle of nothing",
            Reason::StaleLease,
            give_back(
                &scene.rpc,
                v1::Span {
                    first_page: span.first_page + 100,
                    ..span
                },
            ),
        );
        refused.is(
            "a page that no pool has",
            Reason::StaleLease,
            give_back(
                &scene.rpc,
                v1::Span {
                    first_page: (1 << 24) - 1,
                    ..span
                },
            ),
        );
        refused.is(
            "a class there is not",
            Reason::InvalidField,
            lease(|lease| lease.size_class = 100),
        );
        refused.is(
            "more spans than a call takes",
            Reason::InvalidField,
            lease(|lease| lease.count = 4097),
        );
    });
    give_back(&scene.rpc, span).unwrap();
    scene.refuses(|refused| {
        refused.is(
            "a lease twice",
            Reason::StaleLease,
            give_back(&scene.rpc, span),
        );
    });
}
