//! What the fuzzer feeds with bytes: one function for each kind of outside data. The targets of
//! `fuzz/` call them, and so does the test that runs them over the corpus (`it/corpus.rs`).
//! docs/testing.md says what each asserts; that none panics otherwise is asserted of all.

mod arenas;
mod attach;
mod frames;
mod handle;
mod image;
mod input;
mod requests;
mod restart;
pub mod seeds;
mod slots;
mod words;

pub use arenas::arenas;
pub use attach::attach;
pub use frames::frames;
pub use handle::handle;
pub use requests::requests;
pub use restart::{restart, taken_over};
pub use slots::slots;
pub use words::words;

use image::{Image, Runs};
use input::Input;

/// A function that takes any bytes.
pub type Body = fn(&[u8]);

/// Every target: its name, which is that of its corpus, and what it does.
pub const TARGETS: [(&str, Body); 8] = [
    ("arenas", arenas),
    ("attach", attach),
    ("frames", frames),
    ("handle", handle),
    ("requests", requests),
    ("restart", restart),
    ("slots", slots),
    ("words", words),
];
