//! What a request is about to do, as it is written into ROOT.

use goumem_alloc::{Handle, PoolId};
use goumem_proto::model::RequestId;
use goumem_shm::root::{RequestOp, RequestRecord};

/// What a request is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    op: RequestOp,
    pool_id: PoolId,
    handle: Option<Handle>,
    extra: u64,
}

impl Intent {
    /// Something to do in a pool.
    pub fn of(op: RequestOp, pool_id: PoolId) -> Self {
        Self {
            op,
            pool_id,
            handle: None,
            extra: 0,
        }
    }

    /// Something to do to what a handle names.
    pub fn about(op: RequestOp, handle: Handle) -> Self {
        Self {
            handle: Some(handle),
            ..Self::of(op, handle.pool())
        }
    }

    /// The same with one more number.
    #[must_use]
    pub fn with(self, extra: u64) -> Self {
        Self { extra, ..self }
    }

    pub(super) fn record(self, id: RequestId) -> RequestRecord {
        RequestRecord {
            id: id.get(),
            op: self.op,
            done: false,
            pool_id: self.pool_id.get(),
            handle: self.handle.map_or((0, 0), Handle::to_words),
            outcome: [0; 2],
            extra: self.extra,
        }
    }
}
