//! Any bytes, as `harness::fuzz::frames` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::frames(bytes));
