//! What the library promises beside what its documentation's examples show, against a daemon in
//! this process. Whole-system tests, with several processes and crashes, are in the crate `tests`.

use std::time::{Duration, Instant};

use goumem::blocking::Client;
use goumem::{AccessError, AllocError, Error, SessionNumber};

mod arenas;
mod blocks;
mod sessions;

const MIB: u64 = 1 << 20;

/// Another session with the daemon of `host`.
fn guest(host: &Client) -> Client {
    let builder = Client::builder().socket(host.socket()).label("guest");
    builder.connect().expect("the host's daemon runs")
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} has not happened in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_open(host: &Client, session: SessionNumber) -> bool {
    let sessions = host.sessions().expect("the host's daemon runs");
    sessions.iter().any(|info| info.session == session)
}

fn is_read_only(error: Error) -> bool {
    matches!(
        error,
        Error::Access(AccessError::ReadOnly { .. }) | Error::Alloc(AllocError::ReadOnly)
    )
}
