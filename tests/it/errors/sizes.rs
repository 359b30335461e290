//! Names and sizes that nothing can have, and room that is not there.

use super::*;

#[test]
fn names_that_break_the_rule_are_refused() {
    let scene = Scene::new();
    let too_long = "x".repeat(65);
    let huge = "x".repeat(100_000);
    let bad = [
        "", " ", "no/name", "-x", ".x", "a b", "ü", "a\0b", "../p", &too_long, &huge,
    ];
    scene.refuses(|refused| {
        for name in bad {
            let outcome = scene.create(|create| create.name = name.to_owned());
            refused.is("a pool's name", Reason::InvalidField, outcome);
        }
    });
    scene.refuses(|refused| {
        for name in bad {
            let outcome = scene.create_arenas(|create| create.name = name.to_owned());
            refused.is("an arena pool's name", Reason::InvalidField, outcome);
        }
    });
    scene.refuses(|refused| {
        for name in bad {
            let publish = v1::PublishRequest {
                handle: Some(scene.block),
                name: name.to_owned(),
                ..Default::default()
            };
            let outcome = call!(scene.rpc, pools.publish(publish));
            refused.is("a block's name", Reason::InvalidField, outcome);
        }
    });
    // An arena's may have slashes, but not this.
    scene.refuses(|refused| {
        for name in ["", "/x", "a b", &too_long] {
            let share = v1::ShareArenaRequest {
                arena: Some(scene.arena),
                name: name.to_owned(),
                request_id: 0,
            };
            let outcome = call!(scene.rpc, arenas.share(share));
            refused.is("an arena's name", Reason::InvalidField, outcome);
        }
    });
    let label = |label: &str| {
        let open = v1::OpenSessionRequest {
            label: label.to_owned(),
            ttl_ms: 0,
            ..Default::default()
        };
        call!(scene.rpc, sessions.open(open)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is(
            "a label with a control character",
            Reason::InvalidField,
            label("a\nb"),
        );
        refused.is("a long label", Reason::InvalidField, label(&huge));
    });
}

#[test]
fn sizes_of_nothing_and_beyond_everything_are_refused() {
    let scene = Scene::new();
    let sizes = [0, u64::MAX, (1 << 40) + 1, u64::MAX - 65_535];
    scene.refuses(|refused| {
        for size in sizes {
            let outcome = scene.create(|create| create.capacity_bytes = size);
            refused.is("a capacity", Reason::InvalidField, outcome);
        }
    });
    scene.refuses(|refused| {
        for size in [MIB - 1, u64::MAX] {
            let outcome = scene.create(|create| create.max_capacity_bytes = size);
            refused.is(
                "a maximum below the capacity, or beyond all",
                Reason::InvalidField,
                outcome,
            );
        }
    });
    scene.refuses(|refused| {
        for (arenas, arena_bytes) in [
            (0, 1),
            (1, 0),
            (65_537, 1),
            (65_536, 1 << 30),
            (1, u64::MAX),
        ] {
            let outcome = scene.create_arenas(|create| {
                create.arenas = arenas;
                create.arena_bytes = arena_bytes;
            });
            refused.is(
                "a number of arenas or their size",
                Reason::InvalidField,
                outcome,
            );
        }
    });
    scene.refuses(|refused| {
        for size in sizes {
            refused.is("a block", Reason::InvalidField, scene.alloc(sized(size)));
        }
    });
    scene.refuses(|refused| {
        for align_bytes in [3, 48, 1 << 22, u64::MAX] {
            let outcome = scene.alloc(v1::BlockSpec {
                align_bytes,
                ..sized(100)
            });
            refused.is("an alignment", Reason::InvalidField, outcome);
        }
    });
    scene.refuses(|refused| {
        refused.is(
            "a type tag of more than 24 bits",
            Reason::InvalidField,
            scene.alloc(v1::BlockSpec {
                type_tag: 1 << 24,
                ..sized(100)
            }),
        );
        refused.is(
            "two blocks where one is made",
            Reason::InvalidField,
            scene.alloc(v1::BlockSpec {
                count: 2,
                ..sized(100)
            }),
        );
    });
    scene.rpc.alloc(scene.pool_id, MIB).unwrap();
    let resize = |capacity_bytes| {
        let set = v1::SetCapacityRequest {
            name: "p".to_owned(),
            capacity_bytes,
        };
        call!(scene.rpc, pools.set_capacity(set)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is("no capacity", Reason::InvalidField, resize(0));
        refused.is("less than is granted", Reason::CapacityTooSmall, resize(1));
        refused.is(
            "more than is mapped",
            Reason::CapacityTooLarge,
            resize(16 * MIB + 1),
        );
    });
    let realloc = |handle, size_bytes| {
        let realloc = v1::ReallocRequest {
            handle: Some(handle),
            size_bytes,
            request_id: 0,
        };
        call!(scene.rpc, pools.realloc(realloc)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is(
            "realloc to nothing",
            Reason::InvalidField,
            realloc(scene.block, 0),
        );
        refused.is(
            "realloc beyond the pool",
            Reason::PoolExhausted,
            realloc(scene.block, 20 * MIB),
        );
    });
    let in_arena = |size_bytes, align_bytes| {
        let alloc = v1::ArenaAllocRequest {
            arena: Some(scene.arena),
            size_bytes,
            align_bytes,
            request_id: 0,
        };
        call!(scene.rpc, arenas.alloc(alloc)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is("nothing in an arena", Reason::InvalidField, in_arena(0, 0));
        refused.is(
            "an odd alignment in an arena",
            Reason::InvalidField,
            in_arena(8, 3),
        );
        refused.is(
            "more than an arena has",
            Reason::ArenaFull,
            in_arena(4097, 0),
        );
    });
}

#[test]
fn full_pools_budgets_and_quotas_refuse_and_keep_what_is_there() {
    let scene = Scene::new();
    scene.refuses(|refused| {
        refused.is(
            "more than the pool",
            Reason::PoolExhausted,
            scene.alloc(sized(9 * MIB)),
        );
    });
    // Nothing of a batch is made if one of it cannot be.
    let batch = |specs: Vec<v1::BlockSpec>| {
        let batch = v1::AllocBatchRequest {
            pool_id: scene.pool_id,
            specs,
            request_id: 0,
        };
        call!(scene.rpc, pools.alloc_batch(batch)).map(|_| ())
    };
    scene.refuses(|refused| {
        refused.is(
            "a batch whose last is too large",
            Reason::PoolExhausted,
            batch(vec![sized(1000), sized(100_000), sized(9 * MIB)]),
        );
        refused.is(
            "an oversize batch",
            Reason::InvalidField,
            batch(vec![v1::BlockSpec {
                count: 65_537,
                ..sized(16)
            }]),
        );
        refused.is(
            "a batch that is oversize in sum",
            Reason::InvalidField,
            batch(vec![
                v1::BlockSpec {
                    count: u32::MAX,
                    ..sized(16)
                };
                3
            ]),
        );
    });
    scene.refuses(|refused| {
        refused.is(
            "arenas beyond the user's quota",
            Reason::QuotaExceeded,
            scene.create_arenas(|create| create.arena_bytes = 40 * MIB),
        );
    });
    scene.refuses(|refused| {
        refused.is(
            "a pool of that name",
            Reason::PoolExists,
            scene.create(|create| create.name = "p".to_owned()),
        );
        refused.is(
            "an arena pool of that name",
            Reason::PoolExists,
            scene.create(|create| create.name = "q".to_owned()),
        );
    });
    scene.rpc.create_pool("three", MIB);
    scene.rpc.create_pool("four", MIB);
    scene.refuses(|refused| {
        refused.is("a fifth pool", Reason::TooManyPools, scene.create(|_| {}));
    });
}

#[test]
fn budget_of_the_daemon_refuses_before_anything_is_committed() {
    let daemon = TestDaemon::start_with(|config| config.limits.budget_bytes = Some(4 * MIB));
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", 64 * MIB);
    let before = rpc.info().committed_bytes;
    let error = rpc.alloc(pool_id, 8 * MIB).unwrap_err();
    assert_eq!(error.reason, Reason::BudgetExhausted);
    assert_eq!(error.number("limit_bytes"), Some(4 * MIB));
    let create = v1::CreateArenaPoolRequest {
        name: "q".to_owned(),
        arenas: 8,
        arena_bytes: MIB,
        ..Default::default()
    };
    let error = call!(rpc, arenas.create(create)).unwrap_err();
    assert_eq!(error.reason, Reason::BudgetExhausted);
    let stat = rpc.stat("p");
    // But for tables, which stay for the next call that needs them.
    let tables = stat.table_bytes - 2 * goumem_alloc::HEADER_BYTES;
    assert_eq!(rpc.info().committed_bytes, before + tables);
    assert_eq!(
        (stat.blocks, stat.leased_bytes, stat.committed_bytes),
        (0, 0, 0)
    );
}
