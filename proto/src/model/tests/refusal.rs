//! What makes no sense is refused, by the path of the field.

use std::fmt::Debug;

use prost::bytes::Bytes;

use super::*;

/// A field, and how to spoil it.
type Case<W> = (&'static str, fn(&mut W));

/// Asserts that a message is refused because of that field.
#[track_caller]
fn refused<D: Debug + TryFrom<W, Error = ProtocolError>, W>(wire: W, field: &str) {
    match D::try_from(wire) {
        Err(error) => assert_eq!(error.field(), field, "{error}"),
        Ok(value) => panic!("accepted as {value:?}, in spite of {field}"),
    }
}

#[test]
fn block_specs_that_make_no_sense_are_refused() {
    let good = v1::BlockSpec::from(spec());
    for (wire, field) in [
        (
            v1::BlockSpec {
                size_bytes: 0,
                ..good
            },
            "size_bytes",
        ),
        (
            v1::BlockSpec {
                size_bytes: 1 << 40,
                ..good
            },
            "size_bytes",
        ), // a pool has a page less
        (
            v1::BlockSpec {
                size_bytes: (1 << 40) + 1,
                ..good
            },
            "size_bytes",
        ),
        (
            v1::BlockSpec {
                size_bytes: MAX,
                ..good
            },
            "size_bytes",
        ),
        (
            v1::BlockSpec {
                align_bytes: 3,
                ..good
            },
            "align_bytes",
        ),
        (
            v1::BlockSpec {
                align_bytes: 4 << 20,
                ..good
            },
            "align_bytes",
        ),
        (
            v1::BlockSpec {
                align_bytes: 1 << 63,
                ..good
            },
            "align_bytes",
        ),
        (
            v1::BlockSpec {
                type_tag: 1 << 24,
                ..good
            },
            "type_tag",
        ),
        (v1::BlockSpec { count: 2, ..good }, "count"),
    ] {
        refused::<BlockSpec, _>(wire, field);
        let alloc = v1::AllocRequest {
            pool_id: 1,
            spec: Some(wire),
            request_id: 0,
        };
        refused::<Alloc, _>(alloc, &format!("spec.{field}"));
    }
    refused::<Alloc, _>(
        v1::AllocRequest {
            pool_id: 1,
            ..Default::default()
        },
        "spec",
    );
    let alloc = v1::AllocRequest {
        pool_id: 0,
        spec: Some(good),
        request_id: 0,
    };
    refused::<Alloc, _>(alloc, "pool_id");
}

#[test]
fn batches_are_bounded_by_what_they_count() {
    let good = v1::BlockSpec::from(spec());
    let batch = |specs| v1::AllocBatchRequest {
        pool_id: 1,
        specs,
        request_id: 0,
    };
    let counted = |count| v1::BlockSpec { count, ..good };
    assert!(AllocBatch::try_from(batch(vec![])).is_ok());
    assert!(AllocBatch::try_from(batch(vec![counted(65_535), counted(0)])).is_ok());
    refused::<AllocBatch, _>(batch(vec![counted(65_536), counted(0)]), "specs");
    refused::<AllocBatch, _>(batch(vec![counted(u32::MAX); 4]), "specs");
    let wire = batch(vec![
        good,
        v1::BlockSpec {
            size_bytes: 0,
            ..good
        },
    ]);
    refused::<AllocBatch, _>(wire, "specs[1].size_bytes");

    let frees = |handles| v1::FreeBatchRequest {
        handles,
        request_id: 0,
    };
    let good = v1::Handle::from(handle());
    refused::<FreeBatch, _>(frees(vec![good; MAX_BATCH_BLOCKS + 1]), "handles");
    refused::<FreeBatch, _>(frees(vec![good, v1::Handle::default()]), "handles[1].high");
}

#[test]
fn handles_that_name_nothing_are_refused() {
    let (high, low) = handle().to_words();
    for (handle, field) in [
        (None, "handle"),
        (Some(v1::Handle::default()), "handle.high"),
        (Some(v1::Handle { high: 1, low }), "handle.high"),
        (
            Some(v1::Handle {
                high,
                low: low & !15,
            }),
            "handle.low",
        ),
        (
            Some(v1::Handle {
                high,
                low: low | 15,
            }),
            "handle.low",
        ),
    ] {
        refused::<Free, _>(
            v1::FreeRequest {
                handle,
                request_id: 0,
            },
            field,
        );
    }
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    let good = v1::CreatePoolRequest::from(create_pool());
    let cases: &[Case<v1::CreatePoolRequest>] = &[
        ("name", |wire| wire.name = String::new()),
        ("name", |wire| wire.name = "../etc".into()),
        ("name", |wire| wire.name = "x".repeat(1 << 20)),
        ("capacity_bytes", |wire| wire.capacity_bytes = 0),
        ("capacity_bytes", |wire| wire.capacity_bytes = MAX),
        ("max_capacity_bytes", |wire| {
            wire.max_capacity_bytes = (1 << 20) - 1
        }),
        ("max_capacity_bytes", |wire| {
            wire.max_capacity_bytes = (1 << 40) + 1
        }),
        ("backing", |wire| wire.backing = 4),
        ("backing", |wire| wire.backing = -1),
        ("permissions.mode", |wire| {
            wire.permissions.as_mut().unwrap().mode = 0o700
        }),
        ("permissions.mode", |wire| {
            wire.permissions.as_mut().unwrap().mode = 0o1600
        }),
    ];
    for (field, spoil) in cases {
        let mut wire = good.clone();
        spoil(&mut wire);
        refused::<CreatePool, _>(wire, field);
    }
    let wire = v1::OpenPoolRequest {
        name: "p".into(),
        access: 3,
        expect_capacity_bytes: 0,
    };
    refused::<OpenPool, _>(wire, "access");
    let wire = v1::SetCapacityRequest {
        name: "p".into(),
        capacity_bytes: 0,
    };
    refused::<SetCapacity, _>(wire, "capacity_bytes");

    let good = v1::CreateArenaPoolRequest::from(create_arena_pool());
    let cases: &[Case<v1::CreateArenaPoolRequest>] = &[
        ("arenas", |wire| wire.arenas = 0),
        ("arenas", |wire| wire.arenas = 65_537),
        ("arena_bytes", |wire| wire.arena_bytes = 0),
        ("arena_bytes", |wire| wire.arena_bytes = (1 << 24) + 1), // 2^40 in all is the most
        ("arena_bytes", |wire| wire.arena_bytes = MAX),
    ];
    for (field, spoil) in cases {
        let mut wire = good.clone();
        spoil(&mut wire);
        refused::<CreateArenaPool, _>(wire, field);
    }
}

#[test]
fn leases_and_spans_that_make_no_sense_are_refused() {
    let good = v1::LeaseRequest {
        pool_id: 1,
        ..Default::default()
    };
    for (wire, field) in [
        (v1::LeaseRequest { pool_id: 0, ..good }, "pool_id"),
        (
            v1::LeaseRequest {
                count: 4097,
                ..good
            },
            "count",
        ),
        (
            v1::LeaseRequest {
                size_class: 100,
                ..good
            },
            "size_class",
        ),
        (
            v1::LeaseRequest {
                size_class: 256,
                ..good
            },
            "size_class",
        ),
        (
            v1::LeaseRequest {
                size_class: 126,
                ..good
            },
            "size_class",
        ),
        (
            v1::LeaseRequest {
                align_bytes: 64,
                ..good
            },
            "align_bytes",
        ),
        (
            v1::LeaseRequest {
                size_class: 5,
                large_bytes: 2 << 20,
                ..good
            },
            "size_class",
        ),
        (
            v1::LeaseRequest {
                large_bytes: 1 << 20,
                ..good
            },
            "large_bytes",
        ),
        (
            v1::LeaseRequest {
                large_bytes: 1 << 40,
                ..good
            },
            "large_bytes",
        ),
        (
            v1::LeaseRequest {
                large_bytes: 2 << 20,
                align_bytes: 5,
                ..good
            },
            "align_bytes",
        ),
    ] {
        refused::<Lease, _>(wire, field);
    }
    let good = v1::Span::from(span());
    for (wire, field) in [
        (v1::Span { pages: 0, ..good }, "pages"),
        (v1::Span { pages: 65, ..good }, "pages"),
        (
            v1::Span {
                first_page: u32::MAX,
                ..good
            },
            "pages",
        ),
        (
            v1::Span {
                size_class: 85,
                ..good
            },
            "size_class",
        ),
        (
            v1::Span {
                epoch: 4096,
                ..good
            },
            "epoch",
        ),
        (
            v1::Span {
                epoch: 65_536,
                ..good
            },
            "epoch",
        ),
    ] {
        refused::<SpanInfo, _>(wire, field);
        let wire = v1::ReturnSpansRequest {
            pool_id: 1,
            spans: vec![good, wire],
            request_id: 0,
        };
        refused::<ReturnSpans, _>(wire, &format!("spans[1].{field}"));
    }
    let spans = vec![good; MAX_CALL_SPANS + 1];
    let wire = v1::ReturnSpansRequest {
        pool_id: 1,
        spans,
        request_id: 0,
    };
    refused::<ReturnSpans, _>(wire, "spans");
}

#[test]
fn sessions_arenas_and_bytes_that_make_no_sense_are_refused() {
    for ttl_ms in [1, 99, 3_600_001, MAX] {
        let wire = v1::OpenSessionRequest {
            ttl_ms,
            ..Default::default()
        };
        refused::<OpenSession, _>(wire, "ttl_ms");
    }
    let label = "\u{1b}]0;".to_owned();
    for (wire, field) in [
        (
            v1::OpenSessionRequest {
                label,
                ..Default::default()
            },
            "label",
        ),
        (
            v1::OpenSessionRequest {
                nonce: vec![1; 15],
                ..Default::default()
            },
            "nonce",
        ),
    ] {
        refused::<OpenSession, _>(wire, field);
    }
    for session in [0, 65_535, 65_536] {
        refused::<KillSession, _>(v1::KillSessionRequest { session, serial: 0 }, "session");
    }
    for wait_ms in [86_400_001, MAX] {
        let wire = v1::GetArenaRequest {
            pool_id: 1,
            wait_ms,
            request_id: 0,
        };
        refused::<GetArena, _>(wire, "wait_ms");
    }
    let handle = Some(v1::Handle::from(handle()));
    for (offset_bytes, length_bytes, field) in [
        (MAX, 0, "offset_bytes"),
        (1 << 40, (1 << 40) + 1, "length_bytes"),
    ] {
        refused::<Read, _>(
            v1::ReadRequest {
                handle,
                offset_bytes,
                length_bytes,
            },
            field,
        );
    }
    let wire = |handle, offset_bytes| v1::WriteRequest {
        handle,
        offset_bytes,
        data: Bytes::new(),
    };
    refused::<WriteStart, _>(wire(None, 0), "handle");
    refused::<WritePiece, _>(wire(handle, 0), "handle");
    refused::<WritePiece, _>(wire(None, 1), "offset_bytes");
}

#[test]
fn replies_that_make_no_sense_are_refused() {
    let good = v1::PoolInfo::from(pool_info());
    let reply = |pool| v1::PoolReply {
        pool,
        created: false,
        access: 0,
    };
    refused::<OpenedPool, _>(reply(None), "pool");
    for (wire, field) in [
        (
            v1::PoolInfo {
                pool_id: 0,
                ..good.clone()
            },
            "pool_id",
        ),
        (
            v1::PoolInfo {
                backing: 0,
                ..good.clone()
            },
            "backing",
        ),
        (
            v1::PoolInfo {
                permissions: None,
                ..good.clone()
            },
            "permissions",
        ),
    ] {
        refused::<OpenedPool, _>(reply(Some(wire)), &format!("pool.{field}"));
    }
    let mut wire = good;
    wire.permissions.as_mut().unwrap().gid = None;
    let list = v1::ListPoolsReply { pools: vec![wire] };
    refused::<Vec<PoolInfo>, _>(list, "pools[0].permissions.gid");

    let wire = v1::Block {
        used_bytes: 99,
        ..block().into()
    };
    refused::<Allocated, _>(v1::AllocReply { block: Some(wire) }, "block.used_bytes");
    let failures = vec![v1::FreeFailure {
        index: 0,
        reason: "BAD_MOOD".into(),
    }];
    refused::<FreedBatch, _>(
        v1::FreeBatchReply { freed: 0, failures },
        "failures[0].reason",
    );
    refused::<Event, _>(v1::Event { event: None }, "event");
    let pressure = v1::event::Event::Pressure(v1::Pressure { pool_id: 0 });
    refused::<Event, _>(
        v1::Event {
            event: Some(pressure),
        },
        "pressure.pool_id",
    );
}
