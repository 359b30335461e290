//! Any bytes, as `harness::fuzz::attach` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::attach(bytes));
