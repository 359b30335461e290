//! Any bytes, as `harness::fuzz::handle` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::handle(bytes));
