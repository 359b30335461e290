//! Tries what it may not do, by every way there is, and says how each was answered:
//! `call=REASON: message` of each, parted by `;`.

use std::path::Path;

use goumem::Handle;
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use goumem_proto::v1::control_reply::Outcome;
use goumem_proto::v1::control_request::Call;
use goumem_shm::os::Access;
use harness::rpc::wait;
use harness::{Rpc, call};
use tokio_stream::StreamExt as _;

use crate::client::Words;

/// Does as it is told.
pub(crate) fn obey(verb: &str, words: &mut Words<'_>) -> String {
    let answers = match verb {
        "steal" => steal(words),
        _ => intrude(words),
    };
    let answers = answers
        .iter()
        .map(|(call, answer)| format!("{call}={answer}"));
    answers.collect::<Vec<_>>().join("; ")
}

type Answers = Vec<(&'static str, String)>;

fn answer<T>(outcome: Result<T, ErrorDetail>) -> String {
    let metadata = |error: &ErrorDetail| format!("{:?}", error.metadata);
    match outcome {
        Ok(_) => "OK".to_owned(),
        Err(error) => format!("{}: {} {}", error.reason, error.message, metadata(&error)),
    }
}

/// Makes a call on a control stream.
fn control(rpc: &Rpc, call: Call) -> String {
    let calls = tokio_stream::once(v1::ControlRequest {
        sequence: 1,
        call: Some(call),
        traceparent: String::new(),
    });
    let request = rpc.with(calls.chain(tokio_stream::pending()));
    let mut replies = match wait(rpc.sessions().control(request)) {
        Ok(replies) => replies.into_inner(),
        Err(status) => return answer::<()>(Err(ErrorDetail::from_status(&status).unwrap())),
    };
    match wait(replies.next()).unwrap().map(|reply| reply.outcome) {
        Ok(Some(Outcome::Failure(failure))) => format!("{}: {}", failure.reason, failure.message),
        Ok(_) => "OK".to_owned(),
        Err(status) => answer::<()>(Err(ErrorDetail::from_status(&status).unwrap())),
    }
}

fn lease(pool_id: u32) -> v1::LeaseRequest {
    v1::LeaseRequest {
        pool_id,
        size_class: 5,
        ..Default::default()
    }
}

/// Shows another process's token.
fn steal(words: &mut Words<'_>) -> Answers {
    let socket = Path::new(words.text());
    let token = words.text();
    let token = (0..16).map(|i| u8::from_str_radix(&token[2 * i..2 * i + 2], 16).unwrap());
    let rpc = Rpc::connect(socket).with_token(token.collect());
    let pool_id = words.number().try_into().unwrap();
    let (status, _) = rpc.ask_for_memory(pool_id, Access::ReadOnly);
    let events = wait(rpc.sessions().events(rpc.with(v1::EventsRequest {})));
    let events = events.map_err(|status| ErrorDetail::from_status(&status).unwrap());
    let close = v1::CloseSessionRequest { force: true };
    vec![
        ("memory", format!("{status:?}")),
        ("alloc", answer(rpc.alloc(pool_id, 100))),
        ("control", control(&rpc, Call::Lease(lease(pool_id)))),
        ("events", answer(events)),
        (
            "resume",
            answer(call!(rpc, sessions.resume(v1::ResumeSessionRequest {}))),
        ),
        (
            "keepalive",
            answer(call!(rpc, sessions.keep_alive(v1::KeepAliveRequest {}))),
        ),
        ("close", answer(call!(rpc, sessions.close(close)))),
    ]
}

/// Tries every call on a pool and a block of it, with a session of its own.
fn intrude(words: &mut Words<'_>) -> Answers {
    let rpc = Rpc::open(Path::new(words.text()));
    let name = words.text().to_owned();
    let pool_id = words.number().try_into().unwrap();
    let handle: Handle = words.handle();
    let handle = v1::Handle::from(handle);
    let on = v1::HandleRequest {
        handle: Some(handle),
        request_id: 0,
    };
    let memory = |access| format!("{:?}", rpc.ask_for_memory(pool_id, access).0);
    let open = |access: v1::Access| v1::OpenPoolRequest {
        name: name.clone(),
        access: access.into(),
        ..Default::default()
    };
    let realloc = v1::ReallocRequest {
        handle: Some(handle),
        size_bytes: 5000,
        request_id: 0,
    };
    let publish = v1::PublishRequest {
        handle: Some(handle),
        name: "mine".to_owned(),
        ..Default::default()
    };
    let withdraw = v1::WithdrawRequest {
        pool_id,
        name: "theirs".to_owned(),
        free: true,
        request_id: 0,
    };
    let lookup = v1::LookupRequest {
        pool_id,
        name: "theirs".to_owned(),
    };
    let capacity = v1::SetCapacityRequest {
        name: name.clone(),
        capacity_bytes: 1 << 20,
    };
    let purge = v1::PurgePoolRequest { name: name.clone() };
    let stat = v1::StatPoolRequest { name: name.clone() };
    let map = v1::MapPoolRequest {
        name: name.clone(),
        ..Default::default()
    };
    let destroy = v1::DestroyPoolRequest {
        name: name.clone(),
        request_id: 0,
    };
    // What takes the block away from the others comes last.
    vec![
        (
            "open-read",
            answer(call!(rpc, pools.open(open(v1::Access::ReadOnly)))),
        ),
        ("memory-read", memory(Access::ReadOnly)),
        ("resolve", answer(call!(rpc, pools.resolve(on)))),
        ("read", answer(rpc.read(handle, 0, 0))),
        ("lookup", answer(call!(rpc, pools.lookup(lookup)))),
        ("stat", answer(call!(rpc, pools.stat(stat)))),
        ("map", answer(call!(rpc, pools.map(map)))),
        (
            "kept",
            answer(call!(rpc, pools.list_kept(v1::ListKeptRequest { pool_id }))),
        ),
        ("pin", answer(call!(rpc, pools.pin(on)))),
        ("unpin", answer(call!(rpc, pools.unpin(on)))),
        (
            "open-write",
            answer(call!(rpc, pools.open(open(v1::Access::ReadWrite)))),
        ),
        ("memory-write", memory(Access::ReadWrite)),
        ("alloc", answer(rpc.alloc(pool_id, 100))),
        ("lease", answer(call!(rpc, pools.lease(lease(pool_id))))),
        ("control-lease", control(&rpc, Call::Lease(lease(pool_id)))),
        ("control-keep", control(&rpc, Call::Keep(on))),
        ("write", answer(rpc.write(handle, 0, &[1]))),
        ("purge", answer(call!(rpc, pools.purge(purge)))),
        ("publish", answer(call!(rpc, pools.publish(publish)))),
        ("withdraw", answer(call!(rpc, pools.withdraw(withdraw)))),
        ("keep", answer(call!(rpc, pools.keep(on)))),
        ("adopt", answer(call!(rpc, pools.adopt(on)))),
        ("realloc", answer(call!(rpc, pools.realloc(realloc)))),
        ("take", answer(call!(rpc, pools.take(on)))),
        ("free", answer(rpc.free(handle))),
        ("capacity", answer(call!(rpc, pools.set_capacity(capacity)))),
        ("destroy", answer(call!(rpc, pools.destroy(destroy)))),
    ]
}
