//! PoolService: leases of spans, for clients that map the pool and allocate by themselves.

use goumem_alloc::{MAX_POOL_PAGES, PageCount, PageIndex, Placement, PoolId, SizeClass};

use super::message::{Field, list, message};
use super::{ProtocolError, RequestId, parse};
use crate::v1;

/// The most spans of one call: 256 MiB in spans of one page.
pub const MAX_CALL_SPANS: usize = 4096;

/// What kind of span to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanSpec {
    /// One that is cut into blocks of this class, which is not a large one.
    Class(SizeClass),
    /// One for a single block that no such class has room for.
    Large {
        /// Bytes of the block.
        size_bytes: u64,
        /// Its alignment, a power of two up to 2 MiB.
        align_bytes: u64,
    },
}

/// Leases spans to the calling session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Where.
    pub pool_id: PoolId,
    /// What kind.
    pub spec: SpanSpec,
    /// How many are wanted, 1 to [`MAX_CALL_SPANS`]; fewer may come.
    pub count: u32,
    /// Makes a retry harmless.
    pub request_id: RequestId,
}

impl From<Lease> for v1::LeaseRequest {
    fn from(lease: Lease) -> Self {
        let (size_class, large_bytes, align_bytes) = match lease.spec {
            SpanSpec::Class(class) => (class.index().into(), 0, 0),
            SpanSpec::Large {
                size_bytes,
                align_bytes,
            } => (0, size_bytes, align_bytes),
        };
        Self {
            pool_id: lease.pool_id.into_wire(),
            size_class,
            large_bytes,
            align_bytes,
            count: lease.count,
            request_id: lease.request_id.into_wire(),
        }
    }
}

impl TryFrom<v1::LeaseRequest> for Lease {
    type Error = ProtocolError;

    fn try_from(wire: v1::LeaseRequest) -> Result<Self, ProtocolError> {
        if wire.count as usize > MAX_CALL_SPANS {
            let why = format!("at most {MAX_CALL_SPANS} go in one call");
            return Err(ProtocolError::invalid("count", wire.count, why));
        }
        Ok(Self {
            pool_id: Field::from_wire("pool_id", wire.pool_id)?,
            spec: if wire.large_bytes == 0 {
                class_spec(&wire)?
            } else {
                large_spec(&wire)?
            },
            count: wire.count.max(1),
            request_id: RequestId::new(wire.request_id),
        })
    }
}

fn class_spec(wire: &v1::LeaseRequest) -> Result<SpanSpec, ProtocolError> {
    let class: SizeClass = Field::from_wire("size_class", wire.size_class)?;
    if class.is_large() {
        let why = "a span of a large class is leased by large_bytes";
        return Err(ProtocolError::invalid("size_class", wire.size_class, why));
    }
    if wire.align_bytes != 0 {
        let why = "goes with large_bytes only";
        return Err(ProtocolError::invalid("align_bytes", wire.align_bytes, why));
    }
    Ok(SpanSpec::Class(class))
}

fn large_spec(wire: &v1::LeaseRequest) -> Result<SpanSpec, ProtocolError> {
    if wire.size_class != 0 {
        let why = "does not go with large_bytes";
        return Err(ProtocolError::invalid("size_class", wire.size_class, why));
    }
    let size_bytes = wire.large_bytes;
    let align_bytes = parse::align("align_bytes", wire.align_bytes)?;
    let why = match SizeClass::for_layout(size_bytes, align_bytes) {
        Ok(Placement::Large { .. }) => {
            return Ok(SpanSpec::Large {
                size_bytes,
                align_bytes,
            });
        }
        Ok(Placement::Class(class)) => format!("size class {} has room for it", class.index()),
        Err(error) => error.to_string(),
    };
    Err(ProtocolError::invalid("large_bytes", size_bytes, why))
}

message! {
    /// A span that a session has leased.
    #[derive(Copy)]
    SpanInfo <=> Span {
        /// Where it begins.
        first_page: PageIndex,
        /// How long it is, 1 or more.
        pages: PageCount,
        /// What it is cut into.
        size_class: SizeClass,
        /// Which lease of these pages this is: 12 bits.
        epoch: u16,
        /// It came with living blocks of an earlier lessee: rebuild the bitmaps from the slot
        /// words.
        survivors: bool,
    }
    check = lies_in_a_pool;
}
list!(SpanInfo => LeaseReply.spans);

fn lies_in_a_pool(span: &SpanInfo) -> Result<(), ProtocolError> {
    const MAX_EPOCH: u16 = (1 << 12) - 1;
    if span.pages == PageCount::ZERO {
        return Err(ProtocolError::invalid("pages", 0, "must be 1 or more"));
    }
    if span.first_page.checked_add(span.pages).is_none() {
        let value = format_args!("{} at page {}", span.pages, span.first_page);
        let why = format!("a pool has at most {MAX_POOL_PAGES} pages");
        return Err(ProtocolError::invalid("pages", value, why));
    }
    if span.epoch > MAX_EPOCH {
        return Err(ProtocolError::invalid(
            "epoch",
            span.epoch,
            "epochs have 12 bits",
        ));
    }
    Ok(())
}

message! {
    /// Returns leased spans.
    ReturnSpans <=> ReturnSpansRequest {
        /// Where.
        pool_id: PoolId,
        /// Which; at most [`MAX_CALL_SPANS`].
        spans: Vec<SpanInfo> = spans,
        /// Makes a retry harmless.
        request_id: RequestId,
    }
}

fn spans(field: &'static str, wire: Vec<v1::Span>) -> Result<Vec<SpanInfo>, ProtocolError> {
    parse::bounded_list(field, wire, MAX_CALL_SPANS)
}

message! {
    /// Spans that have been returned.
    #[derive(Copy)]
    ReturnedSpans <=> ReturnSpansReply {
        /// How many.
        returned: u32,
    }
}
