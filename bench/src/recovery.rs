//! After a death: how long until the next daemon serves, and until what a dead session held is
//! free.

pub(crate) mod pools;
pub(crate) mod sessions;
pub(crate) mod sweep;
