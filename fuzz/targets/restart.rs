//! Any bytes, as `harness::fuzz::restart` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::restart(bytes));
