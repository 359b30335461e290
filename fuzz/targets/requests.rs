//! Any bytes, as `harness::fuzz::requests` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::requests(bytes));
