//! What the corpus begins with: real handles, frames, messages and rows, random scripts, and what
//! daemons leave behind when they are killed at work (`scenes`). Ids and tokens are other ones
//! each time.

use goumem_alloc::{Generation, Handle, HandleKind, Offset, PoolId, SessionNumber};
use goumem_proto::v1;
use goumem_shm::header::{HeaderPage, PoolKind, SegmentRole};
use goumem_shm::os::Access;
use goumem_shm::os::frame::{MapReply, MapRequest, MapStatus};
use goumem_shm::os::keep_frame::{FdName, KeepReply, KeepRequest, KeepStatus};
use goumem_shm::records::{Record, RecordKind, RecordSlot};
use goumem_shm::root::{
    ROW_WORDS, RequestOp, RequestRecord, RootHeader, RootInfo, Row, SessionRecord, SessionRowState,
};
use goumem_shm::sync::{AtomicU64, Ordering};
use prost::Message;

use super::arenas::header;
use super::requests::number_of;
use crate::Random;

mod scenes;

/// Target, name, bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// Returns every seed.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (target, of_target) in [
        ("handle", handles()),
        ("frames", frames()),
        ("requests", messages()),
        ("words", words()),
        ("arenas", scripts(1, 200)),
        ("slots", scripts(2, 300)),
        ("attach", scenes::attach()),
        ("restart", scenes::restart()),
    ] {
        let named = of_target
            .into_iter()
            .map(|(name, bytes)| (target, name, bytes));
        seeds.extend(named);
    }
    seeds
}

/// Returns `n` copies of some bytes, each with a few changes, always the same.
pub fn changed(bytes: &[u8], n: u64) -> Vec<Vec<u8>> {
    let copy = |seed: u64| {
        let mut random = Random::new(seed + bytes.len() as u64);
        let mut changed = bytes.to_vec();
        for _ in 0..1 + random.below(3) {
            if changed.is_empty() {
                break;
            }
            let at = random.index(changed.len());
            match random.below(5) {
                0 => changed[at] ^= 1 << random.below(8),
                1 => changed[at] = random.below(256).to_le_bytes()[0],
                2 => changed.truncate(at),
                3 => drop(changed.drain(at..(at + 8).min(bytes.len()).min(changed.len()))),
                _ => {
                    let end = (at + 8).min(changed.len());
                    changed.extend_from_within(at..end);
                }
            }
        }
        changed
    };
    (0..n).map(copy).collect()
}

type Named = Vec<(String, Vec<u8>)>;

fn handles() -> Named {
    let mut seeds = Named::new();
    for kind in [
        HandleKind::Block,
        HandleKind::Arena,
        HandleKind::ArenaAllocation,
    ] {
        let generation = Generation::new(5).unwrap();
        let pool = PoolId::new(0x0102_0304).unwrap();
        let handle = Handle::new(pool, generation, Offset::new(0x60_0010), kind);
        let text = handle.to_string();
        seeds.push((format!("{kind:?}-bytes"), handle.to_bytes().into()));
        seeds.push((
            format!("{kind:?}-upper"),
            text.to_uppercase().replace("GM1", "gm1").into(),
        ));
        seeds.push((format!("{kind:?}-cut"), text[..35].into()));
        seeds.push((format!("{kind:?}-long"), format!("{text}0").into()));
        seeds.push((format!("{kind:?}-text"), text.into()));
    }
    seeds.push((
        "no-pool".to_owned(),
        vec![0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ));
    seeds.push(("ones".to_owned(), vec![0xff; 16]));
    seeds.push((
        "umlaut".to_owned(),
        "gm1-0102030400000000005000000060001ä".into(),
    ));
    seeds
}

fn frames() -> Named {
    let mut seeds = Named::new();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let request = MapRequest {
            access,
            token: *b"0123456789abcdef",
            pool_id: 77,
        };
        seeds.push((format!("map-{access:?}"), request.encode().into()));
        let reply = MapReply {
            status: MapStatus::Ok,
            n_fds: 2,
            access,
        };
        seeds.push((format!("mapped-{access:?}"), reply.encode().into()));
    }
    let name = FdName::new("control-memfd-0000004d").unwrap();
    for (what, request) in [
        ("store", KeepRequest::Store(name.clone())),
        ("remove", KeepRequest::Remove(name)),
        ("list", KeepRequest::List),
        ("end", KeepRequest::End),
    ] {
        seeds.push((format!("keep-{what}"), request.encode().into()));
    }
    for status in [KeepStatus::Done, KeepStatus::BadFrame, KeepStatus::Full] {
        let reply = KeepReply { status, count: 3 };
        seeds.push((format!("kept-{status:?}"), reply.encode().into()));
    }
    seeds.push(("name".to_owned(), b"process-12-3f".into()));
    seeds
}

fn messages() -> Named {
    let handle = Some(v1::Handle {
        high: 77 << 32,
        low: 0x60_0011,
    });
    let name = || "weights".to_owned();
    let spec = Some(v1::BlockSpec {
        size_bytes: 100,
        align_bytes: 64,
        ..Default::default()
    });
    let seeds: [(&str, Vec<u8>); 9] = [
        (
            "AllocRequest",
            v1::AllocRequest {
                pool_id: 77,
                spec,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "CreatePoolRequest",
            v1::CreatePoolRequest {
                name: name(),
                capacity_bytes: 1 << 20,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "CreateArenaPoolRequest",
            v1::CreateArenaPoolRequest {
                name: name(),
                arenas: 3,
                arena_bytes: 1000,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "FreeRequest",
            v1::FreeRequest {
                handle,
                request_id: 9,
            }
            .encode_to_vec(),
        ),
        (
            "PublishRequest",
            v1::PublishRequest {
                handle,
                name: name(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "GetArenaRequest",
            v1::GetArenaRequest {
                pool_id: 77,
                wait_ms: 86_400_000,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "OpenSessionRequest",
            v1::OpenSessionRequest {
                label: name(),
                ttl_ms: 30_000,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "FreeBatchRequest",
            v1::FreeBatchRequest {
                handles: handle.into_iter().cycle().take(5).collect(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "WriteRequest",
            v1::WriteRequest {
                handle,
                offset_bytes: 3,
                data: b"bytes".as_slice().into(),
            }
            .encode_to_vec(),
        ),
    ];
    let numbered = seeds.into_iter().map(|(wire, message)| {
        let mut bytes = vec![number_of(wire)];
        bytes.extend(message);
        (wire.to_owned(), bytes)
    });
    let failure = v1::Failure {
        code: 8,
        message: "pool weights is full".to_owned(),
        reason: "POOL_FULL".to_owned(),
        ..Default::default()
    };
    let mut other = vec![0xff];
    other.extend(failure.encode_to_vec());
    numbered.chain([("Failure".to_owned(), other)]).collect()
}

/// A header page, a row of ROOT and a record, as `words` lays them out.
fn words() -> Named {
    let number = SessionNumber::new(7);
    let fresh = || -> Vec<AtomicU64> {
        (0..512 + ROW_WORDS + 16)
            .map(|_| AtomicU64::new(0))
            .collect()
    };
    let dump = |words: Vec<AtomicU64>| {
        let mut bytes = number.get().to_le_bytes().to_vec();
        for (at, word) in (0u16..)
            .zip(words)
            .filter(|(_, word)| word.load(Ordering::Relaxed) != 0)
        {
            bytes.extend(at.to_le_bytes());
            bytes.extend(word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes
    };
    let mut seeds = Named::new();
    let words = fresh();
    let info = RootInfo {
        instance: 5,
        epoch: 3,
    };
    RootHeader::new(&words)
        .unwrap()
        .publish(info, u32::MAX, u64::MAX);
    seeds.push(("root".to_owned(), dump(words)));
    for (name, role) in [
        ("control", SegmentRole::Control),
        ("data", SegmentRole::Data),
    ] {
        let words = fresh();
        let header = header(PoolKind::Arenas, 4, 1000);
        HeaderPage::new(&words[..512])
            .unwrap()
            .publish(role, &header);
        seeds.push((name.to_owned(), dump(words)));
    }
    let words = fresh();
    let row = Row::new(&words[512..512 + ROW_WORDS]).unwrap();
    row.session().commit(&SessionRecord {
        state: SessionRowState::Live,
        number,
        serial: 99,
        uid: 1000,
        gid: 100,
        pid: 4711,
        start_time: 17,
        pidfd_inode: Some(3),
        local: true,
        may_map: true,
        ttl_ms: Some(30_000),
        token_hash: [0xa5; 32],
        nonce: Some([7; 16]),
        label: "a client".to_owned(),
    });
    for (id, op) in [
        (1, RequestOp::Alloc),
        (125, RequestOp::DestroyPool),
        (2, RequestOp::Take),
    ] {
        let request = RequestRecord {
            id,
            op,
            done: false,
            pool_id: 77,
            handle: (77 << 32, 0x11),
            outcome: [0; 2],
            extra: 1,
        };
        row.request(id).begin(&request);
        row.request(id).finish(op, [3, 4]);
    }
    seeds.push(("row".to_owned(), dump(words)));
    for (name, kind) in [("keep", RecordKind::Keep), ("holder", RecordKind::Holder)] {
        let words = fresh();
        RecordSlot::new(&words[512 + ROW_WORDS..])
            .unwrap()
            .commit(&Record {
                kind,
                session: number,
                serial: 99,
                generation: Generation::new(5).unwrap(),
                offset: Offset::new(4096),
                request_id: 3,
                uid: 1000,
                writable: true,
                replaces: Some(0),
                done: false,
                name: "weights/layer.0".to_owned(),
            });
        seeds.push((name.to_owned(), dump(words)));
    }
    seeds
}

/// Random bytes: each is an act.
fn scripts(seed: u64, len: usize) -> Named {
    let mut random = Random::new(seed);
    let script = |i| {
        let bytes = (0..len)
            .map(|_| random.below(256).to_le_bytes()[0])
            .collect();
        (format!("random-{i}"), bytes)
    };
    (0..6).map(script).collect()
}
