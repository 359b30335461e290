//! Messages that are too large, or are none.

use goumem::Reason;
use goumem_proto::v1;
use harness::rpc::wait;
use harness::{Rpc, call};
use tonic::Code;

use super::*;

#[test]
fn oversize_messages_are_refused_and_the_connection_goes_on() {
    let mut daemon = DaemonProcess::start(PUPPETS);
    let rpc = daemon.rpc();
    let pool_id = rpc.create_pool("p", MIB);
    let block = rpc.alloc(pool_id, 100).unwrap();
    // 16 MiB of handles, where 4 MiB may come.
    let many = v1::FreeBatchRequest {
        handles: vec![block; 600_000],
        request_id: 0,
    };
    let refused = wait(rpc.pools().free_batch(rpc.with(many))).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    // A batch that fits a message, and is longer than a batch may be.
    let long = v1::FreeBatchRequest {
        handles: vec![block; 70_000],
        request_id: 0,
    };
    let refused = call!(rpc, pools.free_batch(long)).unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidField, "{refused}");
    let refused = rpc.stat_error(&"n".repeat(3 << 20));
    assert_eq!(refused.reason, Reason::InvalidField, "{refused}");
    assert!(refused.message.len() < 1000, "{}", refused.message.len());
    let huge = rpc.with_token(vec![1; 60_000]);
    wait(huge.pools().stat(huge.with(v1::StatPoolRequest::default()))).unwrap_err();

    assert_eq!(
        rpc.read(block, 0, 0).unwrap().len(),
        100,
        "nothing was freed"
    );
    others_are_served(daemon.socket());
    daemon.is_well();
}

/// What comes with a pool's name, however long that is.
trait StatError {
    fn stat_error(&self, name: &str) -> goumem_proto::reason::ErrorDetail;
}

impl StatError for Rpc {
    fn stat_error(&self, name: &str) -> goumem_proto::reason::ErrorDetail {
        let stat = v1::StatPoolRequest {
            name: name.to_owned(),
        };
        call!(*self, pools.stat(stat)).unwrap_err()
    }
}
