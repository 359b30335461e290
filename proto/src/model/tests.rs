//! The values that the tests in `tests/` send, and what defaults and errors look like.

mod map;
mod refusal;
mod watch;
mod wire;

use std::time::Duration;

use goumem_alloc::{
    Generation, Handle, HandleKind, Offset, PageCount, PageIndex, PoolId, SessionNumber, SizeClass,
    TypeTag,
};

use super::*;
use crate::v1;

const MAX: u64 = u64::MAX;
const ID: RequestId = RequestId::new(7);

fn pool_id() -> PoolId {
    PoolId::new(3).unwrap()
}

fn handle() -> Handle {
    let generation = Generation::new(5).unwrap();
    Handle::new(pool_id(), generation, Offset::new(4096), HandleKind::Block)
}

fn block() -> BlockInfo {
    let type_tag = TypeTag::new(0xabcdef).unwrap();
    BlockInfo {
        handle: handle(),
        size_bytes: 100,
        used_bytes: 112,
        type_tag,
    }
}

fn spec() -> BlockSpec {
    BlockSpec {
        size_bytes: 100,
        align_bytes: 64,
        type_tag: TypeTag::MAX,
    }
}

fn pool_info() -> PoolInfo {
    PoolInfo {
        pool_id: pool_id(),
        name: "frames".parse().unwrap(),
        capacity_bytes: 1 << 20,
        max_capacity_bytes: 1 << 40,
        backing: Backing::Named,
        permissions: Permissions {
            uid: 1000,
            gid: 0,
            mode: 0o660,
        },
        os_name: Some("/goumem-3".into()),
    }
}

fn arena_pool_info() -> ArenaPoolInfo {
    ArenaPoolInfo {
        pool_id: pool_id(),
        name: "scratch".parse().unwrap(),
        arenas: 65_536,
        arena_bytes: 1 << 24,
        backing: Backing::Memfd,
        permissions: Permissions {
            uid: 0,
            gid: 10,
            mode: 0o600,
        },
        os_name: None,
    }
}

fn create_pool() -> CreatePool {
    CreatePool {
        name: "frames".parse().unwrap(),
        capacity_bytes: 1 << 20,
        max_capacity_bytes: Some(1 << 21),
        backing: Some(Backing::File),
        gid: Some(0),
        mode: 0o640,
        request_id: ID,
    }
}

fn create_arena_pool() -> CreateArenaPool {
    CreateArenaPool {
        name: "scratch".parse().unwrap(),
        arenas: 65_536,
        arena_bytes: 1 << 24,
        backing: None,
        gid: None,
        mode: DEFAULT_MODE,
        request_id: RequestId::NONE,
    }
}

fn session_info() -> SessionInfo {
    SessionInfo {
        session: SessionNumber::new(65_534),
        serial: MAX,
        uid: 1000,
        pid: 4711,
        label: "worker 3".parse().unwrap(),
        age: Duration::from_millis(1234),
        may_map: true,
        connected: false,
        leased_bytes: 1,
        rpc_bytes: 2,
        arenas_held: 3,
        pins: 4,
        command: Some("python3".into()),
    }
}

fn span() -> SpanInfo {
    SpanInfo {
        first_page: PageIndex::new((1 << 24) - 64),
        pages: PageCount::new(64),
        size_class: SizeClass::LARGE_COLOURED,
        epoch: 4095,
        survivors: true,
    }
}

#[test]
fn zeros_of_the_wire_become_the_defaults() {
    let open = OpenSession::try_from(v1::OpenSessionRequest::default()).unwrap();
    assert_eq!(open.ttl, DEFAULT_TTL);
    let wire = v1::BlockSpec {
        size_bytes: 1,
        ..Default::default()
    };
    assert_eq!(BlockSpec::try_from(wire), Ok(BlockSpec::new(1)));
    let wire = v1::CreatePoolRequest {
        name: "p".into(),
        capacity_bytes: 1,
        permissions: Some(v1::Permissions::default()),
        ..Default::default()
    };
    for permissions in [None, wire.permissions] {
        let wire = v1::CreatePoolRequest {
            permissions,
            ..wire.clone()
        };
        let create = CreatePool::try_from(wire).unwrap();
        assert_eq!((create.gid, create.mode), (None, 0o600));
        assert_eq!((create.max_capacity_bytes, create.backing), (None, None));
        assert!(!create.request_id.is_some());
    }
    let wire = v1::OpenPoolRequest {
        name: "p".into(),
        ..Default::default()
    };
    assert_eq!(OpenPool::try_from(wire).unwrap().access, Access::ReadWrite);
    let wire = v1::LeaseRequest {
        pool_id: 1,
        ..Default::default()
    };
    assert_eq!(Lease::try_from(wire).unwrap().count, 1);
}

#[test]
fn a_wait_below_a_millisecond_is_still_a_wait() {
    let wait = Duration::from_nanos(1);
    let wire = v1::GetArenaRequest::from(GetArena {
        pool_id: pool_id(),
        request_id: ID,
        wait,
    });
    assert_eq!(wire.wait_ms, 1);
}

#[test]
fn a_token_is_shown_to_nobody() {
    let token = SessionToken::new([0x42; 16]);
    assert_eq!(format!("{token:?}"), "SessionToken(..)");
    assert_eq!(SessionToken::try_from(&[0x42; 16][..]), Ok(token));
    assert_eq!(
        SessionToken::try_from(&[0x42; 15][..]),
        Err(TokenError { len_bytes: 15 })
    );
    let wire = v1::OpenSessionReply {
        session: 1,
        token: vec![0x42; 17],
        ..Default::default()
    };
    assert_eq!(
        format!("{wire:?}"),
        "OpenSessionReply { session: 1, serial: 0, .. }"
    );
    let error = OpenedSession::try_from(wire).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token is 17 bytes long: a session token has 16 bytes, not 17"
    );
}

#[test]
fn an_error_quotes_little_of_a_long_value() {
    let wire = v1::StatPoolRequest {
        name: "x".repeat(1 << 20),
    };
    let error = StatPool::try_from(wire).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}
