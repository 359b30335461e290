//! Any bytes, as `harness::fuzz::words` takes them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::fuzz::words(bytes));
