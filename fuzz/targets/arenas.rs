//! Any bytes, as `harness::fuzz::arenas` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::arenas(bytes));
