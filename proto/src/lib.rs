//! The wire protocol of goumem: the generated code of `goumem/v1/goumem.proto` and, in
//! [`model`], the domain types that everything past the edge works with.

#![forbid(unsafe_code)]

mod codec;
pub mod model;
pub mod name;
pub mod reason;

/// Generated from `goumem/v1/goumem.proto`, which is also its documentation.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::nursery,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("goumem.v1");
}

/// The encoded `FileDescriptorSet` of `goumem.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/goumem_descriptor.bin"));

/// The full name of each method (`goumem.v1.PoolService/Alloc`), in order.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/goumem_methods.rs"));

/// The longest message either side takes, in bytes: above tonic's default of 4 MiB, because a list
/// of every kept block or held arena of a pool (65 536 records of up to 130 bytes) is longer.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
