//! Everything runs out: disks, fds, tables. Each time a clear error with numbers, the state as it
//! was, and the service goes on. What is bounded by what is in docs/limits.md.

use goumem::Reason;
use goumem_proto::reason::ErrorDetail;
use goumem_proto::v1;
use harness::{DaemonProcess, Rpc, Setup, TestDaemon, call, skip};

use crate::PUPPETS;

mod disk;
mod files;
mod tables;

const MIB: u64 = 1 << 20;

fn create(rpc: &Rpc, name: &str, backing: v1::Backing, bytes: u64) -> Result<u32, ErrorDetail> {
    let create = v1::CreatePoolRequest {
        name: name.to_owned(),
        capacity_bytes: bytes,
        backing: backing.into(),
        ..Default::default()
    };
    call!(*rpc, pools.create(create)).map(|reply| reply.pool.unwrap().pool_id)
}

fn destroy(rpc: &Rpc, name: &str) {
    let destroy = v1::DestroyPoolRequest {
        name: name.to_owned(),
        request_id: 0,
    };
    call!(*rpc, pools.destroy(destroy)).unwrap();
}
