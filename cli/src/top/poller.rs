//! Looks at the daemon, again and again, on a thread of its own: a daemon that does not answer
//! never holds up a key. When the daemon goes it is asked again until it is back; when another one
//! comes that does not know the session, a new session is opened.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use goumem::blocking::Client;
use goumem::{Error, Reason};

use super::Input;
use super::model::Event;
use crate::error::chain;
use crate::observation::Observation;

/// How long one call may take before the daemon counts as gone. The client connects again by
/// itself meanwhile, so a quick restart is not even seen.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a daemon that is gone is asked for.
const RETRY: Duration = Duration::from_millis(500);

/// Looks every `interval`, or as often as is asked for, until nobody listens.
pub(super) fn run(
    socket: Option<PathBuf>,
    mut interval: Duration,
    asked: &Receiver<Duration>,
    events: &SyncSender<Input>,
) {
    let start = Instant::now();
    let mut client = None;
    loop {
        let (event, pause) = match look(&mut client, socket.as_deref(), start) {
            Ok(observation) => (Event::Observed(Box::new(observation)), interval),
            Err(error) => {
                let lost = Event::Lost {
                    at: start.elapsed(),
                    why: chain(&error),
                };
                (lost, RETRY)
            }
        };
        if events.send(Input::Event(event)).is_err() {
            return;
        }
        match asked.recv_timeout(pause) {
            Ok(chosen) => interval = chosen,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn look(
    client: &mut Option<Client>,
    socket: Option<&Path>,
    start: Instant,
) -> Result<Observation, Error> {
    let connected = match client.take() {
        Some(client) => client,
        None => connect(socket)?,
    };
    let seen = Observation::take(&connected, start.elapsed());
    // With its session's end a client is of no use any more.
    let is_over = seen.as_ref().is_err_and(|error| {
        matches!(error, Error::Closed) || error.reason() == Some(Reason::SessionExpired)
    });
    if !is_over {
        *client = Some(connected);
    }
    seen
}

fn connect(socket: Option<&Path>) -> Result<Client, Error> {
    crate::commands::builder(socket)
        .call_deadline(PATIENCE)
        .connect()
}
