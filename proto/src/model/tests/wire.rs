//! Every message goes to the wire and back unchanged.

use std::fmt::Debug;
use std::num::NonZeroU64;
use std::time::Duration;

use goumem_alloc::{SessionNumber, SizeClass};
use prost::Message;
use prost::bytes::Bytes;

use super::*;
use crate::name::{ArenaName, BlockName};
use crate::reason::Reason;

/// Asserts that a value survives the way over the wire, bytes and all.
#[track_caller]
pub(super) fn survives<W, D>(value: D)
where
    D: Clone + PartialEq + Debug + TryFrom<W, Error = ProtocolError>,
    W: From<D> + Message + Default,
{
    let bytes = W::from(value.clone()).encode_to_vec();
    let wire = W::decode(&*bytes).unwrap();
    assert_eq!(D::try_from(wire), Ok(value));
}

#[test]
fn daemon_and_session_messages_survive_the_wire() {
    survives::<v1::InfoReply, _>(DaemonInfo {
        version: "0.1.0".into(),
        pid: 1,
        committed_bytes: 2,
        budget_limit_bytes: 3,
        available_bytes: 4,
        pools: 5,
        arena_pools: 6,
        sessions: 7,
        page_bytes: 65_536,
        fd_socket: Some("/run/goumem/goumemd.fd.sock".into()),
        layout_version: 1,
        epoch: 3,
        quarantined: 1,
        uptime: Duration::from_secs(99),
    });
    for nonce in [None, Some([7; 16])] {
        survives::<v1::OpenSessionRequest, _>(OpenSession {
            label: "".parse().unwrap(),
            nonce,
            ttl: MIN_TTL,
        });
    }
    for (fd_socket, ttl) in [(Some("/x".to_owned()), None), (None, Some(DEFAULT_TTL))] {
        let session = SessionNumber::new(1);
        let token = SessionToken::new([0xa5; 16]);
        let may_map = fd_socket.is_some();
        survives::<v1::OpenSessionReply, _>(OpenedSession {
            session,
            serial: 1,
            token,
            may_map,
            fd_socket,
            epoch: 4,
            ttl,
        });
        survives::<v1::KeepAliveReply, _>(RenewedSession { ttl });
    }
    survives::<v1::ResumeSessionReply, _>(ResumedSession {
        session: SessionNumber::new(1),
        serial: 9,
        highest_request_id: ID,
        epoch: 5,
        fd_socket: Some("/x".to_owned()),
    });
    for event in [
        Event::Welcome,
        Event::Pressure { pool_id: pool_id() },
        Event::PoolDestroyed { pool_id: pool_id() },
        Event::ShuttingDown {
            deadline: Duration::from_secs(5),
        },
    ] {
        survives::<v1::Event, _>(event);
    }
    survives::<v1::CloseSessionRequest, _>(CloseSession { force: true });
    survives::<v1::CloseSessionReply, _>(ClosedSession {
        reclaimed_bytes: MAX,
    });
    for serial in [None, NonZeroU64::new(8)] {
        survives::<v1::KillSessionRequest, _>(KillSession {
            session: SessionNumber::new(2),
            serial,
        });
    }
    survives::<v1::ListSessionsReply, _>(vec![
        session_info(),
        SessionInfo {
            command: None,
            ..session_info()
        },
    ]);
}

#[test]
fn pool_messages_survive_the_wire() {
    survives::<v1::CreatePoolRequest, _>(create_pool());
    let plain = CreatePool {
        max_capacity_bytes: None,
        backing: None,
        gid: None,
        mode: DEFAULT_MODE,
        request_id: RequestId::NONE,
        ..create_pool()
    };
    survives::<v1::CreatePoolRequest, _>(plain);
    let name = create_pool().name;
    for (access, expect_capacity_bytes) in
        [(Access::ReadOnly, None), (Access::ReadWrite, Some(1 << 40))]
    {
        let name = name.clone();
        survives::<v1::OpenPoolRequest, _>(OpenPool {
            name,
            access,
            expect_capacity_bytes,
        });
        survives::<v1::PoolReply, _>(OpenedPool {
            pool: pool_info(),
            created: true,
            access,
        });
    }
    survives::<v1::DestroyPoolRequest, _>(DestroyPool {
        name: name.clone(),
        request_id: ID,
    });
    survives::<v1::ListPoolsReply, _>(vec![
        pool_info(),
        PoolInfo {
            os_name: None,
            backing: Backing::Memfd,
            ..pool_info()
        },
    ]);
    survives::<v1::StatPoolRequest, _>(StatPool { name: name.clone() });
    let holder = Holder {
        session: SessionNumber::DAEMON,
        uid: 1,
        pid: 2,
        bytes: 3,
    };
    survives::<v1::PoolStat, _>(PoolStat {
        pool: pool_info(),
        requested_bytes: 1,
        used_bytes: 2,
        leased_bytes: 3,
        abandoned_bytes: 4,
        free_committed_bytes: 5,
        committed_bytes: 6,
        table_bytes: 7,
        largest_free_bytes: 8,
        blocks: 9,
        kept_blocks: 10,
        named_blocks: 11,
        pins: 12,
        condemned_blocks: 13,
        sessions: 14,
        top_holders: vec![holder],
    });
    let capacity_bytes = 1 << 30;
    survives::<v1::SetCapacityRequest, _>(SetCapacity {
        name: name.clone(),
        capacity_bytes,
    });
    survives::<v1::FlushPoolRequest, _>(FlushPool { name: name.clone() });
    survives::<v1::PurgePoolRequest, _>(PurgePool { name });
    survives::<v1::PurgePoolReply, _>(PurgedPool { purged_bytes: MAX });
}

#[test]
fn block_messages_survive_the_wire() {
    let (pool_id, handle, request_id) = (pool_id(), handle(), ID);
    survives::<v1::AllocRequest, _>(Alloc {
        pool_id,
        spec: spec(),
        request_id,
    });
    survives::<v1::AllocReply, _>(Allocated { block: block() });
    survives::<v1::FreeRequest, _>(Free { handle, request_id });
    let specs = vec![
        CountedSpec {
            spec: spec(),
            count: 65_535,
        },
        CountedSpec {
            spec: BlockSpec::new(1),
            count: 1,
        },
    ];
    survives::<v1::AllocBatchRequest, _>(AllocBatch {
        pool_id,
        specs,
        request_id,
    });
    survives::<v1::AllocBatchReply, _>(AllocatedBatch {
        handles: vec![handle; 3],
    });
    let handles = vec![handle; MAX_BATCH_BLOCKS];
    survives::<v1::FreeBatchRequest, _>(FreeBatch {
        handles,
        request_id,
    });
    let failures = vec![FreeFailure {
        index: 1,
        reason: Reason::DoubleFree,
    }];
    survives::<v1::FreeBatchReply, _>(FreedBatch { freed: 2, failures });
    survives::<v1::ReallocRequest, _>(Realloc {
        handle,
        size_bytes: 1 << 40,
        request_id,
    });
    survives::<v1::HandleRequest, _>(HandleRequest { handle, request_id });
    survives::<v1::HandleReply, _>(HandleReply { handle });
    let name = "model.v2".parse::<BlockName>().unwrap();
    survives::<v1::PublishRequest, _>(Publish {
        handle,
        name: name.clone(),
        replace: true,
        request_id,
    });
    survives::<v1::LookupRequest, _>(Lookup {
        pool_id,
        name: name.clone(),
    });
    survives::<v1::WithdrawRequest, _>(Withdraw {
        pool_id,
        name: name.clone(),
        free: true,
        request_id,
    });
    survives::<v1::ListKeptRequest, _>(ListKept { pool_id });
    let kept = |name| KeptBlock {
        block: block(),
        name,
        uid: 1000,
    };
    survives::<v1::ListKeptReply, _>(vec![kept(None), kept(Some(name))]);
    for spec in [
        SpanSpec::Class(SizeClass::from_index(0).unwrap()),
        SpanSpec::Large {
            size_bytes: (1 << 20) + 1,
            align_bytes: 16,
        },
        SpanSpec::Large {
            size_bytes: 1,
            align_bytes: 2 << 20,
        },
    ] {
        survives::<v1::LeaseRequest, _>(Lease {
            pool_id,
            spec,
            count: 4096,
            request_id,
        });
    }
    survives::<v1::LeaseReply, _>(vec![
        span(),
        SpanInfo {
            survivors: false,
            ..span()
        },
    ]);
    let spans = vec![span(); MAX_CALL_SPANS];
    survives::<v1::ReturnSpansRequest, _>(ReturnSpans {
        pool_id,
        spans,
        request_id,
    });
    survives::<v1::ReturnSpansReply, _>(ReturnedSpans { returned: 1 });
}

#[test]
fn arena_and_byte_messages_survive_the_wire() {
    let (pool_id, arena, request_id) = (pool_id(), handle(), ID);
    survives::<v1::CreateArenaPoolRequest, _>(create_arena_pool());
    let access = Access::ReadWrite;
    survives::<v1::OpenArenaPoolRequest, _>(OpenArenaPool {
        name: create_arena_pool().name,
        access,
        expect_arenas: Some(4),
        expect_arena_bytes: None,
    });
    survives::<v1::ArenaPoolReply, _>(OpenedArenaPool {
        pool: arena_pool_info(),
        created: false,
        access,
    });
    survives::<v1::ListArenaPoolsReply, _>(vec![arena_pool_info()]);
    survives::<v1::ArenaPoolStat, _>(ArenaPoolStat {
        pool: arena_pool_info(),
        free: 1,
        exclusive: 2,
        named: 3,
        waiting: 4,
        used_bytes: 5,
        committed_bytes: 6,
        table_bytes: 7,
        sessions: 8,
    });
    for wait in [Duration::ZERO, MAX_WAIT] {
        survives::<v1::GetArenaRequest, _>(GetArena {
            pool_id,
            request_id,
            wait,
        });
    }
    survives::<v1::ArenaReply, _>(ArenaInfo {
        arena,
        size_bytes: 1,
        access,
    });
    survives::<v1::ReturnArenaRequest, _>(ReturnArena { arena, request_id });
    survives::<v1::ArenaAllocRequest, _>(ArenaAlloc {
        arena,
        size_bytes: 1,
        align_bytes: 2 << 20,
        request_id,
    });
    survives::<v1::ArenaAllocReply, _>(ArenaAllocated { handle: arena });
    survives::<v1::ArenaFreeRequest, _>(ArenaFree {
        handle: arena,
        size_bytes: 1,
        request_id,
    });
    survives::<v1::ArenaFreeReply, _>(ArenaFreed { cursor_bytes: 16 });
    survives::<v1::ResetArenaRequest, _>(ResetArena { arena, request_id });
    let name = "batch/17".parse::<ArenaName>().unwrap();
    survives::<v1::ShareArenaRequest, _>(ShareArena {
        arena,
        name: name.clone(),
        request_id,
    });
    survives::<v1::AttachArenaRequest, _>(AttachArena {
        pool_id,
        name: name.clone(),
        access,
        request_id,
    });
    survives::<v1::DetachArenaRequest, _>(DetachArena { arena, request_id });
    survives::<v1::DetachArenaReply, _>(DetachedArena { returned: true });
    survives::<v1::WakeRequest, _>(Wake { pool_id });
    survives::<v1::ListHoldersRequest, _>(ListHolders { pool_id });
    let holder = ArenaHolder {
        session: SessionNumber::new(1),
        uid: 2,
        pid: 3,
        access,
    };
    let held = |name| ArenaHolders {
        arena,
        name,
        used_bytes: 64,
        holders: vec![holder; 2],
    };
    survives::<v1::ListHoldersReply, _>(vec![held(None), held(Some(name))]);

    let read = |length_bytes| Read {
        handle: arena,
        offset_bytes: 1 << 40,
        length_bytes,
    };
    survives::<v1::ReadRequest, _>(read(None));
    survives::<v1::ReadRequest, _>(read(Some(1)));
    let data = Bytes::from_static(b"bytes");
    survives::<v1::WriteRequest, _>(WriteStart {
        handle: arena,
        offset_bytes: 16,
        data: data.clone(),
    });
    survives::<v1::WriteRequest, _>(WritePiece { data });
    survives::<v1::WriteReply, _>(Written { written_bytes: 5 });
}

#[test]
fn an_outcome_is_the_reply_of_its_own_call_only() {
    use crate::v1::control_reply::Outcome;
    let reply = v1::LeaseReply::from(vec![span()]);
    let outcome = Outcome::Lease(reply.clone());
    assert_eq!(v1::LeaseReply::try_from(outcome.clone()), Ok(reply));
    let error = v1::ArenaReply::try_from(outcome).unwrap_err();
    assert_eq!(error, ProtocolError::missing("arena"));
}
