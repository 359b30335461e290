//! goumemctl as people and scripts use it: the program itself against a daemon of its own, by its
//! command line, its output and its exit code; `top` in a terminal.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod doctor;
mod errors;
mod map;
mod run;
mod terminal;
mod top;
mod watch;
