//! Any bytes, as `harness::fuzz::slots` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::slots(bytes));
